"""Folders for what is kept as long as something in memory refers to it."""

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from rscd.base.files import writing


class Scratch:
    """A new folder, removed when nothing refers to this object any more or the process ends.

    A copy in another process, by fork or pickle, names the folder and does not remove it.

    Raises:
        OutputError: there is no place for temporary files.
    """

    def __init__(self) -> None:
        with writing(Path(os.environ.get("TMPDIR", tempfile.gettempprefix()))):
            self.folder = Path(tempfile.mkdtemp(prefix="rscd-"))
        weakref.finalize(self, _remove, self.folder, os.getpid())


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
