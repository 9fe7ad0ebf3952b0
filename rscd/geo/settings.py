"""GDAL settings for files to which the user's own settings must not apply.

A setting meant for the user's data (``GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR`` for a bucket) would
hide the header of a scratch file or the world file of a local picture.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning

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
