"""The border to libraries: what they raise, and what lies in a file they cannot read.

No list of the errors of a library is ever complete. So the calls that read what users give stand
within `border`, which turns anything raised there into an error with one clear line, and
`found_in` looks for the cause that the user can do something about.
"""

import errno
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Literal

from rscd.base.errors import RscdError

HEAD_BYTES = 4096
"""How much of a file is looked at to tell what it is."""
MOST_JSON_BYTES = 64 << 20
"""Larger files are not parsed only to say that they are JSON of some kind."""
MOST_MEMBERS = 10_000
"""So many names of an archive are looked through for one that can be read."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the system's errors where a disk is full."""

READABLE = (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".gpkg", ".geojson", ".shp", ".fgb")
"""Suffixes of files in an archive that are worth naming, the likeliest first."""

Told = Callable[[Exception], RscdError]
Wanted = Literal["raster", "vector", "weights"]
_NAMES: dict[Wanted, str] = {
    "raster": "raster",
    "vector": "vector file",
    "weights": "file of weights",
}


@contextmanager
def border(told: Told) -> Iterator[None]:
    """Translate whatever a library raises within; keep to its calls what stands in it.

    Args:
        told: makes the error for the user of the library's, perhaps with `found_in`.

    Raises:
        RscdError: of `told`. Errors of rscd itself, of memory and of full disks pass.
    """
    try:
        yield
    except (RscdError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:  # nothing is wrong with what is read
            raise
        raise told(error) from error


def reason(error: BaseException) -> str:
    """What an exception says, on one line; its type where it says nothing of itself."""
    speaking = error.__cause__ if type(error).__module__ == "rasterio.errors" else None
    if isinstance(error, UnicodeDecodeError):
        return "text that is not UTF-8"
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return error.strerror
    text = " ".join(str(speaking or error).split())
    if not text or isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError):
        return f"{type(error).__name__} {text}".rstrip()
    return text


def found_in(path: str | Path, error: BaseException, advice: str, wanted: Wanted = "raster") -> str:
    """The end of a message about a file that cannot be read: what was found, how to fix it.

    Args:
        path: file, URL or a path that only GDAL knows.
        error: what the reader raised.
        advice: for a file that is damaged or of an unknown format.
        wanted: what was to be read.

    Returns:
        ``found ...; ...`` with the path in it.
    """
    name = shown(path)
    outside = system_trouble(error) or _server_trouble(error)
    if outside is not None:
        return f"found {outside[0]}: {name}; {outside[1]}"
    content = _content(str(path))
    if content is None or content.kind == wanted:
        return f"found damage or an unknown format in {name} ({reason(error)}); {advice}"
    fix = content.fix or f"check the file, it is no {_NAMES[wanted]}"
    return f"found {content.what} at {name}; {fix}"


def shown(path: str | Path) -> str:
    """A path as text that can be printed and written; bytes that are not UTF-8 as escapes."""
    text = str(path)
    try:
        stored = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no name of this system, but of a list or a configuration
        stored = text.encode("utf-8", "surrogatepass")
    return stored.decode("utf-8", "backslashreplace")


