"""The wheel works from any folder: built, and installed into a clean venv elsewhere."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from k2mlx import __version__

ROOT = Path(__file__).parent.parent


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel. hatchling is one of the test's own packages, so nothing is downloaded."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """A folder with a venv in which only the wheel is installed; its dependencies are borrowed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    # A .pth found through a .pth is not read, so the source tree stays out of this venv's path.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", code, cwd=folder).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_carries_what_it_needs_and_no_more(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    bundled = "k2mlx/_bundled"
    wanted = {
        "k2mlx/py.typed",
        f"{bundled}/models/k2-nano/config.json",
        f"{bundled}/models/k2-nano/tokenizer.model",
        f"k2mlx-{__version__}.dist-info/licenses/LICENSE",
        f"k2mlx-{__version__}.dist-info/licenses/NOTICE",
    }
    assert wanted <= names
    assert any(name.startswith(f"{bundled}/apps/chat/") for name in names)
    assert {name.split("/")[0] for name in names} == {"k2mlx", f"k2mlx-{__version__}.dist-info"}
    data = {str(p.relative_to(ROOT)) for p in (ROOT / "k2mlx").rglob("*") if p.is_file()}
    assert {name for name in data if "__pycache__" not in name} <= names


def test_the_command_runs_from_any_folder(elsewhere):
    out = run(elsewhere / "venv" / "bin" / "k2mlx", "--version", cwd=elsewhere)
    assert out == f"k2mlx {__version__}\n"


def test_the_bundled_model_and_page_are_found_from_any_folder(elsewhere):
    code = """
import json
from k2mlx.home import bundled, find_model
found = [find_model("models/k2-nano"), bundled("apps") / "chat"]
print(json.dumps([[str(path), path.is_dir()] for path in found]))
"""
    out = run(elsewhere / "venv" / "bin" / "python", "-c", code, cwd=elsewhere)
    for path, there in json.loads(out):
        assert there
        assert path.startswith(str(elsewhere / "venv"))


def test_the_bundled_model_answers_from_any_folder(elsewhere):
    prompt = ("--prompt", "Hello", "--max-tokens", "4", "--json")
    k2mlx = elsewhere / "venv" / "bin" / "k2mlx"
    out = run(k2mlx, "generate", "--model", "models/k2-nano", *prompt, cwd=elsewhere)
    assert json.loads(out)["text"]
