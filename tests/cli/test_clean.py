import json
import os

import pytest

from k2mlx.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of two folders, a file and a link to something outside."""
    home = tmp_path / "home"
    (home / "conversations").mkdir(parents=True)
    (home / "conversations" / "a.json").write_bytes(b"x" * 2000)
    (home / "models" / "mine").mkdir(parents=True)
    (home / "models" / "mine" / "config.json").write_bytes(b"x" * 500)
    (home / "notes.txt").write_bytes(b"x" * 10)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "kept").write_text("kept")
    (home / "link").symlink_to(tmp_path / "precious")
    monkeypatch.setenv("K2MLX_HOME", str(home))
    return home


def clean_json(capsys, *args):
    assert main(["clean", "--json", *args]) == 0
    return json.loads(capsys.readouterr().out)


def test_lists_with_sizes_and_removes_nothing_unasked(home, capsys):
    assert main(["clean"]) == 0  # no terminal: nobody to ask
    out = capsys.readouterr().out
    assert "conversations     2.0 kB  1 files" in out
    assert "nothing removed" in out
    assert sorted(os.listdir(home)) == ["conversations", "link", "models", "notes.txt"]


def test_json_is_one_object(home, capsys):
    found = clean_json(capsys)
    assert found["home"] == str(home)
    assert found["removed"] is False
    sizes = {entry["name"]: entry["bytes"] for entry in found["entries"]}
    assert (sizes["conversations"], sizes["models"], sizes["notes.txt"]) == (2000, 500, 10)


def test_removes_what_is_named(home, capsys):
    assert clean_json(capsys, "conversations", "--yes")["removed"] is True
    assert sorted(os.listdir(home)) == ["link", "models", "notes.txt"]


def test_removes_all_but_never_what_a_link_points_to(home, capsys, tmp_path):
    assert main(["clean", "--yes"]) == 0
    assert "removed" in capsys.readouterr().out
    assert list(home.iterdir()) == []
    assert (tmp_path / "precious" / "kept").read_text() == "kept"
    assert clean_json(capsys, "--yes") == {"home": str(home), "entries": [], "removed": False}


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_asks_a_person(home, monkeypatch, answer):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["clean"]) == 0
    assert bool(list(home.iterdir())) == (answer != "y")


@pytest.mark.parametrize("name", ["../precious", "/etc", "models/mine", "nothing", ".", ""])
def test_a_name_never_leads_outside(home, capsys, name, tmp_path):
    assert main(["clean", "--yes", "--", name]) == 2
    assert "not an entry of" in capsys.readouterr().err
    assert (tmp_path / "precious" / "kept").exists()
    assert (home / "models" / "mine").exists()


@pytest.mark.parametrize("place", ["user", "above", "package"])
def test_refuses_a_home_that_holds_more(monkeypatch, capsys, tmp_path, place):
    user = tmp_path / "users" / "me"
    user.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(user))
    from k2mlx import home

    package = home.bundled("models").parent
    place = {"user": user, "above": user.parent, "package": package}[place]
    monkeypatch.setenv("K2MLX_HOME", str(place))
    assert main(["clean", "--yes"]) == 2
    assert "will not be cleaned" in capsys.readouterr().err
    assert user.exists()


def test_a_home_that_is_not_there_is_not_made(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("K2MLX_HOME", str(tmp_path / "none"))
    assert main(["clean"]) == 0
    assert "nothing there" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
