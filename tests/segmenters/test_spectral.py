from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rscd.base.errors import UsageError
from rscd.segmenters.prompts import parse_prompts
from rscd.segmenters.segmenter import View, load_segmenter
from rscd.segmenters.spectral import WORDS, balanced, rule_scores

ROOFS = ((20, 20), (20, 80), (80, 30), (85, 90))


@pytest.fixture
def suburb() -> tuple[NDArray[Any], NDArray[Any]]:
    """Green ground with noise, a grey road, four bright roofs of 20 x 14 pixels of 0.5 m."""
    rng = np.random.default_rng(0)
    image = np.empty((128, 128, 3), np.float32)
    image[:] = (70, 110, 60)
    image[55:67] = (120, 120, 122)
    truth = np.zeros((128, 128), bool)
    for row, col in ROOFS:
        truth[row : row + 14, col : col + 20] = True
    image[truth] = (215, 200, 190)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8), truth


def test_bright_roofs_on_grass_are_found(suburb: tuple[NDArray[Any], NDArray[Any]]) -> None:
    image, truth = suburb
    found = rule_scores(image, 0.5)["building"] >= 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.6


def test_green_is_vegetation_where_not_all_is_green() -> None:
    rng = np.random.default_rng(0)
    image = np.full((96, 96, 3), 120.0)
    image[:, :30] = (70, 120, 60)
    image = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
    scores = rule_scores(image, 0.5)
    green = scores["grass"] + scores["tree"]
    assert green[:, :28].mean() > 0.7
    assert green[:, 32:].mean() < green[:, :28].mean() - 0.3


def test_water_is_smooth_bluish_and_dark() -> None:
    rng = np.random.default_rng(0)
    image = np.array((150.0, 140.0, 120.0)) + rng.normal(0, 12, (96, 96, 1))
    image[:, :30] = (20, 40, 75)
    image[:, 76:] = image[:, :20] + rng.normal(0, 60, (96, 20, 1))  # as dark, but rough
    picture = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    water = rule_scores(picture, 0.5)["water"]
    assert water[:, 3:27].mean() > 0.8
    assert water[:, 33:].max() < 0.2


def test_a_colour_cast_is_balanced(suburb: tuple[NDArray[Any], NDArray[Any]]) -> None:
    image, _ = suburb
    cast = (image * np.array([0.8, 1.0, 0.7])).astype(np.uint8)
    assert np.abs(balanced(cast) - balanced(image)).mean() < 0.05


@settings(max_examples=15, deadline=None)
@given(image=arrays(np.uint8, (24, 31, 3)), gsd=st.sampled_from([0.1, 0.5, 3.0]))
def test_scores_are_scores_whatever_the_image(image: NDArray[Any], gsd: float) -> None:
    for plane in rule_scores(image, gsd).values():
        assert plane.shape == (24, 31)
        assert plane.dtype == np.float32
        assert np.isfinite(plane).all()
        assert plane.min() >= 0
        assert plane.max() <= 1


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_colour_breaks_nothing(value: int) -> None:
    scores = rule_scores(np.full((20, 20, 3), value, np.uint8), 0.5)
    assert all(np.isfinite(plane).all() for plane in scores.values())


def test_words_and_only_known_ones() -> None:
    segmenter = load_segmenter("spectral")
    view = View(np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8))
    found = segmenter.predict([view], parse_prompts("house,building", ",".join(list(WORDS)[1:])))[0]
    assert (found.prob[0] == found.prob[1]).all()
    assert found.instances is None
    assert segmenter.info.quality == "demo"
    with pytest.raises(UsageError, match="has only fixed rules, found 'airport'"):
        segmenter.predict([view], parse_prompts("airport", "road"))
