"""Polygons from masks on disk: oracles are the whole array and the raster they came from."""

import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from rscd.base.errors import SceneError, UsageError
from rscd.geo import polygons as module
from rscd.geo.measure import Ground
from rscd.geo.polygons import mean_under, pixel_counts, to_world, trace

UTM = CRS.from_epsg(32631)
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)
ROTATED = NORTH_UP @ Affine.rotation(33.0)
SOUTH_UP = Affine(10, 0, 500_000, 0, 10, 5_000_000)

masks = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=24),
    elements=st.sampled_from([0, 1, 1, 255]),
)


PathT = TypeVar("PathT", str, Path)


def write(path: PathT, array: NDArray[Any], **profile: Any) -> PathT:
    height, width = array.shape
    profile = {"driver": "GTiff", "transform": NORTH_UP, "crs": UTM} | profile
    with rasterio.open(
        path, "w", width=width, height=height, count=1, dtype=array.dtype, **profile
    ) as dataset:
        dataset.write(array, 1)
    return path


def traced(mask: NDArray[Any]) -> NDArray[Any]:
    with MemoryFile() as memory:
        return trace(write(memory.name, mask))


def averaged(polygons: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    with MemoryFile() as memory:
        return mean_under(polygons, write(memory.name, values))


def whole_array(mask: NDArray[Any]) -> list[Any]:
    found = rasterio.features.shapes(mask, mask=mask == 1)
    return [shapely.geometry.shape(region) for region, _ in found]


def burnt(polygons: NDArray[Any] | list[shapely.Polygon], shape: tuple[int, int]) -> NDArray[Any]:
    if len(polygons) == 0:
        return np.zeros(shape, np.uint8)
    return rasterio.features.rasterize(list(polygons), out_shape=shape, dtype="uint8")


def first_pixels(polygons: NDArray[Any], shape: tuple[int, int]) -> list[Any]:
    return [int(np.flatnonzero(burnt([polygon], shape))[0]) for polygon in polygons]


@given(masks)
@settings(max_examples=150, deadline=None)
def test_polygons_are_those_of_the_whole_array_and_rasterise_to_the_mask(
    mask: NDArray[Any],
) -> None:
    polygons = traced(mask)
    assert np.array_equal(burnt(polygons, mask.shape), mask == 1)
    assert shapely.is_valid(polygons).all()
    assert {p.normalize().wkb for p in polygons} == {p.normalize().wkb for p in whole_array(mask)}
    assert len(polygons) == len(whole_array(mask))


@given(masks)
@settings(max_examples=60, deadline=None)
def test_polygons_come_in_the_order_of_their_first_pixels(mask: NDArray[Any]) -> None:
    polygons = traced(mask)
    first = first_pixels(polygons, mask.shape)
    assert first == sorted(first)


@given(masks, st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_means_and_counts_are_those_of_the_pixels(mask: NDArray[Any], seed: int) -> None:
    values = np.random.default_rng(seed).random(mask.shape, dtype=np.float32)
    values[mask == 255] = np.nan
    polygons = traced(mask)
    inside = [burnt([polygon], mask.shape).astype(bool) for polygon in polygons]
    expected = [values[pixels].mean(dtype=np.float64) for pixels in inside]
    np.testing.assert_allclose(averaged(polygons, values), expected, rtol=0, atol=1e-12)
    assert pixel_counts(polygons).tolist() == [pixels.sum() for pixels in inside]


@pytest.mark.parametrize(
    ("name", "mask", "count"),
    [
        ("empty", np.zeros((5, 7)), 0),
        ("everything", np.ones((5, 7)), 1),
        ("nodata only", np.full((5, 7), 255), 0),
        ("single pixel", np.pad([[1]], 3), 1),
        ("one pixel scene", np.ones((1, 1)), 1),
        ("diagonal touch", np.eye(4), 4),
        ("checkerboard", np.indices((6, 6)).sum(0) % 2, 18),
        ("hole", np.pad(np.zeros((2, 2)), 2, constant_values=1), 1),
        ("island in a hole", np.pad(np.pad([[1]], 1), 1, constant_values=1), 2),
        ("nodata hole", np.pad([[255]], 1, constant_values=1), 1),
        ("holes touching diagonally", np.pad(np.eye(2) == 0, 2, constant_values=1), 1),
    ],
)
def test_shapes_that_trip_tracers(name: str, mask: NDArray[Any], count: int) -> None:
    mask = mask.astype(np.uint8)
    polygons = traced(mask)
    assert len(polygons) == count
    assert shapely.is_valid(polygons).all()
    assert np.array_equal(burnt(polygons, mask.shape), mask == 1)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = (np.random.default_rng(0).random((90, 80)) < 0.4).astype(np.uint8)
    values = np.random.default_rng(1).random(mask.shape, dtype=np.float32)
    whole = traced(mask)
    means = averaged(whole, values)
    areas = Ground(UTM, NORTH_UP).areas_m2(whole)
    simple = Ground(UTM, NORTH_UP).simplify(whole, 15)
    monkeypatch.setattr(module, "_CHUNK_VERTICES", 50)
    monkeypatch.setattr(module, "_CHUNK_POLYGONS", 7)
    monkeypatch.setattr(module, "_STRIP_BYTES", 8 * 81 * 13)
    assert (traced(mask) == whole).all()
    np.testing.assert_allclose(averaged(whole, values), means, rtol=0, atol=1e-12)
    np.testing.assert_allclose(Ground(UTM, NORTH_UP).areas_m2(whole), areas, rtol=1e-12)
    assert (Ground(UTM, NORTH_UP).simplify(whole, 15) == simple).all()


@pytest.mark.parametrize("profile", [{"driver": "ENVI"}, {"tiled": True, "blockxsize": 16}])
def test_layout_of_the_file_does_not_show(tmp_path: Path, profile: dict[str, Any]) -> None:
    mask = (np.random.default_rng(2).random((70, 50)) < 0.5).astype(np.uint8)
    profile = profile | ({"blockysize": 16} if profile.get("tiled") else {})
    path = write(tmp_path / "mask.bin", mask, **profile)
    assert (trace(path) == traced(mask)).all()


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP, Affine.identity()])
def test_world_polygons_are_exact_and_right_handed(transform: Affine) -> None:
    mask = np.pad(np.zeros((2, 3), np.uint8), 2, constant_values=1)
    (polygon,) = to_world(traced(mask), transform)
    assert polygon.exterior.is_ccw
    assert not polygon.interiors[0].is_ccw
    corners = np.array([[0, 0], [7, 0], [7, 6], [0, 6]])
    expected = {tuple(transform @ tuple(map(float, corner))) for corner in corners}
    assert set(polygon.exterior.coords) == expected


