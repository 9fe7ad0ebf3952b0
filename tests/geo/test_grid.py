"""Pixel grids: when two are one, where they meet, how large their pixels are."""

import math
import re
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import assume, given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from rscd.base.errors import GridMismatchError, UsageError
from rscd.geo.grid import (
    apply,
    bounds_text,
    compose,
    crs_name,
    footprint_px,
    grid_text,
    intersection,
    is_georeferenced,
    is_local,
    pixel_size_m,
    pixels_within,
    shape_hw,
    transformer_between,
    whole_pixel_offset,
)
from rscd.geo.tiles import Box

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)


def grid(
    shape: tuple[int, int] = (40, 60), transform: Affine = UTM, crs: str | None = "EPSG:32633"
) -> GeoBox:
    return GeoBox(shape, transform, crs)


def shifted(cols: float, rows: float, base: Affine = UTM) -> Affine:
    return compose(base, Affine.translation(cols, rows))


@given(st.integers(-500, 500), st.integers(-500, 500))
def test_offset_of_whole_pixels_is_found_for_any_transform(cols: int, rows: int) -> None:
    for base in (
        UTM,
        compose(UTM, Affine.rotation(30)),
        compose(UTM, Affine.scale(1, -1)),
        Affine.identity(),
    ):
        one, other = grid(transform=shifted(cols, rows, base)), grid(transform=base)
        assert whole_pixel_offset(one, other) == (cols, rows)


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_fractions_of_a_pixel_have_no_whole_offset(cols: float, rows: float) -> None:
    away = math.hypot(cols - round(cols), rows - round(rows))
    assume(abs(away - 0.01) > 1e-6)
    offset = whole_pixel_offset(grid(transform=shifted(cols, rows)), grid())
    assert (offset is None) == (away > 0.01)


@pytest.mark.parametrize(
    "other",
    [
        grid(crs="EPSG:32632"),
        grid(crs=None),
        grid(transform=compose(UTM, Affine.scale(1.001))),  # 0.04 pixels off at the far end
        grid(transform=compose(UTM, Affine.scale(2))),
        grid(transform=compose(UTM, Affine.rotation(0.1))),
        grid(transform=compose(shifted(0, 40), Affine.scale(1, -1))),  # flipped, in place
        grid(transform=compose(UTM, Affine.rotation(180))),
    ],
)
def test_other_grids_have_no_offset(other: GeoBox) -> None:
    assert whole_pixel_offset(grid(), other) is None


def test_a_pixel_size_that_differs_by_rounding_alone_is_the_same_grid() -> None:
    rounded = Affine(10.0000001, 0, 500_000, 0, -10, 5_000_000)
    assert whole_pixel_offset(grid(transform=rounded), grid()) == (0, 0)


def test_offset_sees_the_drift_at_the_far_corner() -> None:
    wide = grid((10, 20_000))
    drifting = grid((10, 20_000), compose(UTM, Affine.scale(1 + 1e-6, 1)))  # 0.02 pixels at the end
    assert whole_pixel_offset(wide, drifting) is None


@given(st.integers(-80, 80), st.integers(-80, 80), st.integers(1, 50), st.integers(1, 50))
def test_intersection_of_aligned_grids_is_that_of_index_ranges(
    cols: int, rows: int, height: int, width: int
) -> None:
    anchor, other = grid(), grid((height, width), shifted(cols, rows))
    rows_in = sorted(set(range(40)) & set(range(rows, rows + height)))
    cols_in = sorted(set(range(60)) & set(range(cols, cols + width)))
    if not (rows_in and cols_in):
        with pytest.raises(GridMismatchError, match="overlap"):
            intersection(anchor, other)
        return
    met = intersection(anchor, other)
    assert shape_hw(met) == (len(rows_in), len(cols_in))
    assert whole_pixel_offset(met, anchor) == (cols_in[0], rows_in[0])


