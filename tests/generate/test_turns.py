"""A tool conversation computes every token once, whatever splits the model samples."""

import json
from collections import Counter
from random import Random

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2mlx.agent.loop import run_turn
from k2mlx.agent.tools import Tool, function_spec
from k2mlx.cache import LatentCache
from k2mlx.chat import render_ids
from k2mlx.generate import Sampling, stream_chat
from tests.splits import SplitTokenizer, random_split

TOKENIZER = SplitTokenizer()
MARK = TOKENIZER.special
CALLS = 20
ECHO = {
    "echo": Tool("echo", function_spec("echo", "Says it.", {}), lambda args: args["text"] + "!")
}


class Recording(nn.Module):
    """Writes `script` after `start` tokens, and notes every token with its place."""

    def __init__(self):
        super().__init__()
        self.fed, self.start, self.script = [], 0, []

    def make_cache(self):
        return [LatentCache()]

    def hidden(self, tokens, cache):
        offset = cache[0].offset
        self.fed += [(offset + i, token) for i, token in enumerate(tokens[0].tolist())]
        cache[0].append(tokens.astype(mx.float32)[..., None])

    def __call__(self, tokens, cache):
        self.hidden(tokens, cache)
        place = min(cache[0].offset - self.start, len(self.script) - 1)
        return mx.where(mx.arange(TOKENIZER.vocab_size) == self.script[place], 5.0, 0.0)[None, None]


def sampled_turn(format, number, random):
    """What the model writes in round `number`: thought, text, a call but in the last, the end."""

    def tokens(text):
        return random_split(text, TOKENIZER, random)

    words = " ".join(random.choice(["about", "é", "one 11", "{ten}"]) for _ in range(4))
    thought = [*tokens(words + " think"), MARK["</think>"]]
    ids = {"k2-nano": [], "kimi-k2.5": thought, "kimi-k2-thinking": [MARK["<think>"], *thought]}
    ids = [*ids[format], *tokens(f"text {words}")]
    if number < CALLS:
        arguments = json.dumps({"text": f"{number} {words}"}, ensure_ascii=False)
        ids += [MARK["<|tool_calls_section_begin|>"], MARK["<|tool_call_begin|>"]]
        ids += tokens(f"functions.echo:{number}")
        ids += [MARK["<|tool_call_argument_begin|>"], *tokens(arguments)]
        ids += [MARK["<|tool_call_end|>"], MARK["<|tool_calls_section_end|>"]]
    return [*ids, MARK["<|im_end|>"]]


def converse(make_engine, config, format, seed, stream=None):
    """A conversation of 20 calls. Returns (model, stats of each round, prompts, sampled turns)."""
    model, random, prompts = Recording(), Random(seed), []
    values = {"vocab_size": TOKENIZER.vocab_size, "max_position_embeddings": 50_000}
    engine = make_engine(
        model, config(**values, chat_format=format), TOKENIZER, chunk=random.choice([64, 512])
    )
    scripts = [sampled_turn(format, number, random) for number in range(CALLS + 1)]

    def ask(engine, messages, *rest):
        if stream:
            messages = stream(messages)
        prompts.append(render_ids(messages, rest[0], TOKENIZER, format=format))
        model.start, model.script = len(prompts[-1]), scripts[len(prompts) - 1]
        return stream_chat(engine, messages, *rest)

    sampling = Sampling(temperature=0, max_tokens=1000)
    messages = [{"role": "user", "content": "about a tool"}]
    turn = run_turn(engine, messages, ECHO, sampling, CALLS + 1, stream=ask)
    list(turn)
    engine.close()
    assert turn.rounds == CALLS + 1
    assert sum(message["role"] == "tool" for message in messages) == CALLS
    return model, turn.stats, prompts, scripts


@pytest.mark.parametrize("format", ["k2-nano", "kimi-k2-thinking", "kimi-k2.5"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_conversation_of_twenty_calls_computes_every_token_once(
    make_engine, config, format, seed
):
    model, stats, prompts, scripts = converse(make_engine, config, format, seed)
    history = prompts[-1] + scripts[-1]
    computed = sum(one.prompt_tokens - one.cached_tokens for one in stats)
    assert computed == len(history) - sum(map(len, scripts))
    assert sorted(model.fed) == list(enumerate(history))


def test_without_the_sampled_tokens_it_would_not(make_engine, config):
    """The same conversation through a client that keeps JSON: splits of its own, computed again."""
    model, stats, prompts, scripts = converse(
        make_engine, config, "k2-nano", 1, stream=lambda messages: json.loads(json.dumps(messages))
    )
    computed = sum(one.prompt_tokens - one.cached_tokens for one in stats)
    assert computed > len(prompts[-1] + scripts[-1]) - sum(map(len, scripts))
    assert max(Counter(place for place, _ in model.fed).values()) > 1
