"""One label file is the same array of 0, 1 and 255 for training, scenes and evaluation."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from rscd.base.errors import DataError
from rscd.data.images import read_mask
from rscd.data.scene_labels import open_label_raster
from rscd.evaluation.layers import open_source
from rscd.evaluation.maps import MapOptions, _truth_on
from rscd.geo.labels import Values
from rscd.geo.source import inspect
from rscd.geo.tiles import Box

SHAPE = (7, 9)
STRICT = Values()
WHOLE = Box(0, 0, *SHAPE)
PALETTES = {
    "black and white": [0, 0, 0, 255, 255, 255],
    "white and black": [255, 255, 255, 0, 0, 0],
    "white and red": [255, 255, 255, 255, 0, 0],
}


def roads(path: Path, rule: Values) -> list[Any]:
    """The label file as each road reads it, or what they say where they refuse it."""
    like = inspect("t1", str(path), None, None).grid
    options = MapOptions(change_values=rule.change, unlabelled=rule.unlabelled)

    def evaluated() -> NDArray[Any]:
        with ExitStack() as stack:
            return stack.enter_context(_truth_on(path, like, options))(WHOLE)

    found: list[Any] = []
    ways: tuple[Callable[[], Any], ...] = (
        lambda: read_mask(path, rule),
        lambda: open_label_raster(str(path), like, rule).read(like),
        evaluated,
    )
    for road in ways:
        try:
            found.append(road())
        except DataError as error:
            found.append(str(error).partition(": ")[2])
    return found


def agreed(path: Path, rule: Values = STRICT) -> NDArray[Any] | str:
    first, *others = roads(path, rule)
    for other in others:
        np.testing.assert_array_equal(other, first)
    return first


def tif(
    path: Path,
    values: NDArray[Any],
    *,
    nodata: int | None = None,
    alpha: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
) -> None:
    bands = values if alpha is None else [*values, alpha]
    transform = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", dtype=values.dtype, count=len(bands), height=SHAPE[0],
            width=SHAPE[1], nodata=nodata, crs="EPSG:32633", transform=transform,
        ) as out,
    ):  # fmt: skip
        if alpha is not None:
            out.colorinterp = [*[ColorInterp.gray] * len(values), ColorInterp.alpha]
        out.write(np.stack(list(bands)))
        if mask is not None:
            out.write_mask(mask)


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_file_means_the_same_on_every_road(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("label") / "label.tif"
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    kinds = [(0, 1), (0, 255), (0, 1, 255), (0, 255, 127), (1, 255), (0,), (255,), (0, 2)]
    stored = rng.choice(data.draw(st.sampled_from(kinds)), SHAPE)
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "float32"]))
    values = np.repeat(stored[None], data.draw(st.sampled_from([1, 3])), axis=0).astype(dtype)
    if dtype == "float32" and data.draw(st.booleans()):
        values[:, 0, :4] = np.nan
    shown = rng.random(SHAPE) < 0.7
    how = data.draw(st.sampled_from(["plain", "alpha", "mask"]))
    declared = {"alpha": {"alpha": (shown * 255).astype(dtype)}, "mask": {"mask": shown}}
    nodata = data.draw(st.sampled_from([None, 0, 1, 127, 255]))
    tif(path, values, nodata=nodata, **declared.get(how, {}))
    rule = data.draw(
        st.sampled_from([Values(), Values(unlabelled=()), Values((255,)), Values((1, 2), (255,))])
    )
    found = agreed(path, rule)
    if how != "plain" and not isinstance(found, str):
        assert (found[~shown] == 255).all()


@pytest.mark.parametrize("palette", PALETTES)
def test_numbers_of_a_colour_table_count_not_its_colours(tmp_path: Path, palette: str) -> None:
    numbers = (np.arange(63).reshape(SHAPE) % 4 == 0).astype(np.uint8)
    picture = Image.fromarray(numbers, "P")
    picture.putpalette(PALETTES[palette])
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(agreed(tmp_path / "p.png"), numbers)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1"])
def test_pictures_of_every_kind(tmp_path: Path, mode: str) -> None:
    change = np.arange(63).reshape(SHAPE) % 3 == 0
    picture = Image.fromarray(change).convert("L").convert(mode)
    expected = change.astype(np.uint8)
    if mode.endswith("A"):
        visible = np.full(SHAPE, 255, np.uint8)
        visible[:2] = 0
        picture.putalpha(Image.fromarray(visible))
        expected[:2] = 255
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(agreed(tmp_path / "p.png"), expected)


def test_colours_are_refused_on_every_road(tmp_path: Path) -> None:
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[2, :, 0] = 255
    Image.fromarray(colours).save(tmp_path / "c.png")
    refusal = agreed(tmp_path / "c.png")
    assert isinstance(refusal, str)
    assert refusal.startswith("expected a label with one band, found 3 that")


def test_a_picture_that_is_cut_short_is_no_truth(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((300, 300), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-20])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with pytest.raises(DataError, match=r"short\.png: cannot be read, .* truncated"):
            open_source("the truth", tmp_path / "short.png")


def test_files_of_a_folder_must_not_contradict_each_other(tmp_path: Path) -> None:
    def write(name: str, values: list[int]) -> Path:
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / name)
        return tmp_path / name

    assert read_mask(write("a.png", [0, 1, 255])).tolist() == [[0, 1, 255]]
    assert read_mask(write("b.png", [0, 1])).tolist() == [[0, 1]]
    with pytest.raises(DataError, match=r"one meaning of 255, found 0 and 255 alone in c\.png and"):
        read_mask(write("c.png", [0, 255]))
    named = {0: 0, 1: 1, 255: 255}
    assert read_mask(tmp_path / "c.png", named).tolist() == [[0, 255]]
    with pytest.raises(
        DataError, match=r"found 0 and 255 alone in c\.png and 1 beside 255 in a\.p"
    ):
        read_mask(tmp_path / "a.png")
    write("c.png", [0, 1])  # mended
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    "rule", ["nonzero", {0: 0, 255: 1, 1: 255}, Values(unlabelled=(255,))], ids=str
)
def test_rules_that_say_what_255_means_let_the_files_of_a_folder_differ(
    rule: Any, tmp_path: Path
) -> None:
    for name, values in (("a.png", [0, 1, 255]), ("b.png", [0, 255])):
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / name)
    for own in (rule, {0: 0, 1: 1, 255: 255}):
        for name in ("a.png", "b.png", "a.png"):
            assert read_mask(tmp_path / name, own).shape[0] == 1
