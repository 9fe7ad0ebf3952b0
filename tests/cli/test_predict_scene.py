"""``rscd predict`` on street pictures: masks, flow, overlays, folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from scipy.ndimage import shift

import rscd.inference.weights as network_files
from rscd.cli import main
from rscd.inference.network import save_weights
from rscd.inference.weights import read_tensors
from rscd.models.scene_compact import scene_compact

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

ARGS = {"low_size": 64}
FLOW_PX = (5.0, -3.0)
"""What the network of these tests always finds, at 64 x 64; elsewhere in proportion."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose flow is known and whose change is random."""
    torch.manual_seed(0)
    network = scene_compact(**ARGS)  # type: ignore[arg-type]
    start: Any = network.decoder.start
    last = start.layers[-1]
    last.bias.data = torch.atanh(torch.tensor(FLOW_PX) / 32)
    path = tmp_path_factory.mktemp("scene") / "scene.safetensors"
    card = {
        "halo": 0,
        "multiple": 8,
        "patch_size": 64,
        "threshold": 0.5,
        "whole_pictures": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_files, "bytes_per_pixel", lambda *_: 1000)
        save_weights(path, network, "scene-compact", ARGS, card)
    return path


def predict(*args: str) -> None:
    assert main(["predict", *args]) == 0


