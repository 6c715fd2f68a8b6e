"""How a rank ends, in processes of their own: soon, once, with a code, whoever still listens."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import os, signal, sys, threading, time
from k2mlx.errors import ClusterError
from k2mlx.parallel import exit
from k2mlx.parallel.exit import leave, on_signals
def say(word):  # not print, which a signal handler may find in the middle of a print
    os.write(1, word.encode() + b"\\n")
def ready():
    say("ready")
"""


@contextmanager
def program(body, **options):
    """A process that runs this body, once it says `ready`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(body)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        **{"stderr": subprocess.PIPE} | options,
    )  # fmt: skip
    try:
        # Not readline, which may take more off the pipe than it gives.
        assert b"".join(iter(lambda: os.read(process.stdout.fileno(), 1), b"\n")) == b"ready"
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process, within):
    """(code, what it printed after `ready`, its errors, seconds that it took)."""
    began = time.monotonic()
    out, errors = process.communicate(timeout=within)
    return process.returncode, out, errors, time.monotonic() - began


# --- leave ---------------------------------------------------------------------------------------


def test_it_says_why_on_one_line_and_ends_with_code_1_whatever_the_others_do():
    """The main thread waits for ever, as for a rank that is gone; the error has three lines."""
    body = """
    ready()
    sys.stdout.write("half an answer")
    error = ClusterError("rank 1\\n was  lost:\\nits end")
    threading.Thread(target=leave, args=(error, 0.1)).start()
    threading.Event().wait()
    """
    with program(body) as process:
        code, out, errors, _ = ended(process, 10)
    assert code == 1
    assert errors == "k2mlx: rank 1 was lost: its end\n"
    assert out == "half an answer"


def test_it_leaves_others_time_to_tell_their_readers():
    body = """
    def tell():
        time.sleep(0.5)
        say("told")
    threading.Thread(target=tell).start()
    ready()
    leave(ClusterError("x"))
    """
    with program(body) as process:
        code, out, _, seconds = ended(process, 10)
    assert (code, out) == (1, "told\n")
    assert 1.5 < seconds < 5


def test_what_is_left_for_is_said_once():
    body = """
    def second():
        time.sleep(0.2)
        leave(ClusterError("the second"), 0)
        say("never")
    threading.Thread(target=second).start()
    ready()
    leave(ClusterError("the first"), 1)
    """
    with program(body) as process:
        code, out, errors, _ = ended(process, 10)
    assert (code, out, errors) == (1, "", "k2mlx: the first\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr", "both"])
def test_a_reader_who_has_gone_does_not_keep_it(stream):
    """As when mlx.launch, or the ssh that it started, was killed."""
    body = """
    ready()
    sys.stdin.readline()
    sys.stdout.write("more")
    leave(ClusterError("x"), 0.1)
    """
    with program(body, stdin=subprocess.PIPE) as process:
        for name in ("stdout", "stderr"):
            if stream in (name, "both"):
                getattr(process, name).close()
        process.stdin.write("go\n")
        process.stdin.flush()
        if stream == "stderr":
            process.stdout.read()
        assert process.wait(10) == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_who_does_not_read_does_not_keep_it(stream):
    """As a launcher that is stopped: the pipe is full, and whoever writes waits."""
    body = f"""
    def write():
        while True:
            sys.{stream}.write("more" * 10000)
    ready()
    threading.Thread(target=write, daemon=True).start()
    time.sleep(0.3)
    leave(ClusterError("x"), 0.1)
    """
    with program(body) as process:
        assert process.wait(10) == 1


def test_a_stream_that_is_closed_or_not_there_does_not_keep_it():
    body = """
    ready()
    sys.stderr.close()
    sys.stdout = None
    leave(ClusterError("x"), 0.1)
    """
    with program(body) as process:
        assert process.wait(10) == 1


# --- on_signals ----------------------------------------------------------------------------------

NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
DRAINING = """
exit.DRAIN = {drain}
def stop():
    say("stop")
    done.set()
done = threading.Event()
on_signals(stop)
ready()
while not done.wait(0.05):
    pass
say("draining")
time.sleep({lasts})
say("drained")
sys.exit({code})
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_ends_it_in_order(number):
    with program(DRAINING.format(drain=20, lasts=0.3, code=5)) as process:
        process.send_signal(number)
        code, out, errors, seconds = ended(process, 10)
    assert (code, out, errors) == (5, "stop\ndraining\ndrained\n", "")
    assert seconds < 5  # the limit does not keep what has ended


@pytest.mark.parametrize("number", NUMBERS[:2])
def test_what_does_not_end_is_ended_at_the_limit(number):
    with program(DRAINING.format(drain=0.7, lasts=60, code=0)) as process:
        process.send_signal(number)
        code, out, _, seconds = ended(process, 10)
    assert (code, out) == (128 + number, "stop\ndraining\n")
    assert 0.6 < seconds < 5


@pytest.mark.parametrize("number", NUMBERS[:2])
def test_a_second_signal_a_second_later_ends_it_now(number):
    with program(DRAINING.format(drain=60, lasts=60, code=0)) as process:
        process.send_signal(NUMBERS[0])
        time.sleep(1.2)
        process.send_signal(number)
        code, out, _, seconds = ended(process, 10)
    assert (code, out) == (128 + number, "stop\ndraining\n")
    assert seconds < 3


def test_signals_that_come_together_are_one():
    """Ctrl-C reaches every rank of a terminal, and each asks rank 0 for the end as well."""
    with program(DRAINING.format(drain=20, lasts=0.5, code=0)) as process:
        for number in (*NUMBERS, *NUMBERS):
            process.send_signal(number)
            time.sleep(0.02)
        code, out, errors, _ = ended(process, 10)
    assert (code, out.count("stop"), out.count("drained"), errors) == (0, 1, 1, "")


def test_a_drain_that_hangs_in_a_system_call_is_ended_too():
    """The limit is on a thread of its own: `stop` itself may never return."""
    body = """
    exit.DRAIN = 0.5
    on_signals(lambda: threading.Event().wait())
    ready()
    signal.pause()
    """
    with program(body) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


ORPHAN = """
from subprocess import Popen
child = Popen([sys.executable, "-c", sys.argv[1]])
signal.pause()
"""


@pytest.mark.parametrize("how", ["", "nohup"])
def test_the_end_of_who_started_it_is_a_signal_unless_hangups_are_ignored(how):
    """As when mlx.launch is ended: its ranks are nobody's then."""
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" if how == "nohup" else ""
    child = HEAD + ignore + DRAINING.format(drain=20, lasts=0.1, code=0)
    parent = subprocess.Popen(
        [sys.executable, "-c", HEAD + ORPHAN, child], stdout=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    out = parent.stdout.fileno()
    assert b"".join(iter(lambda: os.read(out, 1), b"\n")) == b"ready"
    pid = int(subprocess.check_output(["pgrep", "-P", str(parent.pid)]))
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    if how == "nohup":
        time.sleep(2)
        os.kill(pid, 0)  # it is there
        os.kill(pid, signal.SIGTERM)
    with parent.stdout:
        assert parent.stdout.read() == b"stop\ndraining\ndrained\n"
