"""One file of a snapshot: fetched, resumed where it stopped, checked against its hash.

huggingface_hub (2.4.0) has a download of its own, which is not used: it checks a file's size and
never its hash, removes what an interrupted download left, and refuses files above 50 GB without
its own transfer protocol. Its session, headers, addresses and errors are used.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

from ..errors import HubError
from ..progress import Progress, size_words
from ..weights.hashes import hash_file
from .remote import Again, Patience, headers, library, translated
from .snapshot import RemoteFile, Snapshot


class Stopped(Exception):
    """Another file failed, or the user interrupted."""


class Fetcher:
    """Fetches files of one snapshot into one folder; used by several threads at once.

    A file carries its own name only when its hash was right; until then it is `part_path`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        folder: Path,
        patience: Patience,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self.snapshot, self.folder, self.patience = snapshot, folder, patience
        self.progress, self.stop = progress, stop

    def fetch(self, file: RemoteFile) -> None:
        """Bring one file. Goes on with the part that is there.

        Raises: HubError when the hub fails for longer than `patience`, when the file stays
        corrupt (nothing of it is left then) or when the disk is full; Stopped on `stop`.
        """
        part = part_path(self.folder, file)
        for number in range(self.patience.refetches + 1):
            if number:
                self.progress.notes.append(f"{file.name}: wrong hash, fetching it again")
            try:
                self._receive(file, part)
                _to_disk(part)
                got = hash_file(part, file.hash.partition(":")[0], self._go_on)
            except OSError as error:
                raise _disk_error(error, part) from None
            if got == file.hash:
                os.replace(part, self.folder / file.name)
                part.unlink(missing_ok=True)  # two names of one file are both left by a rename
                self.progress.finish_file()
                return
            part.unlink()
            (self.folder / file.name).unlink(missing_ok=True)  # --verify found it wrong
            self.progress.lose(file.size)
        raise HubError(
            f"{self.snapshot.repo} {file.name}: got {got}, wanted {file.hash}, "
            f"{self.patience.refetches + 1} times; it was removed, try again later"
        )

    def _go_on(self, size: int) -> None:
        if self.stop.is_set():
            raise Stopped

    def _receive(self, file: RemoteFile, part: Path) -> None:
        """Make `part` as long as the file, over as many connections as it takes."""
        failures = 0
        part.touch()
        while (begin := part.stat().st_size) < file.size:
            try:
                with translated(f"{self.snapshot.repo} {file.name}"):
                    self._stream(file, part, begin)
                reason, after = "the connection ended early", None
            except Again as error:
                reason, after = str(error), error.after
            here = part.stat().st_size
            if here >= file.size:
                break
            failures = 1 if here > begin else failures + 1
            if failures == self.patience.tries:
                raise HubError(
                    f"{self.snapshot.repo} {file.name}: {reason}, {failures} times in a row, at "
                    f"{size_words(here)} of {size_words(file.size)}; the same command goes on there"
                )
            self.progress.notes.append(f"{file.name}: {reason} at {size_words(here)}, asking again")
            if self.stop.wait(self.patience.before(failures, after)):
                raise Stopped

    def _stream(self, file: RemoteFile, part: Path, begin: int) -> None:
        """One request: append what comes after byte `begin`."""
        import httpx2

        hub = library()
        wanted = {**headers(), "Accept-Encoding": "identity"}
        if begin:
            wanted["Range"] = f"bytes={begin}-"
        address = hub.hf_hub_url(
            self.snapshot.repo,
            file.name,
            revision=self.snapshot.commit,
            endpoint=hub.constants.ENDPOINT,
        )
        timeout = httpx2.Timeout(self.patience.timeout)
        session = hub.utils.get_session()
        with session.stream("GET", address, headers=wanted, timeout=timeout) as response:
            if response.status_code >= 400:
                response.read()
                if response.status_code == 416:
                    self._restart(part, begin)
                    raise Again("the hub has nothing there (416)")
            hub.utils.hf_raise_for_status(response)
            if begin and not _continues(response, begin, file.size):
                self._restart(part, begin)
                begin = 0
            self._append(response, part, file.size - begin)

    def _restart(self, part: Path, begin: int) -> None:
        os.truncate(part, 0)
        self.progress.lose(begin)

    def _append(self, response: Any, part: Path, missing: int) -> None:
        with part.open("ab") as file:
            for block in response.iter_bytes():
                if self.stop.is_set():
                    raise Stopped
                block = block[:missing]  # more than the listing says is not this file
                file.write(block)
                self.progress.add(len(block))
                missing -= len(block)
                if not missing:
                    return


def part_path(folder: Path, file: RemoteFile) -> Path:
    """Where a file grows: hidden, and named by its hash too, so that another revision's part is
    never continued."""
    return folder / f".{file.name}.{file.hash.partition(':')[2][:12]}.part"


def _to_disk(part: Path) -> None:
    """Wait until the disk has it, so that a power cut cannot leave a right name on wrong bytes."""
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _continues(response: Any, begin: int, size: int) -> bool:
    """Whether an answer to a range request starts where it should: 200 means it starts anew."""
    if response.status_code == 200:
        return False
    got = response.headers.get("Content-Range", "")
    if not got.startswith(f"bytes {begin}-") or not got.endswith(f"/{size}"):
        raise Again(f"asked for bytes {begin}- of {size}, the hub sent {got or 'no range'!r}")
    return True


def _disk_error(error: OSError, part: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(f"{part.parent}: the disk is full; free some, the same command goes on")
    return HubError(f"{part}: {error.strerror or error}")
