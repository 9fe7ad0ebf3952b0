"""Commands that write several files and stop between them: the same command may go on."""

import errno
from pathlib import Path
from types import ModuleType
from typing import Any

import geopandas
import pytest
import rasterio

import rscd.evaluation.sheet
import rscd.export.vector
import rscd.pipeline.objects
import rscd.synthetic.sample
from rscd.base.files import place
from rscd.cli import main

SIZE = ("--size", "64,64", "--seed", "3")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    assert main(["sample", "-o", str(folder), *SIZE, "-q"]) == 0
    return folder


FOOTPRINTS = ["buildings_t1.geojson", "buildings_t2.geojson"]
SCENES = ["scene_t1.tif", "scene_t2.tif"]


def line(town: Path, names: list[str], folder: Path, more: list[Any]) -> list[str]:
    outputs = ["-o", str(folder / "e.gpkg"), "-o", str(folder / "e.geojson")]
    return ["events", *(str(town / name) for name in names), *outputs, *more, "-q"]


def failing_at(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, last: str) -> None:
    """The function as it is, but that the disk is full when it is to write a file so named."""
    write = getattr(module, name)

    def full(*args: Any, **keywords: Any) -> None:
        # rehearsals write elsewhere
        if any(getattr(arg, "name", "") == last and arg.parent.name == "out" for arg in args):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args, **keywords)

    monkeypatch.setattr(module, name, full)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("names_of", "more", "module", "others"),
    [
        (FOOTPRINTS, [], rscd.export.vector, [["--delta", "0.3"]]),
        (
            SCENES,
            ["--segmenter", "spectral"],
            rscd.pipeline.objects,
            [
                ["--delta", "0.3"],
                ["--bbox", "398400,5822380,398420,5822400"],
                ["--min-area", "3"],
                ["--segmenter", "buildings"],
            ],
        ),
    ],
)
def test_a_disk_that_was_full_for_the_second_file(
    town: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names_of: list[str],
    more: list[Any],
    module: ModuleType,
    others: list[list[str]],
) -> None:
    (out := tmp_path / "out").mkdir()
    argv = line(town, names_of, out, more)
    with monkeypatch.context() as patch:
        failing_at(patch, module, "write_vector", "e.geojson")
        assert main(argv) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "No space left" in said
    assert "the same command, given again, replaces" in said
    assert "e.gpkg" in names(out)
    for other in others:
        assert main([*argv, *other]) == 1, "another command"
        assert "e.gpkg already there" in capsys.readouterr().err
    assert main(argv) == 0
    assert not [name for name in names(out) if name.startswith(".")]
    assert len(geopandas.read_file(out / "e.gpkg")) == len(geopandas.read_file(out / "e.geojson"))
    assert main(argv) == 1, "finished now"


def test_an_evaluation_that_stops_between_its_files(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (out := tmp_path / "out").mkdir()
    prob = town / "p.tif"
    with rasterio.open(town / "truth_mask.tif") as source:
        profile = source.profile | {"dtype": "float32"}
        with rasterio.open(prob, "w", **profile) as target:
            target.write(source.read().astype("float32"))
    argv = ["evaluate", str(prob), str(town / "truth.geojson"), "-o", str(out / "e.gpkg"), "-q"]
    argv += ["--reliability", str(out / "r.png")]
    with monkeypatch.context() as patch:
        failing_at(patch, rscd.evaluation.sheet, "write_reliability", "r.png")
        assert main(argv) == 1
    assert "e.gpkg" in names(out)
    assert main([*argv, "--threshold", "0.4"]) == 1, "another command"
    assert main(argv) == 0
    assert not [name for name in names(out) if name.startswith(".")]
    assert {"e.gpkg", "r.png"} <= set(names(out))
    capsys.readouterr()
    assert main(argv) == 1, "finished now"
    assert "already there" in capsys.readouterr().err


def test_a_sample_killed_after_its_last_file_is_there(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    argv = ["sample", "-o", str(folder), *SIZE, "-q"]

    def killed(*args: Any) -> None:
        place(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rscd.synthetic.sample, "place", killed)
        assert main(argv) == 130
    assert main(["sample", "-o", str(folder), "--size", "64,64", "-q"]) == 1, "another sample"
    assert "already there" in capsys.readouterr().err
    assert main(argv) == 0
    wanted = {p.name: p.read_bytes() for p in town.iterdir() if p.name != "p.tif"}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == wanted
    assert main(argv) == 1
