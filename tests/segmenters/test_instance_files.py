"""Objects of other programs: COCO run lengths and polygons, arrays, GeoJSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from rscd.base.errors import DataError
from rscd.base.types import DateName
from rscd.events.pixels import change_labels
from rscd.geo.grid import apply
from rscd.geo.tiles import Box
from rscd.labels.from_segmenter import LabelOptions
from rscd.segmenters.instance_files import decoded_rle
from rscd.segmenters.precomputed import Precomputed
from rscd.segmenters.prompts import parse_prompts
from rscd.segmenters.segmenter import SemanticPrediction, View, load_segmenter
from rscd.segmenters.stitch import segment

PROMPTS = parse_prompts("house,building", "road,grass,tree,water")
SIZE = (24, 30)


def runs_of(mask: NDArray[Any]) -> list[int]:
    """Run lengths down the columns, beginning outside."""
    flat = mask.T.ravel().astype(int)
    cuts = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *cuts, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def compressed(runs: list[int]) -> str:
    """Five bits per character, low ones first; from the fourth run on, differences."""
    text = ""
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


def test_run_lengths_by_hand() -> None:
    assert compressed([6, 1, 40, 4, 5]) == "61X13mN"
    mask = decoded_rle([8, 7], "61X13mN")
    assert mask.T.ravel().nonzero()[0].tolist() == [6, 47, 48, 49, 50]
    np.testing.assert_array_equal(decoded_rle([8, 7], [6, 1, 40, 4, 5]), mask)


@given(arrays(bool, st.tuples(st.integers(1, 50), st.integers(1, 50))))
def test_any_mask_comes_back(mask: NDArray[Any]) -> None:
    runs = runs_of(mask)
    np.testing.assert_array_equal(decoded_rle(mask.shape, runs), mask)
    np.testing.assert_array_equal(decoded_rle(mask.shape, compressed(runs)), mask)


def box_mask(row: int, col: int, height: int = 5, width: int = 6) -> NDArray[Any]:
    mask = np.zeros(SIZE, bool)
    mask[row : row + height, col : col + width] = True
    return mask


BOTH, OLD, NEW = box_mask(2, 2), box_mask(12, 3), box_mask(10, 18)


def coco(
    mask: NDArray[Any], category: int = 1, score: float = 0.9, text: bool = True
) -> dict[str, Any]:
    runs = runs_of(mask)
    counts = compressed(runs) if text else runs
    return {
        "category_id": category,
        "score": score,
        "segmentation": {"size": list(SIZE), "counts": counts},
    }


def write_coco(folder: Path, date: str, masks: list[NDArray[Any]], *more: Any) -> None:
    rows = [*(coco(mask, text=bool(i)) for i, mask in enumerate(masks)), *more]
    (folder / date / "a.json").write_text(json.dumps(rows))


def write_named_coco(folder: Path, date: str, masks: list[NDArray[Any]]) -> None:
    rows = [coco(mask, category=7) for mask in masks]
    rows.append(coco(~BOTH, category=9))  # a class that is not asked for
    left, top = 0, 0
    for row in rows[:1]:  # the same object as a polygon
        rows_, cols = np.nonzero(masks[0])
        left, top = cols.min(), rows_.min()
        right, bottom = cols.max() + 1, rows_.max() + 1
        row["segmentation"] = [
            [int(v) for v in (left, top, right, top, right, bottom, left, bottom)]
        ]
    names = [{"id": 7, "name": "building"}, {"id": 9, "name": "car"}]
    content = {"annotations": rows, "categories": names}
    (folder / date / "a.json").write_text(json.dumps(content))


def write_numbers(folder: Path, date: str, masks: list[NDArray[Any]]) -> None:
    numbers = sum((n + 3) * mask.astype(np.int32) for n, mask in enumerate(masks))
    np.save(folder / date / "a.npy", numbers)


def write_stack(folder: Path, date: str, masks: list[NDArray[Any]]) -> None:
    np.save(folder / date / "a.npy", np.stack(masks))


def write_geojson(folder: Path, date: str, masks: list[NDArray[Any]]) -> None:
    features = []
    for mask in masks:
        rows, cols = np.nonzero(mask)
        x0, y0, x1, y1 = (int(v) for v in (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1))
        ring = [[x0, -y0], [x1, -y0], [x1, -y1], [x0, -y1], [x0, -y0]]
        features.append(
            {
                "type": "Feature",
                "properties": {"class": "building", "score": 0.9},
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        )
    content = {"type": "FeatureCollection", "features": features}
    (folder / date / "a.geojson").write_text(json.dumps(content))


WRITERS = [write_coco, write_named_coco, write_numbers, write_stack, write_geojson]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for date in ("t1", "t2"):
        (tmp_path / date).mkdir()
    return tmp_path


def segmented(
    folder: Path, missing: str = "complement", **view: Any
) -> tuple[Precomputed, list[SemanticPrediction]]:
    segmenter = load_segmenter("precomputed", {"folder": folder, "missing": missing})
    dates: tuple[DateName, ...] = ("t1", "t2")
    shown = {"rgb": np.zeros((*SIZE, 3), np.uint8), "name": "a", **view}
    assert isinstance(segmenter, Precomputed)
    return segmenter, [segment(segmenter, View(date=date, **shown), PROMPTS) for date in dates]


@pytest.mark.parametrize("write", WRITERS)
def test_objects_of_any_format_become_events(folder: Path, write: Callable[..., Any]) -> None:
    write(folder, "t1", [BOTH, OLD])
    write(folder, "t2", [BOTH, NEW])
    segmenter, dates = segmented(folder)
    assert segmenter.info.native_instances
    assert LabelOptions().filled(segmenter).instance_threshold == 0
    labels = change_labels(*dates, gamma=0.5)
    np.testing.assert_array_equal(labels.events.mask, OLD | NEW)
    np.testing.assert_array_equal(labels.mixed[OLD | NEW], 1)
    assert len(labels.events.t1.instances) == 2


CORNERS = [(0, 0), (0, 24), (19, 0), (19, 24)]


@pytest.mark.parametrize("write", WRITERS)
def test_objects_at_the_border_keep_their_pixels(folder: Path, write: Callable[..., Any]) -> None:
    masks = [box_mask(row, col) for row, col in CORNERS]  # up to the last row and column
    write(folder, "t1", masks)
    write(folder, "t2", masks)
    for date in segmented(folder, missing="zero")[1]:
        assert date.instances is not None
        whole = np.zeros(SIZE, bool)
        for one in date.instances:
            x0, y0, x1, y1 = one.bbox
            whole[y0:y1, x0:x1] |= one.mask
        np.testing.assert_array_equal(whole, np.any(masks, axis=0))


def test_scores_beside_objects_are_kept(folder: Path) -> None:
    """As APE's published files: probabilities in one file, instances in the other."""
    prob = np.full((6, *SIZE), 0.1, np.float32)
    prob[3] = 0.7
    for date, masks in (("t1", [BOTH]), ("t2", [BOTH, NEW])):
        write_coco(folder, date, masks)
        scores = prob.copy()
        scores[1, masks[-1]] = 0.95
        np.save(folder / date / "a.npy", scores)
    _, (first, second) = segmented(folder, missing="error")
    np.testing.assert_allclose(second.prob[:, 12, 20], [0.1, 0.95, 0.1, 0.7, 0.1, 0.1])
    labels = change_labels(first, second, gamma=0.8)
    np.testing.assert_array_equal(labels.events.mask, NEW)


