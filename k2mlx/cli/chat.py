"""Talk to a model in the browser: streaming answers, Stop, and tools shown as cards.

The page is served by this machine to this machine; nothing leaves it. --host 0.0.0.0 lets others on
the network use it, without a password.

What the model has read is kept, in memory and on disk, so that a long conversation goes on at once
also after a restart; `k2mlx clean cache` removes it, --no-prefix-cache keeps nothing.

Under mlx.launch the model lies on several machines, and the page is on the first.

Example:
  k2mlx chat
  k2mlx chat --model models/k2-nano --port 8000 --no-browser
  mlx.launch --hostfile hosts.json -- python -m k2mlx chat --model PATH
"""

import argparse
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from k2mlx.cli import prefix, ranks
from k2mlx.home import bundled


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `k2mlx chat`."""
    parser.add_argument(
        "--model",
        default="models/k2-nano",
        metavar="PATH",
        help="model folder, or a bundled model's name (default: models/k2-nano)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="port to listen on (default: next free from 7860)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    prefix.arguments(parser, default=True)
    ranks.arguments(parser)
    group = parser.add_argument_group("on macOS, while it serves")
    group.add_argument("--no-wired", action="store_true", help="let its memory be swapped out")
    group.add_argument("--no-awake", action="store_true", help="let the machine sleep when idle")


def run(args: argparse.Namespace) -> None:
    """Serve the page until interrupted."""
    from importlib import import_module

    from k2mlx.home import find_model

    path = find_model(args.model)
    options = prefix.engine_options(args)
    opening = ranks.engine(args, path, wired=not args.no_wired, awake=not args.no_awake, **options)
    if ranks.follows():
        with opening:
            return
    app = load_app("chat")
    serve = import_module(f"{app.__name__}.serve").serve
    serve(path.name, opening, host=args.host, port=args.port, browser=not args.no_browser)


def load_app(name: str) -> ModuleType:
    """Import a package of the bundled apps, which are not on Python's path, as `k2mlx_app_NAME`."""
    known = f"k2mlx_app_{name}"
    if known in sys.modules:
        return sys.modules[known]
    folder = bundled("apps") / name
    spec = spec_from_file_location(
        known, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[known] = module
    spec.loader.exec_module(module)
    return module
