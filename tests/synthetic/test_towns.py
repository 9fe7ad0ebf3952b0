"""Towns: one seed one town, a truth that follows its rule, and knobs that touch pixels alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely import contains_xy

from rscd.base.errors import UsageError
from rscd.synthetic.towns import plan_town, render_town
from rscd.synthetic.towns.conditions import Conditions, Nuisance
from rscd.synthetic.towns.light import cast_shadow, relief_sources, sun_vector, sunlight
from rscd.synthetic.towns.materials import LAND_COVER, LAND_COVER_COLOURS, MATERIALS
from rscd.synthetic.towns.noise import lattice, smooth_noise
from rscd.synthetic.towns.parts import BOTH, T1, T2, Town, TownStyle
from rscd.synthetic.towns.render import TownPair

SUBURB = TownStyle(urban=1.0, dense=0.1, industrial=0.1, river=0.0, tree_cover=0.5)
MIXED = TownStyle(urban=0.5, dense=0.2, industrial=0.2, river=1.0, tree_cover=0.7, field=0.8)


def small(
    seed: int = 3,
    change_share: float = 0.4,
    shape_hw: tuple[int, int] = (96, 112),
    style: TownStyle = MIXED,
    gsd_m: float = 1.0,
) -> Town:
    return plan_town(seed, shape_hw, gsd_m, change_share=change_share, style=style)


# --- the plan -----------------------------------------------------------------------------------


def test_one_seed_is_one_town_and_another_seed_another() -> None:
    first, again, other = small(5), small(5), small(6)
    assert first.buildings == again.buildings
    assert first.trees == again.trees
    assert first.buildings != other.buildings


def test_random_style_comes_from_the_seed() -> None:
    assert plan_town(11, (64, 64)).style == plan_town(11, (64, 64)).style
    assert plan_town(11, (64, 64)).style != plan_town(12, (64, 64)).style


def test_without_change_share_every_building_stands_at_both_dates() -> None:
    town = small(change_share=0.0)
    assert town.buildings
    assert {b.dates for b in town.buildings} == {BOTH}
    assert town.changes == ()


@pytest.mark.slow
def test_change_share_is_about_the_share_of_lots_that_differ() -> None:
    style = replace(SUBURB, industrial=0.0, dense=0.0)
    changed = whole = 0
    for seed in range(4):
        town = plan_town(seed, (500, 500), 1.0, change_share=0.3, style=style)
        centres = [tuple(np.round(b.footprint.centroid.coords[0], -1)) for b in town.buildings]
        whole += len(set(centres))
        changed += len({c for c, b in zip(centres, town.buildings, strict=True) if b.dates != BOTH})
    assert 0.18 < changed / whole < 0.45


def test_full_change_share_leaves_no_unchanged_building() -> None:
    town = plan_town(2, (300, 300), 1.0, change_share=1.0, style=SUBURB)
    assert town.buildings
    assert all(b.dates != BOTH for b in town.buildings)


def test_ids_are_unique_and_buildings_have_height_and_area() -> None:
    town = plan_town(4, (400, 400), 1.0, style=SUBURB)
    ids = [b.id for b in town.buildings]
    assert len(set(ids)) == len(ids)
    for b in town.buildings:
        assert b.height_m > 2
        assert b.footprint.is_valid
        assert b.footprint.area > 14  # smaller things are sheds, not buildings


def test_changes_name_what_happened() -> None:
    town = plan_town(1, (500, 500), 1.0, change_share=0.5, style=SUBURB)
    kinds = {c.building_id: c.kind for c in town.changes}
    assert set(kinds.values()) == {"appeared", "vanished"}
    for b in town.buildings:
        expected = {T1: "vanished", T2: "appeared", BOTH: None}[b.dates]
        assert kinds.get(b.id) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape_hw": (0, 5)}, "at least 1 x 1"),
        ({"gsd_m": 0.0}, "ground sample distance"),
        ({"gsd_m": 99.0}, "ground sample distance"),
        ({"change_share": 1.5}, "change share"),
    ],
)
def test_a_plan_that_cannot_be_says_why(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_town(0, **arguments)


# --- the truth ----------------------------------------------------------------------------------


def burn_by_hand(
    polygons: list[shapely.Polygon], shape_hw: tuple[int, int], gsd_m: float
) -> NDArray[Any]:
    """Pixel centres inside any polygon, one point-in-polygon test each."""
    ys, xs = np.mgrid[: shape_hw[0], : shape_hw[1]]
    inside = np.zeros(shape_hw, bool)
    for polygon in polygons:
        inside |= contains_xy(polygon, (xs + 0.5) * gsd_m, (ys + 0.5) * gsd_m)
    return inside


@pytest.mark.parametrize("seed", [1, 2, 9])
def test_mask_is_every_footprint_that_stands_at_one_date_only(seed: int) -> None:
    town = small(seed, change_share=0.6, style=SUBURB)
    pair = render_town(town, Nuisance.draw(np.random.default_rng(seed)))
    by_id = [{b.id: b.footprint for b in town.standing(d)} for d in (T1, T2)]
    alone = by_id[0].keys() ^ by_id[1].keys()
    polygons = [by_id[0].get(i) or by_id[1].get(i) for i in sorted(alone)]
    expected = burn_by_hand(polygons, town.shape_hw, town.gsd_m)
    assert expected.any()
    np.testing.assert_array_equal(pair.mask[0] > 0, expected)


def test_a_replaced_building_counts_over_both_outlines() -> None:
    town = plan_town(0, (300, 300), 1.0, change_share=0.0, style=SUBURB)
    old = town.buildings[len(town.buildings) // 2]
    frame = burn_by_hand([old.footprint], town.shape_hw, 1.0)
    replaced = tuple(b for b in town.buildings if b.id != old.id)
    twin = replace(old, id=9999, dates=T2)
    town = replace(town, buildings=(*replaced, replace(old, dates=T1), twin))
    pair = render_town(town)
    np.testing.assert_array_equal(pair.mask[0] > 0, frame)
    assert [c.kind for c in pair.changes] == ["vanished", "appeared"]


def test_land_cover_agrees_with_the_buildings_of_each_date() -> None:
    town = small(2, style=SUBURB)
    pair = render_town(town)
    for i, date in enumerate((T1, T2)):
        footprints = [b.footprint for b in town.standing(date)]
        inside = burn_by_hand(footprints, town.shape_hw, town.gsd_m)
        np.testing.assert_array_equal(pair.land_cover[i] == LAND_COVER["building"], inside)
    assert set(np.unique(pair.land_cover)) <= set(LAND_COVER.values()) - {0}


def test_every_material_and_every_class_is_known() -> None:
    assert {m.cover for m in MATERIALS.values()} <= LAND_COVER.keys()
    assert set(LAND_COVER_COLOURS) == set(LAND_COVER.values())


# --- the pictures -------------------------------------------------------------------------------


def test_the_same_town_gives_the_same_bytes() -> None:
    nuisance = Nuisance.draw(np.random.default_rng(0))
    first, again = render_town(small(), nuisance), render_town(small(), nuisance)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.land_cover.tobytes() == again.land_cover.tobytes()


def test_nothing_changed_and_nuisances_off_is_the_same_picture_twice() -> None:
    pair = render_town(small(change_share=0.0), Nuisance.off())
    np.testing.assert_array_equal(pair.image[0], pair.image[1])
    np.testing.assert_array_equal(pair.land_cover[0], pair.land_cover[1])
    assert not pair.mask.any()


def test_far_from_every_changed_block_nothing_moves() -> None:
    """One house is taken out by hand: pixels differ in its neighbourhood and nowhere else."""
    town = plan_town(8, (200, 200), 1.0, change_share=0.0, style=SUBURB)
    middle = min(
        town.buildings, key=lambda b: np.hypot(*(np.array(b.footprint.centroid.coords[0]) - 100))
    )
    others = tuple(b for b in town.buildings if b.id != middle.id)
    pair = render_town(replace(town, buildings=(*others, replace(middle, dates=T2))))
    differs = (pair.image[0] != pair.image[1]).any(axis=0)
    near = burn_by_hand([middle.footprint.buffer(5 + 2 * middle.height_m)], town.shape_hw, 1.0)
    assert differs.any()
    assert not differs[~near].any()
    inside = pair.mask[0] > 0
    assert differs[inside].mean() > 0.9


KNOBS: dict[str, Any] = {
    "greenness": {"greenness": 0.2},
    "leaf_off": {"leaf_off": 0.5},
    "sun_azimuth": {"sun_azimuth_deg": 220.0},
    "sun_elevation": {"sun_elevation_deg": 30.0},
    "ambient": {"ambient": 0.4},
    "cloud_shadow": {"cloud_shadow": 0.6},
    "haze": {"haze": 0.2},
    "exposure": {"exposure": 1.3},
    "gain": {"gain": (1.1, 1.0, 0.9, 1.0)},
    "contrast": {"contrast": 1.2},
    "saturation": {"saturation": 0.6},
    "noise": {"noise": 4.0},
    "blur": {"blur_px": 0.9},
    "sharpen": {"sharpen": 1.0},
    "jpeg": {"jpeg_quality": 70},
    "lean": {"off_nadir_deg": 15.0, "view_azimuth_deg": 40.0},
}
PAIR_KNOBS: dict[str, Any] = {
    "shift": {"shift_px": (0.4, -0.3)},
    "warp": {"warp_px": 2.0},
    "cars": {"cars_move": 1.0},
    "crops": {"crop_change": 1.0},
    "ground": {"ground_change": 1.0},
    "trees": {"tree_change": 0.8},
}


@pytest.fixture(scope="module")
def plain() -> tuple[Town, TownPair]:
    town = plan_town(6, (160, 160), 1.0, change_share=0.3, style=replace(MIXED, urban=0.4))
    return town, render_town(town, Nuisance.off())


def almost_equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Equal but for a few pixels where OpenCV clips a thin line at another window's edge."""
    difference = np.abs(first.astype(int) - second)
    return (difference > 0).mean() < 2e-3 and difference.mean() < 0.01


