"""Evaluation of splits and of maps: against counting in memory, and across formats and CRS."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import cv2
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import reproject

from rscd.base.errors import (
    DataError,
    GridMismatchError,
    OutputError,
    RscdError,
    SceneError,
    UsageError,
)
from rscd.evaluation.dataset import (
    MemoryPair,
    Split,
    evaluate_split,
    labelled_folder,
    predict_pair,
)
from rscd.evaluation.judge import Judged, only_counted
from rscd.evaluation.maps import MapOptions, evaluate_maps
from rscd.evaluation.report import Report, Sample, confusion, extremes
from rscd.evaluation.sheet import COLOURS, Row, _stretched, judged_colours, write_sheet
from rscd.geo.grid import compose
from rscd.geo.labels import Values
from rscd.geo.measure import Ground
from rscd.geo.polygons import to_world, trace
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box
from rscd.inference.detectors.registry import DETECTORS
from rscd.inference.network import Network, load_network
from rscd.inference.predictor import Block, Tiling
from rscd.metrics.objects import ObjectCounts
from rscd.metrics.pixels import Counts, count, summarise
from rscd.metrics.probabilities import ChangeMetrics
from rscd.pipeline import Options, open_pair, predict
from rscd.training.task import ChangeTask

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
CRS = "EPSG:32633"

TRUTH = np.array(
    [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 255, 255],
        [0, 0, 0, 0, 255, 255],
        [0, 0, 0, 1, 1, 0],
    ],
    np.uint8,
)
PREDICTED = np.array(
    [
        [1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0],
    ],
    np.uint8,
)


def moved(cols: float, rows: float) -> Affine:
    """The grid of `TRUTH`, moved by so many pixels."""
    return compose(UTM, Affine.translation(cols, rows))


@pytest.fixture
def maps(tmp_path: Path, write_tif: Callable[..., Path]) -> Callable[..., Any]:
    """``maps(predicted, true, **profile)``: two files on one grid, 255 declared as nodata."""

    def write(predicted: NDArray[Any], true: NDArray[Any], **profile: Any) -> tuple[Path, Path]:
        options = {"nodata": 255, **profile}
        return (
            write_tif(tmp_path / "predicted.tif", predicted, **options),
            write_tif(tmp_path / "true.tif", true, **options),
        )

    return write


def vector(path: Path, mask_path: Path, crs: str | None = None) -> Path:
    """The change of a mask file as polygons, perhaps in another CRS."""
    with rasterio.open(mask_path) as raster:
        shapes = to_world(trace(mask_path), raster.transform)
        frame = geopandas.GeoDataFrame(geometry=shapes, crs=raster.crs)
    frame = frame if crs is None else frame.to_crs(crs)
    if path.suffix == ".parquet":
        frame.rename_geometry("shape").to_parquet(path)
    else:
        frame.to_file(path)
    return path


def test_a_case_counted_by_hand(maps: Callable[..., Any]) -> None:
    report = evaluate_maps(*maps(PREDICTED, TRUTH))
    assert confusion(report.counts) == {"tp": 3, "fp": 1, "fn": 3, "tn": 13}
    assert (report.pixels.counted, report.pixels.unlabelled) == (20, 4)
    assert report.pixels.without_prediction == 0
    # the corner is found with 3 of 4 pixels; the prediction without label is no object
    assert report.objects == ObjectCounts(true=2, predicted=2, matched=1)
    assert report.area_m2 is not None
    assert report.area_m2["true"] == pytest.approx(600, rel=2e-3)
    assert report.area_m2["false_negative"] == pytest.approx(300, rel=2e-3)
    assert report.threshold is None
    assert report.probabilities is None


masks = arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 255]))


@given(predicted=masks, true=masks)
@settings(max_examples=25, deadline=None)
def test_files_give_what_counting_in_memory_gives(
    predicted: NDArray[Any],
    true: NDArray[Any],
    tmp_path_factory: pytest.TempPathFactory,
    write_tif: Callable[..., Path],
) -> None:
    folder = tmp_path_factory.mktemp("maps")
    paths = (
        write_tif(folder / "predicted.tif", predicted, nodata=255),
        write_tif(folder / "true.tif", true, nodata=255),
    )
    used = (predicted != 255) & (true != 255)
    if not used.any():
        with pytest.raises(DataError, match="expected pixels with a label and a prediction"):
            evaluate_maps(*paths)
        return
    report = evaluate_maps(*paths)
    assert report.counts == count(predicted[used], true[used])
    assert report.pixels.counted == used.sum()
    assert report.pixels.unlabelled == (true == 255).sum()
    assert report.pixels.without_prediction == (used ^ (true != 255)).sum()
    for path, mask in zip(paths, only_counted(predicted, true), strict=True):
        write_tif(path, mask)
    assert report.objects == Judged.of(*map(trace, paths)).counts


@pytest.mark.parametrize("name", ["p.gpkg", "p.fgb", "p.parquet", "p.shp"])
@pytest.mark.parametrize("crs", [None, "EPSG:3857", "EPSG:4326"])
def test_polygons_count_like_the_raster_they_come_from(
    maps: Callable[..., Any], tmp_path: Path, name: str, crs: str | None
) -> None:
    predicted = np.where(TRUTH == 255, 0, PREDICTED)
    files = maps(predicted, TRUTH)
    polygons = vector(tmp_path / name, files[0], crs)
    expected, found = evaluate_maps(*files), evaluate_maps(polygons, files[1])
    assert found.counts == expected.counts
    assert found.objects == expected.objects
    assert found.area_m2 == expected.area_m2


def test_truth_may_be_polygons_and_both_with_a_grid(
    maps: Callable[..., Any], tmp_path: Path
) -> None:
    true = np.where(TRUTH == 255, 0, TRUTH)
    files = maps(PREDICTED, true)
    truth = vector(tmp_path / "truth.geojson", files[1], "EPSG:4326")
    expected = evaluate_maps(*files)
    assert evaluate_maps(files[0], truth).counts == expected.counts
    predicted = vector(tmp_path / "predicted.gpkg", files[0])
    with pytest.raises(UsageError, match=r"found two vectors; name one whose pixel grid .* --like"):
        evaluate_maps(predicted, truth)
    with pytest.raises(SceneError, match="expected a readable raster for the grid"):
        evaluate_maps(predicted, truth, MapOptions(like=str(predicted)))
    both = evaluate_maps(predicted, truth, MapOptions(like=str(files[0])))
    assert (both.counts, both.objects) == (expected.counts, expected.objects)


def test_change_of_one_geographic_raster_is_found_in_utm(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    """A prediction warped to another CRS agrees but for its edges."""
    true = np.zeros((120, 150), np.uint8)
    true[20:70, 30:70] = 1
    truth = write_tif(tmp_path / "true.tif", true, nodata=255)
    step = 5e-5
    degrees = Affine(step, 0, 14.9995, 0, -step, 45.1546)
    warped = np.full((400, 240), 255, np.uint8)
    with rasterio.open(truth) as source:
        reproject(
            rasterio.band(source, 1), warped, dst_transform=degrees, dst_crs="EPSG:4326",
            dst_nodata=255, resampling=Resampling.nearest,
        )  # fmt: skip
    assert (warped == 1).sum() > 1000
    path = write_tif(tmp_path / "p.tif", warped, transform=degrees, crs="EPSG:4326", nodata=255)
    report = evaluate_maps(path, truth)
    assert summarise(report.counts)["iou_change"] > 0.98
    assert report.objects == ObjectCounts(1, 1, 1)
    assert 0.05 < report.pixels.missing_share < 0.95  # the rest of the truth is not covered


def test_a_larger_prediction_is_cropped_and_a_smaller_one_leaves_pixels_out(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    truth = write_tif(tmp_path / "t.tif", np.where(TRUTH == 255, 0, TRUTH))
    exact = evaluate_maps(write_tif(tmp_path / "p.tif", PREDICTED), truth)
    wide = np.pad(PREDICTED, 3, constant_values=1)
    larger = write_tif(tmp_path / "l.tif", wide, transform=moved(-3, -3))
    assert evaluate_maps(larger, truth).counts == exact.counts

    part = write_tif(tmp_path / "s.tif", PREDICTED[:2, 2:], transform=moved(2, 0))
    report = evaluate_maps(part, truth)
    assert report.counts == count(PREDICTED[:2, 2:], np.where(TRUTH == 255, 0, TRUTH)[:2, 2:])
    assert report.pixels.without_prediction == 16
    assert report.pixels.missing_share == pytest.approx(16 / 24)
    filled = evaluate_maps(part, truth, MapOptions(missing_is_no_change=True))
    assert filled.pixels.without_prediction == 0
    assert confusion(filled.counts) == {"tp": 0, "fp": 2, "fn": 6, "tn": 16}


@pytest.mark.parametrize("nodata", [None, 0, 255])
def test_a_grid_that_does_not_coincide_takes_the_nearest(
    tmp_path: Path, write_tif: Callable[..., Path], nodata: int | None
) -> None:
    true = np.kron(TRUTH, np.ones((4, 4), np.uint8))
    true[true == 255] = 0 if nodata is None else nodata
    truth = write_tif(tmp_path / "t.tif", true, nodata=nodata)
    path = write_tif(tmp_path / "p.tif", true, transform=moved(0.4, -0.4), nodata=nodata)
    report = evaluate_maps(path, truth)
    used = np.ones(true.shape, bool) if nodata == 0 else true != 255
    assert report.pixels.unlabelled == (~used).sum()
    assert report.counts == count(true[used], true[used])


def test_a_mask_stored_in_the_file_and_an_alpha_band_mean_no_prediction(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    truth = write_tif(tmp_path / "t.tif", np.where(TRUTH == 255, 0, TRUTH))
    there = np.ones(TRUTH.shape, bool)
    there[:, 3:] = False
    masked = write_tif(tmp_path / "m.tif", PREDICTED, mask=there)
    both = np.stack([PREDICTED, there.astype(np.uint8) * 255])
    alpha = write_tif(tmp_path / "a.tif", both, alpha=True)
    shifted = write_tif(tmp_path / "s.tif", both, alpha=True, transform=moved(0.2, 0.2))
    for path in (masked, alpha, shifted):
        report = evaluate_maps(path, truth)
        assert report.pixels.without_prediction == 12
        assert report.counts == count(PREDICTED[:, :3], np.where(TRUTH == 255, 0, TRUTH)[:, :3])


def test_unlabelled_and_change_values_are_named_by_the_user(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    classes = np.choose(np.minimum(TRUTH, 2), [0, 9, 127]).astype(np.uint8)
    truth = write_tif(tmp_path / "t.tif", classes)
    predicted = write_tif(tmp_path / "p.tif", PREDICTED)
    with pytest.raises(
        DataError, match=r"the truth .*t.tif: expected label values .*found 0, 9, 127; "
    ):
        evaluate_maps(predicted, truth)
    options = MapOptions(change_values=(9,), unlabelled=(127,))
    assert confusion(evaluate_maps(predicted, truth, options).counts)["tp"] == 3
    every = evaluate_maps(predicted, truth, MapOptions(change_values=(9, 127), unlabelled=()))
    assert sum(every.counts.true) == 24
    assert every.counts.true[1] == 10
    with pytest.raises(UsageError, match="expected a truth raster for --change-value"):
        evaluate_maps(predicted, vector(tmp_path / "v.gpkg", predicted), options)


def test_probabilities_count_like_their_classes_and_tell_more(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    rng = np.random.default_rng(0)
    prob = rng.random((30, 40)).astype(np.float32)
    true = (rng.random(prob.shape) < prob).astype(np.uint8)
    prob[:3] = np.nan
    truth = write_tif(tmp_path / "t.tif", true)
    path = write_tif(tmp_path / "prob.tif", prob, nodata=float("nan"))
    report = evaluate_maps(path, truth, MapOptions(threshold=0.3))
    used = ~np.isnan(prob)
    assert report.counts == count(prob[used] >= np.float32(0.3), true[used])
    assert report.pixels.without_prediction == 120
    own = ChangeMetrics(0.3)
    own.update(*(torch.from_numpy(a[used]) for a in (prob, true)))
    assert report.probabilities is not None
    assert report.probabilities.ece == pytest.approx(own.calibration_error())
    assert report.probabilities.best_threshold == own.best_threshold()
    best = summarise(report.probabilities.best_counts)["iou_change"]
    assert best >= summarise(report.counts)["iou_change"]

    filled = write_tif(tmp_path / "filled.tif", np.where(used, prob, -9999), nodata=-9999)
    assert evaluate_maps(filled, truth, MapOptions(threshold=0.3)).counts == report.counts

    assert evaluate_maps(path, truth).threshold == 0.5
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(rscd_provenance='{"threshold": 0.7}')
    assert evaluate_maps(path, truth).threshold == 0.7


def test_probabilities_beyond_one_are_refused(maps: Callable[..., Any]) -> None:
    prob = np.full(TRUTH.shape, 3.0, np.float32)
    with pytest.raises(UsageError, match=r"from 0 to 1 in the prediction .* found 3 to 3"):
        evaluate_maps(*maps(prob, TRUTH))


def test_objects_do_not_end_at_the_squares_a_map_is_read_by(maps: Callable[..., Any]) -> None:
    true = np.zeros((20, 600), np.uint8)
    true[5:9, 10:590] = 1
    report = evaluate_maps(*maps(true, true))
    assert report.objects == ObjectCounts(1, 1, 1)
    assert len(report.samples) == 3
    assert sum(confusion(report.counts).values()) == 12_000


def test_areas_follow_the_latitude(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    true = np.zeros((600, 40), np.uint8)
    true[50:560, 5:30] = 1
    where = Affine(0.01, 0, 10, 0, -0.01, 60)
    truth = write_tif(tmp_path / "t.tif", true, transform=where, crs="EPSG:4326")
    areas = evaluate_maps(truth, truth).area_m2
    assert areas is not None
    area = areas["true"]
    assert area == pytest.approx(Ground("EPSG:4326", where).areas_m2(trace(truth)).sum(), rel=2e-3)


def test_without_change_anywhere_everything_is_finite_and_said(
    maps: Callable[..., Any], tmp_path: Path
) -> None:
    nothing = np.zeros((6, 8), np.uint8)
    report = evaluate_maps(*maps(nothing, nothing))
    found = report.json()
    assert found["metrics"]["iou_change"] == 0
    assert found["metrics"]["oa"] == 1
    assert found["objects"]["object_f1"] == 0
    assert found["samples"] == []
    assert len(found["notes"]) == 2
    assert "note: " in report.text()
    empty = tmp_path / "empty.gpkg"
    geopandas.GeoDataFrame(geometry=[], crs=CRS).to_file(empty, geometry_type="Polygon")
    assert evaluate_maps(empty, tmp_path / "true.tif").counts == report.counts


def test_images_without_georeferencing(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    truth, predicted = (
        write_tif(tmp_path / f"{n}.tif", mask, transform=None, crs=None, nodata=255)
        for n, mask in (("t", TRUTH), ("p", PREDICTED))
    )
    report = evaluate_maps(predicted, truth)
    assert confusion(report.counts)["tp"] == 3
    assert report.area_m2 is None
    shapes = geopandas.GeoDataFrame(geometry=trace(predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is no CRS
        shapes.to_file(tmp_path / "p.geojson")
        shapes.to_file(tmp_path / "p.gpkg")
    for name in ("p.geojson", "p.gpkg"):
        assert evaluate_maps(tmp_path / name, truth).counts == report.counts
    other = write_tif(tmp_path / "o.tif", PREDICTED[:3], transform=None, crs=None)
    with pytest.raises(GridMismatchError, match="of one size where there is no georeferencing"):
        evaluate_maps(other, truth)
    local = np.repeat(np.repeat(PREDICTED, 2, 0), 2, 1)  # half the pixel size: a place, if no CRS
    halved = write_tif(tmp_path / "h.tif", local, transform=Affine(0.5, 0, 0, 0, -0.5, 0), crs=None)
    assert evaluate_maps(halved, truth).counts == report.counts
    located = write_tif(tmp_path / "l.tif", PREDICTED)
    with pytest.raises(GridMismatchError, match="expected a CRS in the prediction and its counter"):
        evaluate_maps(located, truth)


def test_what_cannot_be_compared_is_refused(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    truth = write_tif(tmp_path / "t.tif", TRUTH, nodata=255)
    far = write_tif(tmp_path / "far.tif", PREDICTED, transform=moved(9000, 0))
    with pytest.raises(GridMismatchError, match="to overlap its counterpart, found none"):
        evaluate_maps(far, truth)
    with pytest.raises(
        SceneError, match="expected a readable raster for the prediction, found no file"
    ):
        evaluate_maps(tmp_path / "none.tif", truth)
    with pytest.raises(DataError, match=r"expected polygons in the prediction .*none.gpkg"):
        evaluate_maps(tmp_path / "none.gpkg", truth)
    points = tmp_path / "points.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.Point(500_010, 4_999_990)], crs=CRS).to_file(points)
    with pytest.raises(DataError, match="found Point and the like; give a layer of polygons"):
        evaluate_maps(points, truth)
    two = tmp_path / "two.gpkg"
    for layer in ("a", "b"):
        shape = [shapely.box(500_000, 4_999_990, 500_010, 5_000_000)]
        geopandas.GeoDataFrame(geometry=shape, crs=CRS).to_file(two, layer=layer)
    with pytest.raises(
        DataError, match=r"expected one layer of polygons in .*two.gpkg, found a, b"
    ):
        evaluate_maps(two, truth)
    heights = np.arange(120, dtype=np.int16).reshape(10, 12)
    with pytest.raises(DataError, match="more than 64 distinct values"):
        evaluate_maps(truth, write_tif(tmp_path / "h.tif", heights))
    with pytest.raises(UsageError, match="probabilities for --threshold, found classes"):
        evaluate_maps(truth, truth, MapOptions(threshold=0.5))


def test_the_damaged_file_of_the_two_is_named(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (300, 300), np.uint8)
    good, bad = (write_tif(tmp_path / f"{n}.tif", mask) for n in ("good", "bad"))
    bad.write_bytes(bad.read_bytes()[:40_000])
    with pytest.raises(SceneError, match=r"the truth, found damage .*bad.tif"):
        evaluate_maps(good, bad)
    with pytest.raises(SceneError, match=r"the prediction, found damage .*bad.tif"):
        evaluate_maps(bad, good)
    with pytest.raises(SceneError, match=r"expected a .*raster for t2, .*none.tif"):
        evaluate_maps(good, good, images=(str(good), str(tmp_path / "none.tif")))


def test_polygons_far_away_are_worth_a_warning(
    tmp_path: Path, write_tif: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    truth = write_tif(tmp_path / "t.tif", TRUTH, nodata=255)
    far = tmp_path / "far.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326").to_file(far)
    report = evaluate_maps(far, truth)
    assert report.counts.predicted[1] == 0
    assert "no polygon of the prediction" in caplog.text


counts = st.tuples(*[st.integers(0, 5)] * 3).map(
    lambda n: Counts((9, n[0] + n[2]), (9, n[1] + n[2]), (9, n[2]))
)


@given(st.lists(counts, max_size=20), st.integers(1, 4))
def test_extremes_are_the_extremes(found: list[Any], each: int) -> None:
    samples = [Sample(str(i), i, c) for i, c in enumerate(found)]
    holding = [s for s in samples if s.counts.true[1] + s.counts.predicted[1]]
    chosen = extremes(samples, each)
    scores = [sample.score for _, sample in chosen]
    assert scores == sorted(scores, reverse=True)
    if holding and scores[-1] == 0:
        assert chosen[-1][1].wrong == max(s.wrong for s in holding if s.score == 0)
    assert (
        len({sample.index for _, sample in chosen})
        == len(chosen)
        == min(len(holding), 3 * max(1, min(each, len(holding) // 3)))
    )
    if len(holding) > 1:
        assert scores[0] == max(s.score for s in holding)
        assert scores[-1] == min(s.score for s in holding)
        assert [chosen[0][0], chosen[-1][0]] == ["best", "worst"]


def test_every_kind_of_pixel_has_its_colour() -> None:
    predicted = np.array([[1, 1, 0, 0, 255, 1]], np.uint8)
    true = np.array([[1, 0, 1, 0, 1, 255]], np.uint8)
    names = ["true positive", "false positive", "false negative", "true negative"]
    expected = [COLOURS[name] for name in [*names, "not counted", "not counted"]]
    assert np.allclose(judged_colours(predicted, true)[0], expected)


@pytest.mark.parametrize("n_bands", [1, 2, 3, 4])
def test_dates_of_a_sheet_keep_place_and_colours(n_bands: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((2, n_bands, 30, 40)).astype(np.float32) * 255
    pictures = _stretched(image)
    assert pictures.shape == (2, 30, 40, 3)
    shown = image[:, :3] if n_bands >= 3 else image[:, [0, 0, 0]]
    for band in range(3):
        order = np.argsort(shown[:, band], axis=None)
        assert (np.diff(pictures[..., band].ravel()[order]) >= 0).all()  # brighter stays brighter
        assert np.ptp(pictures[..., band]) > 0.9


def test_pictures_stay_small_whatever_the_shape_of_a_sample(tmp_path: Path) -> None:
    def row(*shape: int) -> Row:
        image = np.random.default_rng(0).normal(size=(2, 1, *shape)).astype(np.float32)
        return Row(image, np.ones(shape, np.uint8), np.ones(shape, np.uint8))

    path = tmp_path / "sheet.png"
    write_sheet([row(256, 1), row(1, 256), row(20, 20)], ["a", "b", "c"], path)
    sheet = cv2.imread(str(path))
    assert sheet is not None
    assert max(sheet.shape) < 1500
    with pytest.raises(OutputError, match="expected to write"):
        write_sheet([row(2, 2)], ["a"], tmp_path / "none" / "sheet.png")
    assert list(tmp_path.iterdir()) == [path]


# --- splits ---


@dataclass(frozen=True)
class Reading:
    """A model that reads the probability off the first band of t2, in pieces."""

    tiling: Tiling = field(default_factory=lambda: Tiling(halo=4, multiple=8, tile_size=16))
    threshold: float = 0.5
    name: str = "reading"
    summary: str = ""

    def card(self) -> dict[str, Any]:
        return {}

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> "Reading":
        return self

    def __call__(self, image: NDArray[Any], valid: NDArray[Any]) -> NDArray[Any]:
        assert image.shape[3] % 8 == image.shape[4] % 8 == 0
        return image[:, 1, 0] / 255


def write_pairs(
    root: Path, pairs: Iterator[Any] | list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
) -> Path:
    """``root/test/{A,B,label}`` of (t1, t2, label) arrays, (H,W,3) and (H,W)."""
    for i, arrays_of_pair in enumerate(pairs):
        for folder, array in zip(("A", "B", "label"), arrays_of_pair, strict=True):
            path = root / "test" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), array)
    return root


def reading_pairs(
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] = (
        (40, 50),
        (33, 21),
        (64, 64),
    ),
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    rng = np.random.default_rng(1)
    for height, width in sizes:
        t1, t2 = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        yield t1, t2, np.where(rng.random((height, width)) < t2[:, :, 2] / 255, 255, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "data", reading_pairs())


def test_a_split_gives_what_counting_in_memory_gives(folder: Path) -> None:
    report = evaluate_split(Split(labelled_folder(folder, "test"), Reading(), None))
    prob, true = (
        np.concatenate([a.ravel() for a in side])
        for side in zip(
            *((t2[:, :, 2].astype(np.float32) / 255, label == 255) for _, t2, label in
              reading_pairs()),
            strict=True,
        )
    )  # fmt: skip
    assert report.counts == count(prob >= 0.5, true.astype(np.uint8))
    assert report.threshold == 0.5
    assert report.pixels.counted == prob.size
    own = ChangeMetrics()
    own.update(torch.from_numpy(prob), torch.from_numpy(true))
    assert report.probabilities is not None
    assert report.probabilities.ece == pytest.approx(own.calibration_error())
    assert report.probabilities.best_counts == own.counts(own.best_threshold())
    assert [s.name for s in report.samples] == ["0", "1", "2"]
    other = evaluate_split(Split(labelled_folder(folder, "test"), Reading(), 0.9))
    assert other.threshold == 0.9
    assert other.counts == count(prob >= np.float32(0.9), true.astype(np.uint8))
    assert other.objects.predicted != report.objects.predicted
    assert other.probabilities is not None
    assert other.probabilities.protocol_counts == report.counts
    assert pooled_protocol(other) == report.counts
    head, *lines = other.text().splitlines()[6:]
    assert head.split() == [
        *("at", "0.9", "at", "0.5"),
        *("at", f"{report.probabilities.best_threshold:.3g}", "*"),
    ]
    assert float(lines[0].split()[-2]) == pytest.approx(
        summarise(report.counts)["iou_change"], abs=1e-4
    )
    assert other.json()["at_protocol_threshold"]["threshold"] == 0.5
    assert len(report.text().splitlines()[6].split()) == 5, "the protocol is the chosen one"


def pooled_protocol(report: Report) -> Counts:
    return sum((s.protocol for s in report.samples if s.protocol is not None), Counts.none())


def test_unlabelled_values_of_a_split(tmp_path: Path) -> None:
    t1, t2, label = next(reading_pairs())
    label[:10] = 127
    root = write_pairs(tmp_path / "d", [(t1, t2, label)])
    with pytest.raises(DataError, match="found 0, 127, 255"):
        evaluate_split(Split(labelled_folder(root, "test"), Reading(), None))
    for rule in (Values(unlabelled=(127,)), Values((255,), (127,))):
        report = evaluate_split(Split(labelled_folder(root, "test", rule), Reading(), None))
        assert report.pixels.unlabelled == 500
        assert report.pixels.counted == 1500
        assert report.counts == count(t2[10:, :, 2] >= 127.5, label[10:] // 255)
    everything = Values(unlabelled=(0, 127, 255))
    with pytest.raises(DataError, match=r"expected labelled pixels in .*, found none in 1 pairs"):
        evaluate_split(Split(labelled_folder(root, "test", everything), Reading(), None))


@pytest.mark.parametrize("name", DETECTORS)
def test_pairs_are_predicted_as_scenes_are(
    tmp_path: Path, write_tif: Callable[..., Path], name: str
) -> None:
    rng = np.random.default_rng(2)
    t1, t2 = rng.normal(100, 10, (2, 3, 70, 90)).astype(np.float32)
    t2[:, 20:50, 30:60] += 80
    there = rng.random((70, 90)) > 0.05
    paths = (
        write_tif(tmp_path / "t1.tif", np.where(there, t1, -1), nodata=-1),
        write_tif(tmp_path / "t2.tif", np.where(there, t2, -1), nodata=-1),
    )
    predict(open_pair(*paths), [tmp_path / "c.tif"], Options(model=name), prob=tmp_path / "p.tif")
    with rasterio.open(tmp_path / "p.tif") as raster:
        expected = raster.read(1)
    image = np.where(there, np.stack([t1, t2]), 0)
    prob, threshold = predict_pair(DETECTORS[name](), image, there)
    assert np.array_equal(prob, expected, equal_nan=True)
    assert threshold == 0.5


@given(
    row=st.integers(-20, 20), col=st.integers(-20, 20), h=st.integers(1, 30), w=st.integers(1, 30)
)
@settings(max_examples=30, deadline=None)
def test_pairs_in_memory_read_like_those_on_disk(
    row: int,
    col: int,
    h: int,
    w: int,
    tmp_path_factory: pytest.TempPathFactory,
    write_tif: Callable[..., Path],
) -> None:
    rng = np.random.default_rng(3)
    image = rng.random((2, 2, 9, 13)).astype(np.float32)
    there = rng.random((9, 13)) > 0.2
    folder = tmp_path_factory.mktemp("pair")
    stored = np.where(there, image, -1)
    paths = [write_tif(folder / f"{i}.tif", date, nodata=-1) for i, date in enumerate(stored)]
    box = Box(row, col, h, w)
    expected = ScenePair.open(*paths).read(box)
    found = MemoryPair(np.where(there, image, 0), there).read(box)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


def test_errors_name_the_pair(folder: Path) -> None:
    class Failing(Reading):
        def fit(self, blocks: Iterable[Block], n_pixels: int) -> NoReturn:
            raise SceneError("no")

    with pytest.raises(SceneError, match="pair 0: no"):
        evaluate_split(Split(labelled_folder(folder, "test"), Failing(), None))
    (folder / "test" / "label" / "1.png").unlink()
    with pytest.raises(RscdError, match="pair '1' has no mask file"):
        Split(labelled_folder(folder, "test"), Reading(), None)


@pytest.mark.slow
@pytest.mark.realdata
def test_the_default_detector_on_the_landsat_pair_of_taizhou(
    realdata: Path, tmp_path: Path
) -> None:
    home = realdata / "geotiff" / "landsat-taizhou"
    t1, t2, truth = (next(home.glob(f"{name}*.tif")) for name in ("A_", "B_", "reference"))
    outputs = [tmp_path / f"change.{suffix}" for suffix in ("tif", "geojson", "gpkg")]
    predict(open_pair(t1, t2), outputs, Options(model="irmad"))
    options = MapOptions(change_values=(255,), unlabelled=(127,))
    raster, *polygons = (evaluate_maps(path, truth, options) for path in outputs)
    assert raster.pixels.counted == 21_390
    assert raster.counts.true == (17_163, 4_227)
    assert summarise(raster.counts)["kappa"] >= 0.93
    for found in polygons:
        assert (found.counts, found.objects) == (raster.counts, raster.objects)


@pytest.mark.parametrize("method", ["scene-pretrain", "supervised"])
def test_a_picture_is_seen_whole_by_networks_that_want_that(tmp_path: Path, method: str) -> None:
    """As `rscd predict` sees it, with a checkpoint that training made."""
    each: dict[str, dict[str, Any]] = {
        "scene-pretrain": {"network": "scene-compact", "network_args": {"low_size": 64}},
        "supervised": {"network": "tiny"},
    }
    args = each[method]
    halo = 0 if method == "scene-pretrain" else 16
    task, model = trained(tmp_path / "run.ckpt", method, args, halo=halo)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (2, 3, 96, 128)).astype(np.float32)
    seen: list[Any] = []
    watched = Watched(model, seen)
    prob, _ = predict_pair(watched, image, np.ones((96, 128), bool))
    assert (len(seen) == 1) == (method == "scene-pretrain")
    if method == "scene-pretrain":
        whole = task.eval().method.predict(torch.from_numpy(image)[None])[0, 0].detach().numpy()
        np.testing.assert_allclose(prob, whole, atol=1e-5)
    paths = tmp_path / "t1.png", tmp_path / "t2.png"
    for path, date in zip(paths, image, strict=True):
        Image.fromarray(date.transpose(1, 2, 0).astype(np.uint8)).save(path)
    options = Options(model=str(tmp_path / "run.ckpt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        predict(open_pair(*paths), [tmp_path / "c.tif"], options, prob=tmp_path / "p.tif")
        with rasterio.open(tmp_path / "p.tif") as raster:
            np.testing.assert_allclose(raster.read(1), prob, atol=1e-6)


def trained(
    path: Path, method: str, args: dict[str, Any], patch_size: int = 64, halo: int = 16
) -> tuple[ChangeTask, Network]:
    """A task, and the network of a checkpoint that training made of it."""
    torch.manual_seed(0)
    task = ChangeTask(method, args, patch_size=patch_size, halo=halo)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_steps=1)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return task.eval(), load_network(path, "cpu", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "patch", "halo", "shape", "passes"),
    [
        ("siamese-deeplab", 96, 16, (96, 96), 1),  # its pooling over the image exceeds any halo
        ("siamese-deeplab", 96, 16, (64, 96), 1),
        ("siamese-deeplab", 96, 16, (96, 97), 4),
        ("tiny", 272, 120, (64, 64), 4),  # tiles of an exact network give the same as the whole
    ],
)
def test_a_pair_that_fits_the_patch_is_one_pass_as_in_training(
    tmp_path: Path,
    network: str,
    patch: int,
    halo: int,
    shape: tuple[int, int],
    passes: int,
) -> None:
    small = {"encoder": "mobilenet_v2", "output_stride": 32, "weights": None}
    args: dict[str, Any] = small if network == "siamese-deeplab" else {}
    given = {"network": network, "network_args": args}
    task, model = trained(tmp_path / "run.ckpt", "supervised", given, patch_size=patch, halo=halo)
    image = np.random.default_rng(0).integers(0, 255, (2, 3, *shape)).astype(np.float32)
    seen: list[Any] = []
    prob, _ = predict_pair(Watched(model, seen), image, np.ones(shape, bool))
    assert len(seen) == passes
    if network == "siamese-deeplab" and passes == 1:
        with torch.inference_mode():
            whole = task.method.predict(torch.from_numpy(image)[None])[0, 0].numpy()
        np.testing.assert_allclose(prob, whole, atol=1e-5)


class Watched:
    """A network that notes what it is shown."""

    tiling: Tiling

    def __init__(self, network: Network, seen: list[Any]) -> None:
        self.network, self.seen = network, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> "Watched":
        return self

    def __call__(self, image: NDArray[Any], valid: NDArray[Any]) -> NDArray[Any]:
        self.seen.append(image.shape)
        return self.network(image, valid)
