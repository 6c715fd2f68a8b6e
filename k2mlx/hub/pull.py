"""A whole model, or one rank's part, from a hub into a folder that is a model only once complete.

A first pull writes beside the folder's final name, in NAME.partial, and renames at the end. What a
complete folder lacks (a rank's part that is to become whole) is added in place: a file carries its
name only after its hash was right, and pull.json is replaced last.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BusyError, HubError, RequestError
from ..home import PARTIAL, PULL_FILE, home, locked
from ..progress import Progress, size_words
from .remote import Patience
from .select import INDEX, layers_of, rank_shards, read_index, shards, small_files
from .snapshot import RemoteFile, Snapshot, resolve
from .store import Record
from .transfer import Fetcher, Stopped, part_path

Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Order:
    """What to fetch. split: layers of every rank, rank: whose; out: a folder instead of the home's.

    jobs: files at once. verify: hash the files that are here already, too.
    """

    repo: str
    revision: str | None = None
    split: tuple[int, ...] | None = None
    rank: int | None = None
    out: Path | None = None
    jobs: int = 4
    verify: bool = False

    def check(self) -> None:
        """Raises RequestError for a split without a rank, or a rank that the split lacks."""
        if (self.split is None) != (self.rank is None):
            raise RequestError("--split and --rank go together: --split 31,30 --rank 0")
        if self.split is not None and self.rank is not None:
            layers_of(list(self.split), self.rank)
        if self.jobs < 1:
            raise RequestError(f"--jobs {self.jobs}: wanted 1 or more")


@dataclass(frozen=True)
class Pulled:
    """What a pull did. skipped: weight files that only other ranks need, and their bytes."""

    path: Path
    repo: str
    commit: str
    files: int
    bytes: int
    received: int
    skipped_files: int
    skipped_bytes: int
    left_over: list[str]  # names of partial folders of other revisions


def pull(
    order: Order,
    watch: Watch,
    patience: Patience | None = None,
    note: Callable[[str], None] | None = None,
) -> Pulled:
    """Fetch what `order` says. `watch` is called a few times a second, `note` with why the hub is
    asked again before there is any progress to watch.

    Raises: RequestError for an order that makes no sense, HubError for a hub, a file or a disk that
    fails. Whatever happens, the same order goes on where this one stopped.
    """
    order.check()
    patience = patience or Patience()
    snapshot = resolve(order.repo, order.revision, patience, note or (lambda text: None))
    final = home() / "models" / folder_name(snapshot)
    if order.out:  # not the link to it, which could not be replaced by a folder
        final = Path(os.path.realpath(order.out))
    if os.path.lexists(final) and not final.is_dir():
        raise RequestError(f"{final}: is no folder; give another --out, or remove it")
    if final.is_dir() and any(final.iterdir()) and not Record.read(final):
        raise RequestError(f"{final}: has files that no pull wrote; move it away or give --out")
    folder = final if Record.read(final) else final.with_name(final.name + PARTIAL)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder):
        _check_record(folder, snapshot)
        return _Pull(order, snapshot, folder, final, patience, watch).run()


def folder_name(snapshot: Snapshot) -> str:
    """OWNER--NAME@SHA, the first 12 digits of the commit; `home.pulled_models` reads it."""
    return f"{snapshot.repo.replace('/', '--')}@{snapshot.commit[:12]}"


def _check_record(folder: Path, snapshot: Snapshot) -> None:
    record = Record.read(folder)
    if record and (record.repo, record.commit) != (snapshot.repo, snapshot.commit):
        raise RequestError(
            f"{folder}: holds {record.repo}@{record.commit[:12]}, asked for "
            f"{snapshot.repo}@{snapshot.commit[:12]}; give another folder"
        )


class _Pull:
    """One pull, with its folder locked."""

    def __init__(
        self,
        order: Order,
        snapshot: Snapshot,
        folder: Path,
        final: Path,
        patience: Patience,
        watch: Watch,
    ) -> None:
        self.order, self.snapshot, self.patience, self.watch = order, snapshot, patience, watch
        self.folder, self.final = folder, final
        self.record = Record.read(folder) or Record(snapshot.repo, snapshot.commit)
        self.received = 0

    def run(self) -> Pulled:
        names = self.snapshot.files
        if "config.json" not in names:
            raise HubError(
                f"{self.snapshot.repo}: has no config.json, so no model that k2mlx reads"
            )
        small = small_files(names)
        self._fetch(small)
        weight_map = None
        if INDEX in small:
            weight_map = read_index((self.folder / INDEX).read_bytes())
        every = wanted = shards(names, weight_map)
        if self.order.split is not None and self.order.rank is not None and weight_map:
            wanted = rank_shards(weight_map, list(self.order.split), self.order.rank)
        self._fetch([*small, *wanted])
        self._finish(small, wanted, every)
        others = [names[name].size for name in set(every) - set(wanted)]
        return Pulled(
            path=self.final,
            repo=self.snapshot.repo,
            commit=self.snapshot.commit,
            files=len(small) + len(wanted),
            bytes=sum(names[name].size for name in [*small, *wanted]),
            received=self.received,
            skipped_files=len(others),
            skipped_bytes=sum(others),
            left_over=[path.name for path in self._kin() if path.name.endswith(PARTIAL)],
        )

    def _fetch(self, names: list[str]) -> None:
        """Have all of these files, verified, in the folder."""
        files = [self.snapshot.files[name] for name in names]
        if not self.record.complete:  # so that what is here can be listed, and used again
            self.record.asked = self.order.revision
            self._note(names)
            self.record.write(self.folder)
        missing = [file for file in files if not self._here(file)]
        self._seed(missing)
        parts = {file.name: _size(part_path(self.folder, file)) for file in missing}
        total = sum(file.size for file in files)
        needed = sum(file.size - parts[file.name] for file in missing)
        _check_disk(self.folder, needed)
        progress = Progress(total, total - needed, len(files))
        progress.files_done = len(files) - len(missing)
        stop = threading.Event()
        fetcher = Fetcher(self.snapshot, self.folder, self.patience, progress, stop)
        try:
            side_by_side(
                fetcher.fetch, missing, self.order.jobs, stop, lambda: self.watch(progress)
            )
        finally:
            self.received += progress.received

    def _here(self, file: RemoteFile) -> bool:
        """Whether a file is in the folder; with --verify it has to be hashed first."""
        path = self.folder / file.name
        if path.is_symlink() or _size(path) != file.size or not path.is_file():
            return False
        if self.order.verify:  # by a second name, so that an interrupt leaves a model
            part = part_path(self.folder, file)
            part.unlink(missing_ok=True)
            _try(os.link, path, part)
            if not part.exists():
                os.replace(path, part)
        return not self.order.verify

    def _seed(self, missing: list[RemoteFile]) -> None:
        """Take over what pulls of other revisions have: whole files by a second name for the same
        bytes, interrupted ones by renaming. All of it is hashed as if it had been fetched."""
        for folder in self._kin():
            record = Record.read(folder)
            for file in missing:
                part = part_path(self.folder, file)
                if record is None or part.exists():
                    continue
                twin = folder / file.name
                if record.files.get(file.name, {}).get("hash") == file.hash:
                    if _size(twin) == file.size and not twin.is_symlink():
                        _try(os.link, twin, part)
                    else:
                        _take_part(part_path(folder, file), part)

    def _kin(self) -> list[Path]:
        """Folders of the same repository at other commits."""
        stem = folder_name(self.snapshot).partition("@")[0] + "@"
        mine = {self.folder.name, self.final.name}
        place = home() / "models"
        found = [p for p in place.glob("*") if p.name.startswith(stem) and p.name not in mine]
        return sorted(path for path in found if (path / PULL_FILE).is_file())

    def _note(self, names: Iterable[str]) -> None:
        for name in names:
            file = self.snapshot.files[name]
            self.record.files[name] = {"size": file.size, "hash": file.hash}

    def _finish(self, small: list[str], wanted: list[str], every: list[str]) -> None:
        """Say in pull.json what is here, then let the folder be seen."""
        part = {"split": list(self.order.split or ()), "rank": self.order.rank}
        if self.order.split and part not in self.record.parts:
            self.record.parts.append(part)
        self._note([*small, *wanted])
        self.record.whole = self.record.whole or set(every) <= self.record.files.keys()
        self.record.complete = True
        self.record.write(self.folder)
        for path in self.folder.glob(".*.part") if self.record.whole else ():
            path.unlink()
        if self.folder != self.final:
            if self.final.is_dir() and not any(self.final.iterdir()):
                self.final.rmdir()
            os.rename(self.folder, self.final)


def side_by_side(
    work: Callable[[RemoteFile], None],
    files: list[RemoteFile],
    jobs: int,
    stop: threading.Event,
    tick: Callable[[], None],
) -> None:
    """Do all files, `jobs` at a time. The first failure, or an interrupt, stops the others.

    The threads are daemons: after an interrupt nobody waits for a connection that hangs.
    """
    queue, failures = deque(files), list[BaseException]()

    def serve() -> None:
        while not stop.is_set() and queue:
            try:
                work(queue.popleft())
            except (IndexError, Stopped):
                return
            except BaseException as error:
                failures.append(error)
                stop.set()

    count = min(jobs, len(files))
    threads = [threading.Thread(target=serve, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        while not stop.is_set() and (alive := [t for t in threads if t.is_alive()]):
            tick()
            alive[0].join(0.2)
        tick()
    finally:
        stop.set()
        end = time.monotonic() + 1.0
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    if failures:
        raise failures[0]


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(
            f"{folder}: wanted {size_words(needed)} of disk, got {size_words(free)} free; free "
            f"{size_words(needed - free)}, give --out on another disk, or --split and --rank"
        )


def _take_part(theirs: Path, mine: Path) -> None:
    try:
        with locked(theirs.parent):
            _try(os.rename, theirs, mine)
    except BusyError:
        return  # being written: leave it


def _try(move: Callable[[Path, Path], object], source: Path, target: Path) -> None:
    try:
        move(source, target)
    except OSError:
        return  # another disk, no hard links there, or not there: it is fetched instead


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
