"""A part of a scene is the part of the whole scene's result: `--bbox` and `--aoi` cut, no more."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.features import geometry_mask

from rscd.geo.changemap import ChangeMap
from rscd.geo.grid import apply, compose
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box, plan_tiles
from rscd.inference.detectors.registry import DETECTORS
from rscd.inference.journal import open_journal
from rscd.inference.models import scene_model
from rscd.inference.predictor import Predictor, Tiling
from rscd.inference.shipped import SceneFacts
from rscd.inference.tiled import Seam, fit_model, measure_seam, predict_scene
from rscd.synthetic.towns import Nuisance, plan_town, render_town

UTM = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
SHAPE = 150, 190
TWO_SCALES = {"msi": "0.5,1"}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


@pytest.fixture(scope="module", params=["one grid", "resampled"])
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    write_tif: Callable[..., Path],
) -> ScenePair:
    """Noise with blocks of change and a corner without data; t2 half a pixel off in one case."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    t1 = rng.integers(40, 90, (3, *SHAPE)).astype(np.uint8)
    t2 = t1 + rng.integers(0, 9, t1.shape).astype(np.uint8)
    for row, col in rng.integers(0, 130, (8, 2)):
        t2[:, row : row + 20, col : col + 25] += 90
    t1[:, :20, :30] = 0
    shift = Affine.translation(0.5, 0.3) if request.param == "resampled" else Affine.identity()
    return ScenePair.open(
        write_tif(folder / "t1.tif", t1, nodata=0, transform=UTM),
        write_tif(folder / "t2.tif", t2, nodata=0, transform=compose(UTM, shift)),
    )


@dataclass(frozen=True)
class Phases:
    """A model that is anything but local: strides, and a mean over all that a tile reads."""

    threshold: float = 0.5

    @property
    def tiling(self) -> Tiling:
        return Tiling(halo=3, multiple=8, exact=False)

    def __call__(self, image: NDArray[Any], valid: NDArray[Any]) -> NDArray[Any]:
        near = np.abs(image[:, 1] - image[:, 0]).mean(axis=1)
        batch, height, width = near.shape
        blocks = near.reshape(batch, height // 8, 8, width // 8, 8).mean(axis=(2, 4))
        strided = blocks.repeat(8, axis=1).repeat(8, axis=2)
        everywhere = near.mean(axis=(1, 2), keepdims=True)
        return (1 / (1 + np.exp(-(near + strided - everywhere) / 50))).astype(np.float32)


def probabilities(
    pair: ScenePair, predictor: Predictor, folder: Path, tile_size: int = 64
) -> tuple[NDArray[Any], Seam | None]:
    with open_journal(folder, {}) as journal:
        change_map = ChangeMap(journal.folder, pair.grid, 0.5, {})
        predict_scene(pair, predictor, change_map, journal, tile_size=tile_size)
        seam = measure_seam(pair, predictor, change_map, tile_size)
        prob = change_map.prob.read(Box(0, 0, *pair.shape_hw))
        journal.remove()
    return prob, seam


def corners(pair: ScenePair, box: Box) -> shapely.Polygon:
    cols = np.array([box.col, box.col + box.width])
    rows = np.array([box.row, box.row + box.height])
    x, y = apply(pair.scene.affine, cols, rows)
    return shapely.box(x.min(), y.min(), x.max(), y.max())


def quarters(shape: tuple[int, int], row: int, col: int) -> list[Box]:
    height, width = shape
    return [
        Box(top, left, bottom - top, right - left)
        for top, bottom in ((0, row), (row, height))
        for left, right in ((0, col), (col, width))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DETECTORS, "not local"])
