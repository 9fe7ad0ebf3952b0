"""Pseudo masks of georeferenced scenes: those of the same tiles in a folder, in their place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
import yaml
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from rscd.cli import main
from rscd.data.scenes import Scene, ScenePairs
from rscd.inference.network import save_weights
from rscd.models.networks import build_network

CAM = {"encoder": "tu-test_resnet", "output_stride": 16, "combination": "cat"}
SIZE, ROWS, COLUMNS = 64, 2, 3
LABELS = [1, 0, None, 0, 1, 1]
"""Tile by tile; nobody answered for the third."""
TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "kd.safetensors"
    card = {"halo": 16, "multiple": 16, "patch_size": SIZE, "threshold": 0.5}
    save_weights(path, build_network("cam", CAM), "cam", CAM, card)
    return path


def tile(number: int) -> tuple[slice, slice]:
    row, column = divmod(number, COLUMNS)
    return slice(SIZE * row, SIZE * (row + 1)), slice(SIZE * column, SIZE * (column + 1))


@pytest.fixture
def both(tmp_path: Path, write_tif: Callable[..., Path]) -> Path:
    """A scene with answers and masks, and its answered tiles as a folder of pairs."""
    rng = np.random.default_rng(0)
    images = rng.integers(1, 255, (2, 3, ROWS * SIZE, COLUMNS * SIZE), np.uint8)
    mask = (rng.random(images.shape[-2:]) < 0.3).astype(np.uint8) * 255
    (tmp_path / "scene").mkdir()
    for name, pixels in (("t1", images[0]), ("t2", images[1]), ("mask", mask)):
        write_tif(tmp_path / "scene" / f"{name}.tif", pixels, transform=TRANSFORM)
    cells = []
    for number, label in enumerate(LABELS):
        rows, columns = tile(number)
        left, top = TRANSFORM @ (columns.start, rows.start)
        cells.append(shapely.box(left, top - SIZE / 2, left + SIZE / 2, top))
        if label is None:
            continue
        for kind, pixels in (("A", images[0]), ("B", images[1]), ("label", mask)):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            part = pixels[..., rows, columns]
            part = part if part.ndim == 2 else np.moveaxis(part, 0, 2)
            Image.fromarray(part).save(tmp_path / "set" / kind / f"{number}.png")
    lists = tmp_path / "set" / "list"
    lists.mkdir()
    answered = [(i, label) for i, label in enumerate(LABELS) if label is not None]
    for part in ("train", "val"):
        (lists / f"{part}.txt").write_text("".join(f"{i}.png\n" for i, _ in answered))
        lines = (f"{i}.png,0,0,{label}\n" for i, label in answered)
        (lists / f"{part}_label.txt").write_text("".join(lines))
    frame = geopandas.GeoDataFrame({"changed": LABELS}, geometry=cells, crs="EPSG:32633")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "scene" / "cells.geojson", engine="pyogrio")
    t1, t2, mask_path, answers = (
        str(tmp_path / "scene" / n) for n in ("t1.tif", "t2.tif", "mask.tif", "cells.geojson")
    )

    def stream(**scene: Any) -> dict[str, Any]:
        scene = {"t1": t1, "t2": t2, **scene}
        return {
            "class_path": "rscd.data.scenes.ScenePairs",
            "init_args": {"scenes": [scene]},
            "patch_size": SIZE,
        }

    streams = {
        "train": stream(answers=answers, name="town"),
        "val": stream(labels=mask_path),
        "pairs": {
            "class_path": "rscd.data.folder.PairFolder",
            "init_args": {"root": str(tmp_path / "set"), "split": "train"},
        },
    }
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump({"data": {"streams": streams}}))
    return tmp_path


def run(weights: Path, capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 0) -> Any:
    command = ["pseudolabel", *map(str, arguments), "--checkpoint", str(weights)]
    assert main([*command, "--device", "cpu", "--scales", "fast", "--json", "-q"]) == code
    out = capsys.readouterr()
    return json.loads(out.out) if code == 0 else out.err


def read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize("how", ["configuration", "rasters"])
@pytest.mark.parametrize("threshold", ["0.4", "otsu"])
def test_masks_are_those_of_the_tiles_in_a_folder(
    both: Path, weights: Path, capsys: pytest.CaptureFixture[str], how: str, threshold: str
) -> None:
    scene, out = both / "scene", both / "masks"
    if how == "configuration":
        where: list[Any] = [both / "kd.yaml"]
        name = "town"
    else:
        where = [scene / "t1.tif", scene / "t2.tif", "--labels", scene / "cells.geojson"]
        name = "t1"
    found = run(weights, capsys, *where, "--threshold", threshold, "-o", out)
    folder = run(weights, capsys, both / "set", "--split", "train", "--threshold", threshold)
    assert found["threshold"] == folder["threshold"]
    assert (found["written"], found["predicted"]) == (1, 3)
    with rasterio.open(out / f"{name}.tif") as file:
        whole = file.read(1)
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32633, TRANSFORM, 255)
    assert whole.shape == (ROWS * SIZE, COLUMNS * SIZE)
    assert (whole == 1).any()
    for number, label in enumerate(LABELS):
        part = whole[tile(number)]
        if label is None:
            assert (part == 255).all()
        else:
            np.testing.assert_array_equal(part, read(both / "set" / "pseudo" / f"{number}.png"))
    # training reads them as they are
    t1, t2 = str(scene / "t1.tif"), str(scene / "t2.tif")
    dataset = ScenePairs(Scene(t1, t2, labels=str(out / f"{name}.tif")), keys={"mask"})
    np.testing.assert_array_equal(dataset[:, :]["mask"][0], whole)


def test_the_threshold_is_chosen_on_a_stream(
    both: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(weights, capsys, both / "kd.yaml", "-o", both / "masks")
    assert (found["rule"], found["criterion"]) == ("val", "iou_change")
    pairs = run(weights, capsys, both / "kd.yaml", "--split", "pairs", "--name", "from_config")
    assert pairs["written"] == 5
    assert len(list((both / "set" / "from_config").glob("*.png"))) == 5
    assert (pairs["threshold"], pairs["score"]) == (found["threshold"], found["score"])


def test_what_is_there_is_kept_unless_its_sources_changed(
    both: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [both / "kd.yaml", "--threshold", "0.5", "-o", both / "masks"]
    run(weights, capsys, *command)
    stamp = (both / "masks" / "town.tif").stat().st_mtime_ns
    assert run(weights, capsys, *command)["written"] == 0
    assert (both / "masks" / "town.tif").stat().st_mtime_ns == stamp
    with rasterio.open(both / "scene" / "t2.tif", "r+") as file:
        file.write(255 - file.read())
    error = run(weights, capsys, *command, code=1)
    assert "found other scenes; give --overwrite" in error
    assert run(weights, capsys, *command, "--overwrite")["written"] == 1


def test_a_damaged_scene_has_no_mask(
    both: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = both / "scene" / "t2.tif"
    damaged.write_bytes(damaged.read_bytes()[:30_000])
    error = run(
        weights, capsys, both / "kd.yaml", "--threshold", "0.5", "-o", both / "masks", code=1
    )
    assert "t2.tif" in error
    assert not list((both / "masks").glob("*.tif"))


def test_what_cannot_be_meant_is_refused(
    both: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = both / "kd.yaml"
    rasters = [both / "scene" / "t1.tif", both / "scene" / "t2.tif"]
    (both / "other.yaml").write_text("stages: {}")
    for arguments, code, message in (
        ([config, "--threshold", "0.5"], 2, "expected -o FOLDER for masks of scenes"),
        ([config, "--split", "test", "-o", "x"], 1, "expected a stream 'test', configured are"),
        ([config, "--split", "val", "--bands", "1", "-o", "x"], 2, "found --labels or --bands"),
        ([config, "--threshold", "train_oracle", "-o", both / "x"], 1, "neither labels nor"),
        ([both / "other.yaml", "-o", "x"], 2, "expected a training configuration"),
        ([both / "none.yaml", "-o", "x"], 2, "expected a training configuration"),
        ([*rasters, "-o", both / "x"], 2, "expected --labels FILE"),
        ([*rasters, "--no-gate", "-o", both / "x"], 2, "--threshold otsu or a number"),
    ):
        error = run(weights, capsys, *arguments, code=code)
        assert message in error.splitlines()[-1]
        assert not (both / "x").exists()
    assert not Path("x").exists()