@given(
    st.floats(-70, 70),
    st.floats(-50, 50),
    st.floats(0.2, 3),
    st.floats(-180, 180),
)
def test_intersection_holds_every_pixel_whose_centre_the_other_covers(
    cols: float, rows: float, scale: float, degrees: float
) -> None:
    anchor = grid()
    other = grid(
        (20, 30),
        compose(shifted(cols, rows), compose(Affine.rotation(degrees), Affine.scale(scale))),
    )
    col, row = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)
    u, v = apply(compose(~other.affine, anchor.affine), col, row)
    covered = (u > 0) & (u < 30) & (v > 0) & (v < 20)
    try:
        met = intersection(anchor, other)
    except GridMismatchError:
        assert not covered.any()
        return
    offset = whole_pixel_offset(met, anchor)
    assert offset is not None
    left, top = offset
    height, width = shape_hw(met)
    kept = np.zeros((40, 60), bool)
    kept[top : top + height, left : left + width] = True
    assert kept[covered].all()


def test_no_overlap_names_both_bounds_in_one_crs() -> None:
    far = GeoBox((100, 100), Affine(0.001, 0, 20.0, 0, -0.001, 50.0), "EPSG:4326")
    with pytest.raises(GridMismatchError) as caught:
        intersection(grid(), far)
    message = str(caught.value)
    assert "(500000, 4999600, 500600, 5000000)" in message  # t1
    assert "EPSG:32633" in message
    t2_bounds = re.search(r"and t2 \((.*?)\)", message)
    assert t2_bounds is not None
    assert t2_bounds is not None
    left, bottom, right, top = map(float, t2_bounds.group(1).split(","))
    assert 850_000 < left < right < 880_000  # 20 to 20.1 degrees east, in zone 33
    assert 5_530_000 < bottom < top < 5_560_000
    assert "\n" not in message


def test_touching_edges_do_not_overlap() -> None:
    with pytest.raises(GridMismatchError, match="found none"):
        intersection(grid(), grid(transform=shifted(60, 0)))


def test_less_than_half_a_pixel_in_common_covers_no_pixel_centre() -> None:
    with pytest.raises(GridMismatchError, match="found none"):
        intersection(grid(), grid(transform=shifted(59.6, 0)))
    assert shape_hw(intersection(grid(), grid(transform=shifted(59.4, 0)))) == (40, 1)


def test_footprint_follows_edges_that_bend() -> None:
    # the parallel 60 N over 40 degrees of longitude bulges in a polar projection
    wide = GeoBox((10, 400), Affine(0.1, 0, -20, 0, -0.1, 60), "EPSG:4326")
    polar = GeoBox((10, 10), Affine(1000, 0, 0, 0, -1000, 0), "EPSG:3413")
    box = footprint_px(wide, polar)
    lon = np.linspace(-20, 20, 1001)
    to_polar = Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True)
    exact = np.array([to_polar.transform(lon, np.full_like(lon, lat)) for lat in (59, 60)])
    x0, x1 = exact[:, 0].min() / 1000, exact[:, 0].max() / 1000
    y0, y1 = -exact[:, 1].max() / 1000, -exact[:, 1].min() / 1000
    np.testing.assert_allclose(box, (x0, y0, x1, y1), atol=1.0)


def test_a_footprint_across_the_antimeridian_stays_in_one_piece() -> None:
    degrees = GeoBox((200, 220), Affine(1e-4, 0, 179.99, 0, -1e-4, 10), "EPSG:4326")
    x, y = Transformer.from_crs(4326, 32660, always_xy=True).transform(179.985, 10.005)
    utm = GeoBox((300, 300), Affine(11, 0, x, 0, -11, y), "EPSG:32660")
    x0, _, x1, _ = footprint_px(utm, degrees)
    assert x1 - x0 == pytest.approx(302, abs=3)  # pixels of 11 m, not round the earth
    assert shape_hw(intersection(degrees, utm)) == shape_hw(degrees)
    west = GeoBox((200, 220), Affine(1e-4, 0, -180.01, 0, -1e-4, 10), "EPSG:4326")
    assert shape_hw(intersection(west, utm)) == shape_hw(west)


