import stat

import pytest

from k2mlx import home
from k2mlx.errors import CheckpointError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A home that is not there yet, and a current folder that holds no models."""
    monkeypatch.setenv("K2MLX_HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_home_is_made_for_its_owner_only(folder):
    assert home.home_path() == folder / "home"
    assert not home.home_path().exists()
    assert mode(home.home()) == 0o700


def test_home_defaults_to_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("K2MLX_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.home_path() == tmp_path / ".k2mlx"


def test_private_files_are_replaced_whole_and_closed_to_others(folder):
    path = home.home() / "conversations" / "one.json"
    home.write_private(path, "first, and longer")
    home.write_private(path, "sécond")
    assert path.read_text(encoding="utf-8") == "sécond"
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert [p.name for p in path.parent.iterdir()] == ["one.json"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(folder):
    path = home.home() / "one.json"
    home.write_private(path, "kept")
    with pytest.raises(TypeError):
        home.write_private(path, 5)  # ty: ignore[invalid-argument-type]
    assert path.read_text() == "kept"
    assert [p.name for p in home.home().iterdir()] == ["one.json"]


def test_a_model_is_a_path_then_in_the_home_then_bundled(folder):
    nano = home.find_model("models/k2-nano")
    assert (nano / "config.json").is_file()
    assert home.find_model("k2-nano") == nano

    own = folder / "home" / "models" / "k2-nano"
    own.mkdir(parents=True)
    assert home.find_model("models/k2-nano") == own

    here = folder / "elsewhere" / "models" / "k2-nano"
    here.mkdir(parents=True)
    assert home.find_model("models/k2-nano").resolve() == here
    assert home.find_model(str(own)) == own


@pytest.mark.parametrize("name", ["nothing", "", "models", "models/..", "..x", "a/b/c", "/nope"])
def test_what_is_no_model_is_said(folder, name):
    with pytest.raises(CheckpointError, match=r"no such folder.*k2-nano.*give a folder"):
        home.find_model(name)


def test_a_file_is_no_model(folder):
    (folder / "elsewhere" / "weights.gguf").write_text("")
    with pytest.raises(CheckpointError, match=r"is a file, wanted a model folder"):
        home.find_model("weights.gguf")


def test_models_and_apps_are_bundled():
    assert "k2-nano" in home.bundled_models()
    assert (home.bundled("apps") / "chat").is_dir()
