"""``rscd predict --report``: from two rasters to the page in one command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rscd.cli import main


@pytest.fixture
def pair(tmp_path: Path, write_tif: Callable[..., Path]) -> list[Path]:
    rng = np.random.default_rng(0)
    t1 = rng.integers(90, 110, (3, 64, 80)).astype(np.uint8)
    t2 = t1.copy()
    t2[:, 20:40, 30:50] = 250
    return [write_tif(tmp_path / f"{date}.tif", px) for date, px in (("t1", t1), ("t2", t2))]


def predict(pair: list[Path], *arguments: Any) -> int:
    return main(["predict", *map(str, pair), "-m", "cva", "-q", *map(str, arguments)])


def test_one_command_from_rasters_to_the_page(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, page = tmp_path / "change.gpkg", tmp_path / "report.html"
    outputs = ["-o", tmp_path / "change.tif", "-o", layer, "--report", page]
    assert predict(pair, *outputs, "--json") == 0
    assert json.loads(capsys.readouterr().out)["outputs"][-1] == str(page)
    alone = tmp_path / "alone.html"
    assert main(["report", "-q", str(layer), "-o", str(alone)]) == 0
    assert page.read_bytes() == alone.read_bytes()
    # an existing page is kept, or replaced with the rest
    assert predict(pair, "-o", tmp_path / "other.gpkg", "--report", page) == 1
    assert "expected a new file" in capsys.readouterr().err
    assert not (tmp_path / "other.gpkg").exists()
    page.write_text("mine")
    assert predict(pair, *outputs, "--overwrite") == 0
    assert page.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (["-o", "change.tif", "--report", "report.html"], "--report, found change.tif; add -o"),
        (["-o", "change.gpkg", "--report", "report.pdf"], "ending in .html"),
    ],
)
def test_what_does_not_go_is_said_before_the_work(
    pair: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outputs: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(pair, *outputs) == 2
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t1.tif", "t2.tif"]


def test_where_nothing_changed_there_is_no_page(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, page = tmp_path / "change.gpkg", tmp_path / "report.html"
    pair = [pair[0], pair[0]]
    assert (
        main(["predict", *map(str, pair), "-m", "cva", "-o", str(layer), "--report", str(page)])
        == 0
    )
    assert not page.exists()
    assert "nothing to review" in capsys.readouterr().err


def test_folders_have_a_page_each(pair: list[Path], tmp_path: Path) -> None:
    for date, path in zip(("a", "b"), pair, strict=True):
        (tmp_path / date).mkdir()
        path.rename(tmp_path / date / "place.tif")
    outputs = ["-o", tmp_path / "{name}.gpkg", "--report", tmp_path / "{name}.html"]
    assert predict([tmp_path / "a", tmp_path / "b"], *outputs) == 0
    assert (tmp_path / "place.html").stat().st_size > 100_000
