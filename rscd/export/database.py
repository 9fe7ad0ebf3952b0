"""GeoPackages that are replaced while other programs may hold them open.

SQLite keeps what was written last in files of its own beside a database. Were a database replaced
without them, they would be replayed into the new one, by the next program or by the one that holds
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
    """Find out whether a GeoPackage may be replaced, and leave it as it is.

    Raises:
        OutputError: another program holds it open.
    """
    if not _is_database(path):
        return
    # a fixed name: what a killed run leaves, the next run removes
    room = path.with_name(f".{path.name}.looked-at")
    remove_tree(room)
    # under another name the database has the same locks, but not the files beside it, which
    # opening would fold into it
    other = room / path.name
    try:
        room.mkdir()
        os.link(path, other)
        with _alone(path, other, "PRAGMA locking_mode = EXCLUSIVE"):
            pass
    except OutputError:
        raise
    except OSError:
        pass  # no second names on this disk; `replacing` will find out
    finally:
        remove_tree(room)


@contextmanager
def replacing(path: Path) -> Iterator[None]:
    """Hold a GeoPackage that is about to be replaced, alone and with all its writes in it.

    Raises:
        OutputError: another program holds it open.
    """
    if not _is_database(path):
        yield
        return
    # leaves nothing beside, and fails where anyone else has the database open
    with _alone(path, path, "PRAGMA journal_mode = DELETE"):
        if REPLACES_OPEN_FILES:
            yield
            return
    yield


@contextmanager
def _alone(path: Path, name: Path, first: str) -> Iterator[None]:
    """Share a database, known as `path` and opened as `name`, with nobody."""
    with closing(sqlite3.connect(name, timeout=PATIENCE_S, isolation_level=None)) as connection:
        try:
            connection.execute(first)
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            # any other error: no database, or a damaged one, that nobody can have in use
            if "locked" in str(error):
                raise OutputError(
                    f"expected {path} to be free, found it open in another program, such as QGIS; "
                    "close it there, or choose another name"
                ) from error
        yield


def _is_database(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX and path.is_file() and path.stat().st_size > 0