@pytest.mark.parametrize("name", [*KNOBS, *PAIR_KNOBS])
def test_every_knob_changes_t2_and_leaves_t1_and_the_truth(
    plain: tuple[Town, TownPair], name: str
) -> None:
    town, base = plain
    if name in KNOBS:
        nuisance = Nuisance(t2=replace(Conditions(), **KNOBS[name]))
    else:
        nuisance = Nuisance(**PAIR_KNOBS[name])
    pair = render_town(town, nuisance)
    assert (pair.image[1] != base.image[1]).any()
    np.testing.assert_array_equal(pair.mask, base.mask)
    assert pair.buildings_t2 == base.buildings_t2
    if name != "trees":  # trees planted between the dates are missing at t1
        assert almost_equal(pair.image[0], base.image[0])


@pytest.mark.parametrize("shift", [(0.35, -0.25), (2.0, 0.0), (-3.5, 4.25)])
def test_t2_lies_where_it_was_shifted(shift: tuple[float, float]) -> None:
    town = plan_town(3, (192, 192), 0.5, change_share=0.0, style=SUBURB)
    pair = render_town(town, Nuisance(shift_px=shift))
    grey = pair.image.astype(np.float64).mean(axis=1)
    window = cv2.createHanningWindow((192, 192), cv2.CV_64F)
    (dx, dy), _ = cv2.phaseCorrelate(grey[0], grey[1], window)
    assert (dx, dy) == pytest.approx(shift, abs=0.15)


