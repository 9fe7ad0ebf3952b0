"""How rasters are opened: errors of GDAL, and its settings for own and for remote files.

A setting meant for the user's data (``GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR`` for a bucket) would
hide the header of a scratch file or the world file of a local picture. For remote files the user's
settings count, whether they come from the environment, a configuration file or `rasterio.Env`; what
is not set is set here. Credentials are never touched.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import rasterio
from rasterio.env import get_gdal_config
from rasterio.errors import NotGeoreferencedWarning
from rasterio.session import DummySession

from rscd.base.border import border, found_in
from rscd.base.errors import RemoteError, SceneError
from rscd.base.place import is_file_name, is_remote
from rscd.base.quiet import quiet

_WITH_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
_OWN = {**_WITH_SIDECARS, "GDAL_GEOREF_SOURCES": "PAM,INTERNAL,TABFILE,WORLDFILE"}

REMOTE_CACHE = 64 << 20
"""Bytes of remote files kept in memory, as they came: tiles share blocks with their neighbours."""

RETRIES = 4
RETRY_S = 0.5
"""Seconds before the first retry; each further one waits longer."""

_REMOTE = {
    # masks and metadata beside a file are asked for by name: no listing of a whole bucket
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_HTTP_MAX_RETRY": RETRIES,
    "GDAL_HTTP_RETRY_DELAY": RETRY_S,
    "GDAL_HTTP_CONNECTTIMEOUT": 30,
    # a minute without a byte is a connection that is gone
    "GDAL_HTTP_LOW_SPEED_TIME": 60,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
    # ranges asked for side by side bypass the cache, so that every thread would fetch its own
    "GDAL_HTTP_MULTIRANGE": "SERIAL",
    "CPL_VSIL_CURL_CACHE_SIZE": REMOTE_CACHE,
}


def own_files() -> AbstractContextManager[Any]:
    """Context for reading files this package wrote: GDAL's defaults, whatever the user has set."""
    env: AbstractContextManager[Any] = rasterio.Env(**_OWN)
    return env


def input_files(path: str | Path) -> AbstractContextManager[Any]:
    """Context for opening and reading an input.

    GDAL finds the sidecar files of a local file. Of a remote file, ranges are asked for, with
    retries; GDAL's other virtual file systems are left to the user's settings.
    """
    if is_remote(path):
        left = {name: value for name, value in _REMOTE.items() if get_gdal_config(name) is None}
        env: AbstractContextManager[Any] = rasterio.Env(session=DummySession(), **left)
        return env
    return rasterio.Env(**_WITH_SIDECARS) if is_file_name(path) else nullcontext()


def remote_cache(files: Iterable[str]) -> int:
    """Bytes of memory that GDAL may fill with remote files, of all files that a run reads."""
    if not any(map(is_remote, files)):
        return 0
    own = str(get_gdal_config("CPL_VSIL_CURL_CACHE_SIZE"))  # of the user
    return int(own) if own.isdigit() else REMOTE_CACHE


def unplaced() -> AbstractContextManager[Any]:
    """Context in which rasters without georeferencing are no news."""
    return quiet(category=NotGeoreferencedWarning)


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
        SceneError: for anything raised inside; `RemoteError` where the raster is remote.
    """

    def to_error(error: Exception) -> SceneError:
        found = found_in(path, error, "check it with gdalinfo or copy it again")
        kind = RemoteError if is_remote(path) else SceneError
        return kind(f"expected a readable raster for {what}, {found}", fault="unreadable")

    return border(to_error)
