"""GDAL's settings, and files that those of the user do not concern.

What a user sets for his data (``GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR`` for a bucket) would hide
the header of a scratch file, or the world file of a local picture.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import rasterio

_WITH_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
_OWN = {**_WITH_SIDECARS, "GDAL_GEOREF_SOURCES": "PAM,INTERNAL,TABFILE,WORLDFILE"}


def own_files() -> AbstractContextManager[Any]:
    """For reading what this package wrote: GDAL's defaults, whatever the user has set."""
    env: AbstractContextManager[Any] = rasterio.Env(**_OWN)
    return env


def beside(path: str) -> AbstractContextManager[Any]:
    """For opening an input: what lies beside a local file (header, mask, world file) is seen.

    Paths of the network and of GDAL's virtual file systems keep the user's setting.
    """
    remote = "://" in path or path.startswith("/vsi")
    return nullcontext() if remote else rasterio.Env(**_WITH_SIDECARS)
