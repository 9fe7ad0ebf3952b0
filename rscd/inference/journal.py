"""The journal that lets an interrupted run go on.

A run works in a folder beside its first output. ``run.json`` says what is being computed,
``done`` lists the finished tiles (4 bytes each, appended after the tile's pixels are written), so
that a run killed at any moment goes on where it stopped, and never with other inputs.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rscd.errors import OutputError
from rscd.types import Provenance

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
        if not self.started:
            return set()
        whole = self._done.stat().st_size // 4
        return set(np.fromfile(self._done, "<u4", whole).tolist())

    def add(self, tiles: list[int]) -> None:
        """Note tiles as finished; call after their pixels are written."""
        with self._done.open("ab", buffering=0) as file:
            file.truncate(file.tell() // 4 * 4)  # a killed writer may leave part of a number
            file.write(np.array(tiles, "<u4").tobytes())

    def start(self, tile_size: int) -> None:
        """Mark the rasters of this run as laid out; before this, nothing can be resumed."""
        (self.folder / "tile_size").write_text(str(tile_size))
        self._done.touch()

    @property
    def tile_size(self) -> int | None:
        """Side of the tiles that are numbered here; None when nothing can be resumed."""
        return int((self.folder / "tile_size").read_text()) if self.resumed else None

    def publish(self, path: Path) -> None:
        """Note that this run is about to write one of its outputs."""
        with (self.folder / "published").open("a") as file:
            file.write(f"{path.absolute()}\n")

    def published(self) -> list[str]:
        """Outputs that this run, interrupted, began to write: it may write them again."""
        file = self.folder / "published"
        return file.read_text().splitlines() if file.exists() else []

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
        same = run.exists() and run.read_text() == wanted
        resumed = same and (folder / "done").exists()
        if not resumed:
            if run.exists() and not same:
                log.warning("inputs or parameters changed since the interrupted run: starting anew")
            _empty(folder)
            run.write_text(wanted)
        journal = Journal(folder, resumed)
        try:
            yield journal
        except BaseException:
            if not journal.started:  # nothing to go on with
                journal.remove()
            raise


def _empty(folder: Path) -> None:
    # run.json first: whoever is killed here must not leave it beside half of its files
    for old in sorted(folder.iterdir(), key=lambda path: path.name != "run.json"):
        if old.is_dir():
            shutil.rmtree(old)
        elif old.name != "lock":
            old.unlink()
