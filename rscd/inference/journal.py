"""The journal that lets an interrupted run go on.

A run works in a folder beside its first output. ``run.json`` says what is being computed,
``done`` lists the finished tiles (`ENTRY` bytes each, appended after the tile's pixels are
written), so that a run killed at any moment goes on where it stopped, and never with other inputs.
Each entry carries a checksum: a tile counts as finished only where that is beyond doubt.
"""

import fcntl
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rscd.errors import OutputError
from rscd.types import Provenance

ENTRY = 8
"""Bytes of a number that is noted: itself, and its checksum."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Journal:
    """A work folder that this process holds."""

    folder: Path
    resumed: bool
    """Whether the folder holds tiles of the same run, made earlier."""

    @property
    def _done(self) -> Path:
        return self.folder / "done"

    @property
    def started(self) -> bool:
        """Whether the rasters are laid out, so that there is something to go on with."""
        return self._done.exists()

    def done(self) -> set[int]:
        """Indices of the finished tiles."""
        return set(_entries(self._done))

    def add(self, tiles: list[int]) -> None:
        """Note tiles as finished; call after their pixels are written."""
        with self._done.open("ab", buffering=0) as file:
            file.truncate(file.tell() // ENTRY * ENTRY)  # a killed writer may leave part of one
            file.write(b"".join(map(_entry, tiles)))

    def start(self, tile_size: int) -> None:
        """Mark the rasters of this run as laid out; before this, nothing can be resumed."""
        (self.folder / "tile_size").write_bytes(_entry(tile_size))
        self._done.write_bytes(b"")

    @property
    def tile_size(self) -> int | None:
        """Side of the tiles that are numbered here; None when nothing can be resumed."""
        return next(_entries(self.folder / "tile_size"), None) if self.resumed else None

    @property
    def _intact(self) -> bool:
        """Whether what is noted can be relied on: a list of which nothing is whole cannot."""
        noted = self._done.is_file() and (self._done.stat().st_size < ENTRY or bool(self.done()))
        return noted and next(_entries(self.folder / "tile_size"), 0) > 0

    def publish(self, path: Path) -> None:
        """Note that this run is about to write one of its outputs."""
        with (self.folder / "published").open("ab") as file:
            file.write(os.fsencode(path.absolute()) + b"\n")

    def published(self) -> list[str]:
        """Outputs that this run, interrupted, began to write: it may write them again."""
        file = self.folder / "published"
        return os.fsdecode(file.read_bytes()).split("\n") if file.is_file() else []

    def remove(self) -> None:
        """Delete the work folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def open_journal(folder: Path, identity: Provenance) -> Iterator[Journal]:
    """Hold a work folder for one run, new or continued.

    Args:
        folder: created if missing.
        identity: plain data that determines the result; a folder with another identity is emptied.

    Raises:
        OutputError: when another process holds the folder or it cannot be written.
    """
    wanted = json.dumps(identity, sort_keys=True, indent=1)
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"expected to be alone on {folder}, found another run writing there; wait for it "
                "or choose another output"
            ) from None
        run = folder / "run.json"
        same = run.is_file() and run.read_bytes() == wanted.encode()
        journal = Journal(folder, same and Journal(folder, same)._intact)
        if not journal.resumed:
            if run.exists() and not same:
                log.warning("inputs or parameters changed since the interrupted run: starting anew")
            elif same and journal.started:
                log.warning("what the interrupted run noted is damaged: starting anew")
            _empty(folder)
            run.write_bytes(wanted.encode())
        try:
            yield journal
        except BaseException:
            if not journal.started:  # nothing to go on with
                journal.remove()
            raise


def _entry(number: int) -> bytes:
    stored = number.to_bytes(4, "little")
    return stored + zlib.crc32(stored).to_bytes(4, "little")


def _entries(file: Path) -> Iterator[int]:
    """The numbers in a file whose checksums are right."""
    stored = file.read_bytes() if file.is_file() else b""
    for start in range(0, len(stored) - ENTRY + 1, ENTRY):
        number = int.from_bytes(stored[start : start + 4], "little")
        if stored[start : start + ENTRY] == _entry(number):
            yield number


def _empty(folder: Path) -> None:
    # run.json first: whoever is killed here must not leave it beside half of its files
    for old in sorted(folder.iterdir(), key=lambda path: path.name != "run.json"):
        if old.is_dir():
            shutil.rmtree(old)
        elif old.name != "lock":
            old.unlink()