def test_unreadable_mask(tmp_path: Path) -> None:
    (tmp_path / "mask.tif").write_bytes(b"no raster")
    with pytest.raises(SceneError, match=r"mask\.tif: expected a readable raster"):
        trace(tmp_path / "mask.tif")


def test_truncated_mask(tmp_path: Path) -> None:
    noise = (np.random.default_rng(0).random((256, 256)) < 0.5).astype(np.uint8)
    path = write(tmp_path / "mask.tif", noise, compress="deflate", tiled=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneError, match=r"mask\.tif: expected a readable raster"):
        trace(path)


def test_lost_regions_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterio.features, "shapes", lambda *_args, **_keywords: iter([]))
    with pytest.raises(SceneError, match="0 of 16 changed pixels"):
        traced(np.ones((4, 4), np.uint8))


def test_mean_wants_the_same_scene_and_pixel_outlines() -> None:
    polygons = traced(np.ones((4, 4), np.uint8))
    with pytest.raises(SceneError, match="expected at least 4 x 4 pixels"):
        averaged(polygons, np.zeros((3, 4), np.float32))
    slanted = np.array([shapely.Polygon([(0, 0), (3, 0), (0, 3)])])
    with pytest.raises(ValueError, match="average before simplifying"):
        averaged(slanted, np.zeros((4, 4), np.float32))


# --- metres -------------------------------------------------------------------------------------


def square(size: int) -> NDArray[Any]:
    return np.array([shapely.box(0, 0, size, size)])


def geodesic_area(crs: CRS, transform: Affine, polygon: shapely.Polygon) -> float:
    """Karney's geodesic area of the densified outline: independent of any projection."""
    world = to_world(shapely.segmentize(np.array([polygon]), 0.5), transform)[0]
    source = rasterio.warp.transform(crs, CRS.from_epsg(4326), *shapely.get_coordinates(world).T)
    return abs(Geod(ellps="WGS84").polygon_area_perimeter(*source)[0])


@pytest.mark.parametrize(
    ("epsg", "transform"),
    [
        (32631, NORTH_UP),
        (32631, ROTATED),
        (3857, Affine(10, 0, 500_000, 0, -10, 5_942_074)),
        (4326, Affine(1e-4, 0, 12.0, 0, -1e-4, 64.0)),
        (4326, Affine(1e-4, 0, 179.999, 0, -1e-4, -17.0)),
        (4326, Affine(0.5, 0, -120.0, 0, -0.5, 70.0)),
        (3413, Affine(100, 0, -2000, 0, -100, 3000)),
        (3832, Affine(30, 0, 3_339_000, 0, -30, -1_900_000)),
    ],
)
def test_areas_agree_with_geodesics(epsg: int, transform: Affine) -> None:
    crs = CRS.from_epsg(epsg)
    polygons = square(50)
    area = Ground(crs, transform).areas_m2(polygons)[0]
    # Lines along a parallel are not geodesics: half a degree long they differ slightly.
    tolerance = 1e-4 if transform.a == 0.5 else 1e-6
    assert area == pytest.approx(geodesic_area(crs, transform, polygons[0]), rel=tolerance)


