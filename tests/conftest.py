"""What every test runs under: no kernel compiler, no network libraries calling home, its own home.

The environment is set on import, before any test module can import mlx or gradio.
"""

import os
import sys

import pytest
from hypothesis import settings

import k2mlx  # noqa: F401  loads OpenBLAS, for which mlx must not have been imported yet

# On the CPU mx.compile starts g++ for every kernel: a minute for one training step.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
# Nothing that a test imports may look for updates or models on the network.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
# pytest-xdist sets the width of a terminal that its workers have not; commands would show progress.
os.environ.pop("COLUMNS", None)
# How long an example takes says more of the machine than of the property. The same examples each
# time, so that a change is judged by what it changed; K2MLX_EXPLORE=1 draws new ones.
settings.register_profile("k2mlx", deadline=None, derandomize="K2MLX_EXPLORE" not in os.environ)
settings.load_profile("k2mlx")


@pytest.fixture(scope="session", autouse=True)
def k2mlx_home(tmp_path_factory):
    """A K2MLX_HOME for the session, so that no test reads or writes the user's own."""
    path = tmp_path_factory.mktemp("k2mlx-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("K2MLX_HOME", str(path))
        yield path


def pytest_collection_modifyitems(items):
    """Skip, with the reason, what this machine cannot run."""
    on_mac = sys.platform == "darwin"
    for item in items:
        if item.get_closest_marker("metal") and not on_mac:
            item.add_marker(pytest.mark.skip(reason="needs Apple silicon (Metal)"))
