"""The probe: it measures, serves only who knows the secret, and only on its address."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from k2mlx.cluster import probe
from tests.test_house import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 needs Linux")


@pytest.fixture
def listener():
    command = [sys.executable, "-m", "k2mlx.cluster.probe", "listen", "127.0.0.2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        process.stdin.write("right\n")
        process.stdin.flush()
        yield process, json.loads(process.stdout.readline())["port"]
        process.kill()


def test_only_who_knows_the_secret_is_served_and_others_do_not_keep_it_away(listener):
    process, port = listener
    with pytest.raises(OSError):
        probe.connect("127.0.0.1", "127.0.0.2", port, b"wrong")
    with socket.create_connection(("127.0.0.2", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        start = time.perf_counter()
        found = probe.connect("127.0.0.1", "127.0.0.2", port, b"right")
        took = time.perf_counter() - start
    assert process.wait(5) == 0
    assert 0 < found["round_trip"] < 0.1
    assert found["bandwidth"] > 1e6
    assert took < probe.STRANGER + probe.ROUNDS_TIME + probe.BULK_TIME + 5
    with pytest.raises(ConnectionRefusedError):  # it served one, and is gone
        socket.create_connection(("127.0.0.2", port))


def test_it_listens_on_its_address_alone(listener):
    _, port = listener
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_it_does_not_outlive_its_alarm():
    code = "import sys; from k2mlx.cluster import probe; probe.ALARM = 1; probe.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "listen", "127.0.0.2"]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipe) as process:
        process.stdin.write("s\n")
        process.stdin.flush()
        assert process.wait(9) == -signal.SIGALRM
        assert "port" in json.loads(process.stdout.read())


def test_the_listener_ends_when_nobody_asks_any_more(listener):
    process, _ = listener
    process.stdin.close()
    assert process.wait(5) == 1
