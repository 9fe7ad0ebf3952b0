"""Two folders for two rasters: what fails stops nothing, what is finished is not done again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rscd.cli import folders, main
from rscd.data.images import write_picture

N = 3


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for number in range(N):
        pixels = np.random.default_rng(number).integers(20, 200, (3, 32, 32)).astype(np.uint8)
        for day in ("t1", "t2"):
            (tmp_path / day).mkdir(exist_ok=True)
            # folders named like values of options must not be taken for files they name
            write_picture(tmp_path / day / f"{number}.png", pixels)
            pixels = pixels.copy()
            pixels[:, 8:20, 8:20] = 255 - pixels[:, 8:20, 8:20]
    return tmp_path


COMMAND = ("predict", "t1", "t2", "-m", "cva", "-o", "out/{name}.tif", "-o", "out/{name}.png")


def run(capsys: Any, *more: str, command: tuple[str, ...] = COMMAND) -> tuple[int, Any, str]:
    """Exit code, the JSON document on stdout, stderr."""
    code = main([*command, "--json", *more])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def states(document: Any) -> list[str]:
    return [pair["state"] for pair in document["pairs"]]


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_damaged_pair_stops_nothing_and_is_done_when_mended(days: Path, capsys: Any) -> None:
    whole = (days / "t1" / "1.png").read_bytes()
    (days / "t1" / "1.png").write_bytes(b"no picture")
    code, document, err = run(capsys)
    assert code == 1
    assert states(document) == ["done", "failed", "done"]
    assert (document["done"], document["skipped"], document["failed"]) == (2, 0, 1)
    assert "1.png" in document["pairs"][1]["error"]
    assert "found 1 that failed: 1" in err.splitlines()[-1]
    before = content(days / "out")
    (days / "t1" / "1.png").write_bytes(whole)
    code, document, _ = run(capsys)
    assert code == 0
    assert states(document) == ["skipped", "done", "skipped"]
    after = content(days / "out")
    assert {name: after[name] for name in before} == before
    assert sorted(document["pairs"][0]["outputs"]) == ["out/0.png", "out/0.tif"]


def test_the_same_command_again_changes_nothing(days: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    before = content(days / "out")
    code, document, _ = run(capsys, "--workers", "1")
    assert code == 0
    assert states(document) == ["skipped"] * N
    assert content(days / "out") == before
    assert states(run(capsys, "--overwrite")[1]) == ["done"] * N


@pytest.mark.slow
def test_another_process_knows_what_was_finished(days: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    before = content(days / "out")
    line = [sys.executable, "-m", "rscd", *COMMAND, "--json", "-q"]
    other = subprocess.run(line, capture_output=True, text=True, check=True)
    assert states(json.loads(other.stdout)) == ["skipped"] * N
    assert content(days / "out") == before


def test_a_missing_output_is_made_again(days: Path, capsys: Any) -> None:
    run(capsys)
    (days / "out" / "2.png").unlink()
    (days / "out" / "1.tif").unlink()
    (days / "out" / "1.png").unlink()
    code, document, _ = run(capsys)
    assert code == 0
    assert states(document) == ["skipped", "done", "done"]
    assert (days / "out" / "2.png").exists()
    # one output more of the same recipe
    code, document, _ = run(capsys, "-o", "out/{name}-again.png")
    assert code == 0
    assert states(document) == ["done"] * N


@pytest.mark.parametrize("what", ["model", "option", "input", "output"])
def test_results_of_another_recipe_are_never_kept_in_silence(
    days: Path, capsys: Any, what: str
) -> None:
    run(capsys)
    more: list[str] = []
    if what == "model":
        more = ["-m", "pca-kmeans"]
    elif what == "option":
        more = ["--threshold", "0.9"]
    elif what == "input":
        shutil.copy(days / "t2" / "1.png", days / "t2" / "0.png")
    else:
        shutil.copy(days / "out" / "1.png", days / "out" / "0.png")
    before = content(days / "out")
    code, document, _ = run(capsys, *more)
    assert code == 1
    assert content(days / "out") == before
    assert document["pairs"][0]["state"] == "failed"
    assert "already there; add --overwrite" in document["pairs"][0]["error"]
    assert states(document)[1:] == ["skipped" if what in ("input", "output") else "failed"] * 2
    assert run(capsys, *more, "--overwrite")[0] == 0
    assert states(run(capsys, *more)[1]) == ["skipped"] * N


def test_a_record_cut_short_costs_no_more_than_its_line(days: Path, capsys: Any) -> None:
    run(capsys)
    record = days / "out" / folders.RECORD
    record.write_bytes(record.read_bytes()[:-40])
    code, document, _ = run(capsys)
    assert states(document) == ["skipped", "skipped", "failed"]
    assert code == 1
    assert run(capsys, "--overwrite")[0] == 0
    assert states(run(capsys)[1]) == ["skipped"] * N


def test_usage_that_fits_no_pair_is_said_once(days: Path, capsys: Any) -> None:
    command = (*COMMAND[:-4], "-o", "out/{name}.geojson")
    code, document, err = run(capsys, command=command)
    assert code == 2
    assert document is None
    assert "--pixel-coordinates" in err


def test_a_dry_run_of_folders_is_one_document_and_leaves_nothing(days: Path, capsys: Any) -> None:
    code, document, _ = run(capsys, "--dry-run")
    assert code == 0
    assert states(document) == ["planned"] * N
    assert document["pairs"][0]["size"] == [32, 32]
    assert not list((days / "out").iterdir())


def test_folders_of_results_are_made_and_stay_where_something_is_in_them(
    days: Path, capsys: Any
) -> None:
    command = (*COMMAND[:5], "-o", "new/{name}/mask.png", "--prob", "prob/all/{name}.tif")
    assert states(run(capsys, "--dry-run", command=command)[1]) == ["planned"] * N
    (days / "t2" / "1.png").write_bytes(b"no picture")
    assert states(run(capsys, command=command)[1]) == ["done", "failed", "done"]
    made = sorted(str(p.relative_to(days)) for p in days.glob("[np]*/*") if p.is_dir())
    assert made == ["new/0", "new/2", "prob/all"]
    assert sorted(p.name for p in (days / "prob" / "all").glob("*.tif")) == ["0.tif", "2.tif"]
    assert states(run(capsys, command=command)[1]) == ["skipped", "failed", "skipped"]


def test_no_folder_is_left_of_a_dry_run_or_of_wrong_usage(days: Path, capsys: Any) -> None:
    before = sorted(days.iterdir())
    assert run(capsys, "--dry-run", command=(*COMMAND[:5], "-o", "new/{name}.png"))[0] == 0
    assert run(capsys, command=(*COMMAND[:5], "-o", "new/{name}.gpkg"))[0] == 2  # no CRS
    assert sorted(days.iterdir()) == before


def test_a_folder_that_cannot_be_made_is_one_line(days: Path, capsys: Any) -> None:
    code, document, _ = run(capsys, command=(*COMMAND[:5], "-o", "t1/0.png/new/{name}.png"))
    assert code == 1
    assert states(document) == ["failed"] * N
    assert document["pairs"][0]["error"].startswith(
        "expected to write t1/0.png/new/0.png, found: Not"
    )


def test_paths_of_all_results_are_printed(days: Path, capsys: Any) -> None:
    for _ in range(2):
        assert main([*COMMAND, "-q"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == [f"out/{n}{suffix}" for n in range(N) for suffix in (".tif", ".png")]
