import json
import os
import shutil

import pytest

from k2mlx import home
from k2mlx.cli import main
from k2mlx.errors import HubError
from k2mlx.home import locked
from k2mlx.hub.store import format_words
from tests.hub.conftest import fetch, hub, model_files  # noqa: F401  fixtures
from tests.hub.loopback import Fault


def listed(capsys):
    assert main(["models", "list", "--json"]) == 0
    return {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}


def size(path):
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


@pytest.fixture
def own(hub, tmp_path):  # noqa: F811
    """A model that somebody put under the home folder by hand."""
    path = tmp_path / "home" / "models" / "mine"
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"quantization": {"bits": 4, "group_size": 64}}')
    (path / "model.safetensors").write_bytes(b"x" * 5000)
    return path


def test_lists_every_kind(hub, fetch, own, capsys):  # noqa: F811
    whole = fetch()
    moved = hub.commit(model_files(seed=1))
    part = fetch(split=(2, 3), rank=0)
    found = listed(capsys)
    nano = found["k2-nano"]
    assert (nano["kind"], nano["state"], nano["revision"]) == ("bundled", "complete", None)
    assert nano["bytes"] == size(home.bundled("models") / "k2-nano")
    pulled = found[whole.path.name]
    assert (pulled["kind"], pulled["state"], pulled["format"]) == ("pulled", "complete", "bfloat16")
    assert (pulled["revision"], pulled["bytes"]) == (whole.commit, size(whole.path))
    assert (found[part.path.name]["state"], part.commit) == ("rank 0 of 2,3", moved)
    assert (found["mine"]["kind"], found["mine"]["format"]) == ("own", "mlx 4 bit")
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in found)
    assert max(map(len, out.splitlines())) <= 120


def test_an_interrupted_pull_is_listed_as_partial_and_can_be_removed(hub, fetch, capsys):  # noqa: F811
    hub.always["model-00003-of-00003.safetensors"] = Fault("status", status=404)
    with pytest.raises(HubError):
        fetch(jobs=1)
    (name,) = (name for name in listed(capsys) if name.endswith(".partial"))
    state = listed(capsys)[name]["state"]
    assert 50 < int(state.removeprefix("partial, ").removesuffix(" %")) < 100
    assert main(["models", "rm", hub.repo, "--yes"]) == 0
    assert name in capsys.readouterr().out
    assert name not in listed(capsys)


@pytest.mark.parametrize("spell", ["folder", "repo", "short"])
def test_removes_what_is_named(hub, fetch, own, capsys, spell):  # noqa: F811
    path = fetch().path
    name = {"folder": path.name, "repo": hub.repo, "short": "tiny-k2"}[spell]
    assert main(["models", "rm", name]) == 0  # no terminal: nobody to ask
    assert "nothing removed" in capsys.readouterr().out
    assert path.exists()
    assert main(["models", "rm", name, "--yes"]) == 0
    assert str(path) in capsys.readouterr().out
    assert (path.exists(), own.exists()) == (False, True)


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_asks_a_person(own, monkeypatch, answer):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["models", "rm", "mine"]) == 0
    assert own.exists() == (answer != "y")


@pytest.mark.parametrize(
    "name", ["../models/mine", "..", ".", "", "/etc", "models/mine", "mine/", "x/../mine", "*"]
)
def test_a_name_never_leads_outside(own, capsys, name, tmp_path):
    (tmp_path / "home" / "config.json").write_text("{}")  # even where a model seems to be
    assert main(["models", "rm", "--yes", "--", name]) == 2
    assert "not a model under" in capsys.readouterr().err
    assert own.exists()


def test_bundled_models_stay(hub, capsys):  # noqa: F811
    assert main(["models", "rm", "k2-nano", "--yes"]) == 2
    assert "came with k2mlx" in capsys.readouterr().err
    assert (home.bundled("models") / "k2-nano").is_dir()


def test_a_link_goes_and_what_it_points_to_stays(own, capsys, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(own, outside)
    (own.parent / "link").symlink_to(outside)
    assert main(["models", "rm", "link", "--yes"]) == 0
    assert not os.path.lexists(own.parent / "link")
    assert (outside / "model.safetensors").exists()


def test_several_revisions_are_asked_back(hub, fetch, capsys):  # noqa: F811
    first = fetch()
    hub.commit(model_files(seed=1))
    second = fetch()
    assert main(["models", "rm", hub.repo, "--yes"]) == 2
    err = capsys.readouterr().err
    assert all(path.name in err for path in (first.path, second.path))
    assert main(["models", "rm", f"{hub.repo}@{second.commit}", "--yes"]) == 0
    assert (first.path.exists(), second.path.exists()) == (True, False)


def test_a_folder_that_is_being_written_is_not_removed(hub, fetch, capsys):  # noqa: F811
    path = fetch().path
    with locked(path):
        assert main(["models", "rm", hub.repo, "--yes"]) == 2
    assert "another k2mlx is" in capsys.readouterr().err
    assert path.exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}, "fp8"),
        (
            {
                "text_config": {
                    "quantization_config": {
                        "quant_method": "compressed-tensors",
                        "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
                    }
                }
            },
            "int4",
        ),
        (
            {"quantization": {"bits": 4, "x": {"bits": 8}}, "quantization_config": {"bits": 4}},
            "mlx 4/8 bit",
        ),
        ({"quantization": {"experts": {"bits": 4}, "rest": {"bits": 8}}}, "k2mlx 4/8 bit"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({}, "unquantised"),
        ([], "unknown"),
    ],
)
def test_formats(tmp_path, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert format_words(tmp_path) == words
