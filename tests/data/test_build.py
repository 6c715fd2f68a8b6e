"""Recipes, and the shards that they become: read back, they hold what was put in."""

import json
import random

import numpy as np
import pytest

from k2mlx.chat import render_for_training
from k2mlx.data.build import build_chat, build_text, convert
from k2mlx.data.context import Context, assistant, call, result, user
from k2mlx.data.conversations import encode, name_results, write_chat_shard
from k2mlx.data.pack import ChatShard, TextShard
from k2mlx.data.recipe import ChatShardRecipe, ChatSource, Recipe, read_recipe
from k2mlx.data.schema import Conversation, write_conversations
from k2mlx.errors import ConfigError
from k2mlx.home import find_model
from k2mlx.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = call(0, "add", '{"a": 1}')
LONG = Conversation(
    "long",
    [
        *(user("One?"), assistant("1."), user("Add."), assistant(None, CALL), result(CALL, "2")),
        *(assistant("It is 2."), user("And?"), assistant("That is all." * 9)),
    ],
    [ADD],
)


def render(conversation):
    return render_for_training(
        name_results(conversation), conversation.tools, BYTES, format="k2-nano"
    )


def test_a_conversation_within_the_limit_is_whole():
    assert encode(LONG, BYTES, 10_000) == render(LONG)


@pytest.mark.parametrize("turns", [2, 6])
def test_a_long_one_is_cut_after_a_whole_answer(turns):
    whole, _ = render(LONG)
    prefix = render(Conversation("long", LONG.messages[:turns], [ADD]))
    following = render(Conversation("long", LONG.messages[: turns + 2], [ADD]))
    assert whole[: len(prefix[0])] == prefix[0]
    assert encode(LONG, BYTES, len(prefix[0])) == prefix
    assert encode(LONG, BYTES, len(following[0]) - 1) == prefix


def test_what_cannot_be_cut_or_teaches_nothing_is_left_out():
    assert encode(LONG, BYTES, 100) is None
    silent = [user("Hi"), {**assistant("Hello."), "loss": False}]
    assert encode(Conversation("x", silent), BYTES, 1000) is None


def test_most_results_carry_their_tools_name():
    named = 0
    for number in range(200):
        conversation = Conversation(f"{number}", LONG.messages, [ADD])
        [message] = [m for m in name_results(conversation) if m["role"] == "tool"]
        named += message.get("name") == "add"
        assert message.get("name", "add") == "add"
    assert 120 < named < 180


def test_a_shard_read_back_holds_each_conversation(tmp_path):
    short = Conversation("short", [user("Hi"), assistant("Hello.")])
    again = Conversation("again", short.messages)
    facts = write_chat_shard(
        "c", [LONG, short, again], [10_000], BYTES, tmp_path, {"licence": "MIT"}
    )
    assert (facts["conversations"], facts["duplicates"], facts["left_out"]) == (2, 1, 0)
    assert facts["licence"] == "MIT"
    shard = ChatShard.read(tmp_path / "c")
    for number, conversation in enumerate([LONG, short]):
        part = slice(*shard.offsets[number : number + 2])
        ids, learn = render(conversation)
        assert shard.tokens[part].tolist() == ids
        assert shard.loss[part].astype(bool).tolist() == learn
    learned = BYTES.decode(shard.tokens[shard.loss == 1].tolist())
    assert learned.startswith("1.<|im_end|><|tool_calls_section_begin|>")
    assert learned.endswith("Hello.<|im_end|>")
    assert "Add." not in learned


def test_the_recipe_that_ships_is_good():
    recipe = read_recipe(find_model("models/k2-nano") / "data.toml")
    assert recipe.vocabulary_size == 8192
    assert {"openstax", "novels"} <= {text.name for text in recipe.texts}
    assert {"chats", "sgd", "gsm8k", "metatool", "synth_mixed"} <= {
        shard.name for shard in recipe.chats
    }
    sources = [text.path for text in recipe.texts]
    for forbidden in ("gcide", "debian", "fortunes"):  # GPL, or no clear licence
        assert not any(forbidden in path for path in sources)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "not TOML"),
        ("colour = 3", "unknown keys"),
        ('[[text]]\nname = "a"', "text.path: missing, wanted a string"),
        ('[[text]]\nname = "a"\nweight = 3', "text.weight: unknown key"),
        ("[[chat]]\nmax_tokens = [3]", "expected a name"),
        (
            '[[chat]]\nname="c"\n[[chat.source]]\nkind="x"\npath=""\nlicence=""\nsource=""',
            "expected a kind out of jsonl",
        ),
        ('[[chat]]\nname="c"\n[[chat]]\nname="c"', "more than once"),
    ],
)
def test_bad_recipes_are_explained(tmp_path, text, message):
    path = tmp_path / "data.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(path)


def test_a_recipe_becomes_shards(tmp_path):
    model = find_model("models/k2-nano")
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "a", "text": "One.\nTwo 34."}) + "\n")
    write_conversations(tmp_path / "c.jsonl", [LONG])
    config = tmp_path / "data.toml"
    config.write_text(
        '[[text]]\nname="t"\npath="t.jsonl"\nlicence="CC0"\nsource="test"\n'
        '[[chat]]\nname="c"\n[[chat.source]]\n'
        'kind="jsonl"\npath="c.jsonl"\nlicence="MIT"\nsource="test"\n'
    )
    recipe = read_recipe(config)
    train, held = build_text(recipe, tmp_path, tmp_path, model)
    assert (train["documents"], held["documents"]) == (1, 0)
    assert len(TextShard.read(tmp_path / "t").tokens) == train["tokens"]
    facts = build_chat(recipe, recipe.chats[0], tmp_path, tmp_path, model, [], str)
    assert facts["conversations"] == 1
    assert facts["tokenizer_sha256"] == train["tokenizer_sha256"]
    assert np.diff(ChatShard.read(tmp_path / "c").offsets).tolist() == [facts["tokens"]]


def test_optional_sources_may_be_missing(tmp_path):
    source = ChatSource("jsonl", "none.jsonl", "MIT", "test")
    context = Context(random.Random(0))
    with pytest.raises(ConfigError, match="no such source file"):
        list(convert(ChatShardRecipe("c", (source,)), tmp_path, context))
    optional = ChatSource("jsonl", "none.jsonl", "MIT", "test", optional=True)
    assert not list(convert(ChatShardRecipe("c", (optional,)), tmp_path, context))
    assert Recipe((), ()).chats == ()