@settings(max_examples=3, deadline=None)
@given(st.data())
def test_a_scene_split_by_boxes_gives_the_pixels_of_the_whole_scene(
    pair: ScenePair, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("work")
    model: Any = Phases() if name == "not local" else DETECTORS[name]()

    def detect(part: ScenePair) -> NDArray[Any]:
        predictor = fit_model(part, model) if hasattr(model, "fit") else model
        return probabilities(part, predictor, folder / "run")[0]

    whole = detect(pair)
    height, width = pair.shape_hw
    row, col = data.draw(st.integers(1, height - 1)), data.draw(st.integers(1, width - 1))
    for box in quarters(pair.shape_hw, row, col):
        part = pair.crop(corners(pair, box), mask=False)
        assert part.window == box
        expected = whole[box.row : box.row + box.height, box.col : box.col + box.width]
        np.testing.assert_array_equal(detect(part), expected)


def test_outside_an_area_of_interest_nothing_is_predicted_but_all_is_seen(
    pair: ScenePair, tmp_path: Path
) -> None:
    x, y = apply(pair.scene.affine, np.array([20, 180, 70]), np.array([10, 60, 140]))
    triangle = shapely.Polygon(np.column_stack([x, y]))
    part = pair.crop(triangle, mask=True)
    whole, _ = probabilities(pair, Phases(), tmp_path / "whole")
    found, _ = probabilities(part, Phases(), tmp_path / "part")
    w = part.window
    expected = whole[w.row : w.row + w.height, w.col : w.col + w.width].copy()
    expected[geometry_mask([triangle], part.shape_hw, part.grid.affine)] = np.nan
    np.testing.assert_array_equal(found, expected)


def test_the_seam_of_a_part_is_measured_inside_it(pair: ScenePair, tmp_path: Path) -> None:
    part = pair.crop(corners(pair, Box(10, 70, 120, 100)), mask=False)
    _, seam = probabilities(part, Phases(), tmp_path / "run")
    assert seam is not None
    assert seam.max_abs > 0
    inner = pair.crop(corners(pair, Box(10, 70, 50, 50)), mask=False)
    assert probabilities(inner, Phases(), tmp_path / "run")[1] is None  # within one tile


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)), st.data(), st.integers(1, 60),
    st.integers(0, 20), st.sampled_from([1, 8, 12]), st.booleans(),
)  # fmt: skip
def test_tiles_of_a_part_lie_on_the_lattice_of_the_scene(
    shape: tuple[int, int],
    data: st.DataObject,
    tile_size: int,
    halo: int,
    multiple: int,
    trim: bool,
) -> None:
    row, col = (data.draw(st.integers(0, size - 1)) for size in shape)
    height, width = (
        data.draw(st.integers(1, size - start))
        for size, start in zip(shape, (row, col), strict=True)
    )
    whole = plan_tiles(shape, tile_size, halo, multiple)
    owners = np.zeros(shape, int)
    for tile in plan_tiles(
        shape, tile_size, halo, multiple, Box(row, col, height, width), trim=trim
    ):
        w, r = tile.write, tile.read
        owners[w.row : w.row + w.height, w.col : w.col + w.width] += 1
        assert [n % multiple for n in (r.row, r.col, r.height, r.width)] == [0] * 4
        assert min(w.row - r.row, w.col - r.col) >= halo
        assert r.row + r.height - (w.row + w.height) >= halo
        assert r.col + r.width - (w.col + w.width) >= halo
        if not trim:
            assert r in [other.read for other in whole]
    expected = np.zeros(shape, int)
    expected[row : row + height, col : col + width] = 1
    np.testing.assert_array_equal(owners, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("halo", "gsd_m", "views"), [("own", 0.5, {}), ("small", 0.3, {}), ("small", 0.5, TWO_SCALES)]
)
def test_the_shipped_network_sees_around_a_part(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    buildings: Path,
    halo: str,
    gsd_m: float,
    views: Any,
) -> None:
    """At its own resolution, at another one, and looking several times."""
    town = render_town(
        plan_town(8, (176, 224), 0.5, change_share=0.3), Nuisance.draw(np.random.default_rng(8))
    )
    transform = Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_000_000)
    pair = ScenePair.open(
        *(
            write_tif(tmp_path / f"{name}.tif", image, transform=transform)
            for name, image in zip(("t1", "t2"), town.image, strict=True)
        )
    )
    facts = SceneFacts(3, gsd_m, georeferenced=True, eight_bit=True)
    model = scene_model("buildings" if halo == "own" else str(buildings), facts, "cpu", **views)
    predictor = fit_model(pair, model)
    whole, _ = probabilities(pair, predictor, tmp_path / "run", tile_size=112)
    assert (whole > 0.35).any()
    for box in (Box(91, 57, 40, 45), Box(140, 160, 30, 61)):
        part = pair.crop(corners(pair, box), mask=False)
        found, _ = probabilities(part, predictor, tmp_path / "run", tile_size=112)
        expected = whole[box.row : box.row + box.height, box.col : box.col + box.width]
        np.testing.assert_allclose(found, expected, atol=2e-4)
