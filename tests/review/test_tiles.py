"""Tiles show the scene at each zoom, fit the room they are given, and say where it ends."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rscd.review.layer import read_change_layer
from rscd.review.tiles import (
    BLANK,
    MOST_LEVELS,
    TILE_PX,
    Levels,
    embedded_thumbs,
    embedded_tiles,
    levels_of,
    thumbnail,
    tile_picture,
)
from rscd.review.view import View, open_view


@pytest.fixture
def scene(make_scene: Callable[..., Path]) -> tuple[View, NDArray[Any]]:
    """A scene of 3 by 2 tiles and its outlines."""
    layer = read_change_layer(make_scene(shape_hw=(500, 700), count=12))
    view = open_view(layer)
    return view, view.to_display(layer.table.geometry.to_numpy(), layer.table.crs)


def decoded(text: str) -> NDArray[Any]:
    content = np.frombuffer(base64.b64decode(text), np.uint8)
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[:, :, ::-1].astype(int)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(-20, 0))
def test_levels_are_few_and_end_with_the_whole(height: int, width: int, wanted: int) -> None:
    levels = levels_of((height, width), wanted)
    assert levels.coarsest <= levels.finest <= 0
    assert levels.finest - levels.coarsest < MOST_LEVELS
    assert levels.finest >= wanted
    whole = max(height, width) * 2.0**levels.finest
    assert levels.finest == wanted or whole <= TILE_PX


def embedded(view: View, budget: int) -> tuple[Levels, Mapping[str, str]]:
    found = embedded_tiles(view, budget)
    assert found is not None
    return found


def test_embedded_tiles_are_the_scene_at_every_level(scene: tuple[View, Any]) -> None:
    view, _ = scene
    levels, tiles = embedded(view, 10**8)
    assert (levels.coarsest, levels.finest) == (-2, 0)
    assert {key for key in tiles if key.startswith("t2/-1")} == {"t2/-1/0/0", "t2/-1/1/0"}
    assert len([key for key in tiles if key.startswith("t1/0")]) == 6
    for key, text in tiles.items():
        date, zoom, x, y = key.split("/")
        made = tile_picture(view, int(date == "t2"), int(zoom), int(x), int(y))
        assert np.abs(decoded(text) - made).mean() < 6, key
    corner = decoded(tiles["t1/0/2/1"])
    assert np.abs(corner[:, 200:] - BLANK[0]).max() < 12, "beyond the scene"
    square = decoded(tiles["t2/0/0/0"])[24:36, 24:36]
    assert square.min() > 230


@pytest.mark.slow
def test_the_map_gets_coarser_to_fit(scene: tuple[View, Any]) -> None:
    view, _ = scene
    _, whole = embedded(view, 10**8)
    size = sum(len(text) + len(key) + 6 for key, text in whole.items())
    assert embedded(view, size)[0].finest == 0
    for budget, finest in ((size - 1, -1), (size // 6, -2)):
        levels, tiles = embedded(view, budget)
        assert levels.finest == finest
        assert 0 < sum(len(text) for text in tiles.values()) < budget
    assert embedded_tiles(view, 100) is None


def test_there_are_no_tiles_beyond_the_scene(scene: tuple[View, Any]) -> None:
    view, _ = scene
    for x, y in ((3, 0), (0, 2), (-1, 0), (0, -1)):
        assert tile_picture(view, 0, 0, x, y) is None
    tile = tile_picture(view, 0, -2, 0, 0)
    assert tile is not None
    assert tile.shape == (TILE_PX, TILE_PX, 3)


def test_thumbnails_show_the_polygon_in_the_middle(scene: tuple[View, Any]) -> None:
    view, shapes = scene
    before, after = thumbnail(view, shapes[6], 96)
    assert before.shape == after.shape == (96, 96, 3)
    assert after[40:56, 40:56].min() > 230 > before[40:56, 40:56].max() - 26
    outlined = (after[..., 0] > 200) & (after[..., 1] < 90) & (after[..., 2] > 120)
    rows, cols = np.nonzero(outlined)
    assert 20 < np.ptp(rows) < 60
    assert 20 < np.ptp(cols) < 60
    # at the edge of the scene, and larger than it
    for outline in (shapely.box(-5, -5, 20, 20), shapely.box(0, 0, 700, 500)):
        assert thumbnail(view, outline, 64)[0].shape == (64, 64, 3)


@pytest.mark.slow
def first_of(thumbs: Sequence[tuple[str, str] | None]) -> NDArray[Any]:
    """The picture of t1 of the first polygon."""
    assert thumbs[0] is not None
    return decoded(thumbs[0][0])


def test_thumbnails_get_smaller_and_then_fewer(scene: tuple[View, Any]) -> None:
    view, shapes = scene
    large = embedded_thumbs(view, shapes, 10**7, 10**7)
    assert first_of(large).shape == (128, 128, 3)
    size = sum(len(text) for pair in large for text in pair or ())
    smaller = embedded_thumbs(view, shapes, size, size)  # some room is spared
    assert first_of(smaller).shape == (96, 96, 3)
    assert None not in smaller
    smallest = embedded_thumbs(view, shapes, size // 8, size)
    assert first_of(smallest).shape == (64, 64, 3)
    assert None not in smallest
    few = embedded_thumbs(view, shapes, size // 8, size // 8)
    assert 0 < sum(pair is not None for pair in few) < len(few)
    assert few[0] is not None
    assert few[-1] is None
    assert embedded_thumbs(view, shapes[:0], 1, 1) == []
