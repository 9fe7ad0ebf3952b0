"""Files appear whole, and what belonged to those they replace goes with them."""

import sqlite3

import pyarrow
import pyogrio.errors
import pytest
import rasterio
from rasterio._err import CPLE_AppDefinedError
from safetensors import SafetensorError

from rscd.base.errors import DataError, OutputError, UsageError
from rscd.base.files import (
    SIDECARS,
    Claim,
    appearing,
    place,
    require_as_written,
    sidecars,
    write_bytes,
    write_whole,
    writing,
)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def old(tmp_path):
    """A file with all that may lie beside it, and a neighbour that has nothing to do with it."""
    for suffix in ("", *SIDECARS):
        (tmp_path / f"a.tif{suffix}").write_text(f"old {suffix}")
    (tmp_path / "a.tiff.aux.xml").write_text("another's")
    return tmp_path / "a.tif"


def test_sidecars_go_with_the_file_they_belong_to(old):
    with appearing(old) as part:
        part.write_text("new")
    assert contents(old.parent) == {"a.tif": "new", "a.tiff.aux.xml": "another's"}
    assert sidecars(old) == []


def test_a_failure_leaves_everything_as_it_was(old):
    before = contents(old.parent)

    def fail(part):
        part.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), appearing(old) as part:
        fail(part)
    assert contents(old.parent) == before


@pytest.mark.parametrize("failing", range(len(SIDECARS) + 3))
def test_a_rename_that_fails_leaves_everything_as_it_was(old, tmp_path, monkeypatch, failing):
    """Companions and sidecars are put back, whichever step it is."""
    (tmp_path / "a.qml").write_text("old style")
    made = tmp_path / "made"
    made.mkdir()
    for name in ("a.qml", "a.tif"):
        (made / name).write_text("new")
    before = contents(tmp_path)
    replace, calls = type(old).replace, []

    def fails_once(path, goal):
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
def test_errors_of_libraries_are_one_clear_line(tmp_path, error):
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
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as met, writing(tmp_path / "a.tif"):
        raise error
    assert met.value is error


def test_what_reads_otherwise_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bytes(path, b"abc")
    require_as_written(path.read_bytes() == b"abc", "it")
    written = type(path).write_bytes
    monkeypatch.setattr(type(path), "write_bytes", lambda p, data: written(p, data[:-1]))
    with pytest.raises(OSError, match=r"a\.bin read back otherwise"):
        write_bytes(path, b"abc")


def test_text_that_reads_otherwise_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    written = type(path).write_bytes
    monkeypatch.setattr(type(path), "write_bytes", lambda p, data: written(p, data[:-1]))
    with pytest.raises(OSError, match="otherwise"):
        write_whole(path, "new")
    assert contents(tmp_path) == {"a.json": "old"}


# --- outputs of one command ----------------------------------------------------------------------


def claim(folder, *, command="a"):
    return Claim((folder / "a.txt", folder / "b.txt"), {"command": command})


def test_a_claim_that_is_kept_leaves_nothing_behind(tmp_path):
    with claim(tmp_path).held():
        assert claim(tmp_path).begun
        (tmp_path / "a.txt").write_text("1")
        (tmp_path / "b.txt").write_text("2")
    assert contents(tmp_path) == {"a.txt": "1", "b.txt": "2"}
    assert not claim(tmp_path).begun


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_what_a_command_began_is_its_own_alone(tmp_path, error):
    def begin():
        (tmp_path / "a.txt").write_text("1")
        raise error

    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as told, claim(tmp_path).held():
        begin()
    if expected is OutputError:
        assert "No space left" in str(told.value)
        assert "the same command, given again, replaces what it wrote" in str(told.value)
    assert claim(tmp_path).begun
    assert not claim(tmp_path, command="b").begun
    with claim(tmp_path).held():
        (tmp_path / "b.txt").write_text("2")
    assert contents(tmp_path) == {"a.txt": "1", "b.txt": "2"}


def test_a_command_that_wrote_nothing_claims_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("somebody's")
    with pytest.raises(UsageError, match="wrong"), claim(tmp_path).held():
        raise UsageError("wrong")
    assert contents(tmp_path) == {"a.txt": "somebody's"}
    assert not claim(tmp_path).begun


def test_a_claim_that_cannot_be_noted_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"expected to write .*a\.txt"),
        claim(tmp_path / "file").held(),
    ):
        raise AssertionError
