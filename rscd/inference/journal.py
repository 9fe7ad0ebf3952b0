"""The journal that lets an interrupted run go on.

A run works in a folder beside its first output. ``run.json`` says what is being computed,
``done`` lists the finished tiles (8 bytes each: number and checksum, appended after the tile's
pixels are written), so that a run killed at any moment goes on where it stopped, never with other
inputs and never with pixels that the disk has lost.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from rscd.base.errors import OutputError
from rscd.base.files import (
    output_error,
    remove_file,
    remove_tree,
    require_as_written,
    write_text,
    write_whole,
)
from rscd.base.types import Provenance

log = logging.getLogger(__name__)

_RECORD = np.dtype([("tile", "<u4"), ("checksum", "<u4")])


@dataclass(frozen=True)
class Journal:
    """A work folder that this process holds."""

    folder: Path
    identity: str
    """Plain data that determines the result, as JSON."""
    tile_size: int | None
    """Side of the tiles that are numbered here; None when nothing can be resumed."""

    @property
    def resumed(self) -> bool:
        """Whether the folder holds tiles of the same run, made earlier."""
        return self.tile_size is not None

    @property
    def _done(self) -> Path:
        return self.folder / "done"

    @property
    def started(self) -> bool:
        """Whether the rasters are laid out, so that there is something to go on with."""
        return self._done.exists()

    def done(self) -> dict[int, int]:
        """Finished tiles: number -> checksum of the pixels."""
        if not self.started:
            return {}
        whole = self._done.stat().st_size // _RECORD.itemsize
        found = np.fromfile(self._done, _RECORD, whole)
        return dict(zip(found["tile"].tolist(), found["checksum"].tolist(), strict=True))

    def add(self, tiles: Mapping[int, int]) -> None:
        """Note tiles, by number and checksum, as finished; call after their pixels are written."""
        record = np.array(list(tiles.items()), _RECORD).tobytes()
        with self._done.open("ab", buffering=0) as file:
            # a killed writer may leave part of a record
            file.truncate(file.tell() // _RECORD.itemsize * _RECORD.itemsize)
            require_as_written(file.write(record) == len(record), "the journal")

    def start(self, tile_size: int) -> None:
        """Mark the rasters of this run as laid out; before this, nothing can be resumed."""
        write_text(self.folder / "tile_size", _signed(tile_size))
        self._done.write_bytes(b"")

    def publish(self, path: Path) -> None:
        """Note that this run is about to write one of its outputs."""
        with (self.folder / "published").open("ab") as file:
            file.write(os.fsencode(path.absolute()) + b"\n")

    def published(self) -> list[str]:
        """Outputs that this run, interrupted, began to write: it may write them again."""
        file = self.folder / "published"
        return os.fsdecode(file.read_bytes()).split("\n") if file.is_file() else []

    def finish(self, outputs: Sequence[Path], result: dict[str, Any]) -> None:
        """Delete the work folder; killed while it goes, the run is found to be `finished`.

        Args:
            outputs: files that were written.
            result: plain data that says what the run did.
        """
        note = _note(self.folder)
        with suppress(OSError):  # all is written: a full disk is no failure any more
            stamp = _stamp(self.identity, outputs, result)
            write_whole(note, json.dumps({"stamp": stamp, "result": result}))
        self.remove()
        remove_file(note)

    @contextmanager
    def explaining(self, target: Path) -> Iterator[None]:
        """Say of a failed write what is left of the run.

        Args:
            target: an output, for the message.

        Raises:
            OutputError: for every error of the system.
        """
        try:
            yield
        except OSError as error:
            left = (
                f"what was computed is kept in {self.folder}, and the same command goes on from it"
                if self.started
                else "nothing had been computed, and nothing is left behind"
            )
            raise OutputError(f"{output_error(target, error)}; {left}") from error

    def remove(self) -> None:
        """Delete the work folder."""
        if not remove_tree(self.folder):
            log.warning("%s could not be removed; delete it", self.folder)


def finished(folder: Path, identity: Provenance, outputs: Sequence[Path]) -> dict[str, Any] | None:
    """What a run did that wrote all its outputs and was killed while it cleared away.

    Args:
        folder: of its journal; it is cleared away now.
        identity: as for `open_journal`.
        outputs: files of the run.

    Returns:
        What `Journal.finish` was given; None where no run was killed so, or the outputs are not
        those that it wrote.
    """
    note = _note(folder)
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        result: dict[str, Any] = found["result"]
        same = found["stamp"] == _stamp(_text(identity), outputs, result)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if same:
        remove_tree(folder)
    remove_file(note)
    return result if same else None


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-finished")


def _stamp(identity: str, outputs: Sequence[Path], result: dict[str, Any]) -> str:
    """Tells whether files, and what is said of them, are still those of a run."""
    stats = [path.stat() for path in outputs]
    names = [str(path.absolute()) for path in outputs]
    files = [(name, s.st_size, s.st_mtime_ns) for name, s in zip(names, stats, strict=True)]
    text = json.dumps([identity, files, result], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _text(identity: Provenance) -> str:
    return json.dumps(identity, sort_keys=True, indent=1)


@contextmanager
def open_journal(folder: Path, identity: Provenance) -> Iterator[Journal]:
    """Hold a work folder for one run, new or continued.

    Args:
        folder: created if missing.
        identity: plain data that determines the result; a folder with another identity is emptied.

    Raises:
        OutputError: when another process holds the folder or it cannot be written; says whether
            there is something to go on with.
    """
    wanted = _text(identity)
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
        same = run.exists() and run.read_bytes() == wanted.encode()
        tile_size = _tile_size(folder) if same and (folder / "done").exists() else None
        if tile_size is None:
            if run.exists() and not same:
                log.warning("inputs or parameters changed since the interrupted run: starting anew")
            elif same and (folder / "done").exists():
                log.warning("what the interrupted run noted is damaged: starting anew")
            _empty(folder)
            write_text(run, wanted)
        journal = Journal(folder, wanted, tile_size)
        try:
            yield journal
        except BaseException:
            if not journal.started:  # nothing to go on with
                journal.remove()
            raise


def _signed(tile_size: int) -> str:
    return f"{tile_size} {crc32(str(tile_size).encode()):08x}"


def _tile_size(folder: Path) -> int | None:
    try:
        text = (folder / "tile_size").read_text(encoding="ascii")
        tile_size = int(text.partition(" ")[0])
    except (OSError, ValueError):
        return None
    return tile_size if text == _signed(tile_size) else None


def _empty(folder: Path) -> None:
    # run.json first: whoever is killed here must not leave it beside half of its files
    for old in sorted(folder.iterdir(), key=lambda path: path.name != "run.json"):
        if old.is_dir():
            remove_tree(old)
        elif old.name != "lock":
            old.unlink()
