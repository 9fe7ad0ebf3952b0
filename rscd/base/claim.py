"""Folders that belong to one recipe: one run at a time, resumed by the same settings alone.

``claim.json`` in such a folder says of each kind of run that makes files there with which settings
they are made. Every kind follows one policy: a folder begun with the same settings is resumed; one
begun with others, or that holds such files of nobody, is refused, or begun anew where the user
asked for that.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rscd.base.errors import DataError, OutputError
from rscd.base.files import part_of, read_note, remove_file, remove_tree, write_whole, writing
from rscd.base.types import Provenance

NOTE = "claim.json"
LOCK = ".lock"

log = logging.getLogger(__name__)


@contextmanager
def alone(folder: Path, wait_s: float = 0) -> Iterator[None]:
    """Keep other runs out of a folder, for as long as the context lasts.

    The system holds the lock for the process: one that was killed keeps nobody out. A folder that
    is empty at the end is removed.

    Args:
        folder: created if missing.
        wait_s: how long to wait for another run to leave it.

    Raises:
        OutputError: another run is there, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # commands that write no folder start without it

    path = folder / LOCK
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=wait_s)
        try:
            lock.acquire()
        except Timeout:
            raise OutputError(
                f"another run is writing to {folder}; wait for it, or choose another output"
            ) from None
    try:
        yield
    finally:
        # before the release: afterwards it may be another run's. Windows keeps files that are open;
        # there the release removes it
        try:
            remove_file(path)
        finally:
            lock.release()
        with suppress(OSError):
            folder.rmdir()


@dataclass(frozen=True)
class Earlier:
    """The note of version 0.1 in the place of `NOTE`."""

    name: str
    recipe: Callable[[Provenance], Provenance]
    """From the content of the note to the recipe it stood for."""


def everything(folder: Path) -> list[Path]:
    """All in a folder but what this module writes there: of a folder that is one run's alone."""
    own = {LOCK, NOTE, part_of(folder / NOTE).name}
    return [path for path in folder.iterdir() if path.name not in own]


@dataclass(frozen=True)
class Claim:
    """What a run has to say before it writes to a folder that it holds `alone`."""

    folder: Path
    maker: str
    """The kind of run; several kinds may share a folder."""
    recipe: Provenance
    """Plain data that determines what the run makes."""
    made: Callable[[Path], Iterable[Path]]
    """Finds in the folder what runs of this kind made."""
    fix: str
    """What the user can do where it is refused."""
    earlier: Earlier | None = None

    def take(self, *, overwrite: bool = False) -> bool:
        """Make the folder this run's, and leave a note there that says so.

        Args:
            overwrite: whether to remove what other settings made.

        Returns:
            Whether a run with the same recipe was begun here before.

        Raises:
            OutputError: the folder was begun with other settings, holds files that nobody claims,
                or cannot be written.
            DataError: the note is damaged.
        """
        with writing(self.folder):
            claims = self._claims(overwrite=overwrite)
            known = claims.get(self.maker)
            if known is None and self.earlier is not None:
                note = _read(self.folder / self.earlier.name, self.fix, overwrite=overwrite)
                known = None if note is None else self.earlier.recipe(note)
            same = known is not None and _canonical(known) == _canonical(self.recipe)
            if not same and (made := sorted(self.made(self.folder))):
                if not overwrite:
                    raise self._refusal(known, made[0])
                log.warning(
                    "inputs or parameters changed since the interrupted run: starting over in %s",
                    self.folder,
                )
                self._clear(made, claims)
            if not same or self.maker not in claims:
                self._write(claims | {self.maker: self.recipe})
            return same

    @property
    def begun(self) -> bool:
        """Whether a run of this kind, with any settings, was begun here."""
        if self.earlier is not None and (self.folder / self.earlier.name).exists():
            return True
        return self.maker in self._claims(overwrite=False)

    def _claims(self, *, overwrite: bool) -> Provenance:
        return _read(self.folder / NOTE, self.fix, overwrite=overwrite) or {}

    def _refusal(self, known: Provenance | None, made: Path) -> OutputError:
        if known is None:
            return OutputError(
                f"expected {self.folder} to be empty or begun by the same command, found "
                f"{made.name}; {self.fix}"
            )
        return OutputError(
            f"expected the settings with which {self.folder} was begun, found other "
            f"{', '.join(_differences(known, self.recipe))}; {self.fix}"
        )

    def _clear(self, made: Iterable[Path], claims: Provenance) -> None:
        # the note first: a run killed here must not leave it beside a part of its files
        others = {maker: recipe for maker, recipe in claims.items() if maker != self.maker}
        if others:
            self._write(others)
        else:
            (self.folder / NOTE).unlink(missing_ok=True)
        if self.earlier is not None:
            (self.folder / self.earlier.name).unlink(missing_ok=True)
        for path in made:
            remove(path)

    def _write(self, claims: Provenance) -> None:
        text = json.dumps(claims, indent=1, sort_keys=True, default=list)
        write_whole(self.folder / NOTE, text + "\n")


def remove(path: Path) -> None:
    """Delete a file, or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path, fix: str, *, overwrite: bool) -> Provenance | None:
    """A note; None where there is none, empty where it is damaged and may be replaced."""
    if not path.exists():
        return None
    try:
        return read_note(path, "the settings of a run", fix)
    except DataError:
        if not overwrite:
            raise
        return {}


def _canonical(recipe: object) -> str:
    return json.dumps(recipe, sort_keys=True, default=list)


def _differences(known: object, recipe: Provenance) -> list[str]:
    """Names of the settings that are not the same."""
    before = known if isinstance(known, dict) else {}
    now = json.loads(_canonical(recipe))
    return sorted(
        name
        for name in before.keys() | now.keys()
        if name not in before or name not in now or before[name] != now[name]
    )