def test_a_footprint_that_does_not_exist_in_the_other_crs_is_an_error() -> None:
    mars = 'GEOGCRS["Mars",DATUM["Mars",ELLIPSOID["Mars",3396190,169.894,LENGTHUNIT["metre",1]]],'
    mars += 'CS[ellipsoidal,2],AXIS["latitude",north],AXIS["longitude",east],'
    mars += 'ANGLEUNIT["degree",0.0174532925199433]]'
    martian = GeoBox((10, 10), Affine(0.1, 0, 15, 0, -0.1, 45), mars)
    with pytest.raises(GridMismatchError, match="expected"):
        intersection(grid(), martian)
    beyond = GeoBox((10, 10), Affine(1e9, 0, 1e12, 0, -1e9, 1e12), "EPSG:3413")
    with pytest.raises(GridMismatchError, match="expected"):
        intersection(grid(), beyond)


def test_pixels_within_a_box_are_those_whose_centre_lies_within() -> None:
    size = shape_hw(grid())
    assert pixels_within(size, (0.4, 0.6, 3.6, 3.4)) == Box(1, 0, 2, 4)
    assert pixels_within(size, (0.6, 0, 1.4, 40)) is None
    assert pixels_within(size, (100, 0, 140, 40)) is None
    assert pixels_within(size, (-1e9, -1e9, 1e9, 1e9)) == Box(0, 0, *size)


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32633", UTM, 10.0),
        ("EPSG:32633", compose(UTM, Affine.rotation(25)), 10.0),
        # at 47 degrees north a pixel of web mercator is cos(47) of its size on the ground
        ("EPSG:3857", Affine(1, 0, 1e6, 0, -1, 5_942_074), math.cos(math.radians(47))),
        ("EPSG:2056", Affine(0.5, 0, 2_600_000, 0, -0.5, 1_200_000), 0.5),
        ("EPSG:2263", Affine(1, 0, 980_000, 0, -1, 200_000), 0.3048006),  # US survey feet
    ],
)
def test_pixel_size_in_metres(crs: str, transform: Affine, metres: float) -> None:
    assert pixel_size_m(grid(transform=transform, crs=crs)) == pytest.approx(metres, rel=4e-3)


def test_pixel_size_of_degrees() -> None:
    size = pixel_size_m(GeoBox((2, 2), Affine(1e-5, 0, 8, 0, -1e-5, 60), "EPSG:4326"))
    across, along = 1e-5 * 55_800, 1e-5 * 111_412  # lengths of a degree at 60 north
    assert size == pytest.approx(math.sqrt(across * along), rel=2e-3)


def test_pixel_size_is_unknown_without_crs() -> None:
    assert pixel_size_m(grid(crs=None)) is None


def test_texts_for_people() -> None:
    assert crs_name(None) == "no CRS"
    assert crs_name("EPSG:32633") == "EPSG:32633"
    assert grid_text(grid()) == "60 x 40 px of 10 m, EPSG:32633"
    assert grid_text(grid(transform=Affine.identity(), crs=None)) == "60 x 40 px of 1 px, no CRS"
    degrees = GeoBox((4, 6), Affine(0.25, 0, 0, 0, -0.25, 0), "EPSG:4326")
    assert grid_text(degrees) == "6 x 4 px of 0.25 deg, EPSG:4326"
    feet = grid(transform=Affine(1, 0, 9e5, 0, -1, 2e5), crs="EPSG:2263")
    assert "1 ft" in grid_text(feet)
    assert bounds_text((0.1, -1.0, 1e6, 2.0)) == "(0.1, -1, 1000000, 2)"


def test_georeferenced_means_having_a_crs() -> None:
    assert is_georeferenced(grid())
    assert not is_georeferenced(grid(crs=None))


def plane(unit: str = 'UNIT["metre",1]', name: str = "Mine grid") -> str:
    return f'LOCAL_CS["{name}",{unit},AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


