"""The vocabulary trainer, the sample that it learns from, and the vocabulary that ships."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.data.corpus import TextSource, held_out
from k2mlx.data.sample import SamplePart, compact, read_tools, sample
from k2mlx.data.vocabulary import MAX_SENTENCE_BYTES, sentences, take, train_sentencepiece
from k2mlx.errors import ConfigError
from k2mlx.home import find_model
from k2mlx.tokenizer import SPECIAL_TOKENS, load_tokenizer

HELD = next(f"d{n}" for n in range(1000) if held_out(f"d{n}"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    texts = [f"The cat {n} sat on the mat.\n  Dogs ran\taway in {n * 7}!" for n in range(300)]
    train_sentencepiece(texts, folder / "tokenizer.model", 425)
    return load_tokenizer(folder)


def test_too_few_texts_are_an_error_that_says_what_would_do(tmp_path):
    with pytest.raises(ConfigError, match="vocabulary of 999 pieces: Vocabulary size too high"):
        train_sentencepiece(["a few words"] * 9, tmp_path / "tokenizer.model", 999)


def test_markers_have_the_first_ids_and_newline_is_a_token(trained):
    assert trained.vocab_size == 425
    assert [trained.special[marker] for marker in SPECIAL_TOKENS] == list(range(17))
    assert trained.encode("\n\n") == [17, 17]


@given(st.text(max_size=60))
def test_the_shipped_vocabulary_is_lossless(text):
    tokenizer = load_tokenizer(find_model("models/k2-nano"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special.values())


def test_the_shipped_vocabulary_has_one_token_a_digit():
    tokenizer = load_tokenizer(find_model("models/k2-nano"))
    assert tokenizer.vocab_size == 8192
    digits = [tokenizer.encode(str(digit))[-1] for digit in range(10)]
    assert tokenizer.encode("90210") == [digits[int(digit)] for digit in "90210"]


@given(st.lists(st.text(max_size=40), max_size=5), st.integers(1, 300))
def test_sentences_lose_only_newlines(texts, times):
    texts = [text * times for text in texts]
    cut = list(sentences(texts))
    assert "".join(cut) == "".join(text.replace("\n", "") for text in texts)
    assert all(len(line.encode()) <= MAX_SENTENCE_BYTES + 192 for line in cut)


def test_take_stops_by_size():
    assert list(take(["aaaa", "bbbb", "cc"], 5)) == ["aaaa", "bbbb"]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_sample_takes_shares_and_nothing_held_out(tmp_path):
    write(tmp_path / "t.jsonl", [{"id": "a", "text": "one\ntwo"}, {"id": HELD, "text": "secret"}])
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "user", "content": "hi\nyou"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    write(tmp_path / "c.jsonl", [{"id": i, "messages": messages} for i in ("a", HELD)])
    spec = {"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}
    (tmp_path / "tools.json").write_text(json.dumps({"f": spec}))
    texts = {"t": TextSource("t", "t.jsonl", "CC0", "test")}
    parts = [
        SamplePart("text", 2, text="t"),
        SamplePart("messages", 1, path="c.jsonl"),
        SamplePart("tools", 1, path="tools.json"),
    ]
    declared = '{"function":{"name":"f","parameters":{"a":2,"b":1}},"type":"function"}'
    assert list(sample(parts, texts, tmp_path)) == [
        *("one", "one", "two", "two", "hi", "you", '{"x": 1}', declared)
    ]
    assert list(sample([], texts, tmp_path, [spec])) == [compact(spec)] * 300


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (SamplePart("text", 1, text="no"), "no .*source is called 'no'"),
        (SamplePart("messages", 1), "needs a path"),
        (SamplePart("poems", 1, path="x"), "expected kind"),
        (SamplePart("tools", 1, path="none.json"), "no such source file"),
        (SamplePart("tools", 1, path="none.tar.xz"), "no such source file"),
    ],
)
def test_sample_errors(tmp_path, part, message):
    with pytest.raises(ConfigError, match=message):
        list(sample([part], {}, tmp_path))


def test_tools_are_read_in_three_forms(tmp_path):
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    mcp = [{"name": "search", "description": "Search.", "inputSchema": schema}]
    service = {
        "service_name": "Banks_13",
        "slots": [
            {"name": "kind", "description": "Which", "is_categorical": True}
            | {"possible_values": ["checking", "savings"]},
            {"name": "sum", "description": "How much", "is_categorical": False}
            | {"possible_values": []},
        ],
        "intents": [
            {"name": "Send", "description": "Send money", "required_slots": ["sum"]}
            | {"optional_slots": {"kind": "checking"}}
        ],
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps(mcp))
    [search] = read_tools(path)
    assert search["function"] == {
        "name": "search",
        "description": "Search.",
        "parameters": schema,
    }
    path.write_text(json.dumps([service]))
    [send] = read_tools(path)
    parameters = send["function"]["parameters"]
    assert send["function"]["name"] == "Banks_13.Send"
    assert list(parameters["properties"]) == ["sum", "kind"]
    assert parameters["properties"]["kind"]["enum"] == ["checking", "savings"]
    assert parameters["required"] == ["sum"]
