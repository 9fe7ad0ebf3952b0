"""Files appear whole or not at all."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from rscd.base.errors import OutputError, UsageError
from rscd.export.atomic import atomic_folder, output_error


def fill(folder: Path, text: str = "new") -> None:
    (folder / "a.tif").write_text(text)
    (folder / "a.qml").write_text(text)


def names(folder: Path) -> list[Any]:
    return sorted(path.name for path in folder.iterdir())


def test_on_success_everything_moves_beside_the_target(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a.tif") as folder:
        fill(folder)
        assert not (tmp_path / "a.tif").exists()
    assert names(tmp_path) == ["a.qml", "a.tif"]


def test_the_target_appears_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = type(tmp_path).replace

    def noted(path: Path, to: Path) -> Path:
        moved.append(path.name)
        return replace(path, to)

    monkeypatch.setattr(type(tmp_path), "replace", noted)
    with atomic_folder(tmp_path / "a.tif") as folder:
        fill(folder)
        (folder / "z.json").touch()
    assert moved[-1] == "a.tif"
    assert sorted(moved) == ["a.qml", "a.tif", "z.json"]


@pytest.mark.parametrize("error", [UsageError("wrong"), KeyboardInterrupt(), ValueError("bug")])
def test_on_failure_nothing_has_changed(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.tif").write_text("old")

    def fail(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(type(error)), atomic_folder(tmp_path / "a.tif") as folder:
        fail(folder)
    assert names(tmp_path) == ["a.tif"]
    assert (tmp_path / "a.tif").read_text() == "old"


def test_existing_files_are_replaced(tmp_path: Path) -> None:
    fill(tmp_path, "old")
    with atomic_folder(tmp_path / "a.tif") as folder:
        fill(folder)
    assert (tmp_path / "a.tif").read_text() == (tmp_path / "a.qml").read_text() == "new"


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "a.tif"
    left = atomic_folder(target)
    folder = left.__enter__()
    fill(folder, "half")
    (folder / "temporary").touch()
    with atomic_folder(target) as again:
        assert again == folder
        assert names(again) == []
        fill(again)
    assert names(tmp_path) == ["a.qml", "a.tif"]
    left.gen.close()


def test_system_errors_are_one_clear_line(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"expected to write .*a\.tif, found: No such file"),
        atomic_folder(tmp_path / "none" / "a.tif"),
    ):
        pass
    with (
        pytest.raises(OutputError, match="found: Permission denied; choose"),
        atomic_folder(tmp_path / "a.tif"),
    ):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_full_disk_says_how_much_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 8, 2_000_000))
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(OutputError, match=r"No space left on device \(2 MB free\); choose"),
        atomic_folder(tmp_path / "a.tif"),
    ):
        raise error
    assert names(tmp_path) == []


def test_an_output_error_stays_as_it_is(tmp_path: Path) -> None:
    error = OutputError("expected this")
    assert output_error(tmp_path / "a.tif", error) is error


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"), atomic_folder(tmp_path / "a.tif"):
        pass
    tmp_path.chmod(0o700)
