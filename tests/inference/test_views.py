"""Networks looked through at several scales: as models of the engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from rscd import Options, open_pair, predict
from rscd.base.errors import ModelError, UsageError
from rscd.cli import main
from rscd.geo.tiles import Box
from rscd.inference.models import load_model, scene_model
from rscd.inference.network import load_network, save_weights
from rscd.inference.predictor import Tiling
from rscd.inference.shipped import SceneFacts
from rscd.inference.views import multi_scale, parse_scales
from rscd.methods.parts.multiscale import PRESETS, Views, msi, tta_logits
from rscd.models.networks import build_network

LOCAL = {"encoder": "resnet18", "decoder_channels": [8, 4], "mean": [100.0] * 3, "std": [50.0] * 3}
CAM = {"encoder": "tu-test_resnet", "output_stride": 16, "combination": "cat"}


def saved(path: Path, name: str, args: dict[str, Any], **card: Any) -> Path:
    torch.manual_seed(0)
    network = build_network(name, args)
    full = {"halo": 48, "multiple": network.multiple, "patch_size": 160, "threshold": 0.5} | card
    save_weights(path, network, name, args, full)
    return path


@pytest.fixture
def scene(tmp_path: Path, write_tif: Callable[..., Path]) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 3, 27, 33))
    dates = np.kron(coarse, np.ones((4, 4))).astype(np.uint8)
    return write_tif(tmp_path / "t1.tif", dates[0]), write_tif(tmp_path / "t2.tif", dates[1])


def prob_of(scene: tuple[Path, Path], folder: Path, **options: Any) -> Any:
    out, prob = folder / "change.tif", folder / "prob.tif"
    result = predict(
        open_pair(*scene), [out], Options(overwrite=True, device="cpu", **options), prob=prob
    )
    with rasterio.open(prob) as dataset:
        return dataset.read(1), result


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["msi", "tta"])
def test_tiled_equals_whole_where_the_halo_covers_what_the_network_sees(
    tmp_path: Path, scene: tuple[Path, Path], kind: str
) -> None:
    weights = saved(tmp_path / "w.safetensors", "siamese-unet", LOCAL)
    pair, options = open_pair(*scene), {"model": str(weights), kind: "0.5,1,1.5"}
    views: dict[str, Any] = {"msi": None, "tta": None, kind: "0.5,1,1.5"}
    model: Any = multi_scale(load_network(weights, "cpu", 1), **views, eight_bit=True)
    assert model.tiling.exact
    halo = model.tiling.halo
    image, valid = pair.read(Box(-halo, -halo, 128 + 2 * halo, 192 + 2 * halo))
    whole = model(image[None], valid[None])[0][halo : halo + 108, halo : halo + 132]
    for tile_size in (64, 512):
        tiled, result = prob_of(scene, tmp_path, tile_size=tile_size, **options)
        np.testing.assert_allclose(tiled, whole, atol=2e-5)
        assert result.seam is None


def test_the_engine_gives_what_the_functions_give(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    weights = saved(tmp_path / "w.safetensors", "siamese-unet", LOCAL)
    network = load_network(weights, "cpu", 1)
    image, valid = open_pair(*scene).read(Box(0, 0, 64, 128))
    pairs, views = torch.from_numpy(image[None]), Views((0.5, 2.0), multiple=4)

    def logits(x: Tensor) -> Tensor:
        return network.outputs(x)["logits"]

    with torch.inference_mode():
        maps = msi(logits, pairs, views)[:, 0].numpy()
        sums = tta_logits(logits, pairs, views)[:, 0].numpy()
    asked: dict[str, Any] = {"msi": None, "tta": None, "eight_bit": True}
    averaged: Any = multi_scale(network, **asked | {"msi": "0.5,2"})
    found = averaged(image[None], valid[None])
    np.testing.assert_allclose(found, maps, atol=1e-6)
    summed: Any = multi_scale(network, **asked | {"tta": "0.5,2"})
    found = summed(image[None], valid[None])
    np.testing.assert_array_equal(found > 0.5, sums > 0)


def test_maps_are_averaged_at_the_resolution_of_the_network(
    tmp_path: Path, scene: tuple[Path, Path]
) -> None:
    weights = saved(tmp_path / "cam.safetensors", "cam", CAM)
    network = load_network(weights, "cpu", 1)
    image, valid = open_pair(*scene).read(Box(0, 0, 64, 128))
    model: Any = multi_scale(network, msi="fast", tta=None, eight_bit=True)
    with torch.inference_mode():
        views = Views(PRESETS["fast"])
        wanted = msi(lambda x: network.outputs(x)["cam"], torch.from_numpy(image[None]), views)
    np.testing.assert_allclose(model(image[None], valid[None])[0], wanted[0, 0], atol=1e-6)


@pytest.mark.slow
def test_seam_is_measured_where_the_network_sees_beyond_the_halo(
    tmp_path: Path, scene: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pooling = {"encoder": "mobilenet_v2", "output_stride": 32, "batch_norm": "normal"}
    weights = saved(tmp_path / "w.safetensors", "siamese-deeplab", pooling, halo=16)
    command = ["predict", *map(str, scene), "-m", str(weights), "-o", str(tmp_path / "c.tif")]
    assert main([*command, "--msi", "0.5,1", "--tile-size", "64", "--json", "-q"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["seam"]["mean_abs"] <= result["seam"]["max_abs"] < 1
    with rasterio.open(tmp_path / "c.tif") as dataset:
        assert dataset.read(1).shape == (108, 132)


def test_tiling_grows_with_the_scales(tmp_path: Path) -> None:
    network = load_network(saved(tmp_path / "cam.safetensors", "cam", CAM), "cpu", 1)

    def tiling(scales: str) -> Tiling:
        return multi_scale(network, msi=scales, tta=None, eight_bit=True).tiling

    own = network.tiling
    assert tiling("0.5").halo >= 2 * own.halo
    assert tiling("0.5").halo % 64 == 0
    assert tiling("2").bytes_per_pixel > 4 * own.bytes_per_pixel
    assert tiling("1").bytes_per_pixel < 1.5 * own.bytes_per_pixel
    assert tiling("0.5,1,1.5,2").tile_size % tiling("0.5,1,1.5,2").multiple == 0


def test_card_tells_the_views(tmp_path: Path) -> None:
    network = load_network(saved(tmp_path / "cam.safetensors", "cam", CAM), "cpu", 1)
    model = multi_scale(network, msi="paper", tta=None, eight_bit=False)
    assert model.card()["views"]["scales"] == [0.5, 1.0, 1.5, 2.0]
    assert "0.5, 1, 1.5, 2" in model.summary
    assert multi_scale(network, msi=None, tta=None, eight_bit=True) is network


def test_flips_reach_the_views(tmp_path: Path) -> None:
    weights = saved(tmp_path / "cam.safetensors", "cam", CAM)
    facts = SceneFacts(3, 0.5, georeferenced=True, eight_bit=True)
    for flip in ("width", "height"):
        model = scene_model(str(weights), facts, "cpu", msi="1", flip=flip)
        assert model.card()["views"]["flip"] == flip


def test_what_cannot_be_meant_is_refused(tmp_path: Path, scene: tuple[Path, Path]) -> None:
    with pytest.raises(ModelError, match="expected a trained network for --msi"):
        prob_of(scene, tmp_path, model="cva", msi="1")
    network = load_network(saved(tmp_path / "cam.safetensors", "cam", CAM), "cpu", 1)
    with pytest.raises(UsageError, match="one of --msi and --tta"):
        multi_scale(network, msi="1", tta="1", eight_bit=True)
    for wrong in ("", "1,x", "0", "9", "big"):
        with pytest.raises(UsageError, match="expected scales"):
            parse_scales(wrong)
    assert load_model("cva").name == "cva"
