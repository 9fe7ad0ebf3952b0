"""Colour infrared is told from true colour, and only where a network wants true colour."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from rscd import Options, predict
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.inference.near_infrared import Look, infrared, look, looks_of, warn_of_near_infrared
from rscd.inference.shipped import shipped_card
from rscd.synthetic.town_pairs import TownPairs

HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
TRUE_COLOUR, INFRARED = [0, 1, 2], [3, 0, 1]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


@pytest.fixture(scope="module", params=["uint8", "uint16"])
def towns(request: pytest.FixtureRequest) -> list[NDArray[Any]]:
    """(2,4,H,W) of two towns: red, green, blue and near infrared."""
    drawn = TownPairs(2, 31, 160, gsd_m=0.5, bands=4, dtype=request.param)
    return [drawn[number]["image"].numpy() for number in range(2)]


def seen(image: NDArray[Any]) -> bool:
    looks = looks_of([(image, np.ones(image.shape[-2:], bool))])
    assert looks is not None
    return infrared(looks)


def test_towns_are_told_apart(towns: list[NDArray[Any]]) -> None:
    assert not any(seen(town[:, TRUE_COLOUR]) for town in towns)
    assert all(seen(town[:, INFRARED]) for town in towns)


def test_pixels_without_data_do_not_count(towns: list[NDArray[Any]]) -> None:
    image, valid = towns[0][:, INFRARED].copy(), np.ones(towns[0].shape[-2:], bool)
    valid[:80] = False
    cut = looks_of([(image[:, :, 80:], valid[80:])])
    image[:, :, ~valid] = 0
    assert looks_of([(image, valid)]) == cut


def test_nothing_is_said_of_too_little_or_of_flat_bands() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((3, 5000))
    assert look(values) is not None
    assert look(values[:, :999]) is None
    values[1] = 7
    assert look(values) is None
    assert looks_of([]) is None
    assert looks_of([(np.ones((2, 3, 90, 90), np.float32), np.zeros((90, 90), bool))]) is None


def opened(
    folder: Path, write_tif: Callable[..., Path], image: NDArray[Any], **keywords: Any
) -> ScenePair:
    paths = [
        write_tif(folder / f"{name}.tif", date.astype(np.uint8), transform=HALF_METRE, **keywords)
        for name, date in zip(("t1", "t2"), image, strict=True)
    ]
    return ScenePair.open(*paths)


def test_a_scene_is_warned_of_once_and_in_one_line(
    tmp_path: Path, write_tif: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    town = TownPairs(1, 31, 160, gsd_m=0.5, bands=4)[0]["image"].numpy()
    pair = opened(tmp_path, write_tif, town[:, INFRARED])
    with caplog.at_level(logging.WARNING):
        assert warn_of_near_infrared(pair, shipped_card())
    assert len(caplog.messages) == 1
    assert "band 1 looks like near infrared" in caplog.text
    assert "--bands" in caplog.text
    assert "\n" not in caplog.messages[0]
    assert not warn_of_near_infrared(pair, {"name": "mine"})
    assert not warn_of_near_infrared(pair, shipped_card() | {"bands": "near infrared, red, green"})


def test_a_run_says_so(
    tmp_path: Path, write_tif: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    town = TownPairs(1, 31, 96, gsd_m=0.5, bands=4)[0]["image"].numpy()
    pair = opened(tmp_path, write_tif, town[:, INFRARED])
    for model, said in (("buildings", True), ("cva", False)):
        caplog.clear()
        predict(pair, [tmp_path / f"{model}.tif"], Options(model=model))
        assert ("looks like near infrared" in caplog.text) == said


def test_true_colour_is_not(
    tmp_path: Path, write_tif: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    town = TownPairs(1, 31, 160, gsd_m=0.5, bands=4)[0]["image"].numpy()
    assert not warn_of_near_infrared(opened(tmp_path, write_tif, town), shipped_card())
    assert caplog.text == ""


def test_what_a_file_says_needs_no_look(
    tmp_path: Path, write_tif: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for name in ("t1", "t2"):
        pixels = rng.integers(1, 255, (3, 96, 96)).astype(np.uint8)
        paths.append(write_tif(tmp_path / f"{name}.tif", pixels, transform=HALF_METRE))
    for path in paths:
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = (ColorInterp.nir, ColorInterp.red, ColorInterp.green)
    assert warn_of_near_infrared(ScenePair.open(*paths), shipped_card())
    assert "t1 says that its band 1 is near infrared" in caplog.text


def test_the_dates_are_averaged() -> None:
    clear, odd, plain = Look(0.6, 0.5), Look(0.1, 0.0), Look(0.0, 0.0)
    assert infrared((clear, odd))
    assert infrared((Look(0.2, 0.1),) * 2)
    assert not infrared((Look(0.3, 0.1), plain))  # it is 0.15 apart
    assert not infrared((Look(0.6, 0.15), plain))  # too little is red
