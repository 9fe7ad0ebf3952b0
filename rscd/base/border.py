"""Error handling around libraries: what they raise, and what an unreadable file contains.

No list of the errors a library may raise is ever complete. Calls that read user input therefore run
inside `border`, which turns anything raised there into an error with one clear line, and `found_in`
looks for a cause that the user can fix.
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
from rscd.base.extras import missing_extra
from rscd.base.place import is_file_name, is_remote

HEAD_BYTES = 4096
"""Bytes read from the start of a file to identify its format."""
MOST_JSON_BYTES = 64 << 20
"""Larger files are not parsed just to find out what kind of JSON they hold."""
MOST_MEMBERS = 10_000
"""Number of names in an archive that are searched for a readable file."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of the system's errors where a disk is full."""

READABLE = (".tif", ".tiff", ".vrt", ".jp2", ".png", ".jpg", ".gpkg", ".geojson", ".shp", ".fgb")
"""Suffixes of files in an archive worth suggesting, most likely first."""

ToError = Callable[[Exception], RscdError]
Wanted = Literal["raster", "vector", "weights"]
_NAMES: dict[Wanted, str] = {
    "raster": "raster",
    "vector": "vector file",
    "weights": "file of weights",
}


@contextmanager
def border(to_error: ToError) -> Iterator[None]:
    """Translate whatever a library raises inside; put nothing but the library's calls in it.

    Args:
        to_error: converts the library's error into one for the user, perhaps with `found_in`.

    Raises:
        RscdError: of `to_error`. Errors of rscd itself, of memory and of full disks pass.
    """
    try:
        yield
    except (RscdError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:  # nothing is wrong with what is read
            raise
        raise missing_extra(error) or to_error(error) from error


def reason(error: BaseException) -> str:
    """The message of an exception on one line, or its type where it has no message."""
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
    """End of a message about an unreadable file: what was found, how to fix it.

    Args:
        path: file, URL or a path that only GDAL knows.
        error: the exception the reader raised.
        advice: what to do if the file is damaged or of an unknown format.
        wanted: the kind of file expected.

    Returns:
        ``found ...; ...`` with the path in it.
    """
    name = shown(path)
    outside = system_trouble(error) or _server_trouble(error)
    if outside is not None:
        return f"found {outside[0]}: {name}; {outside[1]}"
    if is_remote(path) and (part := _broken_off(error)) is not None:
        return (
            f"found a connection that broke off ({part} of a block came): {name}; repeat the "
            "command, and check the file if this stays"
        )
    content = _content(str(path))
    if content is None or content.kind == wanted:
        return f"found damage or an unknown format in {name} ({reason(error)}); {advice}"
    fix = content.fix or f"check the file, it is not a {_NAMES[wanted]}"
    return f"found {content.what} at {name}; {fix}"


def kind_of(path: str) -> Wanted | None:
    """The kind of file that the first bytes of a file say; None where they say nothing."""
    content = _content(path)
    return None if content is None else content.kind


def shown(path: str | Path) -> str:
    """A path as printable text, with bytes that are not UTF-8 escaped."""
    text = str(path)
    try:
        stored = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # not from this file system but from a list or a configuration
        stored = text.encode("utf-8", "surrogatepass")
    return stored.decode("utf-8", "backslashreplace")


def system_trouble(error: BaseException) -> tuple[str, str] | None:
    """What was found and the fix, where file names or system limits are the cause.

    Errors raised by libraries are recognised by the system's wording in their messages.
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
        return "no permission to read it", "change its permissions"
    return None


_STATUS = re.compile(r"HTTP (?:response|error)(?: code)?\D{0,3}(\d{3})", re.IGNORECASE)


_SAID = (
    (
        re.compile("Range downloading not supported"),
        (
            "a server that sends whole files only, not parts of them (HTTP range requests)",
            "copy the file here first, or put it where ranges are served",
        ),
    ),
    (
        re.compile(r"specified \w+ does not exist|NoSuchKey|NoSuchBucket"),
        ("no such file in the object store", "correct the address"),
    ),
    (
        re.compile(r"Access ?Denied|InvalidAccessKeyId|SignatureDoesNotMatch|Access Key Id you"),
        ("an object store that refuses access", "check the credentials in the environment"),
    ),
    (
        re.compile(r"configuration options? not defined|^Missing AZURE"),
        (
            "no credentials for this object store",
            "set them in the environment, or AWS_NO_SIGN_REQUEST, GS_NO_SIGN_REQUEST or "
            "AZURE_NO_SIGN_REQUEST=YES for public files",
        ),
    ),
)
"""Words of servers, and of GDAL about them: what was found, how to fix it."""

_CUT = re.compile(r"got (\d+) bytes, expected (\d+)")
"""LibTIFF's words where a block is shorter than its file says."""


def _server_trouble(error: BaseException) -> tuple[str, str] | None:
    text = reason(error)
    status = _STATUS.search(text)
    if status is not None:
        code = int(status[1])
        if code in (401, 403):
            return (
                f"a server that refuses access (HTTP {code})",
                "sign in, or get a new link if a signed one has expired",
            )
        if code in (404, 410):
            return f"no such file on the server (HTTP {code})", "correct the address"
        return f"a server response without the file (HTTP {code})", "try again later"
    if "CURL error" in text:
        return f"no connection to the server ({text})", "check the address and the connection"
    return next((trouble for words, trouble in _SAID if words.search(text)), None)


def _broken_off(error: BaseException | None) -> str | None:
    """How much of an answer arrived, where a remote file is known to have been cut short."""
    while error is not None:
        if (cut := _CUT.search(str(error))) is not None:
            return f"{cut[1]} of {cut[2]} bytes"
        error = error.__cause__
    return None


@dataclass(frozen=True)
class _Content:
    """What a file holds."""

    what: str
    fix: str = ""
    """Empty: give another file."""
    kind: Wanted | None = None
    """What kind of file it would be if it were intact."""


def _content(path: str) -> _Content | None:
    """What a path points to, judged by its first bytes."""
    if not is_file_name(path):
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
"""GDAL's names for subdatasets: ``NETCDF:a.nc:band``."""

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
    (b"7z\xbc\xaf", _Content("a 7z archive", "unpack it and name a file in it")),
    (b"Rar!", _Content("a RAR archive", "unpack it and name a file in it")),
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
        return _Content("an error message from a server", "download the file itself")
    if text.startswith((b"{", b"[")):
        return _json(file)
    # headers of some GDAL formats are text too; GDAL's own message is more useful there
    of_gdal = head.startswith((b"<", b"ENVI", b"ncols", b"NCOLS", b"P1", b"P2", b"P3"))
    binary = set(head) - set(range(32, 127)) - set(b"\r\n\t\f")
    return None if of_gdal or binary else _Content("text")


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
    packed = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))
    if head[257:262] == b"ustar" or packed:
        members = _tar_names(file)
        if members is not None or not packed:
            return _Content("a TAR archive", _inside("/vsitar/", where, members or []))
    if head.startswith(b"\x1f\x8b"):
        return _Content("a gzip file", f"name what is in it: /vsigzip/{shown(where)}")
    return None


