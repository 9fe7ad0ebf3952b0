"""Outputs of one command that stops between them."""

import os
import signal
from pathlib import Path

import pytest

import rscd.base.begun
from rscd.base.begun import Begun
from rscd.base.errors import OutputError, UsageError


def begun(folder: Path, *, command: str = "a") -> Begun:
    return Begun((folder / "a.txt", folder / "b.txt"), {"command": command})


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_command_that_ends_leaves_no_note_behind(tmp_path: Path) -> None:
    with begun(tmp_path).noted():
        assert begun(tmp_path).before
        (tmp_path / "a.txt").write_text("1")
        (tmp_path / "b.txt").write_text("2")
    assert contents(tmp_path) == {"a.txt": "1", "b.txt": "2"}
    assert not begun(tmp_path).before


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_what_a_command_began_is_its_own_alone(tmp_path: Path, error: BaseException) -> None:
    def begin() -> None:
        (tmp_path / "a.txt").write_text("1")
        raise error

    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as told, begun(tmp_path).noted():
        begin()
    if expected is OutputError:
        assert "No space left" in str(told.value)
        assert "the same command, given again, replaces what it wrote" in str(told.value)
    assert begun(tmp_path).before
    assert not begun(tmp_path, command="b").before
    with begun(tmp_path).noted():
        (tmp_path / "b.txt").write_text("2")
    assert contents(tmp_path) == {"a.txt": "1", "b.txt": "2"}


def test_a_command_that_wrote_nothing_leaves_no_note(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("somebody's")
    with pytest.raises(UsageError, match="wrong"), begun(tmp_path).noted():
        raise UsageError("wrong")
    assert contents(tmp_path) == {"a.txt": "somebody's"}
    assert not begun(tmp_path).before


def test_a_note_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"expected to write .*a\.txt"),
        begun(tmp_path / "file").noted(),
    ):
        raise AssertionError


def test_ctrl_c_while_the_note_goes_is_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files are written; without the note the same command would find them in its way."""
    begun = Begun((tmp_path / "a", tmp_path / "b"), ["a command"])

    def interrupted(path: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        path.unlink()

    monkeypatch.setattr(rscd.base.begun, "remove_file", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with begun.noted():
            (tmp_path / "a").write_text("a")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
