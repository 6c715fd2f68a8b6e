"""The house rules that a machine can check: direction of imports, the README, set-up by make."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "k2mlx"
MODULES = sorted(PACKAGE.rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEAVY = {"transformers", "gradio", "fastapi", "torch", "mlx_lm", "matplotlib", "playwright"}
HEAVY |= {"huggingface_hub", "httpx2"}


def run(*command, cwd=ROOT):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def lint_imports(folder):
    tool = Path(sys.executable).parent / "lint-imports"
    return run(str(tool), "--no-cache", "--config", "pyproject.toml", cwd=folder)


def imported(path, top_level_only=False):
    """Roots of the absolute imports of one file: {'mlx', 'os'}."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


# --- Imports -------------------------------------------------------------------------------------


def test_imports_point_down():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "code"),
    [("config.py", "from k2mlx import model\n"), ("stray.py", "")],
    ids=["an import that points up", "a module without a floor"],
)
def test_the_contract_notices(tmp_path, file, code):
    shutil.copytree(PACKAGE, tmp_path / "k2mlx", ignore=shutil.ignore_patterns("*.jsonl"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "k2mlx" / file).open("a") as opened:
        opened.write(code)
    assert lint_imports(tmp_path).returncode == 1


def test_the_core_knows_only_mlx_and_the_standard_library():
    core = [PACKAGE / name for name in ("config.py", "cache.py", "model.py")]
    core += sorted((PACKAGE / "nn").glob("*.py"))
    for path in core:
        assert imported(path) <= {"mlx", "k2mlx"} | sys.stdlib_module_names, path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_imports_wait_for_the_command_that_needs_them(path):
    assert not imported(path, top_level_only=True) & HEAVY
    assert "apps" not in imported(path), "the package never imports an app"


# --- README --------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.split()) <= 900


def test_the_readme_lists_the_rooms_that_there_are():
    listed = {match.rstrip("/") for match in re.findall(r"^\| `([\w./-]+)` \|", README, re.M)}
    for path in listed:
        assert (ROOT / path).exists(), path
    rooms = {
        f"k2mlx/{path.name}"
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists())
        and not path.name.startswith("_")
    }
    assert rooms <= listed


def test_files_that_the_readme_mentions_are_there():
    linked = re.findall(r"\]\(([^)#]+)\)", README)
    mentioned = re.findall(r"`((?:k2mlx|apps|models|tests)/[\w./-]+)`", README)
    assert linked
    for path in linked + mentioned:
        assert (ROOT / path).exists(), path


def readme_commands(prefix):
    """Lines of the README's console blocks that start with `$ PREFIX`, without the prefix."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix(f"$ {prefix} ") for line in lines if line.startswith(f"$ {prefix} ")]


def test_the_make_targets_that_the_readme_names_explain_themselves():
    targets = re.findall(r"^  make (\w+) +\S", run("make", "help").stdout, re.M)
    assert {"help", "chat", "test", "check", "bench", "clean"} <= set(targets)
    named = set(re.findall(r"`make (\w+)`", README)) | set(readme_commands("make"))
    assert "chat" in named
    assert named <= set(targets)


def test_the_readmes_command_runs():
    import shlex

    commands = readme_commands(".venv/bin/k2mlx")
    assert commands
    for command in commands:
        done = run(sys.executable, "-m", "k2mlx", *shlex.split(command))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


# --- Set-up --------------------------------------------------------------------------------------


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins == sorted(pins, key=str.lower)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[\w.]+", pin) for pin in pins)
    assert {"mlx", "mlx-lm", "gradio", "pytest"} <= {pin.split("==")[0] for pin in pins}


def setup(tmp_path, tools, *args, **environment):
    """Run setup.sh in an empty project with only the given fake tools, and those it may use."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name in ("sh", "dirname", "cat", "cksum", "rm", "grep"):
        found = shutil.which(name)
        assert found
        (bin / name).symlink_to(found)
    for name, body in tools.items():
        (bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin / name).chmod(0o755)
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return subprocess.run(
        ["/bin/sh", "scripts/setup.sh", *args],
        cwd=tmp_path,
        env={"PATH": str(bin), **environment},
        capture_output=True,
        text=True,
    )


