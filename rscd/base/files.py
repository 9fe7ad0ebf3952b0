"""Files written completely or not at all, and their identity: hashes, names, sidecars."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rscd.base.border import border, reason, shown
from rscd.base.errors import DataError, OutputError, RscdError, UsageError

if TYPE_CHECKING:
    from rscd.base.types import Provenance

PART = ".part"

SIDECARS = (".aux.xml", ".msk", ".msk.ovr", ".ovr", ".MSK", ".OVR", "-wal", "-shm", "-journal")
"""Suffixes appended to a full file name: files that GDAL and SQLite read along with it."""

WRITING_LIBRARIES = frozenset(
    {"cv2", "fiona", "geopandas", "PIL", "pyarrow", "pyogrio", "rasterio", "safetensors"}
    | {"safetensors_rust", "sqlite3"}
)
"""Packages whose errors, raised while a file is written, mean that it cannot be written."""


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn system and library errors raised while a file is written into one clear line.

    Args:
        target: the file, for the message.

    Raises:
        OutputError: for an error from the system or one of `WRITING_LIBRARIES`.
    """
    try:
        yield
    except RscdError:
        raise
    except Exception as error:
        packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if not isinstance(error, OSError) and packages.isdisjoint(WRITING_LIBRARIES):
            raise
        raise output_error(target, error) from error


def output_error(target: Path, error: Exception) -> OutputError:
    """The clear line for a failed write."""
    if isinstance(error, OutputError):
        return error
    system = isinstance(error, OSError) and error.strerror
    found = system or " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        disk = next(folder for folder in target.absolute().parents if folder.exists())
        found += f" ({shutil.disk_usage(disk).free / 1e6:.0f} MB free)"
    return OutputError(
        f"expected to write {target}, found: {found}; choose a folder that exists, is writable "
        "and has space"
    )


def require_as_written(same: bool, what: str) -> None:
    """Check what was read back from a file that was just written.

    Args:
        same: whether it equals what was written.
        what: what was compared, for the message.

    Raises:
        OSError: it differs.
    """
    if not same:
        raise OSError(errno.EIO, f"read-back mismatch in {what}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and read it back.

    Raises:
        OSError: it cannot be written, or differs when read back.
    """
    path.write_bytes(content)
    require_as_written(path.read_bytes() == content, path.name)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 and read it back; raises what `write_bytes` raises."""
    write_bytes(path, text.encode())


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a hidden path in the same folder; renamed to `path` on success, deleted on failure.

    If a library writes the file, read it back before leaving the block: libraries do not report
    every failure. Sidecar files (`SIDECARS`) of a replaced file are deleted with it.
    """
    part = part_of(path)
    try:
        yield part
        place([part], [path])
    finally:
        for left in (part, *sidecars(part)):
            if left.exists():
                with suppress(OSError):
                    left.unlink()


def part_of(path: Path) -> Path:
    """The hidden path under which a file is written before it appears."""
    return path.with_name(f".{path.stem}{PART}{path.suffix}")


def parts_in(folder: Path, suffix: str) -> list[Path]:
    """Temporary files of `appearing` that killed runs left behind, for one suffix."""
    return sorted(folder.glob(f".*{PART}{suffix}"))


def write_verified(path: Path, content: bytes | memoryview) -> None:
    """Write a file that appears only once it is on disk and reads back as `content`.

    Raises:
        OSError: it cannot be written, or differs when read back.
    """
    with appearing(path) as part:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            # before the rename: a crash must not leave a truncated file under the final name
            os.fsync(file.fileno())
        require_as_written(sha256_of(part) == hashlib.sha256(content).hexdigest(), path.name)


def write_whole(path: Path, text: str) -> None:
    """Write text in UTF-8; missing folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as part:
        write_text(part, text)


def sidecars(path: Path) -> list[Path]:
    """Files beside an existing or future file that are read along with it."""
    beside = (path.with_name(path.name + suffix) for suffix in SIDECARS)
    return [file for file in beside if os.path.lexists(file)]


def place(made: Sequence[Path], final: Sequence[Path], stale: Iterable[Path] = ()) -> None:
    """Give finished files their final names, all or none; replaced files are deleted.

    Args:
        made: finished files.
        final: their names on the same disk, in the same order; the last is replaced atomically, so
            that once it exists, so do the others.
        stale: other files to delete, besides those `sidecars` of `final` that were not written.

    Raises:
        OSError: it cannot be done; all files are as before.
    """
    target = final[-1]
    goes = {file for path in final for file in sidecars(path)} | {*stale, *final[:-1]}
    aside = target.with_name(f".{target.name}.replaced")
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, goal: Path) -> None:
        source.replace(goal)
        moved.append((source, goal))

    try:
        for old in sorted(goes):
            if os.path.lexists(old):
                aside.mkdir(exist_ok=True)
                move(old, aside / old.name)
        for source, goal in zip(made, final, strict=True):
            move(source, goal)
    except BaseException:
        if moved and moved[-1][1] == target:
            moved = []
        for source, goal in reversed(moved):
            with suppress(OSError):
                goal.replace(source)
        raise
    finally:
        if aside.exists():
            remove_tree(aside)


