"""The sample scene: files that lie where they should and agree with each other."""

import hashlib
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize
from shapely.geometry import box

from rscd.base.errors import OutputError, UsageError
from rscd.synthetic.sample import SAMPLE_GSD_M, SAMPLE_ORIGIN, sample_town, write_sample
from rscd.synthetic.towns.materials import LAND_COVER

SHAPE = (200, 260)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sample(tmp_path_factory.mktemp("sample") / "town", seed=4, shape_hw=SHAPE)


def test_every_file_is_there_and_nothing_else(sample: dict[str, Path]) -> None:
    folder = sample["scene_t1"].parent
    assert {p.name for p in folder.iterdir()} == {p.name for p in sample.values()}
    assert set(sample) == {
        "scene_t1", "scene_t2", "truth_mask", "truth", "buildings_t1", "buildings_t2",
        "landcover_t1", "landcover_t2", "answers",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["scene_t1", "scene_t2", "truth_mask", "landcover_t1"])
def test_rasters_are_tiled_deflated_and_in_place(sample: dict[str, Path], name: str) -> None:
    with rasterio.open(sample[name]) as source:
        assert source.crs.to_epsg() == 32633
        assert source.shape == SHAPE
        assert source.res == (SAMPLE_GSD_M, SAMPLE_GSD_M)
        assert (source.bounds.left, source.bounds.top) == SAMPLE_ORIGIN
        assert source.profile["tiled"]
        assert source.compression.value == "DEFLATE"
        assert source.dtypes[0] == "uint8"
        assert source.count == (3 if name.startswith("scene") else 1)
        assert source.tags()["synthetic"] == "yes"


def test_land_cover_names_its_classes(sample: dict[str, Path]) -> None:
    with rasterio.open(sample["landcover_t2"]) as source:
        tags, table, values = source.tags(), source.colormap(1), source.read(1)
    assert {tags[f"class_{v}"] for v in np.unique(values)} <= set(LAND_COVER)
    assert len({table[v] for v in LAND_COVER.values()}) == len(LAND_COVER)


def test_truth_polygons_burn_to_the_truth_mask(sample: dict[str, Path]) -> None:
    truth = geopandas.read_file(sample["truth"])
    assert set(truth["kind"]) <= {"appeared", "vanished"}
    assert len(truth) > 0
    with rasterio.open(sample["truth_mask"]) as source:
        mask, transform, crs = source.read(1), source.transform, source.crs
    burnt = rasterize(truth.to_crs(crs).geometry, mask.shape, transform=transform)
    assert set(np.unique(mask)) == {0, 1}
    # seven decimals of a degree are about a centimetre: a centre on an edge may fall either way
    assert (burnt != mask).mean() < 1e-3


def test_the_difference_of_the_building_layers_is_the_truth(sample: dict[str, Path]) -> None:
    truth = geopandas.read_file(sample["truth"])
    before, after = (geopandas.read_file(sample[f"buildings_{d}"]) for d in ("t1", "t2"))
    assert set(truth["id"]) == set(before["id"]) ^ set(after["id"])
    kinds = dict(zip(truth["id"], truth["kind"], strict=True))
    assert all((kinds[i] == "appeared") == (i in set(after["id"])) for i in kinds)
    assert (before["height_m"] > 2).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_even_a_small_sample_shows_change(seed: int) -> None:
    town = sample_town(seed, (256, 256))
    frame = box(0, 0, 128, 128)
    kinds = {c.kind for c in town.changes if c.polygon.intersects(frame)}
    assert kinds == {"appeared", "vanished"}
    assert town.seed == seed


def test_vectors_are_rfc_7946(sample: dict[str, Path]) -> None:
    for name in ("truth", "buildings_t1", "buildings_t2", "answers"):
        document = json.loads(sample[name].read_text())
        assert "crs" not in document
        assert 12 < document["features"][0]["geometry"]["coordinates"][0][0][0] < 15


def test_answers_say_where_the_truth_mask_has_change(sample: dict[str, Path]) -> None:
    answers = geopandas.read_file(sample["answers"])
    with rasterio.open(sample["truth_mask"]) as source:
        mask, transform, crs = source.read(1), source.transform, source.crs
    assert len(answers) == 4 * 5
    assert answers["changed"].nunique() == 2
    cells = list(answers.to_crs(crs).geometry)
    number = rasterize(zip(cells, answers["id"], strict=True), mask.shape, transform=transform)
    assert (number > 0).all()
    found = {i: bool((mask[number == i] == 1).any()) for i in answers["id"]}
    assert found == dict(zip(answers["id"], answers["changed"], strict=True))


def digest(paths: dict[str, Path]) -> dict[str, str]:
    return {k: hashlib.sha256(p.read_bytes()).hexdigest() for k, p in paths.items()}


def test_one_seed_is_one_set_of_bytes(sample: dict[str, Path], tmp_path: Path) -> None:
    assert digest(write_sample(tmp_path / "again", seed=4, shape_hw=SHAPE)) == digest(sample)
    other = digest(write_sample(tmp_path / "other", seed=5, shape_hw=SHAPE))
    assert other["scene_t1"] != digest(sample)["scene_t1"]


def test_a_scene_that_is_moved_shows_the_same(sample: dict[str, Path], tmp_path: Path) -> None:
    moved = write_sample(tmp_path, seed=4, shape_hw=SHAPE, east_m=2000)
    for name in ("scene_t2", "truth_mask"):
        with rasterio.open(sample[name]) as one, rasterio.open(moved[name]) as other:
            assert other.transform == one.transform.translation(2000, 0) @ one.transform
            np.testing.assert_array_equal(one.read(), other.read())
    for name in ("answers", "buildings_t1"):
        one, other = (geopandas.read_file(f[name]).to_crs(32633) for f in (sample, moved))
        gaps = other.geometry.geom_equals_exact(one.geometry.translate(2000, 0), 0.05)
        assert gaps.all()


@pytest.mark.slow
def test_files_are_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = digest(write_sample(tmp_path, seed=1, shape_hw=(33, 47)))
    with pytest.raises(OutputError, match=r"9 file.*add --overwrite"):
        write_sample(tmp_path, seed=2, shape_hw=(33, 47))
    assert digest({k: tmp_path / p for k, p in _names(tmp_path).items()}) == first
    second = digest(write_sample(tmp_path, seed=2, shape_hw=(33, 47), overwrite=True))
    assert second["scene_t1"] != first["scene_t1"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def _names(folder: Path) -> dict[str, str]:
    return {p.stem: p.name for p in folder.iterdir() if p.suffix != ".txt"}


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected to write"):
        write_sample(tmp_path / "file" / "town", shape_hw=(20, 20))


def test_a_size_of_nothing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1 x 1"):
        write_sample(tmp_path / "town", shape_hw=(0, 10))
    assert not (tmp_path / "town").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shape_hw", [(1, 1), (33, 47)])
def test_tiny_scenes_are_valid_even_when_nothing_was_built(
    tmp_path: Path, shape_hw: tuple[int, int]
) -> None:
    paths = write_sample(tmp_path, seed=3, shape_hw=shape_hw)
    assert json.loads(paths["truth"].read_text())["type"] == "FeatureCollection"
    with rasterio.open(paths["scene_t2"]) as source:
        assert source.shape == shape_hw
