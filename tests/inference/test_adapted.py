"""A network sees every scene at its own resolution and range, and tiles join exactly."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rscd.base.errors import ModelError
from rscd.evaluation.dataset import MemoryPair, predict_pair
from rscd.geo.tiles import plan_tiles
from rscd.inference.adapted import Adapted, adapted, scale_between, to_eight_bit
from rscd.inference.detectors.cva import Cva
from rscd.inference.network import Network, load_network, save_weights
from rscd.inference.predictor import Model
from rscd.inference.tiled import fit_model, run_block
from rscd.models.networks import build_network

ARGS = {"widths": [4, 6], "depths": [1, 1], "neck_width": 6, "decoder_width": 6}
"""A network that looks about 20 pixels around."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    card = {"halo": 32, "multiple": 4, "patch_size": 96, "threshold": 0.5, "gsd_m": 0.5}
    save_weights(path, build_network("semantic", ARGS), "semantic", ARGS, card)
    model = load_network(path, "cpu", 1)
    assert model.tiling.exact
    return model


def scene(
    height: int, width: int, bands: int = 3, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (2, bands, height, width)).astype(np.float32)
    return image, np.ones((height, width), bool)


def in_tiles(
    model: Model, image: NDArray[Any], valid: NDArray[Any], tile_size: int
) -> NDArray[Any]:
    pair: Any = MemoryPair(image, valid)
    predictor = fit_model(pair, model)
    tiling = predictor.tiling
    prob = np.empty(valid.shape, np.float32)
    for tile in plan_tiles(valid.shape, tile_size, tiling.halo, tiling.multiple):
        [piece] = run_block(pair, predictor, [tile])
        prob[tile.write.slices] = piece.prob
    return prob


@given(st.floats(0.2, 1.0), st.floats(0.2, 1.0))
def test_scales_are_small_fractions_near_the_wanted_one(gsd_m: float, own: float) -> None:
    scale = scale_between(gsd_m, own)
    assert scale.denominator <= 8
    assert float(scale) == pytest.approx(gsd_m / own, rel=0.2 if gsd_m < 0.4 * own else 0.08)


@pytest.mark.parametrize("gsd_m", [0.2, 0.25, 0.3, 0.4, 0.6, 1.0])
def test_tiles_join_exactly_at_any_resolution(network: Network, gsd_m: float) -> None:
    model = adapted(network, 3, gsd_m, eight_bit=True)
    assert isinstance(model, Adapted)
    image, valid = scene(150, 170)
    whole = in_tiles(model, image, valid, 1024)
    assert whole.std() > 1e-3
    for tile_size in (40, 64):
        np.testing.assert_allclose(in_tiles(model, image, valid, tile_size), whole, atol=1e-4)


def test_halo_and_lattice_are_those_of_the_coarser_grid(network: Network) -> None:
    coarse = adapted(network, 3, 1.0, eight_bit=True).tiling
    fine = adapted(network, 3, 0.2, eight_bit=True).tiling
    assert (coarse.multiple, fine.multiple) == (2, 10)
    assert coarse.halo < network.tiling.halo < fine.halo
    assert coarse.bytes_per_pixel > fine.bytes_per_pixel


def test_nothing_is_done_where_nothing_is_needed(network: Network) -> None:
    assert adapted(network, 3, 0.5, eight_bit=True) is network
    assert adapted(network, 3, None, eight_bit=True) is network
    cva = Cva()
    assert adapted(cva, 7, 0.2, eight_bit=False) is cva


def test_a_coarser_copy_of_a_scene_gives_a_coarser_copy_of_the_result(network: Network) -> None:
    image, valid = scene(64, 64)
    fine = image.repeat(2, 2).repeat(2, 3)  # each pixel as four of half the size
    model = adapted(network, 3, 0.25, eight_bit=True)
    assert isinstance(model, Adapted)
    assert model.scale == Fraction(1, 2)
    prob, _ = predict_pair(network, image, valid)
    found, _ = predict_pair(model, fine, valid.repeat(2, 0).repeat(2, 1))
    # the antialiasing filter reaches into the neighbours, so it is close and not equal
    assert np.corrcoef(found[::2, ::2].ravel(), prob.ravel())[0, 1] > 0.8