def remove_tree(folder: Path) -> bool:
    """Delete a folder and its contents, if it exists; returns whether it is gone."""
    for _ in range(2):  # a single failure may be transient (network file systems)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return True
    return False


def give_name(file: Path, name: Path) -> None:
    """Let a file or folder be found under another name as well, for a while.

    A symbolic link; a hard link or a copy where the system does not let everybody make those, as
    Windows does.
    """
    if linked(file, name):
        return
    if file.is_dir():
        shutil.copytree(file, name)
        return
    try:
        os.link(file, name)
    except OSError:  # another disk, or one without second names
        shutil.copy2(file, name)


def linked(file: Path, name: Path) -> bool:
    """Make a symbolic link, if the system lets this user."""
    try:
        name.symlink_to(file, target_is_directory=file.is_dir())
    except OSError:
        return False
    return True


def remove_file(path: Path) -> None:
    """Delete a file, if it is there and can be deleted."""
    for _ in range(2):  # one failure is not yet a broken disk
        with suppress(OSError):
            path.unlink(missing_ok=True)
            return


def read_note(path: Path, what: str, fix: str) -> "Provenance":
    """Read what a run recorded about itself in a JSON file.

    Args:
        path: of the file, which must exist.
        what: the content, for the message: ``the settings of a stage``.
        fix: what to do if it is damaged.

    Raises:
        DataError: for anything but a JSON object.
    """

    def to_error(error: Exception) -> DataError:
        return DataError(f"expected {what}, found damage in {shown(path)} ({reason(error)}); {fix}")

    with border(to_error):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"{type(content).__name__} instead of an object")
        return content


def read_value(option: str, text: str) -> Any:
    """Parse a command-line value as YAML, as in configurations.

    Raises:
        UsageError: for text that is not valid YAML; the message names the option.
    """
    import yaml  # imported here so that other commands start without it

    def to_error(error: Exception) -> UsageError:
        return UsageError(f"expected a value for --{option}, found {text!r} ({reason(error)})")

    with border(to_error):
        return yaml.safe_load(text)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(data: Any) -> str:
    """SHA-256 of plain data in canonical form, hexadecimal."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def by_stem(folder: Path, suffixes: Container[str]) -> dict[str, Path]:
    """The files of a folder by their names without suffix, sorted.

    Args:
        folder: searched without its subfolders.
        suffixes: in lower case, with the dot; other files and hidden files are skipped.

    Raises:
        DataError: for two files that differ only in their suffix.
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


def natural_key(path: Path | str) -> list[tuple[int, int | str]]:
    """Sort key with numbers in numeric order: 2 before 10."""
    text = path.as_posix() if isinstance(path, Path) else path
    pieces = re.split(r"(\d+)", text)
    return [(0, int(piece)) if piece.isdigit() else (1, piece) for piece in pieces]
