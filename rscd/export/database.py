"""Replacing GeoPackages that other programs may have open.

SQLite keeps the latest writes in separate files beside a database. If a database were replaced
without them, they would be replayed into the new one, by the next program or by one that still has
the old one open.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rscd.base.errors import OutputError
from rscd.base.files import remove_tree

SUFFIX = ".gpkg"
PATIENCE_S = 1.0
"""How long another program may take to let go of a database."""
REPLACES_OPEN_FILES = os.name != "nt"
"""Windows does not: there a database is let go of just before it is replaced."""


def require_free(path: Path) -> None:
    """Check that a GeoPackage may be replaced, without changing it.

    Raises:
        OutputError: if another program has it open.
    """
    if not _is_database(path):
        return
    # a fixed name, so that the next run removes what a killed run left
    room = path.with_name(f".{path.name}.looked-at")
    remove_tree(room)
    # under another name the database has the same locks, but not its sidecars, which opening would
    # merge into it
    other = room / path.name
    try:
        room.mkdir()
        os.link(path, other)
        with _alone(path, other, "PRAGMA locking_mode = EXCLUSIVE"):
            pass
    except OutputError:
        raise
    except OSError:
        pass  # the disk does not support links; `replacing` will check
    finally:
        remove_tree(room)


@contextmanager
def replacing(path: Path) -> Iterator[None]:
    """Lock a GeoPackage that is about to be replaced, with all pending writes merged into it.

    Raises:
        OutputError: if another program has it open.
    """
    if not _is_database(path):
        yield
        return
    # leaves no sidecars, and fails if another program has the database open
    with _alone(path, path, "PRAGMA journal_mode = DELETE"):
        if REPLACES_OPEN_FILES:
            yield
            return
    yield


@contextmanager
def _alone(path: Path, name: Path, first: str) -> Iterator[None]:
    """Lock a database, known as `path` and opened as `name`, exclusively."""
    with closing(sqlite3.connect(name, timeout=PATIENCE_S, isolation_level=None)) as connection:
        try:
            connection.execute(first)
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            # any other error: not a database, or a damaged one, which no program can be using
            if "locked" in str(error):
                raise OutputError(
                    f"expected {path} to be free, found it open in another program, such as QGIS; "
                    "close it there, or choose another name"
                ) from error
        yield


def _is_database(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX and path.is_file() and path.stat().st_size > 0
