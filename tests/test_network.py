"""Only `k2mlx pull` goes to the network: no other module could, and no other command tries.

Commands run as processes of their own in which every address that Python looks up, connects to or
listens on is written down, worker processes included.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k2mlx.home import find_model
from tests.folders import write_folder
from tests.test_house import MODULES, PACKAGE, ROOT, imported

NETWORK = {
    "socket", "socketserver", "ssl", "http", "urllib", "urllib3", "ftplib", "smtplib", "xmlrpc",
    "webbrowser", "requests", "httpx", "httpx2", "httpcore", "aiohttp", "websockets",
    "huggingface_hub", "transformers", "datasets", "fsspec",
}  # fmt: skip

# Python imports this at its start, in workers too.
SPY = """
import os, sys
WATCHED = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg",
           "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
def spy(event, args):
    if event in WATCHED:
        address = args if ".get" in event else args[1]
        if not isinstance(address, (str, bytes)):  # those are files: sockets of this machine
            with open(os.environ["SPY_LOG"], "a") as log:
                log.write(f"{event} {address!r}\\n")
sys.addaudithook(spy)
"""

REQUEST = {"messages": [{"role": "user", "content": "hi"}]}
COMMANDS = [  # and how they end
    ("--version", 0),
    ("generate --model {tiny} --prompt hi --max-tokens 3", 0),
    ("generate --model {tiny} --prompt hi --max-tokens 3 --prefix-cache", 0),
    ("generate --model no/such-model --prompt hi", 2),
    ("render --format k2-nano {folder}/request.json", 0),
    ("parse --format k2-nano {folder}/output.txt", 0),
    ("eval tools --model {tiny} --limit 1 --max-tokens 2", 0),
    ("bench --model {tiny} --case experts-1 --rounds 1", 0),
    ("doctor --model {tiny}", 1),  # it has no stored logits
    ("models list", 0),
    ("models rm nothing --yes", 2),
    ("plan kimi-k2-thinking --memory 512GB --memory 512GB", 0),
    ("slice {folder}/slice --config {tiny} --layers 2 --format bf16", 0),
    ("convert {tiny} {folder}/converted", 0),
    ("check {tiny}", 0),
    ("clean --yes", 0),
    ("data build {folder}/data.toml --source {folder} --out {folder}/out --model {nano}", 0),
    ("synth tools --kind calculator --count 3 --out {folder}/tools.jsonl", 0),
    ("pull a/b --split 1,1", 2),  # refused before anything is asked
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with what the commands read, and one with the spy."""
    folder = tmp_path_factory.mktemp("offline")
    tiny = write_folder(folder / "tiny")
    (folder / "request.json").write_text(json.dumps(REQUEST))
    (folder / "output.txt").write_text("Hello.")
    (folder / "t.jsonl").write_text(json.dumps({"id": "a", "text": "One.\nTwo."}) + "\n")
    recipe = '[[text]]\nname="t"\npath="t.jsonl"\nlicence="CC0"\nsource="test"\n'
    (folder / "data.toml").write_text(recipe)
    (folder / "spy").mkdir()
    (folder / "spy" / "sitecustomize.py").write_text(SPY)
    return {"folder": folder, "tiny": tiny, "nano": find_model("models/k2-nano")}


@pytest.fixture
def spied(places, tmp_path):
    """Environment of a process whose addresses go to `log`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(places["folder"] / "spy"), str(ROOT)]),
        "SPY_LOG": str(tmp_path / "log"),
        "K2MLX_HOME": str(tmp_path / "home"),
    }
    for name in ("HF_HUB_OFFLINE", "GRADIO_ANALYTICS_ENABLED"):  # not what keeps it quiet
        environment.pop(name, None)
    return environment


def log(environment):
    path = Path(environment["SPY_LOG"])
    return path.read_text().splitlines() if path.exists() else []


def test_only_the_hub_package_knows_networks():
    """And what connects ranks, and measures between hosts: plain sockets among them."""
    knows: dict[str, set[str]] = {}
    for path in MODULES:
        if used := imported(path) & NETWORK:
            knows.setdefault(path.parent.relative_to(PACKAGE).as_posix(), set()).update(used)
    assert knows.keys() == {"hub", "parallel", "cluster"}
    assert knows["parallel"] == knows["cluster"] == {"socket"}


def test_only_pull_uses_the_part_that_fetches():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if path.parent.name != "hub"
        and any(f"hub{dot}pull" in path.read_text() for dot in (".", " import "))
    }
    assert users == {"cli/pull.py"}


def test_the_spy_sees(spied):
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", code], env=spied, capture_output=True)
    assert b"ConnectionRefusedError" in done.stderr
    assert [line.split()[0] for line in log(spied)] == ["socket.getaddrinfo", "socket.connect"]


@pytest.mark.parametrize(("command", "code"), COMMANDS)
def test_a_command_asks_nobody(command, code, places, spied):
    args = command.format(**places).split()
    done = subprocess.run(
        [sys.executable, "-m", "k2mlx", *args], env=spied, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert log(spied) == []


def test_chat_listens_on_loopback_only(places, spied):
    command = ["-m", "k2mlx", "chat", "--no-browser", "--model", str(places["tiny"])]
    process = subprocess.Popen(
        [sys.executable, *command], env=spied, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"http://127.0.0.1:" in line:
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    seen = log(spied)
    assert any(line.startswith("socket.bind") for line in seen)
    assert [line for line in seen if "'127.0.0.1'" not in line] == []
