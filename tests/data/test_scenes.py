"""Scenes as a TorchGeo dataset: patches equal slices of whole-scene arrays."""

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from torch.utils.data import DataLoader, Dataset
from torchgeo.datasets import GeoDataset
from torchgeo.samplers import GridGeoSampler, RandomGeoSampler

from rscd.base.errors import DataError, SceneError
from rscd.data.samplers import Guarded, grid_queries, random_queries
from rscd.data.scenes import Scene, ScenePairs
from rscd.geo.grid import apply
from rscd.geo.scene import ScenePair
from rscd.geo.source import _handles
from rscd.geo.tiles import Box
from rscd.synthetic.sample import write_sample

WriteTif = Callable[..., Path]
SHAPE = (150, 210)
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
UTM33 = "EPSG:32633"


def pixels(seed: int, shape: tuple[int, int] = SHAPE, bands: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 255, (bands, *shape), dtype=np.uint8)


def squares(seed: int, count: int, shape: tuple[int, int] = SHAPE) -> list[shapely.Polygon]:
    """Rectangles in CRS units whose edges avoid pixel centres."""
    rng = np.random.default_rng(seed)
    rows, cols = rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)
    sizes = rng.integers(3, 25, (count, 2))
    return [
        shapely.box(
            TRANSFORM.c + 10 * c, TRANSFORM.f - 10 * (r + h), TRANSFORM.c + 10 * (c + w),
            TRANSFORM.f - 10 * r,
        )
        for r, c, (h, w) in zip(rows, cols, sizes, strict=True)
    ]  # fmt: skip


def write_polygons(path: Path, polygons: Any, crs: str = UTM33, **columns: Any) -> str:
    frame = geopandas.GeoDataFrame(columns, geometry=polygons, crs=UTM33).to_crs(crs)
    frame.to_file(path, engine="pyogrio")
    return str(path)