def test_areas_of_a_subcontinent_agree_with_geodesics() -> None:
    crs, transform = CRS.from_epsg(3413), Affine(5_000, 0, -500_000, 0, -5_000, -1_000_000)
    area = Ground(crs, transform).areas_m2(square(200))[0]
    assert area == pytest.approx(geodesic_area(crs, transform, square(200)[0]), rel=1e-4)


def test_areas_of_other_units() -> None:
    feet = Ground(CRS.from_epsg(2263), Affine(1, 0, 980_000, 0, -1, 200_000))
    assert feet.areas_m2(square(100))[0] == pytest.approx(1e4 * 0.3048**2, rel=1e-4)
    grads = Ground(CRS.from_epsg(27572), Affine(10, 0, 600_000, 0, -10, 2_200_000))
    assert grads.areas_m2(square(10))[0] == pytest.approx(1e4, rel=1e-3)
    plane = CRS.from_wkt('LOCAL_CS["site",UNIT["foot",0.3048]]')
    assert Ground(plane, NORTH_UP).areas_m2(square(1))[0] == pytest.approx(100 * 0.3048**2)


def test_areas_without_crs() -> None:
    assert Ground(None, Affine.identity(), gsd_m=0.5).areas_m2(square(4))[0] == 4.0
    assert np.isnan(Ground(None, Affine.identity()).areas_m2(square(4))).all()


def test_areas_subtract_holes() -> None:
    mask = np.pad(np.zeros((2, 3), np.uint8), 2, constant_values=1)
    area = Ground(UTM, NORTH_UP).areas_m2(traced(mask))[0]
    assert area == pytest.approx(36 * 100, rel=1e-3)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)),
        (CRS.from_epsg(3857), Affine(0.5 / 0.5, 0, 0, 0, -1, 8_399_738)),  # 60 N: scale 2
        (CRS.from_epsg(4326), Affine(0.5 / 55_800, 0, 10, 0, -0.5 / 111_400, 60)),
        (None, Affine.identity()),
    ],
)
def test_tolerance_is_in_metres_on_the_ground(crs: CRS | None, transform: Affine) -> None:
    # A step of one pixel, half a metre: kept at 0.4 m, gone at 0.6 m.
    mask = np.ones((20, 40), np.uint8)
    mask[0, 20:] = 0
    polygons = traced(mask)
    ground = Ground(crs, transform, gsd_m=0.5)
    assert len(ground.simplify(polygons, 0.2)[0].exterior.coords) == 7
    assert len(ground.simplify(polygons, 0.6)[0].exterior.coords) < 7


@given(masks, st.floats(0, 500))
@settings(max_examples=100, deadline=None)
def test_simplified_polygons_are_valid_and_keep_pixel_corners(
    mask: NDArray[Any], tolerance_m: float
) -> None:
    polygons = traced(mask)
    simple = Ground(UTM, ROTATED).simplify(polygons, tolerance_m)
    assert len(simple) == len(polygons)
    assert shapely.is_valid(simple).all()
    assert (shapely.area(simple) > 0).all()
    for before, after in zip(polygons, simple, strict=True):
        assert set(map(tuple, shapely.get_coordinates(after))) <= set(
            map(tuple, shapely.get_coordinates(before))
        )


def test_simplify_needs_metres() -> None:
    with pytest.raises(UsageError, match="--gsd"):
        Ground(None, Affine.identity()).simplify(square(3), 1.0)
    with pytest.raises(UsageError, match="0 m or more"):
        Ground(UTM, NORTH_UP).simplify(square(3), -1.0)


@pytest.mark.linux
@pytest.mark.slow
def test_trace_reads_a_large_mask_in_little_memory(tmp_path: Path) -> None:
    """The band is streamed: the peak of a child process stays far below the array's size."""
    path = tmp_path / "mask.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=14_000, height=14_000, count=1, dtype="uint8",
        tiled=True, sparse_ok=True, transform=NORTH_UP, crs=UTM,
    ) as dataset:  # fmt: skip
        window = rasterio.windows.Window(9_000, 9_000, 512, 512)
        dataset.write(np.ones((512, 512), np.uint8), 1, window=window)
    script = (
        "import sys; from rscd.geo.polygons import trace; import resource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(trace(sys.argv[1])) == 1\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True
    )
    assert int(child.stdout) < 100_000  # KiB; the array alone is 191,000
