"""Files that appear whole or not at all, and what tells them apart; known to every layer."""

import errno
import hashlib
import json
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from rscd.border import border, reason, shown
from rscd.errors import DataError
from rscd.types import Provenance

PART = ".part"


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A hidden path beside, to be written; it becomes `path` on success and goes on failure."""
    part = path.with_name(f".{path.stem}{PART}{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def parts_in(folder: Path, suffix: str) -> list[Path]:
    """What killed runs left of `appearing` for files of a suffix."""
    return sorted(folder.glob(f".*{PART}{suffix}"))


def write_verified(path: Path, content: bytes | memoryview) -> None:
    """Write a file that appears whole, once it is on the disk and reads back as `content`.

    Raises:
        OSError: where it cannot be written, or what is read back is something else.
    """
    with appearing(path) as part:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if sha256_of(part) != hashlib.sha256(content).hexdigest():
            raise OSError(errno.EIO, "what was written reads back as something else", str(path))


def write_whole(path: Path, text: str) -> None:
    """Write text in UTF-8; folders that lack are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as part:
        part.write_text(text, encoding="utf-8")


def read_note(path: Path, what: str, fix: str) -> Provenance:
    """What a run noted of itself in a file of JSON.

    Args:
        path: of the file, which is there.
        what: it says, for the message: ``the settings of a stage``.
        fix: what to do where it is damaged.

    Raises:
        DataError: for anything but a JSON object.
    """

    def told(error: Exception) -> DataError:
        return DataError(f"expected {what}, found damage in {shown(path)} ({reason(error)}); {fix}")

    with border(told):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"{type(content).__name__} instead of an object")
        return content


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_stem(folder: Path, suffixes: Container[str]) -> dict[str, Path]:
    """The files of a folder by their names without suffix, sorted.

    Args:
        folder: not searched deeper.
        suffixes: in lower case, with the dot; other files are passed over, as are hidden ones.

    Raises:
        DataError: for two files that differ in their suffix alone.
    """
    found: dict[str, Path] = {}
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    for path in sorted(path for path in files if path.suffix.lower() in suffixes):
        if path.stem in found:
            raise DataError(
                f"{folder}: expected one file of each name, found {found[path.stem].name} and "
                f"{path.name}; take one out"
            )
        found[path.stem] = path
    return found
