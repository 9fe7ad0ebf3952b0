"""Files that appear whole or not at all."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rscd.errors import OutputError


@contextmanager
def atomic_folder(target: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """A scratch folder beside `target`; write files there under their final names.

    Args:
        target: the file to appear.
        errors: what the writer raises when it cannot write.

    On success everything in it moves beside `target`, the file named like `target` last, so that
    whoever finds it finds its companions too. On failure the folder goes and nothing has changed.

    Raises:
        OutputError: when the place cannot be written or the disk is full.
    """
    # a fixed name: what a killed run leaves, the next run removes
    scratch = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        yield scratch
        for made in sorted(scratch.iterdir(), key=lambda path: path.name == target.name):
            made.replace(target.parent / made.name)
    except errors as error:
        raise output_error(target, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def output_error(target: Path, error: Exception) -> OutputError:
    """The clear line for a failed write."""
    if isinstance(error, OutputError):
        return error
    reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        reason += f" ({shutil.disk_usage(target.parent).free / 1e6:.0f} MB free)"
    return OutputError(
        f"expected to write {target}, found: {reason}; choose a folder that exists, is writable "
        "and has space"
    )
