"""Detectors on frozen features: selection, thresholds, tiles, nodata, values and bands."""

import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage

from rscd.base.errors import ModelError, UsageError
from rscd.evaluation.dataset import MemoryPair, predict_pair
from rscd.geo.tiles import plan_tiles
from rscd.inference.detectors import deep
from rscd.inference.detectors.deep import Deep, change_of, parse_deep, squared_length, varying
from rscd.inference.detectors.otsu import otsu_threshold
from rscd.inference.detectors.registry import DEEP_DETECTORS
from rscd.inference.models import load_model, scene_model
from rscd.inference.shipped import SceneFacts
from rscd.inference.tiled import fit_model, run_block

every_kind = pytest.mark.parametrize("kind", DEEP_DETECTORS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of tiny encoders of timm with random weights in files."""
    folder, names = tmp_path_factory.mktemp("weights"), {}
    for name in ("test_resnet", "test_vit"):
        torch.manual_seed(0)
        path = folder / f"{name}.safetensors"
        save_file(timm.create_model(name).state_dict(), path)
        names[name] = f"{name}@{path}"
    return names


@pytest.fixture(scope="module")
def model(weights: dict[str, str]) -> Any:
    return cache(lambda kind, encoder="test_resnet": load_model(f"{kind}:{weights[encoder]}"))


def town(shape: tuple[int, int] = (96, 112), seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """(2,3,H,W) 8-bit values: smooth ground, seen a little brighter at t2, with one new block."""
    rng = np.random.default_rng(seed)
    ground = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 3, 3))
    ground = 110 + 25 * ground / ground.std()
    image = np.stack([ground, 1.05 * ground + 8]) + rng.normal(size=(2, 3, *shape))
    truth = np.zeros(shape, bool)
    truth[32:64, 32:72] = True
    image[1, :, truth] = [230, 60, 40] + 20 * rng.normal(size=(truth.sum(), 3))
    return np.clip(image, 0, 255).astype(np.float32), truth


def in_tiles(model: Deep, image: NDArray[Any], valid: NDArray[Any], tile_size: int) -> NDArray[Any]:
    pair: Any = MemoryPair(image, valid)
    predictor = fit_model(pair, model)
    tiling, prob = predictor.tiling, np.full(valid.shape, np.nan, np.float32)
    for tile in plan_tiles(valid.shape, tile_size, tiling.halo, tiling.multiple):
        [piece] = run_block(pair, predictor, [tile])
        prob[tile.write.slices] = piece.prob
    return prob


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dcva", ("dcva", None, None)),
        ("features:resnet50", ("features", "resnet50", None)),
        (
            "features:vit_small_patch14_dinov2.lvd142m",
            ("features", "vit_small_patch14_dinov2.lvd142m", None),
        ),
        ("dcva:resnet18@w/r18.ckpt", ("dcva", "resnet18", "w/r18.ckpt")),
        ("features:@lite0.pth", ("features", None, "lite0.pth")),
    ],
)
def test_names(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: tuple[str, str | None, str | None]
) -> None:
    monkeypatch.setattr(deep, "load_deep", lambda asked, *_: parse_deep(asked))
    found: object = load_model(name)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cva:resnet50", "expected a model among"),
        ("runs/dcva.ckpt", "expected a checkpoint"),
        ("dcva:resnet50@", "expected a file of weights after @"),
        ("features:@", "expected a file of weights after @"),
        ("dcva:@none.safetensors", "found none at none.safetensors"),
    ],
)
def test_names_of_other_models(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(name)


def test_the_features_that_vary_most_in_some_part_are_chosen() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(size=(30, 400))
    difference[3] *= 5  # everywhere
    difference[17, 300:] *= 9  # in the last part only
    difference[25] *= 7
    chosen = varying(difference, (20, 10))
    assert chosen[[3, 17, 25]].all()
    assert chosen[:20].sum() <= 2 * 4
    assert chosen[20:].sum() == 1  # a tenth of ten: the same one in all parts
    assert varying(difference[:, :2], (20, 10)).any()


def test_length_and_threshold_by_hand() -> None:
    """Two features with opposite trends; the change vector starts at the median difference."""
    t1 = np.array([[0.0, 0, 4, 4], [10, 10, 10, 10]])
    t2 = np.array([[1.0, 1, 5, 9], [10, 10, 10, 14]])
    change = change_of(np.stack([t1, t2], axis=1).astype(np.float32), (2,), "features")
    assert change.offset == (1.0, 0.0)
    spread = np.sqrt([(4 + 11) / 2, (0 + 3) / 2])
    np.testing.assert_allclose(change.gain, 1 / spread, rtol=1e-6)
    z = (t2 - t1 - [[1], [0]]) / spread[:, None]
    assert change.tau == pytest.approx(otsu_threshold(np.sqrt((z**2).sum(0))))


def test_features_are_resampled_before_they_are_squared() -> None:
    vector = torch.tensor([[[[-1.0, 1.0]]]])
    found = squared_length([vector], (2,), (2, 4))
    torch.testing.assert_close(found[0, 0], torch.tensor([1, 0.25, 0.25, 1]))


@every_kind
def test_a_new_block_is_found(model: Any, kind: str) -> None:
    image, truth = town()
    prob, threshold = predict_pair(model(kind), image, np.ones(truth.shape, bool))
    assert threshold == 0.5
    inner, far = (
        ndimage.binary_erosion(truth, iterations=8),
        ~ndimage.binary_dilation(truth, iterations=16),
    )
    assert (prob[inner] >= 0.5).mean() > 0.9
    assert (prob[far] >= 0.5).mean() < 0.1


@every_kind
@settings(max_examples=4, deadline=None)
@given(tile_size=st.integers(16, 120), seed=st.integers(0, 9))
def test_cnns_give_the_same_for_any_tile(model: Any, kind: str, tile_size: int, seed: int) -> None:
    image, truth = town(seed=seed)
    valid = np.ones(truth.shape, bool)
    valid[70:, :30] = False
    detector = model(kind)
    assert detector.tiling.exact
    whole = in_tiles(detector, image, valid, 1024)
    np.testing.assert_allclose(
        in_tiles(detector, image, valid, tile_size), whole, atol=2e-5, equal_nan=True
    )
    np.testing.assert_array_equal(np.isnan(whole), ~valid)


def test_transformers_are_known_to_depend_on_the_tile(model: Any) -> None:
    detector = model("features", "test_vit")
    assert not detector.tiling.exact
    image, truth = town()
    prob, _ = predict_pair(detector, image, np.ones(truth.shape, bool))
    assert np.isfinite(prob).all()
    assert prob[40:56, 40:64].mean() > prob[:, 96:].mean() + 0.1


@every_kind
def test_swapped_dates_give_the_same(model: Any, kind: str) -> None:
    image, truth = town()
    valid = np.ones(truth.shape, bool)
    found, swapped = (predict_pair(model(kind), x, valid)[0] for x in (image, image[::-1].copy()))
    np.testing.assert_allclose(swapped, found, atol=1e-4)


@every_kind
def test_equal_dates_are_no_change(model: Any, kind: str) -> None:
    image, truth = town()
    image[1] = image[0]
    prob, threshold = predict_pair(model(kind), image, np.ones(truth.shape, bool))
    assert (prob < threshold).all()


@every_kind
def test_nodata_of_one_date_is_no_change_beside_it(model: Any, kind: str) -> None:
    image, truth = town((96, 208))
    image[1] = image[0]
    image[1, :, :, 144:] += np.random.default_rng(0).normal(0, 20, (3, 96, 64))
    valid = np.ones(truth.shape, bool)
    valid[20:50, 20:50] = False
    image[1, :, 20:50, 20:50] = 0
    image[0, 0, 60, 30] = np.nan
    prob, _ = predict_pair(model(kind), image, valid)
    near = valid[:, :80].copy()
    near[60, 30] = False
    assert prob[:, :80][near].max() < 0.1
    assert prob[60, 30] == 0
    assert prob[:, 160:].mean() > 0.5


@pytest.mark.parametrize("factor", [257, 1 / 255])
def test_other_values_are_brought_to_8_bit_before_statistics(
    weights: dict[str, str], factor: float
) -> None:
    image, truth = town()
    valid = np.ones(truth.shape, bool)
    name = f"features:{weights['test_resnet']}"
    models = [
        scene_model(name, SceneFacts(3, 0.5, georeferenced=True, eight_bit=eight_bit))
        for eight_bit in (True, False)
    ]
    expected, found = (
        predict_pair(model, values, valid)[0]
        for model, values in zip(models, (image, image * np.float32(factor)), strict=True)
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_bands(weights: dict[str, str]) -> None:
    image, truth = town()
    valid = np.ones(truth.shape, bool)
    name = f"dcva:{weights['test_resnet']}"

    def found(bands: NDArray[Any]) -> NDArray[Any]:
        facts = SceneFacts(bands.shape[1], 0.5, georeferenced=True, eight_bit=True)
        return predict_pair(scene_model(name, facts), bands, valid)[0]

    gray = image[:, :1]
    np.testing.assert_allclose(found(gray), found(gray.repeat(3, axis=1)), atol=1e-5)
    more = np.concatenate([image, image[:, :2]], axis=1)
    np.testing.assert_array_equal(found(more), found(image))
    with pytest.raises(ModelError, match="at least 3 bands for dcva:test_resnet, found 2"):
        found(image[:, :2])


def test_card_names_encoder_and_tensors(model: Any, weights: dict[str, str]) -> None:
    first, second = model("dcva"), model("dcva", "test_vit")
    assert first.card()["encoder"] == first.name.partition(":")[2] == "test_resnet"
    assert first.card()["sha256"] != second.card()["sha256"]
    assert pickle.loads(pickle.dumps(first)) == first


def test_views_are_for_networks(weights: dict[str, str]) -> None:
    facts = SceneFacts(3, 0.5, georeferenced=True, eight_bit=True)
    with pytest.raises((ModelError, UsageError), match="expected a trained network for --msi"):
        scene_model(f"dcva:{weights['test_resnet']}", facts, msi="0.5,1")
