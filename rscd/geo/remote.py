"""Remote rasters: which version of a file is read, and reading it again when a connection breaks.

GDAL keeps what it has fetched of a remote file for the life of the process, without asking whether
the file is still the same, and it takes an answer that breaks off for a short one and keeps that
too. So a file is forgotten when its version is not the one that was read before, and before every
new attempt. Readers of some formats fill what an answer lacks with zeros; these are refused.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import rasterio
from rasterio.env import get_gdal_config
from rasterio.errors import RasterioError

from rscd.base.errors import RemoteError, SceneError
from rscd.base.place import address, gdal_name, is_remote, suffix_of
from rscd.geo.settings import RETRY_S, input_files, unplaced

HEEDFUL = frozenset({"GTiff", "COG", "JPEG", "JP2OpenJPEG"})
"""GDAL's drivers that report a broken read. PNG and raw formats give zeros, as was tried."""
HEEDFUL_SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".jp2"})
"""Of remote files in a VRT, which are not opened just to see what they are."""

LOOK_S = 10.0
"""Seconds to wait for a server that is asked for the version of a file."""

_HOPELESS = re.compile(r"HTTP (?:response|error) code\D{0,3}4(?!08|29)\d\d|Range downloading not")
"""In messages of errors that no further attempt will change."""

R = TypeVar("R")


@dataclass(frozen=True)
class Version:
    """What a server says of a file without sending it; empty where it says nothing."""

    nbytes: int | None = None
    etag: str | None = None
    modified: str | None = None

    def record(self) -> dict[str, Any]:
        """Plain data for provenance, in place of a hash of the content."""
        found = {"bytes": self.nbytes, "etag": self.etag, "modified": self.modified}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def stamp(self) -> str:
        """Tells versions apart; one that nothing is known of is like no other."""
        known = self.record()
        return repr(known) if known else f"looked at {time.time_ns()}"


def look(path: str) -> Version:
    """Ask for the version of a remote file, by a request for its first byte.

    Of object stores this needs fsspec's package of each (s3fs, gcsfs, adlfs).

    Returns:
        Empty where that does not work: whether the file can be read at all is for GDAL to say.
    """
    where = address(path)
    if where is None:
        return Version()
    try:
        return _web(where) if where.lower().startswith("http") else _store(where)
    except Exception:  # of any client library, and of none installed
        return Version()


def _web(url: str) -> Version:
    import requests  # loaded for remote files only

    asked = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
    with requests.get(url, headers=asked, stream=True, timeout=LOOK_S) as answer:
        if answer.status_code not in (200, 206):
            return Version()
        told = answer.headers
        total = told.get("Content-Range", "").rpartition("/")[2] or told.get("Content-Length", "")
        nbytes = int(total) if total.isdigit() else None
        return Version(nbytes, told.get("ETag"), told.get("Last-Modified"))


def _store(url: str) -> Version:
    from fsspec.core import url_to_fs  # likewise

    files, name = url_to_fs(url, use_listings_cache=False)
    told = files.info(name)
    keys = {key.lower(): str(value) for key, value in told.items() if value is not None}
    modified = keys.get("lastmodified") or keys.get("last_modified") or keys.get("updated")
    return Version(told.get("size"), keys.get("etag"), modified)


_lock = threading.Lock()
_seen: dict[str, str | None] = {}
"""Stamp of the version of each remote file that GDAL may hold parts of, in this process."""


def expect(path: str, stamp: object) -> None:
    """Have GDAL forget a remote file, unless it read the same version before."""
    with _lock:
        other = path in _seen and _seen[path] != stamp
        if other:
            forget(path)
        _seen[path] = str(stamp)


def forget(path: str) -> None:
    """Drop what GDAL keeps of a remote file in memory."""
    name = gdal_name(path)
    try:
        # GDAL drops it when a dataset is closed that was opened so
        with input_files(path), rasterio.Env(CPL_VSIL_CURL_NON_CACHED=name), unplaced():
            rasterio.open(name).close()
    except RasterioError:  # it cannot be opened: closed it was all the same
        pass


def persistently(files: Iterable[str], read: Callable[[], R], let_go: Callable[[], None]) -> R:
    """Read; where remote files are read, once more after a pause while that fails.

    GDAL itself tries requests again that a busy server refuses. It does not notice a connection
    that breaks in the middle of an answer, which shows only as data that cannot be decoded.

    Args:
        files: that are read, remote or not.
        read: reads them.
        let_go: closes them.
    """
    remote = [file for file in files if is_remote(file)]
    attempts = int(get_gdal_config("GDAL_HTTP_MAX_RETRY") or 0) if remote else 0
    pause = float(get_gdal_config("GDAL_HTTP_RETRY_DELAY") or RETRY_S)
    for attempt in range(attempts):
        try:
            return read()
        except (RasterioError, RemoteError) as error:
            let_go()
            if _HOPELESS.search(" ".join(map(str, chain(error)))):
                raise
            time.sleep(pause * 2**attempt)
            for file in remote:
                forget(file)
    return read()


def chain(error: BaseException) -> list[BaseException]:
    """An error and those that caused it."""
    found = [error]
    while (cause := found[-1].__cause__) is not None:
        found.append(cause)
    return found


def check_heedful(date: str, path: str, driver: str, files: Iterable[str]) -> None:
    """Refuse formats whose readers take a broken connection for black pixels.

    Args:
        date: name of the raster in the message.
        path: of the raster.
        driver: by which GDAL opened it.
        files: that are read through it.

    Raises:
        SceneError: for such a format.
    """
    remote = [file for file in files if is_remote(file)]
    if driver in HEEDFUL or not remote:
        return
    if driver == "VRT":
        wrong = [f for f in remote if suffix_of(f) not in {*HEEDFUL_SUFFIXES, ".vrt"}]
        if not wrong:
            return
        path, driver = wrong[0], f"another kind of file in the VRT {path}"
    raise SceneError(
        f"expected a GeoTIFF, best a cloud-optimised one, where {date} is read over a network, "
        f"found {driver} ({path}), of which a connection that breaks would leave black pixels; "
        "copy it here first, or convert it: gdal_translate -of COG"
    )