def test_dates_may_be_exchanged(network: Network) -> None:
    image, valid = scene(96, 96)
    model = adapted(network, 3, 0.3, eight_bit=True)
    forth = in_tiles(model, image, valid, 64)
    back = in_tiles(model, image[::-1].copy(), valid, 64)
    np.testing.assert_allclose(back, forth, atol=1e-6)


def test_bands_beyond_the_first_do_not_matter(network: Network) -> None:
    image, valid = scene(64, 64, bands=5)
    model = adapted(network, 5, 0.5, eight_bit=True)
    changed = image.copy()
    changed[:, 3:] = 0
    expected, _ = predict_pair(network, image[:, :3], valid)
    for given_image in (image, changed):
        np.testing.assert_array_equal(predict_pair(model, given_image, valid)[0], expected)


def test_too_few_bands_are_refused(network: Network) -> None:
    image, valid = scene(64, 64, bands=1)
    with pytest.raises(ModelError, match=r"at least 3 bands .* found 1"):
        predict_pair(adapted(network, 1, 0.5, eight_bit=True), image, valid)


@pytest.mark.parametrize(
    "stored",
    [
        lambda shown: shown * 257,
        lambda shown: shown / 255,
        lambda shown: shown,
        lambda shown: np.rint(10000 * (shown / 255) ** 2.2),
    ],
    ids=["16 bit", "0 to 1", "8 bit in 16", "reflectance"],
)
def test_the_same_scene_in_other_values_gives_the_same_result(
    network: Network, stored: Callable[..., Any]
) -> None:
    image, valid = scene(64, 64)
    expected, _ = predict_pair(network, image, valid)
    model = adapted(network, 3, 0.5, eight_bit=False)
    found, _ = predict_pair(model, stored(image).astype(np.float32), valid)
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("factor", [257, 1 / 255])
def test_dates_of_different_types_are_brought_to_8_bit_each(
    network: Network, factor: float
) -> None:
    image, valid = scene(64, 64)
    image[1] = image[0]
    expected, _ = predict_pair(network, image, valid)
    stored = image.copy()
    stored[1] *= np.float32(factor)
    each = adapted(network, 3, 0.5, eight_bit=False, one_type=False)
    np.testing.assert_allclose(predict_pair(each, stored, valid)[0], expected, atol=0.02)
    both = adapted(network, 3, 0.5, eight_bit=False)
    assert np.abs(predict_pair(both, stored, valid)[0] - expected).max() > 0.02


def test_brightness_is_that_of_the_scene_not_of_the_tile(network: Network) -> None:
    image, valid = scene(150, 150)
    image[:, :, :75] /= 40  # a dark half
    image *= 257
    model = adapted(network, 3, 0.5, eight_bit=False)
    whole = in_tiles(model, image, valid, 1024)
    np.testing.assert_allclose(in_tiles(model, image, valid, 40), whole, atol=1e-5)


def test_a_single_hot_pixel_does_not_count(network: Network) -> None:
    image, valid = scene(96, 96)
    image[0, :, 3, 3] = 65535
    pair: Any = MemoryPair(image, valid)
    predictor = fit_model(pair, adapted(network, 3, 0.5, eight_bit=False))
    assert isinstance(predictor, Adapted)
    assert predictor.brightest is not None
    assert max(predictor.brightest) <= 255


def test_eight_bit_values_are_not_looked_through(network: Network) -> None:
    model = adapted(network, 3, 0.2, eight_bit=True)
    untouchable: Any = (1 / 0 for _ in range(1))
    fitted: object = model.fit(untouchable, 1)
    assert fitted is model


@given(st.floats(0.5, 60000))
def test_display_values_are_in_range_and_in_order(brightest: float) -> None:
    values = np.linspace(0, brightest, 50, dtype=np.float32)
    shown = to_eight_bit(values, brightest)
    assert shown.min() >= 0
    assert shown.max() <= 255
    assert (np.diff(shown) >= 0).all()


@pytest.mark.parametrize("white", [1, 255, 10_000, 65_535])
def test_full_scale_of_any_values_is_white(white: int) -> None:
    assert to_eight_bit(np.array([0, white], np.float32), white).tolist() == [0, 255]


def test_card_says_what_was_done(network: Network) -> None:
    card = adapted(network, 3, 0.2, eight_bit=False).card()
    assert card["scale"] == "2/5"
    assert card["values"] == "brought to 8 bit"
    model = adapted(network, 3, 0.2, eight_bit=True)
    assert isinstance(model, Adapted)
    assert replace(model).threshold == network.threshold