def linux(**tools):
    return {"uname": 'test "$1" = -m && echo x86_64 || echo Linux', **tools}


def mac(version, chip, translated=0):
    return {
        "uname": f'test "$1" = -m && echo {chip} || echo Darwin',
        "sw_vers": f"echo {version}",
        "sysctl": f"echo {translated}",
    }


OLD = 'case "$2" in *exit*) exit 1;; *) echo 3.9;; esac'
NO_VENV = 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac'


@pytest.mark.parametrize(
    ("tools", "remedy"),
    [
        (mac("15.1", "x86_64"), "MLX needs Apple silicon and this is an Intel Mac"),
        (mac("15.1", "x86_64", translated=1), "runs under Rosetta; open one that does not"),
        (mac("13.6", "arm64"), "MLX needs macOS 14 and this is 13.6; update macOS"),
        (linux(), "no python3; install Python 3.11 to 3.14, or uv"),
        (linux(python3=OLD), "needs Python 3.11 to 3.14 and python3 is 3.9; install one"),
        (linux(python3=NO_VENV), "python3 has no venv; on Debian or Ubuntu: sudo apt-get install"),
    ],
)
def test_a_machine_that_cannot_is_told_the_remedy_in_one_line(tmp_path, tools, remedy):
    done = setup(tmp_path, tools, "chat")
    assert done.returncode == 2
    assert remedy in done.stderr
    assert done.stderr.startswith("k2mlx: ")
    assert done.stderr.count("\n") == 1


# A python3 that makes a "venv" whose python notes what pip is asked for.
FAKE_PYTHON = """
case "$1 $2" in
"-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
"-m pip") echo "$@" >>pip.log;;
esac"""


@pytest.mark.parametrize(
    ("gpu", "target", "asked"),
    [
        ("exit 1", "chat", ".[app,cpu]"),
        ("echo GPU 0: something", "chat", ".[app,cuda]"),
        ("echo GPU 0: something", "dev", ".[dev,cpu]"),
        ("exit 1", "bench", ".[bench,cpu]"),
    ],
)
def test_set_up_picks_the_backend_and_is_done_once(tmp_path, gpu, target, asked):
    tools = linux(**{"python3": FAKE_PYTHON, "nvidia-smi": gpu})
    tools |= {name: f'exec {shutil.which(name)} "$@"' for name in ("mkdir", "cp")}
    assert setup(tmp_path, tools, target).returncode == 0
    log = (tmp_path / "pip.log").read_text()
    assert log.count("\n") == 1
    assert f"-c constraints.txt -e {asked}" in log

    def again():
        script = ["/bin/sh", "scripts/setup.sh", target]
        done = subprocess.run(script, cwd=tmp_path, env={"PATH": str(tmp_path / "bin")})
        assert done.returncode == 0
        return (tmp_path / "pip.log").read_text().count("\n")

    assert again() == 1
    with (tmp_path / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert again() == 2


def test_a_mac_gets_metal_from_mlx_itself(tmp_path):
    tools = mac("14.0", "arm64") | {"python3": FAKE_PYTHON}
    tools |= {name: f'exec {shutil.which(name)} "$@"' for name in ("mkdir", "cp")}
    assert setup(tmp_path, tools, "chat").returncode == 0
    assert "-e .[app]" in (tmp_path / "pip.log").read_text()


def test_uv_is_used_where_it_is_installed(tmp_path):
    uv = f'echo "$@" >>uv.log; {shutil.which("mkdir")} -p .venv'
    assert setup(tmp_path, linux(uv=uv), "chat", K2MLX_BACKEND="cpu").returncode == 0
    first, second = (tmp_path / "uv.log").read_text().splitlines()
    assert first.startswith("venv ")
    assert second.startswith("pip install ")
    assert second.endswith("-c constraints.txt -e .[app,cpu]")
