"""Starting the page: a port, the model, Gradio, and the end of all three."""

import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2mlx.errors import MissingExtraError, RequestError

if TYPE_CHECKING:
    from k2mlx.generate import Engine

FIRST_PORT = 7860
PORTS = 100
_HERE = Path(__file__).parent


def serve(
    name: str,
    opening: "AbstractContextManager[Engine]",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Load the model and serve the page until interrupted.

    name: of the model. opening: loads it. port: None takes the first free one from 7860. browser:
    open the page there.

    Raises: what `opening` raises, RequestError for the address, MissingExtraError without Gradio.
    """
    if find_spec("gradio") is None:
        raise MissingExtraError(
            "gradio: not installed, wanted by the chat page; pip install 'k2mlx[app]'"
        )
    with open_socket(host, port) as listener:
        address = url(listener)
        print(f"Starting {name}; it will be at {address}", flush=True)
        with opening as engine:
            _say_loaded(engine)
            run(engine, listener, lambda: announce(address, browser))


def run(engine: "Engine", listener: socket.socket, ready: Callable[[], object]) -> None:
    """Serve the page of `engine` on a bound socket until interrupted; `ready` is called once."""
    _stay_private()
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    from .page import Page

    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        Page(engine).blocks,
        path="/",
        theme=_theme(gr),
        css_paths=_HERE / "style.css",
        js=(_HERE / "page.js").read_text(encoding="utf-8"),
        favicon_path=str(_HERE / "icon.svg"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=True,
    )

    class Server(uvicorn.Server):
        async def startup(self, *args: Any, **kwargs: Any) -> None:
            await super().startup(*args, **kwargs)
            ready()

    # Open pages keep a connection for ever, so the end does not wait for them.
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    with suppress(KeyboardInterrupt):  # the way to end it, so no error
        Server(config).run(sockets=[listener])


def open_socket(host: str, port: int | None) -> socket.socket:
    """A listening socket on `host`; port None takes the first free one from 7860.

    Raises: RequestError for a port in use or out of range, or a host that is not this machine's.
    """
    if port is not None:
        if not 1 <= port <= 65535:
            raise RequestError(
                f"--port: got {port}, wanted 1 to 65535; leave it out to take a free one"
            )
        return _listen(host, port)
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            return _listen(host, candidate)
        except PortInUse:
            continue
    raise RequestError(
        f"port: {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all in use on {host}, wanted a free"
        " one; give another with --port"
    )


class PortInUse(RequestError):
    """Somebody else listens there."""


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RequestError(
            f"--host: got {host!r}, wanted an address of this machine such as 127.0.0.1"
            f" ({error.strerror}); correct it or leave it out"
        ) from error
    try:
        # Without it a port stays taken for a minute after its last user has gone.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise _refusal(host, port, error) from error
    return listener


def _refusal(host: str, port: int, error: OSError) -> RequestError:
    import errno

    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"port {port}: is in use on {host}, wanted a free one;"
            " give another with --port, or leave it out to take the next free one"
        )
    if error.errno == errno.EACCES:
        return RequestError(
            f"port {port}: this user may not use it, wanted 1024 to 65535; give one with --port"
        )
    return RequestError(
        f"--host: got {host!r}, wanted an address of this machine such as 127.0.0.1"
        f" ({error.strerror}); correct it or leave it out"
    )


def url(listener: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say_loaded(engine: "Engine") -> None:
    from .view import count

    info = engine.info
    size = f"{count(info.parameters)} parameters, {count(info.bytes, 'B')}"
    print(f"Loaded {size} on the {info.device.upper()}; opening the page", flush=True)


def announce(address: str, browser: bool) -> threading.Thread | None:
    """Tell where the page is and open it there. Returns the thread that does, if any."""
    print(f"Ready: {address}  (Ctrl-C ends it)", flush=True)
    if not browser:
        return None
    # Some browsers run in the foreground of whoever starts them, and would hold the server up.
    opening = threading.Thread(target=webbrowser.open, args=(address,), daemon=True)
    opening.start()
    return opening


def _stay_private() -> None:
    """Before Gradio is imported: nothing is reported to anybody, no version is looked up."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def _theme(gr: Any) -> Any:
    """Calm colours and the system's own fonts: those of Gradio's themes would be fetched."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace"],
    )
