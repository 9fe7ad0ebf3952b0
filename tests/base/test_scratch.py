import gc
import os
import pickle
from pathlib import Path

import pytest

from rscd.base.errors import OutputError
from rscd.base.scratch import Scratch


def test_a_folder_lives_as_long_as_its_owner() -> None:
    scratch = Scratch()
    folder = scratch.folder
    (folder / "file").write_text("kept")
    gc.collect()
    assert (folder / "file").is_file()
    del scratch
    gc.collect()
    assert not folder.exists()


def test_a_copy_names_the_folder_and_does_not_own_it() -> None:
    scratch = Scratch()
    copy = pickle.loads(pickle.dumps(scratch))
    assert copy.folder == scratch.folder
    del copy
    gc.collect()
    assert scratch.folder.is_dir()


def test_a_forked_process_does_not_remove_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Scratch()
    folder = scratch.folder
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    del scratch
    gc.collect()
    assert folder.is_dir()
    folder.rmdir()


def test_no_place_for_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError):
        Scratch()
