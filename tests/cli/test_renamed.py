"""Command lines of version 0.1 do what today's do, and say what they are called now."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from rscd.cli import main, run_command
from rscd.cli.renamed import in_new_words

GRID = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
EVENTS = ["events", "a.tif", "b.tif"]


@pytest.fixture(autouse=True)
def scene(tmp_path: Path, write_tif: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    for name in ("a", "b"):
        pixels = rng.integers(60, 90, (3, 64, 64), np.uint8)
        pixels[:, 20:40, 10 : (30 if name == "a" else 10)] = 230
        write_tif(tmp_path / f"{name}.tif", pixels, transform=GRID)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", "run.json")  # they hold seconds
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "predict a.tif b.tif -m ceg:spectral -o {}/e.gpkg -o {}/e.geojson --gamma 0.4",
            "events a.tif b.tif --segmenter spectral -o {}/e.gpkg -o {}/e.geojson --gamma 0.4",
            "rscd events --segmenter NAME",
        ),
        (
            "predict a.tif b.tif --model=ceg:spectral --so gsd_m=0.4 -o {}/e.parquet",
            "events a.tif b.tif --segmenter spectral --segmenter-option gsd_m=0.4 -o {}/e.parquet",
            "rscd events --segmenter NAME",
        ),
        (
            "pseudolabel a.tif b.tif --backend spectral --so=gsd_m=0.4 -o {}",
            "pseudolabel a.tif b.tif --segmenter spectral --segmenter-option=gsd_m=0.4 -o {}",
            "--so goes with version 0.3: --segmenter-option",
        ),
        (
            "data towns --dst {}/t --train 2 --val 1 --test 1 --patch 64",
            "data towns -o {}/t --train 2 --val 1 --test 1 --size 64",
            "--patch goes with version 0.3: --size",
        ),
        ("sample {}/s --size 48,64", "sample -o {}/s --size 48,64", "rscd sample -o DIR"),
    ],
)
def test_old_words_do_the_same(
    scene: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    outputs = []
    for words, quiet in ((old, False), (old, True), (new, False)):
        folder = scene / "out"
        folder.mkdir()
        line = words.replace("{}", "out").split()
        assert main([*line, "-q"] if quiet else line) == 0
        outputs.append((content(folder), capsys.readouterr()))
        folder.rename(scene / f"out{len(outputs)}")
    (first, loud), (second, hushed), (third, today) = outputs
    assert first
    assert first == second == third
    assert loud.out == hushed.out == today.out
    assert said in loud.err
    assert hushed.err == ""
    assert "version 0.3" not in today.err


def test_the_last_line_of_a_quiet_failure_is_what_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["predict", "a.tif", "b.tif", "-m", "ceg:sam4", "-o", "c.gpkg", "-q"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("rscd: expected a segmenter among")


@pytest.mark.parametrize(
    ("model", "segmenter"),
    [
        (["-m", "ceg:x"], "x"),
        (["-mceg:x"], "x"),
        (["--model", "ceg:x"], "x"),
        (["--model=ceg:x"], "x"),
        (["--mod", "ceg:x"], "x"),
        (["-m", "cva", "-m", "ceg:y"], "y"),
        (["-m", "ceg"], ""),
    ],
)
def test_however_the_model_is_named(model: list[str], segmenter: str) -> None:
    rest = ["-o", "c.gpkg", "--min-area", "3", "--mod"[:3] + "sg"]
    words, notes = in_new_words(["predict", "a.tif", *model, "b.tif", *rest])
    assert words == ["events", "a.tif", "b.tif", *rest, f"--segmenter={segmenter}"]
    assert len(notes) == 1


@pytest.mark.parametrize(
    "line",
    [
        "predict a.tif b.tif -m ceg:x -m cva -o c.gpkg",
        "predict a.tif b.tif -m ceg_x.safetensors -o c.gpkg",
        "predict a.tif b.tif -o c.gpkg -m",
        "train -c a.yaml --patch 3",
        "evaluate d -m ceg:x",
        "events --so a=1",
        "--version",
        "",
    ],
)
def test_other_lines_stay_as_they_are(line: str) -> None:
    assert in_new_words(line.split()) == (line.split(), [])


def test_stages_of_a_chain_may_be_old(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = "pseudolabel a.tif b.tif --backend spectral -o store -q"
    run_command(line.split())
    assert (scene / "store/vl_change/a_b.tif").is_file()
    assert "--backend goes with version 0.3: --segmenter" in caplog.text
