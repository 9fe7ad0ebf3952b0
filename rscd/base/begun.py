"""Outputs of a command that failed or was killed between them: the same command may go on.

A note beside the first output, ``.NAME.began``, tells which command began to write. It is there for
as long as some of the outputs may be its own and others not: from before the first is written until
all are. Folders that can be resumed are another matter, see `rscd.base.claim`.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rscd.base.errors import OutputError
from rscd.base.files import digest_of, output_error, remove_file, write_whole, writing


@dataclass(frozen=True)
class Begun:
    """Files that one command writes, one after the other."""

    files: tuple[Path, ...]
    """At least one."""
    command: object
    """Plain data that tells the command from others."""

    @property
    def before(self) -> bool:
        """Whether this command began before to write these files, and did not end."""
        try:
            return note_of(self.files).read_text(encoding="utf-8") == digest_of(self.command)
        except (OSError, UnicodeDecodeError):
            return False

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Write the files within; the note goes when all are, or when none has changed.

        Raises:
            OutputError: for every error of the system; says what is left.
        """
        note, again = note_of(self.files), self.before
        stamps = list(map(_stamp, self.files))
        with writing(self.files[0]):
            write_whole(note, digest_of(self.command))
        try:
            yield
        except BaseException as error:
            if not again and stamps == list(map(_stamp, self.files)):
                remove_file(note)
            elif isinstance(error, OSError):
                target = Path(os.fsdecode(error.filename or self.files[0]))
                raise OutputError(
                    f"{output_error(target, error)}; the same command, given again, "
                    "replaces what it wrote before"
                ) from error
            raise
        with _uninterrupted():  # all is written: without the note the files would be in the way
            remove_file(note)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, which only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def note_of(files: tuple[Path, ...]) -> Path:
    """The note of whatever command began to write these files; there only if one did."""
    return files[0].with_name(f".{files[0].name}.began")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Tells a file from others that had its name."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
