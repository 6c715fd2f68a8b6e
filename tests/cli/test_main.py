"""What all commands share: help, versions, one-line errors, exit codes."""

import json
import os
import subprocess
import sys
import time
from types import ModuleType

import pytest

from k2mlx import __version__, cli
from k2mlx.errors import CheckpointError, MissingExtraError


@pytest.fixture
def command(monkeypatch):
    """Adds a command `probe` whose run is what the test says."""

    def add(run):
        module = ModuleType("probe_command", "Probe.\n\nExample:\n  k2mlx probe --count 3")
        module.arguments = lambda parser: parser.add_argument("--count", type=int)
        module.run = run
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", ("probe_command", "try something"))

    return add


def fail_with(error):
    def run(args):
        raise error

    return run


def python(*args, **kwargs):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, **kwargs)


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert cli.main([]) == 0
    assert capsys.readouterr().out == out


def test_help_answers_at_once_and_imports_nothing_heavy(tmp_path):
    code = "import sys; from k2mlx.cli import main; main(['--help']); print(sorted(sys.modules))"
    loaded = python("-c", code, cwd=tmp_path).stdout
    heavy = ("mlx", "mlx.core", "numpy", "sentencepiece", "gradio", "transformers", "torch")
    assert not [name for name in heavy if f"'{name}'" in loaded]

    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert python("-m", "k2mlx", "--help", cwd=tmp_path).returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3


def test_version_and_module_entry():
    done = python("-m", "k2mlx", "--version")
    assert (done.returncode, done.stdout) == (0, f"k2mlx {__version__}\n")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_explains_itself_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "Example:" in out
    assert f"k2mlx {name}" in out.split("Example:")[1]


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        ("genrate", "unknown command 'genrate'; did you mean 'generate'?"),
        ("zzz", "unknown command 'zzz'; see 'k2mlx --help'"),
        ("--verbose", "unknown option '--verbose'; see 'k2mlx --help'"),
    ],
)
def test_an_unknown_command_gets_advice(typed, advice, capsys):
    assert cli.main([typed]) == 2
    assert capsys.readouterr().err == f"k2mlx: {advice}\n"


def test_bad_arguments_get_one_line(command, capsys):
    command(lambda args: None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["probe", "--count", "many"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    wanted = "k2mlx probe: argument --count: invalid int value: 'many'; see 'k2mlx probe --help'\n"
    assert err == wanted


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CheckpointError("a: got 1,\n  wanted 2"), "a: got 1, wanted 2"),
        (MissingExtraError("pip install 'k2mlx[app]'"), "pip install 'k2mlx[app]'"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (ImportError("libmlx.so: cannot open shared object file"), "mlx is installed without a"),
    ],
)
def test_an_error_is_one_line_and_a_traceback_on_request(command, capsys, error, line):
    command(fail_with(error))
    assert cli.main(["probe"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"k2mlx: {line}")
    assert err.count("\n") == 1
    for args in (["--debug", "probe"], ["probe", "--debug"]):
        with pytest.raises(type(error)):
            cli.main(args)


def test_a_bug_keeps_its_traceback(command):
    command(fail_with(AssertionError("ours")))
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["probe"])


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_exit_codes(command, returned, code):
    command(lambda args: returned)
    assert cli.main(["probe"]) == code


def test_an_interrupt_ends_quietly(command, capsys):
    command(fail_with(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_is_no_error():
    code = """
import sys
from types import ModuleType
from k2mlx import cli
probe = ModuleType("probe_command", "Probe.")
probe.arguments = lambda parser: None
probe.run = lambda args: [print("line") for _ in range(100_000)] and None
sys.modules["probe_command"] = probe
cli.COMMANDS["probe"] = ("probe_command", "")
sys.exit(cli.main(["probe"]))
"""
    pipe = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with pipe:
        assert pipe.stdout is not None
        assert pipe.stderr is not None
        pipe.stdout.readline()
        pipe.stdout.close()
        assert pipe.stderr.read() == ""
    assert pipe.returncode == 141


def test_a_terminal_that_goes_away_is_the_end(capfd):
    code = """
import os, signal, sys
from types import ModuleType
from k2mlx import cli

def run(args):
    os.close(int(sys.argv[1]))  # the other end of our terminal
    print("line", flush=True)

signal.signal(signal.SIGHUP, signal.SIG_IGN)
probe = ModuleType("probe_command", "A probe.")
probe.arguments = lambda parser: None
probe.run = run
sys.modules["probe_command"] = probe
cli.COMMANDS["probe"] = ("probe_command", "")
sys.exit(cli.main(["probe"]))
"""
    master, slave = os.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", code, str(master)], stdout=slave, pass_fds=[master]
    )
    os.close(slave)
    os.close(master)
    assert done.wait(30) == 141
    assert capfd.readouterr().err == ""


def test_public_functions_are_lazy_and_leave_the_modules_theirs():
    code = """
import json, sys
import k2mlx
before = [name for name in ("mlx", "k2mlx.load") if name in sys.modules]
functions = [getattr(k2mlx, name).__name__ for name in k2mlx.__all__[1:]]
import k2mlx.load as load, k2mlx.generate.engine as engine
print(json.dumps([before, functions, load.__name__, engine.__name__]))
"""
    done = python("-c", code)
    wanted = [[], ["answer", "load", "stream_answer"], "k2mlx.load", "k2mlx.generate.engine"]
    assert json.loads(done.stdout) == wanted, done.stderr


def test_unknown_public_names_are_attribute_errors():
    import k2mlx

    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        k2mlx.lode  # noqa: B018