def _tar_names(file: Path) -> list[str] | None:
    try:
        with tarfile.open(file) as opened:
            try:
                return [member.name for member in islice(opened, MOST_MEMBERS)]
            except (tarfile.TarError, OSError, EOFError, ValueError):
                return []  # cut short
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return None


def _inside(prefix: str, archive: Path, names: list[str]) -> str:
    known = [name for name in names if PurePath(name).suffix.lower() in READABLE]
    known.sort(key=lambda name: READABLE.index(PurePath(name).suffix.lower()))
    member = shown(known[0]) if known else "FILE"
    return f"name the file in it: {prefix}{shown(archive)}/{member}"


def _json(file: Path) -> _Content:
    """JSON: a STAC item or collection, vector data, or anything else."""
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
        what = f"a STAC {names.get(str(kind), str(kind))}, which is not read here,"
        return _Content(what, f"give the file of one asset: {_asset(assets, file.parent)}")
    if kind in ("FeatureCollection", "Feature"):
        return _Content("vector data (GeoJSON)", kind="vector")
    return _Content("JSON")


def _asset(assets: Any, folder: Path) -> str:
    """Address of the asset of an item that is most likely a raster."""

    def rank(asset: dict[str, Any]) -> tuple[bool, bool]:
        roles = asset.get("roles")
        image = "tiff" in str(asset.get("type")) or asset["href"].lower().endswith(READABLE)
        return not image, "data" not in (roles if isinstance(roles, list) else [])

    found = assets.values() if isinstance(assets, dict) else ()
    usable = [a for a in found if isinstance(a, dict) and isinstance(a.get("href"), str)]
    if not usable:
        return "HREF"
    href: str = min(usable, key=rank)["href"]
    return href if not is_file_name(href) else str(folder / href)