def is_utf8(path: str | Path) -> bool:
    """Whether a name is UTF-8, without which most libraries refuse it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def system_trouble(error: BaseException) -> tuple[str, str] | None:
    """What is found, and the fix, where names or limits of the system are the cause.

    Errors of libraries are known by the system's own words in them.
    """
    if isinstance(error, UnicodeEncodeError):
        return "a name that is not UTF-8", "rename the file or folder"
    if isinstance(error, ValueError) and "null" in str(error) and "embedded" in str(error):
        return "a name with a NUL in it", "correct the name"
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)

    def means(*numbers: int) -> bool:
        return number in numbers or any(os.strerror(n) in text for n in numbers)

    if means(errno.EMFILE, errno.ENFILE):
        return "too many open files", "raise the limit with ulimit -n 4096, or use fewer --workers"
    if means(errno.ENAMETOOLONG):
        return "a name that is too long for this file system", "shorten the file's name or path"
    if means(errno.EACCES, errno.EPERM):
        return "that it may not be read", "change its permissions"
    return None


_STATUS = re.compile(r"HTTP (?:response|error) code\D{0,3}(\d{3})", re.IGNORECASE)


def _server_trouble(error: BaseException) -> tuple[str, str] | None:
    text = reason(error)
    status = _STATUS.search(text)
    if status is not None:
        code = int(status[1])
        if code in (401, 403):
            return (
                f"that the server refuses access (HTTP {code})",
                "sign in, or get a new link if a signed one has expired",
            )
        if code in (404, 410):
            return f"that the server has no such file (HTTP {code})", "correct the address"
        return f"an answer of the server without the file (HTTP {code})", "try again later"
    if "CURL error" in text:
        return f"no way to the server ({text})", "check the address and the connection"
    return None


@dataclass(frozen=True)
class _Content:
    """What a file holds."""

    what: str
    fix: str = ""
    """Empty: give another file."""
    kind: Wanted | None = None
    """What it would be, were it whole."""


def _content(path: str) -> _Content | None:
    """What a path leads to, as far as its first bytes tell."""
    if "://" in path or path.startswith("/vsi"):
        return None
    file = Path(path)
    try:
        if file.is_dir():
            return _Content("a folder", "name a file in it")
        if not file.exists():
            return None if _CONNECTION.match(path) else _Content("no file", "check the path")
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
    except (OSError, ValueError) as error:
        trouble = system_trouble(error)
        return None if trouble is None else _Content(*trouble)
    return _archive(file, head) or _of_head(file, head)


_CONNECTION = re.compile(r"[A-Z0-9_]{2,}:")
"""Names that GDAL gives to what is inside of files: ``NETCDF:a.nc:band``."""

_MAGIC = (
    (b"version https://git-lfs", _Content("a pointer of Git LFS", "fetch it with git lfs pull")),
    (b"SQLite format 3\0", _Content("a GeoPackage or SQLite database", kind="vector")),
    (b"PAR1", _Content("a Parquet table", kind="vector")),
    (b"fgb", _Content("vector data (FlatGeobuf)", kind="vector")),
    (b"II*\0", _Content("a TIFF", kind="raster")),
    (b"MM\0*", _Content("a TIFF", kind="raster")),
    (b"\x89PNG", _Content("a PNG", kind="raster")),
    (b"\xff\xd8\xff", _Content("a JPEG", kind="raster")),
    (b"\x89HDF", _Content("HDF5 or NetCDF", "convert it: gdal_translate IN out.tif")),
    (b"CDF", _Content("NetCDF", "convert it: gdal_translate IN out.tif")),
    (b"\x93NUMPY", _Content("a NumPy array", "write it as GeoTIFF")),
    (b"%PDF", _Content("a PDF")),
    (b"7z\xbc\xaf", _Content("a 7z archive", "unpack it and name a file of it")),
    (b"Rar!", _Content("a RAR archive", "unpack it and name a file of it")),
)


def _of_head(file: Path, head: bytes) -> _Content | None:
    if not head:
        return _Content("an empty file", "copy or download it again")
    for magic, content in _MAGIC:
        if head.startswith(magic):
            return content
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    start = text[:512].lower()
    if start.startswith(b"<!doctype html") or b"<html" in start:
        return _Content("a web page", "download the file itself, signed in where that is needed")
    if start.startswith(b"<?xml") and b"<error>" in start:
        return _Content("an error message of a server", "download the file itself")
    if text.startswith((b"{", b"[")):
        return _json(file)
    return _Content("text") if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    # headers of formats that GDAL reads are text too: what it says of them is worth more
    if head.startswith((b"<", b"ENVI", b"ncols", b"NCOLS", b"P1", b"P2", b"P3")):
        return False
    return not set(head) - set(range(32, 127)) - set(b"\r\n\t\f")


def _archive(file: Path, head: bytes) -> _Content | None:
    """An archive, and the path by which GDAL reads a file in it."""
    where = file.absolute()
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(file) as opened:
                names = opened.namelist()
        except (zipfile.BadZipFile, OSError, ValueError):
            return _Content("a damaged ZIP archive", "download it again", "weights")
        if any(name.endswith("data.pkl") for name in names):
            return _Content("a checkpoint", kind="weights")
        return _Content("a ZIP archive", _inside("/vsizip/", where, names))
    if head[257:262] == b"ustar" or (head.startswith(_PACKED) and _is_tar(file)):
        return _Content("a TAR archive", _inside("/vsitar/", where, _tar_names(file)))
    if head.startswith(b"\x1f\x8b"):
        return _Content("a gzip file", f"name what is in it: /vsigzip/{shown(where)}")
    return None


_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")


def _is_tar(file: Path) -> bool:
    try:
        return tarfile.is_tarfile(file)
    except (OSError, EOFError, ValueError):
        return False


def _tar_names(file: Path) -> list[str]:
    try:
        with tarfile.open(file) as opened:
            return [member.name for member in islice(opened, MOST_MEMBERS)]
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return []


def _inside(prefix: str, archive: Path, names: list[str]) -> str:
    known = [name for name in names if PurePath(name).suffix.lower() in READABLE]
    known.sort(key=lambda name: READABLE.index(PurePath(name).suffix.lower()))
    member = shown(known[0]) if known else "FILE"
    return f"name the file in it: {prefix}{shown(archive)}/{member}"


def _json(file: Path) -> _Content:
    """JSON: an item or collection of a catalogue (STAC), vector data, or anything."""
    try:
        small = file.stat().st_size <= MOST_JSON_BYTES
        content = json.loads(file.read_bytes()) if small else None
    except (OSError, ValueError, RecursionError):
        return _Content("damaged JSON", kind="vector")
    if not isinstance(content, dict):
        return _Content("JSON")
    kind, features = content.get("type"), content.get("features")
    first = features[0] if isinstance(features, list) and features else content
    assets = first.get("assets") if isinstance(first, dict) else None
    if "stac_version" in content or isinstance(assets, dict):
        names = {"Feature": "Item", "FeatureCollection": "ItemCollection"}
        what = f"a STAC {names.get(str(kind), str(kind))}, which rscd does not read yet,"
        return _Content(what, f"give the file of one asset: {_asset(assets, file.parent)}")
    if kind in ("FeatureCollection", "Feature"):
        return _Content("vector data (GeoJSON)", kind="vector")
    return _Content("JSON")


def _asset(assets: Any, folder: Path) -> str:
    """Where the likeliest raster among the assets of an item lies."""

    def rank(asset: dict[str, Any]) -> tuple[bool, bool]:
        roles = asset.get("roles")
        image = "tiff" in str(asset.get("type")) or asset["href"].lower().endswith(READABLE)
        return not image, "data" not in (roles if isinstance(roles, list) else [])

    found = assets.values() if isinstance(assets, dict) else ()
    usable = [a for a in found if isinstance(a, dict) and isinstance(a.get("href"), str)]
    if not usable:
        return "HREF"
    href: str = min(usable, key=rank)["href"]
    return href if "://" in href else str(folder / href)