def test_objects_alone_are_scores_too(folder: Path) -> None:
    tree = coco(box_mask(0, 20, 4, 8), category=4)
    write_coco(folder, "t1", [BOTH], tree)
    write_coco(folder, "t2", [BOTH], tree)
    with pytest.raises(DataError, match=r"expected scores of .* found house, building, tree"):
        segmented(folder, missing="error")
    _, (first, _) = segmented(folder, missing="zero")
    assert first.prob[1, 3, 3] == np.float32(0.9)
    assert first.prob[4, 1, 22] == np.float32(0.9)
    assert first.prob[:, 20, 20].max() == 0


def test_polygons_in_any_crs_and_windows_of_a_scene(folder: Path) -> None:
    write_stack(folder, "t2", [BOTH])
    grid = GeoBox(SIZE, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), "EPSG:32633")
    ring = [(18, 10), (24, 10), (24, 15), (18, 15), (18, 10)]
    outline = np.column_stack(apply(grid.affine, *np.array(ring, float).T))
    to_degrees = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": {
            "type": "Polygon",
            "coordinates": [[to_degrees.transform(*p) for p in outline]],
        },
    }
    content = {"type": "FeatureCollection", "features": [feature]}
    (folder / "t1" / "a.geojson").write_text(json.dumps(content))
    _, (first, _) = segmented(folder, grid=grid)
    assert first.instances is not None
    [found] = first.instances
    assert (found.bbox[0] <= 18, found.area_px) == (True, 30)
    segmenter, _ = segmented(folder, grid=grid)
    view = View(np.zeros((*SIZE, 3), np.uint8), "a", "t1", grid)
    cut = segment(segmenter, view, PROMPTS, tile=20, overlap=8)
    assert cut.instances is not None
    [joined] = cut.instances
    assert joined.area_px == 30
    np.testing.assert_array_equal(cut.prob[0], first.prob[0])
    part = segmenter.predict(
        [View(np.zeros((8, 8, 3), np.uint8), "a", "t1", grid, Box(8, 14, 8, 8))], PROMPTS
    )[0]
    assert part.instances is not None
    assert part.instances[0].area_px == 5 * 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "expected objects with class and outline"),
        (
            "a.json",
            b'[{"category_id": 9, "segmentation": []}]',
            "class 9 where the prompts are 0 to",
        ),
        (
            "a.json",
            b'[{"category_id": 0, "segmentation": {"size": [24, 30], "counts": "61"}}]',
            "runs of 7 pixels for 24 x 30",
        ),
        (
            "a.json",
            b'[{"category_id": 0, "segmentation": {"size": [2, 2], "counts": [3, 1]}}]',
            "expected 24 x 30 pixels",
        ),
        ("a.npy", b"nonsense", "expected an array saved by numpy.save"),
        (
            "a.geojson",
            b'{"type": "FeatureCollection"',
            "expected polygons of objects, found damage",
        ),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / "t1" / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as found:
        segmented(folder)
    assert name in str(found.value)


def test_arrays_of_other_shapes(folder: Path) -> None:
    np.save(folder / "t1" / "a.npy", np.zeros((3, *SIZE), np.float32))
    with pytest.raises(DataError, match=r"expected scores \(6,H,W\) of house, building"):
        segmented(folder)
    np.save(folder / "t1" / "a.npy", np.zeros(5, int))
    with pytest.raises(DataError, match=r"\(H,W\) or masks \(M,H,W\)"):
        segmented(folder)
