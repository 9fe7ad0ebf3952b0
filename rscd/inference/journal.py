"""The journal that makes interrupted runs resumable.

A run works in a folder beside its first output, which it claims (`rscd.base.claim`). ``done`` lists
the finished tiles (8 bytes each: number and checksum, appended after the tile's pixels are
written), so that a run killed at any moment resumes, never with other inputs and
never with pixels that the disk has lost.
"""

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

from rscd.base.claim import LOCK, Claim, Earlier, alone, everything, remove
from rscd.base.errors import OutputError
from rscd.base.files import (
    digest_of,
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
    """A work folder locked by this process."""

    folder: Path
    identity: Provenance
    """Plain data that determines the result."""
    tile_size: int | None
    """Side of the tiles numbered in the journal; None if nothing can be resumed."""

    @property
    def resumed(self) -> bool:
        """Whether the folder contains tiles that the same run computed earlier."""
        return self.tile_size is not None

    @property
    def _done(self) -> Path:
        return self.folder / "done"

    @property
    def started(self) -> bool:
        """Whether the rasters have been created, so that the run can be resumed."""
        return self._done.exists()

    def done(self) -> dict[int, int]:
        """Finished tiles: number -> checksum of the pixels."""
        if not self.started:
            return {}
        whole = self._done.stat().st_size // _RECORD.itemsize
        found = np.fromfile(self._done, _RECORD, whole)
        return dict(zip(found["tile"].tolist(), found["checksum"].tolist(), strict=True))

    def add(self, tiles: Mapping[int, int]) -> None:
        """Record finished tiles by number and checksum; call after their pixels are written."""
        record = np.array(list(tiles.items()), _RECORD).tobytes()
        with self._done.open("ab", buffering=0) as file:
            # a killed writer may leave part of a record
            file.truncate(file.tell() // _RECORD.itemsize * _RECORD.itemsize)
            require_as_written(file.write(record) == len(record), "the journal")

    def start(self, tile_size: int) -> None:
        """Record that the rasters of this run exist; before this, nothing can be resumed."""
        write_text(self.folder / "tile_size", _signed(tile_size))
        self._done.write_bytes(b"")

    def publish(self, path: Path) -> None:
        """Record that this run is about to write one of its outputs."""
        with (self.folder / "published").open("ab") as file:
            file.write(os.fsencode(path.absolute()) + b"\n")

    def published(self) -> list[str]:
        """Outputs that the interrupted run began to write, and may overwrite."""
        file = self.folder / "published"
        return os.fsdecode(file.read_bytes()).split("\n") if file.is_file() else []

    def finish(self, outputs: Sequence[Path], result: dict[str, Any]) -> None:
        """Clear the work folder; killed before it is gone, the run is found to be `finished`.

        Args:
            outputs: files that were written.
            result: plain data that describes what the run did.
        """
        note = _note(self.folder)
        with suppress(OSError):  # all outputs are written: a full disk is no longer a failure
            stamp = _stamp(self.identity, outputs, result)
            write_whole(note, json.dumps({"stamp": stamp, "result": result}))
        self.remove()

    @contextmanager
    def explaining(self, target: Path) -> Iterator[None]:
        """Add to the error of a failed write what is left of the run.

        Args:
            target: an output, for the message.

        Raises:
            OutputError: for every system error.
        """
        try:
            yield
        except OSError as error:
            left = (
                f"the computed part is kept in {self.folder}, and the same command resumes it"
                if self.started
                else "nothing had been computed, and no files are left behind"
            )
            raise OutputError(f"{output_error(target, error)}; {left}") from error

    def remove(self) -> None:
        """Delete all in the work folder, which goes with the journal."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                for _ in range(2):  # one failure is not yet a broken disk
                    with suppress(OSError):
                        remove(path)
                        break
        if any(path.name != LOCK for path in self.folder.iterdir()):
            log.warning("%s could not be removed; delete it", self.folder)


def finished(folder: Path, identity: Provenance, outputs: Sequence[Path]) -> dict[str, Any] | None:
    """Result of a run that wrote all its outputs and was killed while it cleaned up.

    Args:
        folder: of its journal; it is deleted now.
        identity: as for `open_journal`.
        outputs: files of the run.

    Returns:
        The result passed to `Journal.finish`; None if there was no such run, or the outputs are not
        those that it wrote.
    """
    note = _note(folder)
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        result: dict[str, Any] = found["result"]
        same = found["stamp"] == _stamp(identity, outputs, result)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if same:
        remove_tree(folder)
    remove_file(note)
    return result if same else None


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-finished")


def _stamp(identity: Provenance, outputs: Sequence[Path], result: dict[str, Any]) -> str:
    """Identifies the files of a run, and what is recorded about them."""
    stats = [(str(path.absolute()), path.stat()) for path in outputs]
    return digest_of([identity, [(name, s.st_size, s.st_mtime_ns) for name, s in stats], result])


@contextmanager
def open_journal(folder: Path, identity: Provenance) -> Iterator[Journal]:
    """Lock a work folder for one run, new or resumed.

    Args:
        folder: created if missing.
        identity: plain data that determines the result; a folder with another identity is emptied.

    Raises:
        OutputError: if another process has locked the folder, or it cannot be written; the message
            states whether the run can be resumed.
    """
    claim = Claim(
        folder, "predict", identity, everything, "remove it", Earlier("run.json", lambda note: note)
    )
    with alone(folder):
        same = claim.take(overwrite=True)  # nobody but the runs of this output writes there
        tile_size = _tile_size(folder) if same and (folder / "done").exists() else None
        if tile_size is None:
            if same and (folder / "done").exists():
                log.warning("what the interrupted run noted is damaged: starting over")
            for path in everything(folder):
                remove(path)
        journal = Journal(folder, identity, tile_size)
        try:
            yield journal
        except BaseException:
            if not journal.started:  # nothing to resume
                journal.remove()
            raise
    remove_file(_note(folder))  # last: until then it tells that all is written


def _signed(tile_size: int) -> str:
    return f"{tile_size} {crc32(str(tile_size).encode()):08x}"


def _tile_size(folder: Path) -> int | None:
    try:
        text = (folder / "tile_size").read_text(encoding="ascii")
        tile_size = int(text.partition(" ")[0])
    except (OSError, ValueError):
        return None
    return tile_size if text == _signed(tile_size) else None
