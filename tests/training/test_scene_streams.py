"""Methods trained on scenes: the same weights as from the same tiles in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
import torch
import yaml
from affine import Affine
from PIL import Image

from rscd.base.types import LAYERS
from rscd.cli import main
from rscd.training.run import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The number of training batches",
    "ignore:.*does not have many workers",
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
    "ignore:Experiment logs directory",
)

SIZE, COLUMNS = 64, 4
ANSWERS = [True, False, False, True]
MODELS: dict[str, dict[str, Any]] = {
    "kdmsi": {
        "network": "cam",
        "network_args": {
            "encoder": "tu-test_resnet", "output_stride": 16, "combination": "cat",
        },
    },
    "diffmatch": {
        "network": "siamese-mlp",
        "network_args": {"encoder": "tu-test_resnet", "width": 16, "std": [50.0] * 3},
        "weak": {"patch_size": SIZE},
    },
}  # fmt: skip


@pytest.fixture
def tiles(tmp_path: Path, write_tif: Callable[..., Path]) -> Path:
    """Two scenes of four tiles in a row, one to validate on, and the tiles as files."""
    rng = np.random.default_rng(0)
    for number, part in enumerate(("train", "val")):
        place = Affine(0.5, 0, 500_000 + 1000 * number, 0, -0.5, 5_000_000)
        shape = (SIZE, COLUMNS * SIZE)
        maps = {key: rng.choice(np.array([0, 1, 255], np.uint8), shape) for key in LAYERS}
        maps |= {"label": (rng.random(shape) < 0.3).astype(np.uint8) * 255}
        images = {date: rng.integers(1, 255, (3, *shape), np.uint8) for date in "AB"}
        folder = tmp_path / part
        folder.mkdir()
        for name, pixels in {**maps, **images}.items():
            nodata = 255 if name in LAYERS else None
            write_tif(folder / f"{name}.tif", pixels, transform=place, nodata=nodata)
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in range(COLUMNS):
                tile = pixels[..., SIZE * i : SIZE * (i + 1)]
                tile = tile if tile.ndim == 2 else np.moveaxis(tile, 0, 2)
                Image.fromarray(tile).save(tmp_path / "set" / part / name / f"{i}.png")
        cells = [
            shapely.box(*(place @ (SIZE * i, SIZE)), *(place @ (SIZE * (i + 1), 0)))
            for i in range(COLUMNS)
        ]
        frame = geopandas.GeoDataFrame({"changed": ANSWERS}, geometry=cells, crs="EPSG:32633")
        frame.to_file(folder / "cells.gpkg", engine="pyogrio")
    lines = (f"{i}.png,0,0,{int(changed)}\n" for i, changed in enumerate(ANSWERS))
    (tmp_path / "labels.txt").write_text("".join(lines))
    return tmp_path


def scenes(tiles: Path, part: str, **more: Any) -> dict[str, Any]:
    here = tiles / part
    scene = {"t1": str(here / "A.tif"), "t2": str(here / "B.tif"), **more}
    return {
        "class_path": "rscd.data.scenes.ScenePairs",
        "init_args": {"scenes": [scene]},
        "patch_size": SIZE,
    }


def pairs(tiles: Path, part: str, **more: Any) -> dict[str, Any]:
    init_args = {"root": str(tiles / "set"), "split": part, **more}
    return {"class_path": "rscd.data.folder.PairFolder", "init_args": init_args}


def streams_of(method: str, source: str, tiles: Path) -> dict[str, Any]:
    here = tiles / "train"
    layers = {key: str(here / f"{key}.tif") for key in LAYERS}
    if source == "folder":
        val = pairs(tiles, "val")
        train = pairs(tiles, "train", **(
            {"labels": str(tiles / "labels.txt")} if method == "kdmsi" else {}))  # fmt: skip
    else:
        val = scenes(tiles, "val", labels=str(tiles / "val" / "label.tif"))
        train = (
            scenes(tiles, "train", answers=str(here / "cells.gpkg"))
            if method == "kdmsi"
            else scenes(tiles, "train", labels=str(here / "label.tif"), layers=layers)
        )
    names = ("train",) if method == "kdmsi" else ("labeled", "unlabeled")
    return {**dict.fromkeys(names, train), "val": val}


@pytest.mark.slow
@pytest.mark.parametrize("method", MODELS)
def test_a_training_from_scenes_is_that_from_their_tiles(
    method: str, tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiles)
    found = {}
    for source in ("folder", "scenes"):
        config = {
            "seed_everything": 0,
            # of overfitting, because random patches of scenes are others than shuffled tiles
            "trainer": {"accelerator": "cpu", "max_epochs": 2, "overfit_batches": 2},
            "model": {"method": method, "method_args": MODELS[method]},
            "data": {"batch_size": 2, "streams": streams_of(method, source, tiles)},
        }
        Path(f"{source}.yaml").write_text(yaml.safe_dump(config))
        trainer = train(["-c", f"{source}.yaml", "--trainer.default_root_dir", source])
        assert trainer.global_step == 4
        found[source] = torch.load(f"{source}/last.ckpt", weights_only=True)["state_dict"]
    tensors = {k: v for k, v in found["folder"].items() if isinstance(v, torch.Tensor)}
    assert len(tensors) > 20
    assert all(torch.equal(value, found["scenes"][name]) for name, value in tensors.items())


@pytest.mark.slow
def test_kdmsi_chain_on_scenes_opens_no_mask_to_train_on(
    tiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, pseudo masks in place, a detector, and polygons: by one file."""
    monkeypatch.chdir(tiles)
    (tiles / "train" / "label.tif").unlink()
    val = scenes(tiles, "val", labels=str(tiles / "val" / "label.tif"))

    def stage(method: str, args: dict[str, Any], **scene: Any) -> dict[str, Any]:
        return {
            "trainer": {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1},
            "model": {"method": method, "method_args": args, "patch_size": SIZE, "halo": 16},
            "data": {
                "batch_size": 2,
                "streams": {"train": scenes(tiles, "train", **scene), "val": val},
            },
        }

    answers = str(tiles / "train" / "cells.gpkg")
    dates = [str(tiles / "val" / "A.tif"), str(tiles / "val" / "B.tif")]
    stages = {
        "kd": {"train": stage("kdmsi", MODELS["kdmsi"], answers=answers, name="town")},
        "masks": {
            "pseudolabel": {
                "args": ["{kd}/config.yaml"], "checkpoint": "{kd}/best.ckpt", "device": "cpu",
                "scales": "fast", "output": "{masks}", "quiet": True,
            }
        },
        "detector": {
            "train": stage("supervised", {"network": "tiny"}, labels="{masks}/town.tif")
        },
        "predict": {
            "predict": {
                "args": dates, "model": "{detector}/best.ckpt",
                "output": "{predict}/change.geojson", "quiet": True,
            }
        },
    }  # fmt: skip
    content = {"folder": "run", "stages": stages}
    Path("chain.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["train", "-c", "chain.yaml"]) == 0
    assert geopandas.read_file("run/predict/change.geojson").crs.to_epsg() == 4326
    stamp = Path("run/masks/town.tif").stat().st_mtime_ns
    assert main(["train", "-c", "chain.yaml"]) == 0
    assert Path("run/masks/town.tif").stat().st_mtime_ns == stamp
