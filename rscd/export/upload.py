"""Outputs at addresses: written to a folder of this machine, then uploaded.

``https://`` takes a PUT, everything else goes through fsspec, which has a package for each kind of
object store (s3fs, gcsfs, adlfs) with its own ways to find credentials.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rscd.base.errors import OutputError, UsageError
from rscd.base.files import digest_of
from rscd.base.place import address, local_file
from rscd.base.redact import redacted

TIMEOUT_S = (30.0, 600.0)
"""To connect, and between two answers of a server."""

R = TypeVar("R")


def room_for(urls: Iterable[str]) -> Path:
    """Where outputs wait for their upload: the same folder whenever the same ones are asked for.

    It is in the system's folder for temporary files (``TMPDIR``), and made by `make_room`.
    """
    name = digest_of(sorted(urls))[:16]
    return Path(tempfile.gettempdir()) / f"rscd-{_user()}-{name}"


def make_room(folder: Path) -> None:
    """Make a folder of `room_for`, readable by this user alone.

    Raises:
        OutputError: someone else made it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise OutputError(
            f"expected {folder} to be a folder of this user, found another owner; set TMPDIR to "
            "another folder"
        )


def clear_room(folder: Path) -> None:
    """Delete such a folder with all in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def target_address(path: str | Path) -> str | None:
    """The address of an output; None for a file of this machine."""
    return None if local_file(path) is not None else address(path)


def name_at(url: str) -> str:
    """Name of the file at an address."""
    return PurePosixPath(urlsplit(url).path).name


def sibling(url: str, name: str) -> str | None:
    """Address of another file beside one; None where the address is signed for one file."""
    parts = urlsplit(url)
    if parts.query:
        return None
    return parts._replace(path=str(PurePosixPath(parts.path).with_name(name))).geturl()


def exists(url: str) -> bool:
    """Whether there is a file at an address, as far as this user may know.

    Raises:
        UsageError: no package for this kind of address is installed.
        OutputError: nothing answers there.
    """
    if _is_web(url):
        return bool(_answer(url, "HEAD").status_code == 200)

    def ask() -> bool:
        files, name = _store(url)
        try:
            return bool(files.exists(name))
        except PermissionError:  # those who may write need not be allowed to look
            return False

    return _of_client(url, ask)


def upload(file: Path, url: str) -> None:
    """Put a file at an address, and ask what has arrived.

    Raises:
        OutputError: it was refused, or is not of the same size there.
    """
    wanted = file.stat().st_size
    if _is_web(url):
        with file.open("rb") as opened:
            # requests sends a body for an empty file without its length
            answer = _answer(url, "PUT", data=opened if wanted else b"")
        if not answer.ok:
            raise _refused(url, f"HTTP {answer.status_code}")
        return

    def put() -> int | None:
        files, name = _store(url)
        files.put_file(str(file), name)
        size: int | None = files.info(name).get("size")
        return size

    found = _of_client(url, put)
    if found != wanted:
        raise _refused(url, f"{found} of {wanted} bytes there")


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _store(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # loaded for remote outputs only

    files, name = url_to_fs(url, use_listings_cache=False)
    return files, name


def _answer(url: str, method: str, **more: Any) -> Any:
    import requests

    return _of_client(url, lambda: requests.request(method, url, timeout=TIMEOUT_S, **more))


def _of_client(url: str, act: Callable[[], R]) -> R:
    """What a client library gives; whatever it raises becomes one line."""
    scheme = url.partition("://")[0]
    try:
        return act()
    except ImportError as error:
        raise UsageError(
            f"expected a package for outputs at {scheme}://, found none ({error}); install it, "
            "such as s3fs for s3://, gcsfs for gs://, adlfs for az://"
        ) from error
    except Exception as error:  # of many libraries
        if isinstance(error, ValueError) and "Protocol not known" in str(error):
            raise UsageError(
                f"expected an output here or at an address such as s3://, gs:// or https://, found "
                f"{redacted(url)}; correct it"
            ) from error
        raise _refused(url, f"{type(error).__name__} {error}") from error


def _refused(url: str, found: str) -> OutputError:
    return OutputError(
        f"expected to write {redacted(url)}, found: {redacted(' '.join(found.split()))}; check the "
        "address and the credentials in the environment"
    )
