"""Where k2mlx keeps what it writes, and where it finds models and apps.

Everything written goes under one folder: $K2MLX_HOME, by default ~/.k2mlx, readable by its owner
only. Models and apps also travel inside the wheel, as `k2mlx/_bundled/models` and `.../apps`; in a
source tree they are the folders beside the package.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from k2mlx.errors import BusyError, CheckpointError

_PACKAGE = Path(__file__).resolve().parent
PULL_FILE = "pull.json"  # in every folder that `k2mlx pull` wrote: repo, revision, hashes
PARTIAL = ".partial"  # ends the name of a folder that is not complete, and no model
# OWNER--NAME@SHA, as `k2mlx pull` names folders. No owner and no name on a hub has two hyphens.
_PULLED = re.compile(r"((?:(?:(?!--)[\w.-])+--)?(?:(?!--)[\w.-])+)@([0-9a-f]{12})")


def home_path() -> Path:
    """The home folder's path, whether or not it is there yet."""
    return Path(os.environ.get("K2MLX_HOME") or "~/.k2mlx").expanduser().absolute()


def home() -> Path:
    """The home folder, made with mode 0700 where it is missing."""
    path = home_path()
    if not path.is_dir():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)  # mkdir's mode is subject to the umask
    return path


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file with mode 0600, replacing it in one step so that a crash leaves the old one.

    Folders that are missing are made with mode 0700.
    """
    for folder in reversed([path.parent, *path.parent.parents]):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold a folder for writing; the lock ends with the process, however it ends.

    Raises BusyError when another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder}: another k2mlx is writing it; wait for it") from None
        yield
    finally:
        os.close(handle)


def bundled(kind: Literal["models", "apps"]) -> Path:
    """The folder of models or apps that came with k2mlx: inside the wheel, or beside the source."""
    in_wheel = _PACKAGE / "_bundled" / kind
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / kind


def find_model(name: str) -> Path:
    """The folder of a model given as a path or a name.

    Looked for as a path, then under the home folder's `models`, then among the bundled models;
    `models/k2-nano` and `k2-nano` name the same bundled model. What `k2mlx pull` fetched comes
    last, by its name on the hub: OWNER/NAME, NAME or OWNER/NAME@REVISION; of several revisions the
    one pulled last.

    Raises: CheckpointError if there is none, if the path is a file, or if a short name could mean
    the models of two owners.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise CheckpointError(
            f"{name}: is a file, wanted a model folder; give the folder that holds config.json"
        )
    parts = path.parts[1:] if path.parts[:1] == ("models",) else path.parts
    places = [home_path() / "models", bundled("models")]
    if len(parts) == 1 and parts[0] not in ("/", ".."):
        for place in places:
            if (place / parts[0]).is_dir():
                return place / parts[0]
    pulled = pulled_models(name)
    owners = sorted({path.name.partition("@")[0].replace("--", "/") for path in pulled})
    if len({owner.lower() for owner in owners}) > 1:
        raise CheckpointError(f"{name}: could be {' or '.join(owners)}; give the owner too")
    if pulled:
        return pulled[0]
    if pulled_models(name, partial=True):
        raise CheckpointError(f"{name}: only a part is here; 'k2mlx pull' with its name goes on")
    raise CheckpointError(
        f"{name or 'model'}: no such folder here, in {places[0]} or among the bundled models"
        f" ({', '.join(bundled_models()) or 'none'}); give a folder with config.json and weights"
    )


def bundled_models() -> list[str]:
    """Names of the models that came with k2mlx."""
    return sorted(path.parent.name for path in bundled("models").glob("*/config.json"))


def pulled_models(name: str, *, partial: bool = False) -> list[Path]:
    """Folders that `k2mlx pull` made for this name, the last pulled first.

    name: OWNER/NAME or NAME, any letter case, also with @ and the first digits of the revision.
    partial: the folders of pulls that were interrupted, instead of the complete ones.
    """
    wanted, _, revision = name.lower().partition("@")
    found = []
    for path in _folders(home_path() / "models"):
        complete = path.name.removesuffix(PARTIAL)
        match = _PULLED.fullmatch(complete)
        if match is None or partial != (complete != path.name):
            continue
        repo = match[1].lower().replace("--", "/")
        if wanted not in (repo, repo.rpartition("/")[2]) or not match[2].startswith(revision[:12]):
            continue
        if (path / PULL_FILE).is_file():
            found.append(path)
    return sorted(found, key=lambda path: (path / PULL_FILE).stat().st_mtime_ns, reverse=True)


def _folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