def picture(path: Path, seed: int, height: int = 75, width: int = 100) -> Path:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (8, 10, 3)).astype(np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    return path


def test_a_pair_of_pictures(weights: Path, tmp_path: Path) -> None:
    t1, t2 = picture(tmp_path / "before.png", 1), picture(tmp_path / "after.png", 2)
    mask, flow = tmp_path / "change.png", tmp_path / "flow.tif"
    predict(
        str(t1),
        str(t2),
        "-m",
        str(weights),
        "-o",
        str(mask),
        "--flow",
        str(flow),
        "--preview",
        str(tmp_path / "overlay.png"),
        "--prob",
        str(tmp_path / "prob.tif"),
        "-q",
    )
    grays = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    assert grays is not None
    assert grays.shape == (75, 100)
    with rasterio.open(tmp_path / "prob.tif") as dataset:
        prob = dataset.read(1)
    assert ((grays == 255) == (prob >= 0.5)).all()
    assert set(np.unique(grays)) <= {0, 255}
    with rasterio.open(flow) as dataset:
        assert dataset.descriptions == ("dx, pixels, right", "dy, pixels, down")
        assert json.loads(dataset.tags()["rscd_provenance"])["model"]["network"] == "scene-compact"
        found = dataset.read()
    # seen whole, padded to 80 x 104: one unit for the whole picture, no tile of 64 pixels
    expected = np.array([FLOW_PX[0] * 104 / 64, FLOW_PX[1] * 80 / 64])
    np.testing.assert_allclose(found, expected[:, None, None] + 0 * found, atol=1e-3)
    overlay = cv2.imread(str(tmp_path / "overlay.png"))
    assert overlay is not None
    assert overlay.shape[1] > 3 * 100


def test_dissimilarity_of_aligned_features(weights: Path, tmp_path: Path) -> None:
    """FMA, section 3.2, from the network's own features, shifted as its flow says."""
    paths = [picture(tmp_path / f"{n}.png", n, 64, 64) for n in (1, 2)]
    tif, png = tmp_path / "unlike.tif", tmp_path / "unlike.png"
    for out in (tif, png):
        more = ["-o", str(tmp_path / f"{out.suffix[1:]}-change.tif"), "--dissimilarity", str(out)]
        predict(*map(str, paths), "-m", str(weights), "-q", *more)
    with rasterio.open(tif) as dataset:
        assert dataset.descriptions == ("dissimilarity, 0 to 1",)
        found = dataset.read(1)
    grays = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(grays, np.rint(255 * found).astype(np.uint8))

    network = scene_compact(**ARGS)  # type: ignore[arg-type]
    network.load_state_dict(read_tensors(weights))
    dates = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths]
    image = torch.from_numpy(np.stack(dates).astype(np.float32))[None]
    with torch.inference_mode():
        t1, t2 = network.eval().encode(image, all_strides=True)
    product = torch.ones(1, 1, 16, 16)
    for a, b in zip(t1.high, t2.high, strict=True):
        stride = 64 / a.shape[-1]
        back = (-FLOW_PX[1] / stride, -FLOW_PX[0] / stride)
        warped = np.stack(
            [shift(plane, back, order=1, mode="grid-constant") for plane in a[0].numpy()]
        )
        other = b[0].numpy()
        norm = np.linalg.norm(warped, axis=0) * np.linalg.norm(other, axis=0)
        cosine = (warped * other).sum(axis=0) / np.maximum(norm, 1e-8)
        small = torch.nn.functional.interpolate(
            torch.from_numpy(cosine)[None, None].float(), (16, 16), mode="bilinear"
        )
        product *= (1 + small) / 2
    inside = np.zeros((16, 16), bool)
    inside[1:, :14] = True  # 5 pixels to the right and 3 up of it there still is t1
    unlike = torch.where(torch.from_numpy(inside), 1 - product, 0.0)
    expected = torch.nn.functional.interpolate(unlike, (64, 64), mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found.std() > 0.1
    assert not found[:2].any()
    assert not found[:, -6:].any()


def test_georeferenced_pairs_go_by_tiles(
    weights: Path, tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    random = np.random.default_rng(0)
    paths = []
    for name in ("t1.tif", "t2.tif"):
        pixels = random.integers(0, 255, (3, 64, 128)).astype(np.uint8)
        paths.append(str(write_tif(tmp_path / name, pixels)))
    flow = tmp_path / "flow.tif"
    predict(
        *paths,
        "-m",
        str(weights),
        "-o",
        str(tmp_path / "c.tif"),
        "--flow",
        str(flow),
        "-q",
    )
    with rasterio.open(flow) as dataset, rasterio.open(paths[0]) as source:
        assert dataset.crs == source.crs
        assert dataset.transform == source.transform
        found = dataset.read()
    np.testing.assert_allclose(found[0], FLOW_PX[0], atol=1e-3)
    np.testing.assert_allclose(found[1], FLOW_PX[1], atol=1e-3)


def test_folders_go_pair_by_pair(weights: Path, tmp_path: Path) -> None:
    for folder in ("day1", "day2", "out"):
        (tmp_path / folder).mkdir()
    for number in (2, 10):
        picture(tmp_path / "day1" / f"{number}.png", number, 64, 64)
        picture(tmp_path / "day2" / f"{number}.jpg", number + 1, 64, 64)
    predict(
        str(tmp_path / "day1"),
        str(tmp_path / "day2"),
        "-m",
        str(weights),
        "-o",
        str(tmp_path / "out" / "{name}.png"),
        "--flow",
        str(tmp_path / "out" / "{name}.tif"),
        "-q",
    )
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {
        "2.png",
        "10.png",
        "2.tif",
        "10.tif",
    }


def test_what_cannot_be_meant(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = picture(tmp_path / "a" / "1.png", 0)
    outputs = ["-m", str(weights), "-o", str(tmp_path / "{name}.png")]

    def error(*args: str) -> str:
        assert main(["predict", *args]) == 2
        return str(capsys.readouterr().err)

    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert "two rasters or two folders" in error(str(one), b, *outputs)
    assert "1 without a partner, such as 1" in error(a, b, *outputs)
    picture(tmp_path / "b" / "1.png", 1)
    fixed = str(tmp_path / "change.png")
    assert "expected {name} in output names" in error(a, b, "-m", str(weights), "-o", fixed)
    two = str(tmp_path / "b" / "1.png")
    flow = ["--flow", str(tmp_path / "flow.tif")]
    unlike = ["--dissimilarity", str(tmp_path / "unlike.png")]
    assert "expected a model with flow" in error(
        str(one), two, "-m", "cva", "-o", str(tmp_path / "c.tif"), *unlike
    )
    assert "expected a model with flow" in error(
        str(one), two, "-m", "cva", "-o", str(tmp_path / "c.tif"), *flow
    )
    assert not list(tmp_path.glob("*.tif"))  # said before any work
    assert "drop --msi and --tta" in error(
        str(one), two, "-m", str(weights), "--tta", "1", "-o", str(tmp_path / "c.tif"), *flow
    )
    assert not list(tmp_path.glob("*.tif"))
