"""Both evaluations through the real engine, with a random model: what it says is noise."""

from dataclasses import replace
from pathlib import Path

from k2mlx.agent.loop import run_turn
from k2mlx.chat import End
from k2mlx.eval import calls, tools
from k2mlx.eval.questions import read_questions
from k2mlx.generate.chat import stream_chat
from k2mlx.generate.engine import Engine
from k2mlx.generate.sampling import Sampling
from k2mlx.load import Loaded
from k2mlx.tokenizer import ByteTokenizer
from tests.models import TINY, build, random_weights

SHORT = Sampling(temperature=1.0, seed=0, max_tokens=4)


def noise(context):
    tokenizer = ByteTokenizer()
    config = replace(TINY, vocab_size=tokenizer.vocab_size, max_position_embeddings=context)

    def load():
        return Loaded(
            build(config, random_weights(config, 0)), tokenizer, config, Path("random"), 0
        )

    return Engine(load)


def test_tools():
    cases = read_questions()[:3]
    with noise(context=4096) as engine:

        def run(messages, builtin, number):
            return run_turn(engine, messages, builtin, SHORT)

        outcomes = tools.evaluate(cases, run)
    assert tools.summary(outcomes)["calls_accuracy"] == 0


def test_calls_longer_than_the_context_are_wrong():
    message = {"role": "user", "content": "Hello there, how are you?"}
    short = calls.Case("short", [message], [], [], False)
    long = calls.Case("long", [message] * 20, [], [], False)
    with noise(context=128) as engine:
        outcomes = calls.evaluate(
            [long, short], lambda messages, tools: stream_chat(engine, messages, tools, SHORT)
        )
    assert "context" in outcomes[0].problem
    assert outcomes[1].problem is None


def test_a_turn_is_cancelled():
    with noise(context=4096) as engine:
        messages = [{"role": "user", "content": "Hello"}]
        turn = run_turn(engine, messages, {}, replace(SHORT, max_tokens=4000))
        next(turn)
        turn.cancel()
        assert list(turn)[-1] == End("cancelled")
    assert messages[-1]["role"] == "assistant"
