"""The journal: an interrupted run resumes, but never with other inputs."""

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from rscd.base.errors import OutputError
from rscd.cli import main
from rscd.geo.changemap import RawRaster
from rscd.geo.tiles import Box
from rscd.inference import journal as journal_module
from rscd.inference.journal import Journal, open_journal


class TestJournal:
    def test_tiles_are_remembered(self, tmp_path: Path) -> None:
        with open_journal(tmp_path / "work", {"a": 1}) as journal:
            assert not journal.resumed
            assert journal.done() == {}
            journal.start(64)
            journal.add({3: 30, 1: 0})
            journal.add({70_000: 2**32 - 1})
        with open_journal(tmp_path / "work", {"a": 1}) as journal:
            assert journal.resumed
            assert journal.done() == {3: 30, 1: 0, 70_000: 2**32 - 1}
            journal.remove()
        assert list(tmp_path.iterdir()) == []

    def test_part_of_a_record_is_no_tile(self, tmp_path: Path) -> None:
        with open_journal(tmp_path / "work", {}) as journal:
            journal.start(64)
            journal.add({1: 11, 2: 22})
        with (tmp_path / "work" / "done").open("ab") as file:
            file.write(b"\x07\x00")
        with open_journal(tmp_path / "work", {}) as journal:
            assert journal.done() == {1: 11, 2: 22}
            journal.add({5: 55})
            assert journal.done() == {1: 11, 2: 22, 5: 55}

    def test_another_identity_starts_anew_and_says_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with open_journal(tmp_path / "work", {"a": 1}) as journal:
            journal.start(64)
            journal.add({1: 11})
            (tmp_path / "work" / "prob.img").write_bytes(b"old")
        with open_journal(tmp_path / "work", {"a": 2}) as journal:
            assert not journal.resumed
            assert journal.done() == {}
            assert not (tmp_path / "work" / "prob.img").exists()
        assert "starting over" in caplog.text

    def test_the_same_identity_is_not_announced(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            with open_journal(tmp_path / "work", {"a": [1, None], "b": "x"}) as journal:
                journal.start(64)
        assert caplog.text == ""

    def test_order_of_keys_does_not_matter(self, tmp_path: Path) -> None:
        with open_journal(tmp_path / "work", {"a": 1, "b": 2}) as journal:
            journal.start(64)
        with open_journal(tmp_path / "work", {"b": 2, "a": 1}) as journal:
            assert journal.resumed

    def test_before_the_rasters_are_laid_out_nothing_is_resumed(self, tmp_path: Path) -> None:
        folder = tmp_path / "work"
        with open_journal(folder, {"a": 1}) as journal:
            journal.start(64)
            (folder / "prob.img").touch()
        (folder / "done").unlink()
        with open_journal(folder, {"a": 1}) as journal:
            assert not journal.resumed
            assert not (folder / "prob.img").exists()

    @pytest.mark.parametrize("now", [1, 2])
    def test_a_run_of_version_0_1_is_resumed_by_the_same_alone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, now: int
    ) -> None:
        folder = tmp_path / "work"
        with open_journal(folder, {"a": 1}) as journal:
            journal.start(64)
            journal.add({1: 11})
        (folder / "claim.json").unlink()
        (folder / "run.json").write_text(json.dumps({"a": 1}, sort_keys=True, indent=1))
        (folder / "lock").touch()
        with open_journal(folder, {"a": now}) as journal:
            assert journal.done() == ({1: 11} if now == 1 else {})
        assert ("starting over" in caplog.text) == (now == 2)
        with open_journal(folder, {"a": now}) as journal:
            journal.remove()
        assert list(tmp_path.iterdir()) == []

    def test_folders_of_a_killed_run_are_cleared_away(self, tmp_path: Path) -> None:
        folder = tmp_path / "work"
        (folder / "tmp_rehearsal" / "deep").mkdir(parents=True)
        (folder / "tmp_rehearsal" / "a.tif").touch()
        with open_journal(folder, {}):
            assert sorted(path.name for path in folder.iterdir()) == [".lock", "claim.json"]

    def test_killed_while_clearing_away_it_does_not_resume_what_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "work"
        with open_journal(folder, {"a": 1}) as journal:
            journal.start(64)
            (folder / "prob.img").touch()
        unlink = type(folder).unlink
        unlinked: list[str] = []

        def killed(path: Path, **given: Any) -> None:
            if unlinked:
                raise KeyboardInterrupt
            unlinked.append(path.name)
            unlink(path, **given)

        monkeypatch.setattr(type(folder), "unlink", killed)
        with pytest.raises(KeyboardInterrupt), open_journal(folder, {"a": 2}):
            pass
        monkeypatch.undo()
        with open_journal(folder, {"a": 1}) as journal:
            assert not journal.resumed

    def test_two_runs_at_once(self, tmp_path: Path) -> None:
        with open_journal(tmp_path / "work", {}) as journal:
            journal.start(64)
            with (
                pytest.raises(OutputError, match=r"another run is writing to .*; wait"),
                open_journal(tmp_path / "work", {}),
            ):
                pass
            assert journal.started

    @pytest.mark.posix
    def test_a_process_that_died_holds_nothing(self, tmp_path: Path) -> None:
        def hold(folder: Path) -> None:
            with open_journal(folder, {}) as journal:
                journal.start(64)
                os.kill(os.getpid(), signal.SIGKILL)

        process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "w",))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with open_journal(tmp_path / "w", {}) as journal:
            assert journal.resumed

    def test_an_error_before_there_is_anything_to_resume_leaves_nothing(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(ZeroDivisionError), open_journal(tmp_path / "work", {}):
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []

    def test_an_error_later_leaves_what_can_be_resumed(self, tmp_path: Path) -> None:
        def fail(journal: Journal) -> None:
            journal.start(64)
            raise OutputError

        with pytest.raises(OutputError), open_journal(tmp_path / "work", {}) as journal:
            fail(journal)
        with open_journal(tmp_path / "work", {}) as journal:
            assert journal.resumed


def town(side: int) -> Iterator[Any]:
    rng = np.random.default_rng(0)
    fields = uniform_filter(rng.random((3, side, side)) * 255, (0, 9, 9)) * 2 % 200
    t1, t2 = (fields + rng.normal(0, 4, fields.shape) for _ in range(2))
    for row, col in rng.integers(0, side - 30, (side // 12, 2)):
        t2[:, row : row + 18, col : col + 25] += 80
    return (np.clip(date, 1, 255).astype(np.uint8) for date in (t1, t2))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> list[str]:
    """Names of a small pair."""
    folder = tmp_path_factory.mktemp("scene")
    return [
        str(write_tif(folder / name, pixels))
        for name, pixels in zip(("t1.tif", "t2.tif"), town(110), strict=True)
    ]


OUTPUTS = ("a.gpkg", "a.geojson", "b.tif", "p.tif")


def command(scene: list[str], folder: Path, *more: str) -> list[str]:
    a, b, c, prob = (str(folder / name) for name in OUTPUTS)
    return ["predict", *scene, "-o", a, "-o", b, "-o", c, "--prob", prob, "-m", "cva", "-q", *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def interrupt(
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    error: type[KeyboardInterrupt] | OSError = KeyboardInterrupt,
) -> list[Any]:
    """Let so many tiles be written, then fail."""
    write = RawRaster.write
    written: list[Any] = []

    def failing(raster: RawRaster, box: Box, values: NDArray[Any]) -> None:
        if raster.path.name == "prob.img" and raster.shape_hw != (1, 1):
            if len(written) == after:
                raise error
            written.append(box)
        write(raster, box, values)

    monkeypatch.setattr(RawRaster, "write", failing)
    return written


@pytest.fixture(scope="module")
def uninterrupted(scene: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main(command(scene, folder, "--tile-size", "25")) == 0
    return contents(folder)


@pytest.mark.parametrize("after", [0, 1, 7, 24])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    scene: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    arguments = command(scene, tmp_path, "--tile-size", "25")
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        assert main(arguments) == 130
    assert not any(path.name in OUTPUTS for path in tmp_path.iterdir())
    with monkeypatch.context() as patch:
        written = interrupt(patch, 1000)
        assert main(arguments) == 0
    assert len(written) == 25 - after
    assert contents(tmp_path) == uninterrupted


def test_tiles_that_were_half_written_are_written_again(
    scene: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = command(scene, tmp_path, "--tile-size", "25")
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        assert main(arguments) == 130
    (work,) = tmp_path.iterdir()
    done = np.fromfile(work / "done", "<u8")
    with (work / "prob.img").open("r+b") as file:  # the last rows: of a tile that is not done
        file.seek(4 * 110 * 105)
        file.write(os.urandom(400))
    assert len(done) == 9
    assert main(arguments) == 0
    assert contents(tmp_path) == uninterrupted


def test_other_outputs_may_be_asked_for_when_going_on(
    scene: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = command(scene, tmp_path, "--tile-size", "25")
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        assert main(arguments) == 130
    assert (
        main(
            [
                "predict",
                *scene,
                "-o",
                str(tmp_path / "a.gpkg"),
                "-m",
                "cva",
                "-q",
                "--tile-size",
                "25",
            ]
        )
        == 0
    )
    assert contents(tmp_path) == {"a.gpkg": uninterrupted["a.gpkg"]}


@pytest.mark.parametrize(
    "change",
    [
        ["--threshold", "0.9"],
        ["--bands", "1,2"],
        ["--min-area", "2000"],
        ["--bbox", "500000,4999000,501000,4999990"],
        ["--tile-size", "30"],
        ["--src-nodata", "7"],
    ],
)
def test_other_parameters_start_anew_and_say_so(
    scene: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
) -> None:
    base = ["predict", *scene, "-m", "cva", "--tile-size", "25", "-o"]
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        assert main([*base, str(tmp_path / "a.gpkg")]) == 130
    capsys.readouterr()
    assert main([*base, str(tmp_path / "a.gpkg"), *change]) == 0
    assert "inputs or parameters changed since the interrupted run" in capsys.readouterr().err
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert main([*base, str(fresh / "a.gpkg"), *change]) == 0
    assert (tmp_path / "a.gpkg").read_bytes() == (fresh / "a.gpkg").read_bytes()


def test_another_input_starts_anew(
    write_tif: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    t1, t2 = town(120)
    paths = [str(write_tif(tmp_path / n, p)) for n, p in (("t1.tif", t1), ("t2.tif", t2))]
    arguments = ["predict", *paths, "-m", "cva", "--tile-size", "25", "-o", str(tmp_path / "a.tif")]
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        assert main(arguments) == 130
    write_tif(tmp_path / "t2.tif", t2[:, ::-1])
    capsys.readouterr()
    assert main(arguments) == 0
    assert "starting over" in capsys.readouterr().err


def test_going_on_is_announced(
    scene: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        "predict",
        *scene,
        "-m",
        "cva",
        "--tile-size",
        "25",
        "--json",
        "-o",
        str(tmp_path / "a.tif"),
    ]
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        assert main(arguments) == 130
    assert capsys.readouterr().err.endswith("the same command resumes\n")
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "resuming the interrupted run" in said.err
    assert json.loads(said.out)["resumed"] is True


def test_a_disk_that_fills_up_before_the_work_leaves_nothing(
    scene: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reserve = os.posix_fallocate

    def full(descriptor: int, offset: int, size: int) -> None:
        if size > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert main(command(scene, tmp_path)) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"rscd: expected .*a\.gpkg, found.* (disk full|No space left).*\n", error)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_while_writing_outputs_the_same_command_finishes(
    scene: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some outputs are there already, made by this very run: no reason to ask for --overwrite."""
    arguments = command(scene, tmp_path, "--tile-size", "25")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rscd.pipeline.maps.write_probability", _once_then(killed))
        assert main(arguments) == 130
    assert main(arguments) == 0
    assert contents(tmp_path) == uninterrupted


def _once_then(fail: Callable[..., Any]) -> Callable[..., Any]:
    from rscd.export.raster import write_probability

    calls = []

    def write(*args: Any, **kwargs: Any) -> Any:  # the first call is the rehearsal
        calls.append(args)
        return write_probability(*args, **kwargs) if len(calls) == 1 else fail()

    return write


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("done", b"\xff" * 17),
        ("done", os.urandom(200)),
        ("tile_size", b"51"),
        ("tile_size", b"\xff\xfe"),
        ("claim.json", b"\xff{"),
        ("published", b"\xff\n"),
        ("prob.hdr", b"ENVI\nsamples = 7"),
        ("prob.img", b"short"),
    ],
)
def test_a_damaged_work_folder_costs_time_alone(
    scene: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
) -> None:
    arguments = command(scene, tmp_path, "--tile-size", "25")
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        assert main(arguments) == 130
    (work,) = tmp_path.iterdir()
    (work / name).write_bytes(content)
    assert main(arguments) == 0
    assert contents(tmp_path) == uninterrupted


def test_pixels_that_the_disk_lost_are_computed_again(
    scene: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = command(scene, tmp_path, "--tile-size", "25")
    with monkeypatch.context() as patch:
        interrupt(patch, 9)
        assert main(arguments) == 130
    (work,) = tmp_path.iterdir()
    with (work / "prob.img").open("r+b") as file:  # of two of the nine tiles that are done
        file.seek(4 * (110 * 10 + 20))
        file.write(bytes(4 * 10))
    with monkeypatch.context() as patch:
        written = interrupt(patch, 1000)
        assert main(arguments) == 0
    assert len(written) == 25 - 7
    assert contents(tmp_path) == uninterrupted


@pytest.mark.parametrize("step", ["before", "within", "after"])
def test_killed_while_it_clears_away_a_run_is_done(
    scene: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
) -> None:
    arguments = command(scene, tmp_path, "--tile-size", "25", "--json")
    remove = journal_module.Journal.remove

    def killed(journal: Journal) -> None:
        if step == "after":
            remove(journal)
        if step == "within":
            (journal.folder / "claim.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.Journal, "remove", killed)
        assert main(arguments) == 130
    with monkeypatch.context() as patch:
        written = interrupt(patch, 0)
        capsys.readouterr()
        assert main(arguments) == 0
        assert written == []
    assert len(json.loads(capsys.readouterr().out)["outputs"]) == len(OUTPUTS)
    assert contents(tmp_path) == uninterrupted
    assert main(arguments) == 1  # from now on they are files like any other
    assert "already there; add --overwrite" in capsys.readouterr().err


def test_another_command_is_not_done_by_a_run_that_was_killed_at_its_end(
    scene: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.Journal, "remove", _interrupted)
        assert main(command(scene, tmp_path, "--tile-size", "25")) == 130
    capsys.readouterr()
    assert main(command(scene, tmp_path, "--threshold", "0.9")) == 1
    assert "already there; add --overwrite" in capsys.readouterr().err


def _interrupted(*_: Journal) -> None:
    raise KeyboardInterrupt


def test_a_disk_that_fills_up_during_the_work_says_what_is_kept(
    scene: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = command(scene, tmp_path, "--tile-size", "25")
    with monkeypatch.context() as patch:
        interrupt(patch, 9, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        assert main(arguments) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"rscd: expected .*; the computed part is kept in .*\.rscd, and.*\n", said)
    assert main(arguments) == 0
    assert contents(tmp_path) == uninterrupted


RUN = (sys.executable, "-c", "import sys; from rscd.cli import main; sys.exit(main())")
SIDE = 200


@pytest.fixture(scope="module")
def larger_scene(
    tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]
) -> list[str]:
    folder = tmp_path_factory.mktemp("larger")
    return [
        str(write_tif(folder / name, pixels, transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)))
        for name, pixels in zip(("t1.tif", "t2.tif"), town(SIDE), strict=True)
    ]


def slow(scene: list[str], folder: Path, model: str, tile: int) -> list[str]:
    """Many tiny tiles: there is time to kill it."""
    names = ["-o", "a.gpkg", "-o", "b.tif"]
    names += [] if model == "cva" else ["--objects-t1", "t1.gpkg", "--objects-t2", "t2.gpkg"]
    outputs = [str(folder / name) if "." in name else name for name in names]
    tiles = ["--tile-size", str(tile), "--workers", "1"]
    return ["predict", *scene, "-m", model, "-q", *tiles, *outputs]


SLOWLY = """
import time
from rscd.cli import main
from rscd.inference.journal import Journal
add = Journal.add
def slow(journal, tiles):
    add(journal, tiles)
    time.sleep(0.05 if done.stat().st_size >= n_bytes else 0)
Journal.add = slow
main(arguments)
"""
"""However busy the machine is, there is time to kill it when the journal holds so many bytes."""


def kill_at(process: Any, done: Path, n_bytes: float) -> bool:
    """Wait until the journal holds so many bytes, kill; whether it came to that."""
    deadline = time.monotonic() + 60
    try:
        while process.exitcode is None and time.monotonic() < deadline:
            if done.exists() and done.stat().st_size >= n_bytes:
                break
            time.sleep(0.001)
    finally:
        process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.posix
@pytest.mark.slow
@pytest.mark.parametrize(("model", "tile"), [("cva", 8), ("buildings", 32)])
def test_a_process_killed_three_times_ends_with_the_same_bytes(
    larger_scene: list[str],
    tmp_path: Path,
    buildings: Path,
    model: str,
    tile: int,
    forked: Callable[..., BaseProcess],
) -> None:
    model = str(buildings) if model == "buildings" else model
    through, killed = tmp_path / "through", tmp_path / "killed"
    for folder in (through, killed):
        folder.mkdir()
    assert main(slow(larger_scene, through, model, tile)) == 0
    arguments = slow(larger_scene, killed, model, tile)
    done = killed / ".a.gpkg.rscd" / "done"
    total = 8 * (-(-SIDE // tile)) ** 2
    progress = []
    for share in (0, 0.2, 0.6):
        given = {"arguments": arguments, "done": done, "n_bytes": total * share}
        assert kill_at(forked(exec, SLOWLY, given), done, total * share)
        assert [path.name for path in killed.iterdir()] == [".a.gpkg.rscd"]
        progress.append(done.stat().st_size)
    assert progress == sorted(progress)
    assert progress[1] >= total * 0.2
    assert main(arguments) == 0
    assert contents(killed) == contents(through)


def test_two_processes_at_once(scene: list[str], tmp_path: Path) -> None:
    arguments = ["predict", *scene, "-q", "-m", "cva", "-o", str(tmp_path / "a.tif")]
    with open_journal(tmp_path / ".a.tif.rscd", {}) as journal:
        journal.start(64)
        second = subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert re.fullmatch(r"rscd: another run is writing to .*\n", second.stderr)
        assert journal.started
