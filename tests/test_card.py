"""k2-nano's card: it quotes what was measured, on the weights that lie beside it."""

import hashlib
import importlib.util
import json
import math
import re
from pathlib import Path

import pytest

from k2mlx.config import ModelConfig
from k2mlx.eval.chat import user_lines
from k2mlx.eval.tools import questions_hash
from k2mlx.weights.names import checkpoint_tensors

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "models" / "k2-nano"
CARD = (MODEL / "README.md").read_text(encoding="utf-8")
NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")
FIGURES = json.loads((MODEL / "figures.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("card", ROOT / "scripts" / "card.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_card_quotes_the_figures(script):
    assert set(FIGURES) == set(script.SECTIONS)
    assert script.written(CARD, FIGURES) == CARD, "run scripts/card.py"


@pytest.mark.parametrize("what", ["tools", "text", "chat"])
def test_figures_are_of_these_weights(what):
    weights = (MODEL / "model.safetensors").read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    assert FIGURES[what]["weights_sha256"] == found, f"run scripts/card.py --measure {what}"


def test_figures_are_of_these_questions_and_lines():
    assert FIGURES["tools"]["questions_sha256"] == questions_hash()
    assert FIGURES["tools"]["n_questions"] == 300
    row = FIGURES["chat"]
    said = [[message["content"] for message in chat[::2]] for chat in row["chats"]]
    assert said == user_lines(row["seed"], row["count"])


def test_the_recipes_are_what_was_run(script):
    """Stages of the recipes in their order, each as long as it was."""
    recipes = [
        stage
        for name in script.RECIPES
        if (MODEL / name).is_file()
        for stage in script.tomllib.loads((MODEL / name).read_text(encoding="utf-8"))["stage"]
    ]
    stages = FIGURES["training"]["stages"]
    assert [stage["name"] for stage in recipes] == [row["stage"] for row in stages]
    for stage, row in zip(recipes, stages, strict=True):
        if "minutes" in stage:
            assert row["minutes"] == pytest.approx(stage["minutes"], abs=0.15)
        else:
            assert row["steps"] == pytest.approx(stage["steps"], abs=20)


def test_sizes():
    config = ModelConfig.load(MODEL)
    parameters = sum(math.prod(shape) for _, shape in checkpoint_tensors(config))
    assert f"{parameters / 1e6:.1f} M" in CARD
    size = (MODEL / "model.safetensors").stat().st_size
    assert size <= 32 * 2**20
    assert f"{size / 2**20:.0f} MiB" in CARD
    assert (MODEL / "loss.png").stat().st_size <= 60_000


def test_card_and_notice_name_the_same_revisions():
    revisions = {text: set(re.findall(r"@([0-9a-f]{12})", text)) for text in (CARD, NOTICE)}
    assert revisions[CARD] == revisions[NOTICE]
    assert len(revisions[CARD]) >= 25


def test_the_card_says_how_to_make_the_figures(script):
    for name, command in script.COMMANDS.items():
        assert f"$ {command}" in CARD, name


def test_a_figure_that_changed_changes_the_card(script):
    changed = json.loads(json.dumps(FIGURES))
    changed["tools"]["calls_accuracy"] = 0.1234
    assert "12.3%" in script.written(CARD, changed)
    assert "12.3%" not in CARD
