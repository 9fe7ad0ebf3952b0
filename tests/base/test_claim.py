"""Folders that belong to one recipe: who may write there, what is resumed, what is refused."""

import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rscd.base.claim import Claim, Earlier, alone, everything
from rscd.base.errors import DataError, OutputError


def pictures(folder: Path) -> Iterator[Any]:
    return folder.glob("*.png")


def claim(
    folder: Path, recipe: dict[str, Any], maker: str = "masks", earlier: Earlier | None = None
) -> Claim:
    return Claim(folder, maker, recipe, pictures, "give another folder", earlier)


def noted(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "claim.json").read_text())


class TestAlone:
    def test_one_run_at_a_time_and_nothing_stays(self, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "b"
        with alone(folder):
            with (
                pytest.raises(OutputError, match=f"another run is writing to {folder}; wait"),
                alone(folder),
            ):
                pass
            assert [path.name for path in folder.iterdir()] == [".lock"]
        assert not folder.exists()
        with alone(folder):
            (folder / "x").touch()
        assert [path.name for path in folder.iterdir()] == ["x"]

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no signal that kills")
    def test_a_killed_process_keeps_nobody_out(self, tmp_path: Path) -> None:
        def hold(folder: Path) -> None:
            with alone(folder):
                os.kill(os.getpid(), signal.SIGKILL)

        process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "w",))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert (tmp_path / "w" / ".lock").exists()
        with alone(tmp_path / "w"):
            pass
        assert not (tmp_path / "w").exists()

    def test_it_is_let_go_however_the_run_ends(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(path: Path, **_: Any) -> None:
            raise KeyboardInterrupt

        with (
            monkeypatch.context() as patch,
            pytest.raises(KeyboardInterrupt) as kept,  # what is referred to is not collected
            alone(tmp_path),
        ):
            patch.setattr(Path, "unlink", interrupted)
        with alone(tmp_path):
            pass
        assert kept.tb is not None

    def test_a_place_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            pytest.raises(OutputError, match=r"expected to write .*file.x, found: "),
            alone(tmp_path / "file" / "x"),
        ):
            pass


class TestClaim:
    def test_the_same_recipe_is_resumed(self, tmp_path: Path) -> None:
        assert not claim(tmp_path, {"b": (1, 2), "a": 1}).take()
        before = (tmp_path / "claim.json").stat().st_mtime_ns
        assert claim(tmp_path, {"a": 1, "b": [1, 2]}).take()
        assert (tmp_path / "claim.json").stat().st_mtime_ns == before
        assert noted(tmp_path) == {"masks": {"a": 1, "b": [1, 2]}}

    def test_another_recipe_is_refused_once_anything_is_made(self, tmp_path: Path) -> None:
        claim(tmp_path, {"a": 1, "b": 1}).take()
        assert not claim(tmp_path, {"a": 2, "b": 1}).take()
        (tmp_path / "x.png").touch()
        message = f"settings with which {tmp_path} was begun, found other a, c; give another folder"
        with pytest.raises(OutputError, match=message):
            claim(tmp_path, {"a": 1, "b": 1, "c": None}).take()
        assert (tmp_path / "x.png").exists()
        assert noted(tmp_path) == {"masks": {"a": 2, "b": 1}}

    def test_overwriting_removes_what_was_made_and_nothing_else(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        claim(tmp_path, {"a": 1}).take()
        (tmp_path / "x.png").mkdir()
        (tmp_path / "x.png" / "deep").touch()
        (tmp_path / "other.txt").touch()
        with caplog.at_level(logging.WARNING):
            assert not claim(tmp_path, {"a": 2}).take(overwrite=True)
        assert "starting over" in caplog.text
        assert sorted(path.name for path in tmp_path.iterdir()) == ["claim.json", "other.txt"]
        assert noted(tmp_path) == {"masks": {"a": 2}}

    def test_files_of_nobody_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").touch()
        with pytest.raises(OutputError, match=r"empty or begun by the same command, found x\.png"):
            claim(tmp_path, {"a": 1}).take()
        assert not claim(tmp_path, {"a": 1}).take(overwrite=True)
        assert not (tmp_path / "x.png").exists()

    def test_a_run_killed_while_it_clears_leaves_no_claim_on_the_rest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim(tmp_path, {"a": 1}).take()
        for name in ("x.png", "y.png"):
            (tmp_path / name).touch()
        unlink = Path.unlink

        def killed(path: Path, **given: Any) -> None:
            if path.suffix == ".png":
                raise KeyboardInterrupt
            unlink(path, **given)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                claim(tmp_path, {"a": 2}).take(overwrite=True)
        with pytest.raises(OutputError, match="found x"):
            claim(tmp_path, {"a": 1}).take()
        assert not claim(tmp_path, {"a": 2}).take(overwrite=True)
        assert not list(pictures(tmp_path))

    def test_kinds_of_runs_do_not_mind_each_other(self, tmp_path: Path) -> None:
        claim(tmp_path, {"a": 1}).take()
        assert not claim(tmp_path, {"a": 2}, "stage").begun
        assert not claim(tmp_path, {"a": 2}, "stage").take()
        assert claim(tmp_path, {"a": 5}, "stage").begun
        assert claim(tmp_path, {"a": 1}).take()
        (tmp_path / "x.png").touch()
        claim(tmp_path, {"a": 3}).take(overwrite=True)
        assert noted(tmp_path) == {"masks": {"a": 3}, "stage": {"a": 2}}

    @pytest.mark.parametrize("content", [b"", b"[1]", b'{"masks": ', b"\xff"])
    def test_a_damaged_note(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "claim.json").write_bytes(content)
        (tmp_path / "x.png").touch()
        with pytest.raises(DataError, match=r"found damage in .*; give another folder"):
            claim(tmp_path, {"a": 1}).take()
        assert not claim(tmp_path, {"a": 1}).take(overwrite=True)
        assert claim(tmp_path, {"a": 1}).take()

    def test_a_note_of_another_shape_is_another_recipe(self, tmp_path: Path) -> None:
        (tmp_path / "claim.json").write_text('{"masks": 3}')
        (tmp_path / "x.png").touch()
        with pytest.raises(OutputError, match="found other a"):
            claim(tmp_path, {"a": 1}).take()

    @pytest.mark.parametrize("recipe", [{"a": 1}, {"a": 2}])
    def test_notes_of_version_0_1(self, tmp_path: Path, recipe: dict[str, int]) -> None:
        (tmp_path / "old.json").write_text('{"settings": {"a": 1}}')
        (tmp_path / "x.png").touch()
        mine = claim(
            tmp_path, recipe, earlier=Earlier("old.json", lambda note: note.get("settings", {}))
        )
        assert mine.begun
        if recipe == {"a": 1}:
            assert mine.take()
            assert noted(tmp_path) == {"masks": {"a": 1}}
            assert (tmp_path / "x.png").exists()
        else:
            with pytest.raises(OutputError, match="found other a"):
                mine.take()
            assert not mine.take(overwrite=True)
            assert [path.name for path in tmp_path.iterdir()] == ["claim.json"]


def test_what_is_ones_own_is_not_among_everything(tmp_path: Path) -> None:
    with alone(tmp_path):
        claim(tmp_path, {}).take()
        (tmp_path / ".claim.part.json").touch()  # of a run that was killed
        (tmp_path / ".x").touch()
        assert [path.name for path in everything(tmp_path)] == [".x"]
