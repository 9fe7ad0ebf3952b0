"""Files appear whole, and what belonged to those they replace goes with them."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow
import pyogrio.errors
import pytest
import rasterio
from rasterio._err import CPLE_AppDefinedError
from safetensors import SafetensorError

from rscd.base.errors import DataError, OutputError, UsageError
from rscd.base.files import (
    SIDECARS,
    appearing,
    give_name,
    place,
    require_as_written,
    sidecars,
    write_bytes,
    write_whole,
    writing,
)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file with all that may lie beside it, and a neighbour that has nothing to do with it."""
    for suffix in ("", *SIDECARS):
        (tmp_path / f"a.tif{suffix}").write_text(f"old {suffix}")
    (tmp_path / "a.tiff.aux.xml").write_text("another's")
    return tmp_path / "a.tif"


def test_sidecars_go_with_the_file_they_belong_to(old: Path) -> None:
    with appearing(old) as part:
        part.write_text("new")
    assert contents(old.parent) == {"a.tif": "new", "a.tiff.aux.xml": "another's"}
    assert sidecars(old) == []


def test_a_failure_leaves_everything_as_it_was(old: Path) -> None:
    before = contents(old.parent)

    def fail(part: Path) -> None:
        part.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), appearing(old) as part:
        fail(part)
    assert contents(old.parent) == before


@pytest.mark.parametrize("failing", range(len(SIDECARS) + 3))
def test_a_rename_that_fails_leaves_everything_as_it_was(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Companions and sidecars are put back, whichever step it is."""
    (tmp_path / "a.qml").write_text("old style")
    made = tmp_path / "made"
    made.mkdir()
    for name in ("a.qml", "a.tif"):
        (made / name).write_text("new")
    before = contents(tmp_path)
    replace, calls = type(old).replace, []

    def fails_once(path: Path, goal: Path) -> Path:
        calls.append(path)
        if len(calls) == failing + 1:
            raise OSError(5, "Input/output error")
        return replace(path, goal)

    monkeypatch.setattr(type(old), "replace", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        place([made / "a.qml", made / "a.tif"], [tmp_path / "a.qml", tmp_path / "a.tif"])
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["made"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        CPLE_AppDefinedError(1, 1, "write error"),
        rasterio.errors.RasterioIOError("write error"),
        pyogrio.errors.FeatureError("write error"),
        sqlite3.OperationalError("disk I/O error"),
        pyarrow.ArrowInvalid("write error"),
        SafetensorError("write error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_libraries_are_one_clear_line(tmp_path: Path, error: Any) -> None:
    with (
        pytest.raises(
            OutputError, match=r"^expected to write .*a\.tif, found: .+; choose a"
        ) as met,
        writing(tmp_path / "a.tif"),
    ):
        raise error
    assert "\n" not in str(met.value)
    assert met.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [UsageError("x"), DataError("x"), OutputError("x"), ValueError("x"), KeyError("x")]
)
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as met, writing(tmp_path / "a.tif"):
        raise error
    assert met.value is error


def test_what_reads_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"abc")
    require_as_written(path.read_bytes() == b"abc", "it")
    written = type(path).write_bytes
    monkeypatch.setattr(type(path), "write_bytes", lambda p, data: written(p, data[:-1]))
    with pytest.raises(OSError, match=r"read-back mismatch in .*a\.bin"):
        write_bytes(path, b"abc")


def test_text_that_reads_otherwise_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    written = type(path).write_bytes
    monkeypatch.setattr(type(path), "write_bytes", lambda p, data: written(p, data[:-1]))
    with pytest.raises(OSError, match="read-back mismatch"):
        write_whole(path, "new")
    assert contents(tmp_path) == {"a.json": "old"}


@pytest.mark.parametrize("refused", [(), ("symlink",), ("symlink", "link")])
def test_a_second_name_where_not_everything_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...]
) -> None:
    def not_allowed(*_: Path, **__: Any) -> None:
        raise OSError("a required privilege is not held by the client")

    if "symlink" in refused:
        monkeypatch.setattr(Path, "symlink_to", not_allowed)
    if "link" in refused:
        monkeypatch.setattr(os, "link", not_allowed)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    give_name(tmp_path / "folder", tmp_path / "other")
    give_name(tmp_path / "folder" / "a.txt", tmp_path / "b.txt")
    assert (tmp_path / "other" / "a.txt").read_text() == (tmp_path / "b.txt").read_text() == "a"
    assert (tmp_path / "other").is_symlink() == (not refused)