@pytest.mark.slow
def test_tiles_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same town in tiles of 64 and in one piece; noise is drawn per tile and stays out."""
    town = small(shape_hw=(150, 170))
    nuisance = Nuisance(
        t2=Conditions(blur_px=0.6, sharpen=0.5, off_nadir_deg=10, cloud_shadow=0.4, leaf_off=0.3),
        shift_px=(1.3, -0.4), warp_px=1.5,
    )  # fmt: skip
    whole = render_town(town, nuisance)
    monkeypatch.setattr("rscd.synthetic.towns.render.TILE_PX", 64)
    tiled = render_town(town, nuisance)
    assert almost_equal(whole.image[0], tiled.image[0])
    assert almost_equal(whole.image[1], tiled.image[1])
    assert (whole.land_cover != tiled.land_cover).mean() < 1e-3


def test_four_bands_and_sixteen_bits() -> None:
    town = small()
    eight = render_town(town, bands=4)
    assert eight.image.shape == (2, 4, 96, 112)
    assert eight.image.dtype == np.uint8
    np.testing.assert_array_equal(eight.image[:, :3], render_town(town).image)
    sixteen = render_town(town, bands=4, dtype="uint16")
    assert sixteen.image.dtype == np.uint16
    assert 255 < sixteen.image.max() <= 10000
    # sixteen bits are linear light: undoing the display curve of eight bits gives them back
    linear = (eight.image / 255.0) ** 2.2 * 10000
    assert np.abs(linear - sixteen.image).max() < 100


def test_vegetation_is_bright_in_the_near_infrared() -> None:
    pair = render_town(plan_town(2, (128, 128), 1.0, style=MIXED), bands=4)
    image, cover = pair.image[0].astype(float), pair.land_cover[0]
    ndvi = (image[3] - image[0]) / (image[3] + image[0] + 1)
    green = np.isin(cover, (LAND_COVER["grass"], LAND_COVER["tree"]))
    hard = np.isin(cover, (LAND_COVER["road"], LAND_COVER["paved"], LAND_COVER["water"]))
    assert ndvi[green].mean() > ndvi[hard].mean() + 0.15


@pytest.mark.parametrize("shape_hw", [(1, 1), (33, 47), (5, 260), (513, 3)])
def test_odd_and_tiny_sizes(shape_hw: tuple[int, int]) -> None:
    pair = render_town(plan_town(1, shape_hw, 0.5), Nuisance.draw(np.random.default_rng(1)))
    assert pair.image.shape == (2, 3, *shape_hw)
    assert pair.mask.shape == (1, *shape_hw)
    assert pair.land_cover.shape == (2, *shape_hw)


@pytest.mark.parametrize("gsd_m", [0.2, 1.0, 5.0])
def test_other_resolutions(gsd_m: float) -> None:
    pair = render_town(plan_town(7, (48, 48), gsd_m), Nuisance.moderate())
    assert pair.image.std() > 4


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_any_drawn_nuisance_renders(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    pair = render_town(plan_town(seed, (40, 40), 0.5), Nuisance.draw(rng, strength))
    assert pair.image.dtype == np.uint8
    assert set(np.unique(pair.mask)) <= {0, 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conditions(sun_elevation_deg=0), "sun_elevation_deg from 5 to 90"),
        (lambda: Conditions(off_nadir_deg=60), "off_nadir_deg from 0 to 45"),
        (lambda: Conditions(haze=2), "haze from 0 to 1"),
        (lambda: Conditions(noise=-1), "0 or more"),
        (lambda: Conditions(jpeg_quality=101), "jpeg_quality"),
        (lambda: Nuisance(cars_move=2), "cars_move"),
        (lambda: Nuisance(warp_px=-1), "warp_px"),
        (lambda: Nuisance.draw(np.random.default_rng(0), 2.0), "strength"),
        (lambda: render_town(small(), bands=5), "3 or 4 bands"),  # type: ignore[arg-type]
        (lambda: render_town(small(), dtype="float32"), "uint8 or uint16"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused(make: Callable[..., Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


# --- the parts ----------------------------------------------------------------------------------


@given(st.integers(-5000, 5000), st.integers(-5000, 5000), st.sampled_from([1, 3, 8, 40]))
def test_noise_is_a_function_of_the_place(col: int, row: int, wave: int) -> None:
    whole = smooth_noise(7, col, row, (30, 34), wave)
    part = smooth_noise(7, col + 11, row + 5, (12, 20), wave)
    np.testing.assert_allclose(part, whole[5:17, 11:31], atol=1e-5)


def test_noise_is_balanced_and_differs_by_seed() -> None:
    field = lattice(1, 0, 0, (400, 400))
    assert abs(field.mean()) < 0.01
    assert field.std() == pytest.approx(1 / np.sqrt(3), abs=0.01)
    assert abs(np.corrcoef(field.ravel(), lattice(2, 0, 0, (400, 400)).ravel())[0, 1]) < 0.01


def test_shadow_has_the_length_of_geometry() -> None:
    """A 10 m wall under a sun at 45 degrees in the south throws 10 m of shadow to the north."""
    height = np.zeros((120, 20), np.float32)
    height[80:84] = 10.0
    shadow = cast_shadow(height, 0.5, sun_vector(180, 45), 30.0)
    lit = shadow[:80, 10] > 0.5
    assert lit.sum() * 0.5 == pytest.approx(10.0, abs=0.6)
    assert lit[-1]
    assert not (shadow[85:, 10] > 0.5).any()


def test_facets_towards_the_sun_are_brighter_and_level_ground_is_one() -> None:
    ramp = np.broadcast_to(np.abs(np.arange(40) - 20)[None, :] * -0.25 + 6, (9, 40)).astype(
        np.float32
    )
    light = sunlight(ramp, 0.5, sun_vector(90, 45))  # sun in the east
    assert light[4, 30] > 1.2  # falls to the east
    assert light[4, 10] < 0.8
    level = sunlight(np.zeros((5, 5), np.float32), 0.5, sun_vector(120, 30))
    np.testing.assert_allclose(level, 1.0, atol=1e-6)


def test_roofs_lean_by_height_times_tangent() -> None:
    height = np.zeros((60, 80), np.float32)
    height[20:40, 20:40] = 8.0
    columns, rows, _ = relief_sources(height, 0.5, (0.25, 0.0))  # 2 m = 4 pixels to the right
    assert columns[30, 40] == pytest.approx(36, abs=0.4)
    assert rows[30, 40] == pytest.approx(30, abs=1e-3)
    assert columns[30, 60] == 60
