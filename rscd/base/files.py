"""Files that appear whole or not at all, and what tells them apart; known to every layer."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rscd.base.border import border, reason, shown
from rscd.base.errors import DataError, OutputError, RscdError, UsageError

if TYPE_CHECKING:
    from rscd.base.types import Provenance

PART = ".part"

SIDECARS = (".aux.xml", ".msk", ".msk.ovr", ".ovr", ".MSK", ".OVR", "-wal", "-shm", "-journal")
"""Behind the full name of a file: what GDAL and SQLite read together with it."""

WRITING_LIBRARIES = frozenset(
    {"cv2", "fiona", "geopandas", "PIL", "pyarrow", "pyogrio", "rasterio", "safetensors"}
    | {"safetensors_rust", "sqlite3"}
)
"""Packages whose own kinds of errors mean, while a file is written, that it cannot be."""


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the system and the libraries raise while a file is written into one clear line.

    Args:
        target: the file, for the message.

    Raises:
        OutputError: for an error of the system or of one of `WRITING_LIBRARIES`.
    """
    try:
        yield
    except RscdError:
        raise
    except Exception as error:
        if not _of_system_or_library(error):
            raise
        raise output_error(target, error) from error


def _of_system_or_library(error: Exception) -> bool:
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or not packages.isdisjoint(WRITING_LIBRARIES)


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
    """Take note of what was read back from a file that was just written.

    Args:
        same: whether it is what was written.
        what: what was looked at, for the message.

    Raises:
        OSError: it is not the same.
    """
    if not same:
        raise OSError(errno.EIO, f"{what} read back otherwise than written")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and read it back.

    Raises:
        OSError: it cannot be written, or it reads otherwise.
    """
    path.write_bytes(content)
    require_as_written(path.read_bytes() == content, path.name)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 and read it back; errors as of `write_bytes`."""
    write_bytes(path, text.encode())


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A hidden path beside, to be written; it becomes `path` on success and goes on failure.

    Whoever writes it through a library reads it back before leaving the block: libraries do not
    report every failure. What lay beside a file that is replaced (`SIDECARS`) goes with that.
    """
    part = path.with_name(f".{path.stem}{PART}{path.suffix}")
    try:
        yield part
        place([part], [path])
    finally:
        for left in (part, *sidecars(part)):
            if left.exists():
                with suppress(OSError):
                    left.unlink()


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
        require_as_written(sha256_of(part) == hashlib.sha256(content).hexdigest(), path.name)


def write_whole(path: Path, text: str) -> None:
    """Write text in UTF-8; folders that lack are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as part:
        write_text(part, text)


@dataclass(frozen=True)
class Claim:
    """Files that one command writes, one after the other.

    A note beside the first says so until all are written: the same command, given again after it
    failed or was killed, may replace those that it wrote.
    """

    files: tuple[Path, ...]
    command: object
    """Plain data that tells the command from others."""

    @property
    def _note(self) -> Path:
        return self.files[0].with_name(f".{self.files[0].name}.began")

    @property
    def _told(self) -> str:
        text = json.dumps(self.command, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def begun(self) -> bool:
        """Whether this command began before to write these files, and did not end."""
        try:
            return self._note.read_text(encoding="utf-8") == self._told
        except (OSError, UnicodeDecodeError):
            return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Write the files within; the note goes when all are, or when none has changed.

        Raises:
            OutputError: for every error of the system; says what is left.
        """
        begun = self.begun
        before = list(map(_stamp, self.files))
        with writing(self.files[0]):
            write_whole(self._note, self._told)
        try:
            yield
        except BaseException as error:
            if not begun and before == list(map(_stamp, self.files)):
                remove_file(self._note)
            elif isinstance(error, OSError):
                target = Path(os.fsdecode(error.filename or self.files[0]))
                raise OutputError(
                    f"{output_error(target, error)}; the same command, given again, "
                    "replaces what it wrote before"
                ) from error
            raise
        remove_file(self._note)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Tells a file from others that had its name."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def remove_file(path: Path) -> None:
    """Delete a file, if it is there and may be deleted."""
    for _ in range(2):  # one failure is not yet a broken disk
        with suppress(OSError):
            path.unlink(missing_ok=True)
            return


def sidecars(path: Path) -> list[Path]:
    """Files beside a file, or beside a file yet to be written, that are read together with it."""
    beside = (path.with_name(path.name + suffix) for suffix in SIDECARS)
    return [file for file in beside if os.path.lexists(file)]


def place(made: Sequence[Path], final: Sequence[Path], stale: Iterable[Path] = ()) -> None:
    """Give finished files their final names, all or none; what they replace goes.

    Args:
        made: finished files.
        final: their names on the same disk, in the same order; the last is replaced in one step,
            so that whoever finds it finds the others too.
        stale: other files that go, beside the `sidecars` of `final` that were not made.

    Raises:
        OSError: it cannot be done; all is as it was before.
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
    """Delete a folder and all in it, if it is there; whether it is gone."""
    for _ in range(2):  # one failure is not yet a broken disk
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return True
    return False


def read_note(path: Path, what: str, fix: str) -> "Provenance":
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


def read_value(option: str, text: str) -> Any:
    """A value of the command line as YAML, as configurations hold them.

    Raises:
        UsageError: for text that is none, naming the option.
    """
    import yaml  # commands that need none start without it

    def told(error: Exception) -> UsageError:
        return UsageError(f"expected a value for --{option}, found {text!r} ({reason(error)})")

    with border(told):
        return yaml.safe_load(text)


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
