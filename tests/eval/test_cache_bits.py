"""`k2mlx eval cache` on k2-nano: what it counts, and that 8 bits lose nothing to speak of there."""

import json

import mlx.core as mx
import pytest

from k2mlx import cli
from k2mlx.cache import LatentCache
from k2mlx.errors import RequestError
from k2mlx.eval import cache_bits
from k2mlx.home import find_model
from k2mlx.load import load


@pytest.fixture(scope="module")
def text():
    return (find_model("models/k2-nano") / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def loaded():
    return load(find_model("models/k2-nano"), mx.float32)


def test_eight_bits_cost_no_more_than_rounding_to_bfloat16(loaded, text):
    rows = {c.form: c for c in cache_bits.measure(loaded, text, 768, needles=4, length=256)}
    print(cache_bits.table(list(rows.values())))
    same, rounded, eight = rows["16"], rows["bf16"], rows["8"]
    assert (same.kl, same.largest, same.flips) == (0, 0, 0)
    assert 0 < eight.kl < 2 * rounded.kl
    # float32 here: 128 + 32 values of 4 bytes, and 128 of 1, 2 groups of 2 x 4, 32 of 4.
    assert (same.bytes, eight.bytes) == (6 * 640, 6 * (128 + 16 + 128))
    assert same.found >= 1, "nothing was found, so that nothing was compared"
    assert abs(eight.found - same.found) <= 1


def test_a_cache_that_forgets_finds_no_needle(loaded, text, monkeypatch):
    """Latent parts of zero instead of 8 bits: far from the model, and nothing is found."""

    class Forgetful(LatentCache):
        def append(self, rows):
            return super().append(rows * 0)

    monkeypatch.setattr(cache_bits, "_RoundedCache", Forgetful)
    rows = {c.form: c for c in cache_bits.measure(loaded, text, 256, needles=3, length=192)}
    assert rows["bf16"].kl > 1
    assert rows["bf16"].found == 0


def test_the_text_must_be_long_enough(loaded):
    with pytest.raises(RequestError, match="--length: got 256 for a text of"):
        cache_bits.measure(loaded, "too short", 256, needles=1, length=256)


def test_the_command_prints_json(text, tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_text(text[:3000], encoding="utf-8")
    options = ["--max-tokens", "64", "--count", "1", "--length", "100", "--json"]
    cli.main(["eval", "cache", "--file", str(file), *options])
    said = json.loads(capsys.readouterr().out)
    assert [cost["form"] for cost in said["costs"]] == list(cache_bits.FORMS)