def burnt(polygons: Any, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    return np.asarray(rasterize(polygons, shape, transform=TRANSFORM, dtype="uint8"))


@pytest.fixture
def scene(tmp_path: Path, write_tif: WriteTif) -> Scene:
    first, second = pixels(1), pixels(2)
    first[:, 20:40, 100:130] = 0  # nodata
    mask = (np.random.default_rng(3).random(SHAPE) < 0.2).astype(np.uint8) * 255
    return Scene(
        str(write_tif(tmp_path / "t1.tif", first, nodata=0)),
        str(write_tif(tmp_path / "t2.tif", second)),
        labels=str(write_tif(tmp_path / "change.tif", mask)),
    )


def box_of(sample: dict[str, Any]) -> Box:
    """Where a sample lies in the test scenes, from its transform alone."""
    col, row = apply(~TRANSFORM, sample["transform"].c, sample["transform"].f)
    height, width = sample["image"].shape[-2:]
    return Box(round(float(row)), round(float(col)), height, width)


def cut(array: NDArray[Any], box: Box, fill: int) -> NDArray[Any]:
    """A box of the last two axes, `fill` beyond them."""
    padded = np.pad(array, [(0, 0)] * (array.ndim - 2) + [(400, 400)] * 2, constant_values=fill)
    rows = slice(400 + box.row, 400 + box.row + box.height)
    return padded[..., rows, 400 + box.col : 400 + box.col + box.width]


@pytest.mark.parametrize("kind", [GridGeoSampler, RandomGeoSampler])
@pytest.mark.parametrize("size", [48, (33, 70), 300])
def test_patches_equal_slices_of_the_whole(scene: Scene, kind: Any, size: Any) -> None:
    dataset = ScenePairs([scene])
    assert isinstance(dataset, GeoDataset)
    pair = ScenePair.open(scene.t1, scene.t2)
    image, valid = pair.read(Box(0, 0, *SHAPE))
    with rasterio.open(scene.labels) as file:
        mask = (file.read(1) == 255).astype(np.int64)
    mask[~valid] = 255
    seen = np.zeros(SHAPE, int)
    count = 0
    for query in Guarded(kind, dataset, size=size):
        sample = dataset[query]
        box = box_of(sample)
        assert sample["image"].dtype == torch.float32
        assert sample["image"].shape == (2, 3, *((size, size) if isinstance(size, int) else size))
        assert sample["mask"].dtype == torch.int64
        inside = cut(valid, box, 0)
        np.testing.assert_array_equal(sample["valid"][0], inside)
        np.testing.assert_array_equal(sample["mask"][0], cut(mask, box, 255))
        np.testing.assert_array_equal(
            sample["image"].numpy()[..., inside], cut(image, box, 0)[..., inside]
        )
        assert sample["label"] == int((cut(mask, box, 255) == 1).any())
        assert sample["bounds"] == pytest.approx(
            (query[0].start, query[1].start, query[0].stop, query[1].stop)
        )
        rows = slice(max(box.row, 0), box.row + box.height)
        seen[rows, max(box.col, 0) : box.col + box.width] += 1
        count += 1
    assert count > 0
    if kind is GridGeoSampler:
        np.testing.assert_array_equal(seen, 1)  # every pixel exactly once


@pytest.mark.filterwarnings("ignore:Use torchgeo.samplers:DeprecationWarning")  # 0.10
def test_a_scene_smaller_than_a_patch_is_padded(tmp_path: Path, write_tif: WriteTif) -> None:
    small = pixels(5, (20, 30))
    path = str(write_tif(tmp_path / "s.tif", small))
    labels = str(write_tif(tmp_path / "l.tif", np.ones((20, 30), np.uint8)))
    dataset = ScenePairs([Scene(path, path, labels)])
    assert list(GridGeoSampler(dataset, 64)) == []  # what the guard is for
    (query,) = grid_queries(dataset, 64)
    sample = dataset[query]
    assert sample["image"].shape == (2, 3, 64, 64)
    np.testing.assert_array_equal(sample["image"][0, :, :20, :30], small)
    np.testing.assert_array_equal(sample["image"][0, :, 20:39, :30], small[:, 18::-1])  # reflected
    assert sample["valid"].sum() == 600
    assert (sample["mask"] == 1).sum() == 600
    assert (sample["mask"] == 255).sum() == 64 * 64 - 600


def test_polygons_in_another_crs_are_burnt_per_patch(scene: Scene, tmp_path: Path) -> None:
    polygons = squares(4, 40)
    for suffix, crs, exact in (("gpkg", UTM33, True), ("geojson", "EPSG:4326", False),
                               ("gpkg", "EPSG:3857", False)):  # fmt: skip
        path = write_polygons(tmp_path / f"p{crs[-4:]}.{suffix}", polygons, crs)
        dataset = ScenePairs([Scene(scene.t1, scene.t2, labels=path)], keys={"image", "mask"})
        whole = burnt(polygons).astype(np.int64)
        wrong = 0
        for query in grid_queries(dataset, 50):
            sample = dataset[query]
            mask = sample["mask"][0].numpy()
            expected = cut(whole, box_of(sample), 255)
            wrong += int((mask != expected)[mask != 255].sum())
        assert wrong == 0 if exact else wrong <= 5  # coordinates rounded in the other CRS


def test_where_chooses_polygons_and_area_limits_the_labels(scene: Scene, tmp_path: Path) -> None:
    polygons = squares(6, 20)
    kinds = ["appeared", "vanished"] * 10
    path = write_polygons(tmp_path / "c.gpkg", polygons, kind=kinds)
    area = [shapely.box(500_000, 4_999_000, 501_000, 5_000_000)]
    labelled = write_polygons(tmp_path / "area.geojson", area, "EPSG:4326")
    dataset = ScenePairs(
        [Scene(scene.t2, scene.t2, labels=path, where="kind = 'appeared'", area=labelled)]
    )
    sample = dataset[500_000:502_100, 4_998_500:5_000_000]
    assert sample["image"].shape[-2:] == SHAPE
    expected = burnt(polygons[::2]).astype(np.int64)
    expected[burnt(area) == 0] = 255
    np.testing.assert_array_equal(sample["mask"][0], expected)
    np.testing.assert_array_equal(dataset[:, :]["mask"][0], expected[:100, :100])
    drawn = [dataset[query]["mask"] for query in random_queries(dataset, 40, 20, seed=(0,))]
    assert not any((mask == 255).any() for mask in drawn)


@pytest.mark.parametrize("crs", [UTM33, "EPSG:4326"])
def test_layers_are_rasters_or_polygons_of_any_crs(
    scene: Scene, tmp_path: Path, write_tif: WriteTif, crs: str
) -> None:
    polygons = squares(5, 30)
    raster = str(write_tif(tmp_path / "vl.tif", burnt(polygons), nodata=255))
    vector = write_polygons(tmp_path / f"vl{crs[-4:]}.geojson", polygons, crs)
    layers = {"vl_t1": raster, "vl_t2": vector}
    dataset = ScenePairs([Scene(scene.t1, scene.t2, scene.labels, layers=layers)])
    assert dataset.keys == {"image", "mask", "label", "valid", "vl_t1", "vl_t2"}
    whole = burnt(polygons).astype(np.int64)
    wrong = 0
    for query in grid_queries(dataset, 60):
        sample = dataset[query]
        assert sample["vl_t1"].dtype == torch.int64
        expected = cut(whole, box_of(sample), 255)
        expected[~sample["valid"][0].numpy()] = 255
        np.testing.assert_array_equal(sample["vl_t1"][0], expected)
        wrong += int((sample["vl_t2"] != sample["vl_t1"]).sum())
    assert wrong <= (0 if crs == UTM33 else 5)  # coordinates rounded in degrees


def test_layers_of_folders_and_of_other_codes(tmp_path: Path, write_tif: WriteTif) -> None:
    image = pixels(1)
    for name in ("a", "b"):
        for folder in ("t1", "t2", "seg"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_tif(tmp_path / folder / f"{name}.tif", image)
        codes = np.full(SHAPE, 3 if name == "b" else 0, np.uint8)
        write_tif(tmp_path / "seg" / f"{name}.tif", codes)
    t1, t2, seg = (str(tmp_path / name) for name in ("t1", "t2", "seg"))
    scenes = [Scene(t1, t2, layers={"buildings": seg})]
    with pytest.raises(DataError, match=r"b\.tif: .* found 3; choose mask_values"):
        ScenePairs(scenes, keys={"image", "buildings"})
    dataset = ScenePairs(scenes, keys={"buildings"}, layer_values={0: 0, 3: 1})
    shares = [float(dataset[q]["buildings"].float().mean()) for q in grid_queries(dataset, SHAPE)]
    assert shares == [0, 1]


def test_labels_of_a_folder_of_scenes_agree_about_255(tmp_path: Path, write_tif: WriteTif) -> None:
    for name, values in (("a", (0, 1, 255)), ("b", (0, 255))):
        label = np.resize(np.array(values, np.uint8), SHAPE)
        for folder in ("t1", "t2"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_tif(tmp_path / folder / f"{name}.tif", pixels(1))
        for folder, nodata in (("plain", None), ("declared", 255)):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_tif(tmp_path / folder / f"{name}.tif", label, nodata=nodata)
    t1, t2, plain, declared = (str(tmp_path / n) for n in ("t1", "t2", "plain", "declared"))

    def shares(scene: Scene, key: str, **rules: Any) -> list[float]:
        data = ScenePairs(scene, keys={key}, **rules)
        return [float((data[q][key] == 1).float().mean()) for q in grid_queries(data, SHAPE)]

    told = r"plain: expected one meaning of 255, found 0 and 255 alone in b\.tif and 1 beside 255"
    meant = {0: 0, 1: 1, 255: 255}
    labelled = Scene(t1, t2, labels=plain)
    for scene in (labelled, Scene(t1, t2, buildings=(declared, plain))):
        with pytest.raises(DataError, match=told + r" in a\.tif; .* mask_values="):
            shares(scene, "mask")
    layered = Scene(t1, t2, layers={"vl_change": plain})
    with pytest.raises(DataError, match=told + r" in a\.tif; .* layer_values="):
        shares(layered, "vl_change")
    assert shares(labelled, "mask", mask_values=meant) == pytest.approx([1 / 3, 0], abs=0.01)
    assert shares(layered, "vl_change", layer_values=meant) == shares(
        Scene(t1, t2, labels=declared), "mask"
    )
    alone = Scene(f"{t1}/b.tif", f"{t2}/b.tif", labels=f"{plain}/b.tif")
    assert shares(alone, "mask") == pytest.approx([0.5], abs=0.01)


def test_a_layer_that_no_scene_names_is_an_error(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t1\.tif: vl_t1 was requested, but the layers"):
        ScenePairs([scene], keys={"image", "vl_t1"})
    nowhere = Scene(scene.t1, scene.t2, layers=str(tmp_path / "store"))
    with pytest.raises(SceneError, match=r"store/vl_t1/t1_t2\.tif"):
        ScenePairs([nowhere], keys={"image", "vl_t1"})
    assert "vl_t1" not in ScenePairs([nowhere], keys={"image"})[:, :]


def test_one_of_several_layers_is_chosen(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    for layer, seed in (("a", 1), ("b", 2)):
        frame = geopandas.GeoDataFrame(geometry=squares(seed, 5), crs=UTM33)
        frame.to_file(path, layer=layer, engine="pyogrio")
    with pytest.raises(DataError, match=r"expected one layer .* found a, b; .*layername"):
        ScenePairs([Scene(scene.t1, scene.t2, labels=str(path))])
    dataset = ScenePairs([Scene(scene.t2, scene.t2, labels=f"{path}|layername=b")])
    np.testing.assert_array_equal(dataset[:, :]["mask"][0], burnt(squares(2, 5)))


def test_building_layers_differ_where_built_at_one_date(scene: Scene, tmp_path: Path) -> None:
    first, second = squares(7, 15), squares(8, 12)
    kept = first[:5]
    paths = (
        write_polygons(tmp_path / "b1.gpkg", first),
        write_polygons(tmp_path / "b2.geojson", [*kept, *second], "EPSG:4326"),
    )
    dataset = ScenePairs([Scene(scene.t2, scene.t2, buildings=paths)])
    expected = burnt(first) ^ burnt([*kept, *second])
    assert (dataset[:, :]["mask"][0].numpy() != expected).sum() <= 5


def test_buildings_matched_by_id_give_the_towns_own_mask(tmp_path: Path) -> None:
    for seed in range(9):
        files = write_sample(tmp_path, seed, (256, 384), overwrite=True)
        with rasterio.open(files["truth_mask"]) as file:
            truth = file.read(1)
        if truth.sum() > 500:
            break
    buildings = (str(files["buildings_t1"]), str(files["buildings_t2"]))
    t1, t2 = str(files["scene_t1"]), str(files["scene_t2"])
    dataset = ScenePairs([Scene(t1, t2, buildings=buildings, building_id="id")])
    found = np.concatenate([dataset[q]["mask"].numpy().ravel() for q in grid_queries(dataset, 128)])
    assert truth.sum() > 500
    assert abs(int((found == 1).sum()) - int(truth.sum())) < 20  # GeoJSON rounds to a centimetre
    assert (dataset[:, :]["mask"][0].numpy() != truth).mean() < 2e-4


def test_several_scenes_of_different_crs(tmp_path: Path, write_tif: WriteTif) -> None:
    scenes = []
    for zone, easting in ((33, 500_000), (32, 940_000)):
        transform = Affine(10, 0, easting, 0, -10, 5_000_000)
        profile = {"transform": transform, "crs": f"EPSG:326{zone}"}
        smooth = np.add.outer(np.arange(80.0), np.arange(100.0)).astype(np.float32)[None] + zone
        path = str(write_tif(tmp_path / f"{zone}.tif", smooth, **profile))
        label = np.zeros((80, 100), np.uint8)
        label[30:50, 40:60] = 1
        scenes.append(
            Scene(path, path, str(write_tif(tmp_path / f"l{zone}.tif", label, **profile)))
        )
    dataset = ScenePairs(scenes)
    assert CRS(dataset.crs) == CRS(UTM33)
    assert len(dataset) == 2
    samples = [dataset[query] for query in grid_queries(dataset, 128)]
    native, warped = samples
    assert native["valid"].sum() == 8000
    np.testing.assert_array_equal(native["mask"][0, 30:50, 40:60], 1)
    assert warped["crs"].to_epsg() == 32633
    # the marked square of the other zone, its corners carried by hand
    to33 = Transformer.from_crs("EPSG:32632", UTM33, always_xy=True)
    corners = [
        (940_400, 4_999_700),
        (940_600, 4_999_700),
        (940_600, 4_999_500),
        (940_400, 4_999_500),
    ]
    square = shapely.Polygon([to33.transform(*corner) for corner in corners])
    expected = rasterize([square], (128, 128), transform=warped["transform"]) == 1
    mask, valid = warped["mask"][0].numpy(), warped["valid"][0].numpy()
    assert ((mask == 1) != expected).sum() < 30  # along the square's edge
    rows, cols = np.nonzero(valid)
    x, y = apply(warped["transform"], cols + 0.5, rows + 0.5)
    x, y = Transformer.from_crs(UTM33, "EPSG:32632", always_xy=True).transform(x, y)
    value = (x - 940_000) / 10 - 0.5 + (5_000_000 - y) / 10 - 0.5 + 32
    shown = warped["image"][0, 0].numpy()[rows, cols]
    assert np.median(np.abs(shown - value)) < 0.01
    assert np.quantile(np.abs(shown - value), 0.9) < 0.05


def test_the_dataset_follows_a_new_crs_and_resolution(scene: Scene) -> None:
    dataset = ScenePairs([scene])
    dataset.res = 20
    assert dataset.res == (20.0, 20.0)
    sample = dataset[:, :]
    assert sample["image"].shape[-2:] == (75, 105)
    assert set(np.unique(sample["mask"])) <= {0, 1, 255}
    dataset.crs = CRS("EPSG:3857")
    assert dataset[:, :]["crs"].to_epsg() == 3857
    again = ScenePairs([scene], crs="EPSG:4326")
    height, width = again[:, :]["image"].shape[-2:]
    assert 0.8 < height * width / (SHAPE[0] * SHAPE[1]) < 1.3


@pytest.mark.parametrize("res", [(0.5, 10.0), (10.0, 0.5), (1.0, 1.0), 0.5])
def test_pixels_may_be_smaller_than_a_unit_of_the_crs(
    scene: Scene, res: float | tuple[float, float]
) -> None:
    assert ScenePairs(scene, res=res).res == (res if isinstance(res, tuple) else (res, res))


@pytest.mark.parametrize("res", [0.0, (10.0, 0.0), (-1.0, 10.0), float("nan")])
def test_pixels_have_a_size(scene: Scene, res: float | tuple[float, float]) -> None:
    with pytest.raises(DataError, match="expected res= above 0"):
        ScenePairs(scene, res=res)


def test_labels_without_georeferencing_lie_on_t1(
    scene: Scene, tmp_path: Path, write_tif: WriteTif
) -> None:
    mask = (np.random.default_rng(0).random(SHAPE) < 0.5).astype(np.uint8)
    plain = write_tif(tmp_path / "plain.tif", mask, crs=None, transform=None)
    dataset = ScenePairs([Scene(scene.t2, scene.t2, str(plain))])
    np.testing.assert_array_equal(dataset[:, :]["mask"][0], mask)
    odd = write_tif(tmp_path / "odd.tif", mask[:50], crs=None, transform=None)
    with pytest.raises(
        DataError, match="must have the size of t1, 210 x 150 pixels, found 210 x 50"
    ):
        ScenePairs([Scene(scene.t2, scene.t2, str(odd))])


def test_label_values(scene: Scene, tmp_path: Path, write_tif: WriteTif) -> None:
    values = np.zeros(SHAPE, np.uint8)
    values[:40], values[40:60] = 1, 255
    path = str(write_tif(tmp_path / "v.tif", values))
    for rule in ("strict", {0: 0, 1: 1, 255: 255}):
        mapped = ScenePairs([Scene(scene.t2, scene.t2, path)], mask_values=rule)
        np.testing.assert_array_equal(mapped[:, :]["mask"][0], values)
    gray = str(write_tif(tmp_path / "g.tif", values + np.uint8(2)))
    with pytest.raises(DataError, match=r"g\.tif: .* found 1, 2, 3; choose mask_values"):
        ScenePairs([Scene(scene.t2, scene.t2, gray)])
    declared = str(write_tif(tmp_path / "d.tif", values, nodata=255))
    dataset = ScenePairs([Scene(scene.t2, scene.t2, declared)])
    np.testing.assert_array_equal(dataset[:, :]["mask"][0], values)
    zero = str(write_tif(tmp_path / "z.tif", (values == 1).astype(np.uint8), nodata=0))
    dataset = ScenePairs([Scene(scene.t2, scene.t2, zero)])
    assert (dataset[:, :]["mask"] == 255).sum() == 0


def test_buildings_without_a_word_at_either_date_are_ignored(
    scene: Scene, tmp_path: Path, write_tif: WriteTif
) -> None:
    sides = []
    for name, rows in (("b1.tif", slice(0, 30)), ("b2.tif", slice(20, 50))):
        built = np.zeros(SHAPE, np.uint8)
        built[:, 60:90] = name == "b2.tif"
        built[rows] = 255
        sides.append(str(write_tif(tmp_path / name, built, nodata=255)))
    dataset = ScenePairs([Scene(scene.t2, scene.t2, buildings=(sides[0], sides[1]))])
    expected = np.zeros(SHAPE, np.uint8)
    expected[:, 60:90] = 1
    expected[:50] = 255
    np.testing.assert_array_equal(dataset[:, :]["mask"][0], expected)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".parquet"])
def test_polygons_inside_collections_count(scene: Scene, tmp_path: Path, suffix: str) -> None:
    left, top = TRANSFORM.c, TRANSFORM.f
    squares = [shapely.box(left + 100 * i, top - 400, left + 100 * i + 50, top) for i in range(5)]
    line = shapely.LineString([(left, top), (left + 30, top - 30)])
    shapes = [
        shapely.GeometryCollection([line, squares[0]]),
        squares[1],
        shapely.GeometryCollection([shapely.MultiPolygon(squares[2:4]), shapely.Point(left, top)]),
        shapely.GeometryCollection([shapely.GeometryCollection([squares[4]]), line]),
    ]
    path = str(tmp_path / f"labels{suffix}")
    frame = geopandas.GeoDataFrame({"n": range(4)}, geometry=shapes, crs="EPSG:32633")
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        moved = frame.to_crs("EPSG:4326") if suffix == ".geojson" else frame
        moved.to_file(path, engine="pyogrio")
    mask = ScenePairs([Scene(scene.t2, scene.t2, path)])[:, :]["mask"][0].numpy()
    np.testing.assert_array_equal(mask, burnt(squares))


def test_rasters_that_nothing_of_the_other_date_meets_are_named(
    tmp_path: Path, write_tif: WriteTif, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, names in (("t1", "ab"), ("t2", "xy")):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(names):
            far = TRANSFORM @ Affine.translation(0, 1e4 * number * (1 if folder == "t1" else -1))
            write_tif(tmp_path / folder / f"{name}.tif", pixels(1), transform=far)
    dataset = ScenePairs([Scene(str(tmp_path / "t1"), str(tmp_path / "t2"))])
    assert len(dataset) == 1
    for lonely in ("t1/b.tif", "t2/y.tif"):
        assert lonely in caplog.text


def test_a_label_smaller_than_the_scene_ignores_the_rest(
    scene: Scene, tmp_path: Path, write_tif: WriteTif
) -> None:
    part = str(write_tif(tmp_path / "part.tif", np.ones((50, 60), np.uint8)))
    mask = ScenePairs([Scene(scene.t2, scene.t2, part)])[:, :]["mask"][0].numpy()
    assert (mask[:50, :60] == 1).all()
    assert (mask == 255).sum() == SHAPE[0] * SHAPE[1] - 3000


@pytest.mark.parametrize("crs", [UTM33, "EPSG:3857"])
def test_label_rasters_of_another_place_are_said(
    scene: Scene, tmp_path: Path, write_tif: WriteTif, caplog: pytest.LogCaptureFixture, crs: str
) -> None:
    """One column of the scene is enough; the pixel beside it is not."""
    mask = np.ones((1, 20, 20), np.uint8)
    for moved, said in ((SHAPE[1] - 1, False), (SHAPE[1] + (0 if crs == UTM33 else 9), True)):
        path = write_tif(
            tmp_path / f"{moved}.tif", mask, transform=TRANSFORM @ Affine.translation(moved, 0)
        )
        if crs != UTM33:
            with WarpedVRT(rasterio.open(path), crs=crs) as warped:
                path = write_tif(
                    tmp_path / f"w{moved}.tif", warped.read(), crs=crs, transform=warped.transform
                )
        caplog.clear()
        ScenePairs(Scene(scene.t1, scene.t2, layers={"vl_t1": str(path)}), keys={"vl_t1"})
        assert (f"labels {path} do not touch the scene at" in caplog.text) is said


@pytest.mark.parametrize(
    ("moved_m", "where", "said"),
    [
        (0, None, False),
        (0, "kind = 'new'", False),
        (0, "kind = 'nwe'", True),
        (50_000, None, True),
        (None, None, False),  # an empty file: nothing changed
    ],
)
@pytest.mark.parametrize("field", ["labels", "buildings", "layers"])
def test_polygons_that_no_scene_has_are_said(
    field: str, moved_m: float | None, where: str | None, said: bool, scene: Scene,
    tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    path, sound = str(tmp_path / "odd.gpkg"), str(tmp_path / "sound.gpkg")
    frame = geopandas.GeoDataFrame({"kind": ["new"] * 5}, geometry=squares(1, 5), crs=UTM33)
    frame.to_file(sound, engine="pyogrio")
    frame.geometry = frame.translate(moved_m or 0)
    frame[: 0 if moved_m is None else 5].to_file(path, engine="pyogrio")
    if field == "layers":
        own, key = Scene(scene.t1, scene.t2, layers={"vl_t1": path}), "vl_t1"
        said = said and where is None  # where= is about labels and buildings
    elif field == "buildings":
        own, key = Scene(scene.t1, scene.t2, buildings=(sound, path), where=where), "mask"
    else:
        own, key = Scene(scene.t1, scene.t2, labels=path, where=where), "mask"
    ScenePairs(own, keys={key})
    assert (f"no polygon of {path} lies in a scene, so {key} gets" in caplog.text) is said


def test_folders_are_paired_by_name_or_by_place(tmp_path: Path, write_tif: WriteTif) -> None:
    for folder in ("t1", "t2", "other", "labels"):
        (tmp_path / folder).mkdir()
    for i, name in enumerate(("a", "b")):
        transform = Affine(10, 0, 500_000 + i * 800, 0, -10, 5_000_000)
        image = np.full((1, 60, 80), 10 + i, np.uint8)
        label = np.full((60, 80), i, np.uint8)
        write_tif(tmp_path / "t1" / f"{name}.tif", image, transform=transform)
        write_tif(tmp_path / "t2" / f"{name}.tif", image + 10, transform=transform)
        write_tif(tmp_path / "labels" / f"{name}.tif", label, transform=transform)
    write_tif(tmp_path / "other" / "wide.tif", np.full((1, 60, 160), 99, np.uint8))
    t1, t2, labels, other = (str(tmp_path / f) for f in ("t1", "t2", "labels", "other"))
    dataset = ScenePairs([Scene(t1, t2, labels, name="town")])
    samples = [dataset[q] for q in grid_queries(dataset, 80)]
    values = [s["image"][:, 0, 0, 0].tolist() for s in samples]
    assert sorted(values) == [[10, 20], [11, 21]]
    assert {s["name"].split(" ")[0] for s in samples} == {"town/a", "town/b"}
    assert sorted(int((s["mask"] == 1).sum()) for s in samples) == [0, 4800]
    # patches of one tile reach far into the other, and still are that tile's
    counts = {10: 0, 11: 0}
    for query in grid_queries(dataset, 60):
        sample = dataset[query]
        (value,) = set(sample["image"][0, 0][sample["valid"][0]].tolist())
        counts[int(value)] += int(sample["valid"].sum())
    assert counts == {10: 4800, 11: 4800}
    by_place = ScenePairs([Scene(t1, other)])
    assert [s.name for s in by_place.scenes] == ["a+wide", "b+wide"]
    with pytest.raises(DataError, match="both as files or both as folders"):
        ScenePairs([Scene(t1, f"{other}/wide.tif")])
    write_tif(tmp_path / "t2" / "a.jp2.tif", image).rename(tmp_path / "t2" / "a.tiff")
    with pytest.raises(DataError, match=r"one file of each name, found a\.tif and a\.tiff"):
        ScenePairs([Scene(t1, t2)])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no rasters"):
        ScenePairs([Scene(t1, str(tmp_path / "none"))])


def test_labels_of_a_folder_may_be_shapefiles(tmp_path: Path, write_tif: WriteTif) -> None:
    for folder in ("t1", "t2", "labels"):
        (tmp_path / folder).mkdir()
    for name, count in (("a", 4), ("b", 8)):
        for folder in ("t1", "t2"):
            write_tif(tmp_path / folder / f"{name}.tif", pixels(1))
        frame = geopandas.GeoDataFrame({"id": range(count)}, geometry=squares(3, count), crs=UTM33)
        frame.to_file(tmp_path / "labels" / f"{name}.shp", engine="pyogrio")
    (tmp_path / "labels" / "a.qml").write_text("style")
    t1, t2, labels = (str(tmp_path / folder) for folder in ("t1", "t2", "labels"))
    dataset = ScenePairs(Scene(t1, t2, labels=labels))
    a, b = (int(dataset[q]["mask"].sum()) for q in grid_queries(dataset, SHAPE))
    assert 0 < a < b
    (tmp_path / "labels" / "a.gpkg").touch()
    with pytest.raises(DataError, match=r"expected one file named a\.\*, found 2"):
        ScenePairs(Scene(t1, t2, labels=labels))


def test_a_date_on_another_grid_is_aligned(
    scene: Scene, tmp_path: Path, write_tif: WriteTif
) -> None:
    shifted = Affine(20, 0, 500_205, 0, -20, 4_999_895)
    t2 = str(write_tif(tmp_path / "coarse.tif", pixels(9, (60, 80)), transform=shifted))
    dataset = ScenePairs([Scene(scene.t1, t2)])
    pair = ScenePair.open(scene.t1, t2)
    whole, valid = pair.read(Box(0, 0, *pair.shape_hw))
    for query in random_queries(dataset, 32, 5, seed=(1,)):
        sample = dataset[query]
        col, row = apply(~pair.grid.affine, sample["transform"].c, sample["transform"].f)
        first_row, first_col = round(float(row)), round(float(col))
        rows, cols = slice(first_row, first_row + 32), slice(first_col, first_col + 32)
        np.testing.assert_array_equal(sample["image"], whole[..., rows, cols])
        np.testing.assert_array_equal(sample["valid"][0], valid[rows, cols])


def test_a_vrt_stands_for_a_date(scene: Scene, tmp_path: Path) -> None:
    from rasterio.shutil import copy

    with rasterio.open(scene.t2) as file:
        copy(file, tmp_path / "t2.vrt", driver="VRT")
    dataset = ScenePairs([Scene(str(tmp_path / "t2.vrt"), f"file://{scene.t2}")])
    image = dataset[:, :]["image"]
    np.testing.assert_array_equal(image[0], image[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_what_the_main_process_reads(
    scene: Scene, tmp_path: Path, workers: int
) -> None:
    labels = write_polygons(tmp_path / "p.gpkg", squares(4, 40))
    dataset = ScenePairs([Scene(scene.t1, scene.t2, labels)])
    queries = random_queries(dataset, 40, 12, seed=(0,))
    direct = [dataset[query] for query in queries]  # opens handles before the workers fork
    loader = DataLoader(dataset, sampler=queries, batch_size=None, num_workers=workers)
    for a, b in zip(loader, direct, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["mask"], b["mask"])
        assert a["crs"] == b["crs"]
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[queries[0]]["mask"], direct[0]["mask"])


class Inherited(Dataset[bool]):
    """Whether a worker starts without open handles and reads through its own."""

    def __init__(self, dataset: ScenePairs) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _index: int) -> bool:
        inherited = len(_handles.open)
        _ = self.dataset[:, :]
        return inherited == 0 and len(_handles.open) > 0


@pytest.mark.posix
def test_workers_do_not_read_through_handles_of_their_parent(scene: Scene) -> None:
    dataset = ScenePairs([scene])
    _ = dataset[:, :]
    assert _handles.open
    context = multiprocessing.get_context("fork")
    loader = DataLoader(Inherited(dataset), num_workers=1, multiprocessing_context=context)
    assert [bool(closed) for closed in loader] == [True]


def test_keys_decide_which_files_are_opened(scene: Scene, tmp_path: Path) -> None:
    lost = Scene(scene.t1, scene.t2, labels=str(tmp_path / "absent.gpkg"))
    sample = ScenePairs([lost], keys={"image"})[:, :]
    assert set(sample) == {"image", "name", "crs", "bounds", "transform"}
    with pytest.raises(DataError, match=r"absent\.gpkg"):
        ScenePairs([lost])
    with pytest.raises(DataError, match="neither labels nor buildings"):
        ScenePairs([Scene(scene.t1, scene.t2)], keys={"image", "mask"})
    with pytest.raises(DataError, match=r"keys of scenes: .*, found flow"):
        ScenePairs([scene], keys={"image", "flow"})
    assert "mask" not in ScenePairs([Scene(scene.t1, scene.t2)])[:, :]


def test_mistakes_are_named(scene: Scene, tmp_path: Path, write_tif: WriteTif) -> None:
    with pytest.raises(DataError, match="at least one scene"):
        ScenePairs([])
    with pytest.raises(SceneError, match=r"absent\.tif"):
        ScenePairs([Scene(str(tmp_path / "absent.tif"), scene.t2)])
    points = geopandas.GeoDataFrame(geometry=[shapely.Point(500_100, 4_999_900)], crs=UTM33)
    points.to_file(tmp_path / "points.gpkg", engine="pyogrio")
    with pytest.raises(DataError, match=r"expected polygons in labels .* found Point"):
        ScenePairs([Scene(scene.t1, scene.t2, str(tmp_path / "points.gpkg"))])
    with pytest.raises(DataError, match="labels or buildings, found both"):
        ScenePairs([Scene(scene.t1, scene.t2, "a.tif", buildings=("b", "c"))])
    with pytest.raises(DataError, match="later than t2"):
        ScenePairs([Scene(scene.t1, scene.t2, dates=("2020-01-01", "2019-01-01"))])
    with pytest.raises(DataError, match="are not dates"):
        ScenePairs([Scene(scene.t1, scene.t2, dates=("summer", "2019-01-01"))])
    polygons = write_polygons(tmp_path / "b.gpkg", squares(1, 3))
    with pytest.raises(DataError, match="no column 'nr'"):
        ScenePairs([Scene(scene.t1, scene.t2, buildings=(polygons, polygons), building_id="nr")])
    with pytest.raises(DataError, match="is a raster"):
        ScenePairs([Scene(scene.t1, scene.t2, scene.labels, where="a = 1")])
    one = str(write_tif(tmp_path / "one.tif", pixels(1, bands=1)))
    with pytest.raises(DataError, match=r"expected 3 bands in every scene, found 1 in .*one\.tif"):
        ScenePairs([scene, Scene(one, one, scene.labels)])
    dataset = ScenePairs([scene])
    with pytest.raises(IndexError, match="not found"):
        dataset[0:100, 0:100]
    with pytest.raises(DataError, match="query in the dataset's pixel size"):
        dataset[::5, ::5]
    with pytest.raises(DataError, match="in the region"):
        grid_queries(dataset, 64, roi=shapely.box(0, 0, 1, 1))


def test_a_damaged_scene_is_named(scene: Scene) -> None:
    data = Path(scene.t2).read_bytes()
    dataset = ScenePairs([scene])
    Path(scene.t2).write_bytes(data[: len(data) // 2])
    with pytest.raises(SceneError, match=r"t2\.tif"):
        dataset[:, :]


def test_pictures_without_crs_use_pixels(tmp_path: Path, write_tif: WriteTif) -> None:
    path = str(write_tif(tmp_path / "p.tif", pixels(1), crs=None, transform=None))
    dataset = ScenePairs([Scene(path, path)])
    sample = dataset[10:40, 5:25]
    np.testing.assert_array_equal(sample["image"][0], pixels(1)[:, 5:25, 10:40])
    assert sample["crs"] is None
    with pytest.raises(DataError, match="expected a CRS in each of 2 scenes"):
        ScenePairs([Scene(path, path), Scene(path, path)])


def test_scenes_as_dictionaries_are_an_error_that_says_what_to_write() -> None:
    given: Any = [{"t1": "a.tif", "t2": "b.tif"}]
    with pytest.raises(DataError, match=r"expected scenes as .*Scene, found dict; write Scene\("):
        ScenePairs(given)
