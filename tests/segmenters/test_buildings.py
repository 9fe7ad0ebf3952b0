"""The network that ships as a segmenter."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rscd.base.errors import UsageError
from rscd.segmenters.buildings import Buildings
from rscd.segmenters.prompts import parse_prompts
from rscd.segmenters.segmenter import View, check_prediction, load_segmenter
from rscd.synthetic.town_pairs import TownPairs

PROMPTS = parse_prompts("house,building", "road,grass,tree,water")


@pytest.fixture(scope="module")
def segmenter() -> Buildings:
    loaded = load_segmenter("buildings", {"device": "cpu"})
    assert isinstance(loaded, Buildings)
    return loaded


def town(index: int = 0, gsd_m: float = 0.5) -> tuple[NDArray[Any], NDArray[Any]]:
    """Dates (2,H,W,3) uint8 and where buildings stand (2,H,W) of a town never trained on."""
    towns = TownPairs(
        seed=4242,
        patch_size=192,
        gsd_m=gsd_m,
        style={"urban": 0.9, "lot_depth_m": 26},
        keys=["image", "land_cover"],
    )
    sample = towns[index]
    rgb = sample["image"].numpy().transpose(0, 2, 3, 1).astype(np.uint8)
    return rgb, sample["land_cover"].numpy() == 8


@pytest.mark.slow
@pytest.mark.parametrize("gsd_m", [0.3, 0.5, 0.8])
def test_it_finds_buildings_at_any_resolution(segmenter: Buildings, gsd_m: float) -> None:
    rgb, true = town(gsd_m=gsd_m)
    views = [View(date, gsd_m=gsd_m) for date in rgb]
    found = segmenter.predict(views, PROMPTS)
    for prediction, view in zip(found, views, strict=True):
        check_prediction(prediction, view, PROMPTS)
    called = np.stack([prediction.prob[0] >= 0.5 for prediction in found])
    assert 2 * (called & true).sum() / (called.sum() + true.sum()) > 0.6


def test_each_view_is_seen_by_itself(segmenter: Buildings) -> None:
    rgb, _ = town()
    small = rgb[0][:150, :130]
    alone = segmenter.predict([View(small)], PROMPTS)[0].prob
    among = segmenter.predict([View(rgb[1]), View(small), View(rgb[0])], PROMPTS)
    assert [p.prob.shape for p in among] == [(6, 192, 192), (6, 150, 130), (6, 192, 192)]
    np.testing.assert_allclose(among[1].prob, alone, atol=1e-4)


def test_words_that_name_no_building_are_the_background(segmenter: Buildings) -> None:
    prediction = segmenter.predict([View(town()[0][0])], PROMPTS)[0]
    np.testing.assert_array_equal(prediction.prob[0], prediction.prob[1])
    np.testing.assert_allclose(prediction.prob[2:], 1 - prediction.prob[:1].repeat(4, 0))


def test_other_things_are_refused(segmenter: Buildings) -> None:
    prompts = parse_prompts("swimming pool", "grass")
    with pytest.raises(UsageError, match=r"expected .*prompts among building.*'swimming pool'"):
        segmenter.predict([View(town()[0][0])], prompts)
    with pytest.raises(UsageError, match="expected gsd_m= in metres above 0"):
        load_segmenter("buildings", {"gsd_m": "0"})
