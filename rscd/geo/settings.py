"""How rasters are opened: errors of GDAL, and settings that must not be the user's own.

A setting meant for the user's data (``GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR`` for a bucket) would
hide the header of a scratch file or the world file of a local picture.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from rscd.base.border import border, found_in
from rscd.base.errors import SceneError

_WITH_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
_OWN = {**_WITH_SIDECARS, "GDAL_GEOREF_SOURCES": "PAM,INTERNAL,TABFILE,WORLDFILE"}


def own_files() -> AbstractContextManager[Any]:
    """Context for reading files this package wrote: GDAL's defaults, whatever the user has set."""
    env: AbstractContextManager[Any] = rasterio.Env(**_OWN)
    return env


def beside(path: str) -> AbstractContextManager[Any]:
    """Context for opening an input, in which GDAL finds the sidecar files of a local file.

    For URLs and GDAL's virtual file systems the user's setting applies.
    """
    remote = "://" in path or path.startswith("/vsi")
    return nullcontext() if remote else rasterio.Env(**_WITH_SIDECARS)


def unplaced() -> AbstractContextManager[Any]:
    """Context in which rasters without georeferencing are no news."""
    return warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning)


def is_item(path: str) -> bool:
    """Whether a path or address names a STAC item, or one in a collection of them, by its suffix.

    ``item.json``, ``item.json#asset``, ``items.json#item``, ``items.json#item#asset``.
    """
    file = path.partition("#")[0].partition("?")[0]
    return Path(file).suffix.lower() in (".json", ".geojson")


def raster_border(what: str, path: str | Path) -> AbstractContextManager[None]:
    """Error handling around libraries that read rasters, including GDAL and PROJ.

    Args:
        what: name of the raster in the message: ``t1``, ``the truth``.
        path: of the raster.

    Raises:
        SceneError: for anything raised inside.
    """

    def to_error(error: Exception) -> SceneError:
        found = found_in(path, error, "check it with gdalinfo or copy it again")
        return SceneError(f"expected a readable raster for {what}, {found}")

    return border(to_error)
