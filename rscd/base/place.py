"""Where a file is: in a folder of this machine, at an address, or where only GDAL finds it.

The one place that knows addresses (``https://``, ``s3://``, ``gs://``, ``az://``) and GDAL's names
of them (``/vsicurl/``, ``/vsis3/``, ``/vsigs/``, ``/vsiaz/``). Messages and results show a path as
the user gave it; GDAL is given `gdal_name`.
"""

import re
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

_STORES = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/"}
_CURL = "/vsicurl/"
_WEB = ("http", "https", "ftp")

_FOLDED = re.compile(rf"\b({'|'.join((*_WEB, *_STORES, 'file', 'memory'))}):/(?!/)")
_OVER_A_NETWORK = re.compile(
    rf"(?i)^(?:\w+\+)?(?:{'|'.join((*_WEB, *_STORES))})://"
    r"|/vsi(?:curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(?:_streaming)?[/?]"
)


def named(path: str | PurePath) -> str:
    """A path as text; `pathlib` makes ``https:/host`` of an address, which is put right."""
    return _FOLDED.sub(r"\1://", str(path)) if isinstance(path, PurePath) else path


def is_file_name(path: str | PurePath) -> bool:
    """Whether a path is one of this machine's file system, not an address or GDAL's own."""
    text = named(path)
    return not ("://" in text or text.startswith("/vsi"))


def is_remote(path: str | PurePath) -> bool:
    """Whether reading it needs a network."""
    return _OVER_A_NETWORK.search(named(path)) is not None


def gdal_name(path: str | PurePath) -> str:
    """The name by which GDAL opens a path; ``s3://`` and the like go with GDAL's credentials."""
    text = named(path)
    scheme, mark, rest = text.partition("://")
    if mark and scheme.lower() in _STORES:
        return _STORES[scheme.lower()] + rest
    return _CURL + text if mark and scheme.lower() in _WEB else text


def address(path: str | PurePath) -> str | None:
    """The address of a remote file by itself; None where GDAL's name says more than that."""
    text = named(path)
    if text.startswith(_CURL):
        text = text.removeprefix(_CURL)
    for scheme, prefix in _STORES.items():
        if text.startswith(prefix):
            text = f"{scheme}://{text.removeprefix(prefix)}"
    return text if re.match(r"\w+://", text) else None


def suffix_of(path: str | PurePath) -> str:
    """Suffix in lower case, of an address without its query."""
    text = named(path)
    return PurePath(urlsplit(text).path if "://" in text else text).suffix.lower()


def local_file(path: str | PurePath) -> Path | None:
    """The path of a file of this machine, also of ``file://``; None for any other address."""
    text = named(path)
    if text.lower().startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return Path(path) if is_file_name(text) else None
