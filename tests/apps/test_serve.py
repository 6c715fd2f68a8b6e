"""Starting the page: ports, hosts, what is missing; and that nothing imports Gradio too early."""

import socket
import subprocess
import sys

import pytest

from apps.chat import serve
from k2mlx.cli import main
from k2mlx.cli.chat import load_app
from k2mlx.errors import RequestError


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_in_use_is_refused(taken):
    with pytest.raises(RequestError, match=rf"port {taken}: is in use on 127.0.0.1, .* --port"):
        serve.open_socket("127.0.0.1", taken)


def test_without_a_port_the_next_free_one_is_taken(taken, monkeypatch):
    monkeypatch.setattr(serve, "FIRST_PORT", taken)
    with serve.open_socket("127.0.0.1", None) as listener:
        assert taken < listener.getsockname()[1] < taken + serve.PORTS


def test_when_all_ports_are_in_use(taken, monkeypatch):
    monkeypatch.setattr(serve, "FIRST_PORT", taken)
    monkeypatch.setattr(serve, "PORTS", 1)
    with pytest.raises(RequestError, match="all in use"):
        serve.open_socket("127.0.0.1", None)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range(port):
    with pytest.raises(RequestError, match=f"got {port}, wanted 1 to 65535"):
        serve.open_socket("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "not an address"])
def test_a_host_that_is_not_this_machine(host):
    with pytest.raises(RequestError, match="wanted an address of this machine"):
        serve.open_socket(host, 7860)


def test_the_address_is_one_that_a_browser_can_open():
    with serve.open_socket("0.0.0.0", None) as listener:
        assert serve.url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_the_browser_is_opened_unless_told_not_to(monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(serve.webbrowser, "open", opened.append)
    serve.announce("http://127.0.0.1:7860", False)
    assert opened == []
    serve.announce("http://127.0.0.1:7860", True).join()
    assert opened == ["http://127.0.0.1:7860"]
    assert "http://127.0.0.1:7860" in capsys.readouterr().out


def test_without_gradio_the_command_names_what_to_install(monkeypatch, capsys):
    # The command's own copy of the app, not the one imported above.
    from importlib import import_module

    launcher = import_module(f"{load_app('chat').__name__}.serve")
    monkeypatch.setattr(launcher, "find_spec", lambda name: None)
    assert main(["chat", "--no-browser"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("k2mlx: gradio: ")
    assert "pip install 'k2mlx[app]'" in error
    assert error.count("\n") == 1


def test_a_missing_model_is_reported_before_anything_is_started(capsys):
    assert main(["chat", "--model", "no/such/model"]) == 2
    assert capsys.readouterr().err.startswith("k2mlx: no/such/model: ")


def test_only_the_page_imports_gradio():
    code = """
import sys
from importlib import import_module
from k2mlx.cli.chat import load_app
app = load_app("chat")
assert load_app("chat") is app
import_module(app.__name__ + ".serve")
import_module(app.__name__ + ".view")
assert "gradio" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
