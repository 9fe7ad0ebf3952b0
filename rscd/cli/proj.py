"""Handling of a PROJ database of another program, set in the environment.

PostGIS, QGIS and conda set ``PROJ_DATA`` (``PROJ_LIB`` before PROJ 9.1) to the database of their
version. A library built with a newer PROJ refuses it, and then no CRS can be read.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

VARIABLES = ("PROJ_DATA", "PROJ_LIB")
OWN = (("rasterio", "proj_data"), ("pyproj", "proj_dir/share/proj"), ("pyogrio", "proj_data"))
"""Packages that include a database, and its location in them."""

log = logging.getLogger(__name__)


def own_proj_database() -> None:
    """Remove from the environment a database that our libraries would refuse, with a warning.

    Must be called before they are loaded. Nothing is changed if they include no database.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if not given:
        return
    needed = max((layout for layout in map(_layout, _own()) if layout), default=None)
    if needed is None:
        return
    for name in given:
        folders = os.environ[name].split(os.pathsep)
        found = next(filter(None, map(_layout, map(Path, folders))), None)
        if found is None or found[0] != needed[0] or found < needed:
            log.warning(
                "%s=%s belongs to another installation of PROJ and is ignored: the database that "
                "comes with rasterio is used",
                name,
                os.environ.pop(name),
            )


def _own() -> Iterator[Path]:
    for package, folder in OWN:
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(root) / folder


def _layout(folder: Path) -> tuple[int, int] | None:
    """Layout version of the database in a folder; None if there is none."""
    file = folder / "proj.db"
    if not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows = dict(database.execute("SELECT key, value FROM metadata"))
        major, minor = (int(rows[f"DATABASE.LAYOUT.VERSION.{part}"]) for part in ("MAJOR", "MINOR"))
        return major, minor
    except (sqlite3.Error, KeyError, ValueError, OSError):
        return None