class TestLocalPlanes:
    """CRS of mines, building sites and drawings: metres without a place on the Earth."""

    @pytest.mark.parametrize(
        ("unit", "metres"),
        [('UNIT["metre",1]', 1.0), ('UNIT["US survey foot",0.3048006096]', 0.3048006096)],
    )
    def test_the_pixel_has_the_size_of_its_unit(self, unit: str, metres: float) -> None:
        for turned in (Affine.identity(), Affine.rotation(30)):
            transform = compose(compose(Affine.translation(1000, 2000), turned), Affine.scale(0.5))
            local = grid(transform=transform, crs=plane(unit))
            assert pixel_size_m(local) == pytest.approx(0.5 * metres)

    def test_a_unit_that_is_no_length_leaves_the_size_to_the_user(self) -> None:
        local = grid(crs=plane('UNIT["pixel",1]'))
        assert pixel_size_m(local) is None
        assert pixel_size_m(local, 0.3) == 0.3

    def test_the_user_may_say_the_same_size_and_no_other(self) -> None:
        local = grid(crs=plane())
        assert pixel_size_m(local, 10) == 10
        with pytest.raises(UsageError, match="--gsd"):
            pixel_size_m(local, 11)

    def test_two_grids_of_one_plane_meet_without_a_way_to_the_earth(self) -> None:
        first = grid(crs=plane())
        second = grid(transform=shifted(10.5, 3), crs=plane())
        assert intersection(first, second).shape == (37, 50)

    def test_no_way_leads_elsewhere_and_the_message_says_what_can_be_done(self) -> None:
        for pair in ((plane(), "EPSG:2154"), ("EPSG:2154", plane())):
            with pytest.raises(GridMismatchError, match=r"local plane .*-a_srs") as caught:
                footprint_px(grid(crs=pair[0]), grid(crs=pair[1]))
            assert "gdalwarp" not in str(caught.value)

    def test_one_plane_in_the_words_of_two_formats(self) -> None:
        words = (
            'ENGCRS["local",EDATUM["unknown"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
            'LENGTHUNIT["metre",1]]'
        )
        first, second = CRS(words), CRS(plane(name="local"))
        assert first != second
        assert is_local(first)
        assert transformer_between(first, second).transform(3.5, -7) == (3.5, -7)


def test_a_foreign_database_of_proj_is_named_where_it_may_be_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROJ_DATA", "/opt/other/proj")
    moon = "+proj=longlat +R=1737400 +no_defs +type=crs"
    monkeypatch.setattr("rscd.geo.grid.Transformer.from_crs", _refusing)
    with pytest.raises(GridMismatchError, match="unset PROJ_DATA=/opt/other/proj"):
        transformer_between(CRS(moon), CRS("EPSG:4326"))


def _refusing(*args: CRS, **keywords: Any) -> None:
    raise ValueError("no way")


ENDS = st.floats(-30, 60, allow_nan=False) | st.sampled_from([-np.inf, np.inf, 1e300, -1e300])


@given(st.tuples(ENDS, ENDS, ENDS, ENDS))
def test_pixels_within_a_box_are_those_whose_centres_are(
    box: tuple[float, float, float, float],
) -> None:
    height, width = 20, 30
    rows, cols = np.mgrid[:height, :width] + 0.5
    left, top, right, bottom = box
    edges = np.array([left - 1e-3, right + 1e-3, top - 1e-3, bottom + 1e-3])
    near = np.abs(edges[np.isfinite(edges)] % 1 - 0.5) < 1e-2
    assume(not near.any())
    inside = (cols > left) & (cols < right) & (rows > top) & (rows < bottom)
    found = pixels_within((height, width), box)
    expected = np.zeros((height, width), bool)
    if found is not None:
        expected[found.row :, found.col :][: found.height, : found.width] = True
    np.testing.assert_array_equal(inside, expected)


def test_a_box_that_nobody_knows_holds_no_pixels() -> None:
    assert pixels_within((20, 30), (0.0, np.nan, 5.0, 5.0)) is None
