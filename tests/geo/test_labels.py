"""The meaning of stored label values is decided in one place, from the whole file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from rscd.base.errors import DataError
from rscd.geo.labels import (
    Coding,
    MaskRule,
    Values,
    coding_in,
    coding_of,
    distinct,
    needs_values,
    one_band,
    windows_of,
)

UNKNOWN = 255


@pytest.mark.parametrize(
    ("found", "change", "unlabelled", "nodata", "expected"),
    [
        ({0, 1}, None, None, None, ({1}, set())),
        ({0, 255}, None, None, None, ({255}, set())),
        ({255}, None, None, None, ({255}, set())),
        ({0, 1, 255}, None, None, None, ({1}, {255})),
        ({0, 1, 255}, None, None, 255, ({1}, {255})),
        ({0, 1, 255}, None, None, 0, ({1}, {255})),
        ({0}, None, None, None, ({1}, set())),
        ({0, 255, 127}, None, (127,), None, ({255}, {127})),
        ({0, 255, 127}, None, None, 127, ({255}, {127})),
        ({0, 255}, (255,), None, 255, ({255}, set())),
        ({0, 255}, None, None, 0, ({255}, set())),
        ({0, 1}, (1,), None, 0, ({1}, set())),
        ({0, 1, 2}, (2,), None, 0, ({2}, {0})),
        ({0}, None, None, 0, ({1}, set())),
        ({0, 1}, None, (0,), 0, ({1}, {0})),
        ({0, 1, float("nan")}, None, None, None, ({1}, set())),
        ({0, 1, 2}, None, None, None, None),
        ({0, 128}, None, None, None, None),
    ],
)
def test_what_stored_values_mean(
    found: set[float],
    change: tuple[int, ...] | None,
    unlabelled: tuple[int, ...] | None,
    nodata: int | None,
    expected: tuple[set[float], set[float]] | None,
) -> None:
    rule = Values(change, unlabelled)
    if expected is None:
        with pytest.raises(DataError, match="it: expected label values 0 and 255"):
            coding_of("it", rule, nodata, found)
        return
    coding = coding_of("it", rule, nodata, found)
    assert (set(coding.change), set(coding.unknown)) == expected
    if rule == Values():
        assert coding_of("it", "strict", nodata, found) == coding


@pytest.mark.parametrize("found", [{0, 127, 255}, {0, 127}, {127}])
def test_no_data_of_png_masks_is_named_never_guessed(found: set[int]) -> None:
    with pytest.raises(
        DataError, match=r"found .*127.*; if 127 is no data, .*\{0: 0, .*127: 255\}"
    ):
        coding_of("it", "strict", None, found)
    coding = coding_of("it", {0: 0, 255: 1, 127: 255}, None, found)
    assert (set(coding.change), set(coding.unknown)) == ({255}, {127})


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_strict_accepts_exactly_clean_files(values: list[int]) -> None:
    array = np.array(values, np.uint8)
    if not set(values) <= {0, 1, 255}:
        with pytest.raises(DataError):
            coding_of("it", "strict", None, distinct(array))
        return
    expected = (array != 0).astype(np.uint8)
    if 1 in values:
        expected[array == 255] = UNKNOWN
    mask = coding_of("it", "strict", None, distinct(array)).decode(array)
    np.testing.assert_array_equal(mask, expected)


def test_named_rules_and_mappings() -> None:
    def decoded(values: list[int], rule: MaskRule, nodata: int | None = None) -> list[int]:
        return coding_of("it", rule, nodata).decode(np.asarray(values)).tolist()

    gray = [0, 1, 127, 128, 255]
    assert decoded(gray, "threshold") == [0, 0, 0, 1, 1]
    assert decoded(gray, "nonzero") == [0, 1, 1, 1, 1]
    assert decoded(gray, "nonzero", 127) == [0, 1, UNKNOWN, 1, 1]
    assert decoded(gray, "nonzero", 0) == [0, 1, 1, 1, 1]
    assert decoded(gray, "reference") == [0, 0, 0, 0, 1]
    mapping = {0: 0, 255: 1, 127: 255}
    assert decoded([0, 127, 255], mapping) == [0, UNKNOWN, 1]
    assert decoded([0, 127, 255], mapping, 0) == [0, UNKNOWN, 1]
    # a value named as change is change, also where it is the declared nodata
    assert decoded([0, 255], mapping, 255) == [0, 1]
    assert decoded([0, 9], mapping, 9) == [0, UNKNOWN]
    with pytest.raises(DataError, match=r"it: the label mapping covers 0, 127, 255, .* holds 5"):
        decoded([5, 0], mapping)
    with pytest.raises(DataError, match="leads to 0, 1 or 255"):
        decoded([0], {0: 7})
    with pytest.raises(DataError, match="unknown label rule 'fuzzy'"):
        decoded([0], "fuzzy")  # type: ignore[arg-type]


def test_decoding_knows_not_a_number_and_pixels_without_label() -> None:
    values = np.array([[0, 1, 2, np.nan]], np.float32)
    coding = Coding("it", frozenset({1.0}), frozenset({2.0}))
    assert coding.decode(values).tolist() == [[0, 1, 255, 255]]
    known = np.array([[False, True, True, True]])
    assert coding.decode(values, known).tolist() == [[255, 1, 255, 255]]


@pytest.mark.parametrize(
    ("rule", "nodata", "needed"),
    [
        ("strict", None, True),
        ("threshold", 0, False),
        ({0: 0}, 0, False),
        (Values(), None, True),
        (Values(unlabelled=(1,)), None, True),
        (Values((1,)), None, False),
        (Values((1,)), 0, True),
    ],
)
def test_a_file_is_looked_through_where_its_values_decide(
    rule: MaskRule, nodata: int | None, needed: bool
) -> None:
    assert needs_values(rule, nodata) is needed


def test_bands_that_agree_are_one_and_colours_are_refused() -> None:
    plane = np.array([[0, np.nan], [1, 0]], np.float32)
    np.testing.assert_array_equal(one_band("it", np.stack([plane] * 3)), plane)
    with pytest.raises(DataError, match="it: expected a label with one band, found 2 that differ"):
        one_band("it", np.stack([plane, 1 - plane]))


@pytest.mark.parametrize("tiled", [True, False])
def test_the_last_pixel_of_a_file_decides_what_its_255_means(
    tmp_path: Path, write_tif: Callable[..., Path], tiled: bool
) -> None:
    values = np.zeros((600, 5000), np.uint8)
    values[0, 0] = 255
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256} if tiled else {}
    for last, unknown in ((0, set()), (1, {255})):
        values[-1, -1] = last
        with rasterio.open(write_tif(tmp_path / "t.tif", values, **tiles)) as dataset:
            parts = list(windows_of(dataset))
            assert sum(part.width * part.height for part in parts) == values.size
            assert set(coding_in("it", dataset, "strict").unknown) == unknown
