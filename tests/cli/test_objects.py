"""``rscd predict --objects-t1 --objects-t2``: the buildings of either date as files."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine

from rscd.cli import main
from rscd.export.style import object_qml
from rscd.synthetic.town_pairs import TownPairs

GRID = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
SIDE = 224


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command in this process."""
    try:
        code: Any = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def town() -> dict[str, Any]:
    keys = ["image", "changes", "buildings"]
    return TownPairs(1, 12, SIDE, gsd_m=0.5, change_share=0.5, keys=keys)[0]


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path], town: dict[str, Any]
) -> list[Path]:
    folder = tmp_path_factory.mktemp("town")
    dates = town["image"].numpy().astype(np.uint8)
    return [
        write_tif(folder / f"{name}.tif", date, transform=GRID)
        for name, date in zip(("t1", "t2"), dates, strict=True)
    ]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, scene: list[Path], buildings: Path
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    """Tables of both dates as a run in one piece writes them."""
    folder = tmp_path_factory.mktemp("whole")
    paths = [folder / "b1.gpkg", folder / "b2.parquet"]
    arguments = [*scene, "-m", buildings, "-o", folder / "c.gpkg", "--no-regularize", "-q"]
    arguments += ["--objects-t1", paths[0], "--objects-t2", paths[1]]
    assert main(["predict", *map(str, arguments), "--t1-date", "2019-05-01"]) == 0
    return geopandas.read_file(paths[0]), geopandas.read_parquet(paths[1])


def in_metres(polygons: list[shapely.Polygon]) -> list[shapely.Polygon]:
    return [
        shapely.transform(p, lambda c: c * [0.5, -0.5] + [500_000, 5_000_000]) for p in polygons
    ]


def test_they_are_the_buildings_of_each_date(
    town: dict[str, Any], whole: tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]
) -> None:
    frame = shapely.box(500_000, 5_000_000 - SIDE / 2, 500_000 + SIDE / 2, 5_000_000)
    for table, footprints in zip(whole, town["buildings"], strict=True):
        true = [p.intersection(frame) for p in in_metres(footprints)]
        true = [p for p in true if p.area > 40]
        found = shapely.union_all(table.geometry.to_numpy())
        covered = [p.intersection(found).area / p.area for p in true]
        assert len(true) > 5
        assert np.mean(np.array(covered) > 0.5) > 0.8
        outside = found.difference(shapely.union_all(in_metres(footprints)).buffer(3)).area
        assert outside < 0.2 * found.area
    came = [p for kind, p in town["changes"] if kind == "appeared"]
    for polygon in in_metres(came):
        if polygon.intersection(frame).area > 60:
            seen = [table.geometry.intersection(polygon).area.sum() for table in whole]
            assert seen[0] < seen[1]


def test_the_table_is_that_of_changes_with_the_date_at_which_it_stands(
    whole: tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame],
) -> None:
    for table in whole:
        assert [*table.columns] == [
            "id", "kind", "class", "score", "area_m2", "t1", "t2", "model", "geometry",
        ]  # fmt: skip
        assert set(table["kind"]) == {"standing"}
        assert set(table["class"]) == {"building"}
        assert set(table["model"]) == {"buildings"}
        assert table["score"].between(0.5, 1).all()
        assert (table["area_m2"] >= 14).all()
        assert table.crs == "EPSG:32633"
    assert whole[0]["t1"].notna().all()
    assert whole[0]["t2"].isna().all()
    assert whole[1]["t1"].isna().all()


def test_layer_style_and_provenance_say_which_date(
    tmp_path: Path, scene: list[Path], buildings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "before.gpkg", tmp_path / "after.geojson"
    found = run(
        capsys, "predict", *scene, "-o", tmp_path / "c.tif", "--objects-t1", first, "--objects-t2",
        second, "--json", "-m", buildings,
    )  # fmt: skip
    assert found[0] == 0
    result = json.loads(found[1])
    assert pyogrio.list_layers(first)[0].tolist()[0] == "buildings_t1"
    assert pyogrio.list_layers(second)[0].tolist()[0] == "buildings_t2"
    tables = [geopandas.read_file(path) for path in (first, second)]
    assert [result["objects_t1"], result["objects_t2"]] == [len(table) for table in tables]
    assert result["n_polygons"] is None
    assert {str(first), str(second)} < set(result["outputs"])
    said = json.loads((tmp_path / "after.geojson.json").read_text())
    assert said["objects"] == {"date": "t2", "threshold": 0.5}
    assert said["t1"]["sha256"]
    assert (tmp_path / "after.qml").read_text() == object_qml()
    assert 'value="standing"' in object_qml()


def test_exchanged_dates_exchange_the_files(
    tmp_path: Path,
    scene: list[Path],
    buildings: Path,
    whole: tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame],
) -> None:
    paths = [tmp_path / "b1.fgb", tmp_path / "b2.fgb"]
    arguments = [*scene[::-1], "-m", buildings, "-o", tmp_path / "c.gpkg", "--no-regularize"]
    arguments += ["--objects-t1", paths[0], "--objects-t2", paths[1], "-q"]
    assert main(["predict", *map(str, arguments)]) == 0
    rest = ["id", "score", "area_m2", "geometry"]
    for path, table in zip(paths, whole[::-1], strict=True):
        back = geopandas.read_file(path).sort_values("id", ignore_index=True)
        assert back[rest].equals(table[rest])


@pytest.mark.slow
def test_tiles_and_threads_change_nothing(tmp_path: Path, scene: list[Path]) -> None:
    """With the halo of the weights that ship."""
    tables = []
    for name, options in (("whole", []), ("tiles", ["--tile-size", 112, "--workers", 2])):
        paths = [tmp_path / f"{name}{date}.gpkg" for date in (1, 2)]
        arguments = [*scene, "-m", "buildings", "-o", tmp_path / f"{name}.tif", "-q", *options]
        arguments += ["--objects-t1", paths[0], "--objects-t2", paths[1], "--no-regularize"]
        assert main(["predict", *map(str, arguments)]) == 0
        tables.append([geopandas.read_file(path) for path in paths])
    for whole, found in zip(*tables, strict=True):
        assert found.geometry.equals(whole.geometry)
        assert np.abs(found["score"] - whole["score"]).max() < 0.01


def test_right_angles_by_default_and_simplified_on_demand(
    tmp_path: Path,
    scene: list[Path],
    buildings: Path,
    whole: tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame],
) -> None:
    counts = []
    for name, option in (("squared", []), ("simple", ["--simplify", "2"])):
        path = tmp_path / f"{name}.gpkg"
        arguments = [*scene, "-m", buildings, "-o", tmp_path / f"{name}-c.tif", *option]
        assert main(["predict", *map(str, arguments), "--objects-t1", str(path), "-q"]) == 0
        table = geopandas.read_file(path)
        assert len(table) == len(whole[0])
        assert table.geometry.is_valid.all()
        counts.append(shapely.get_num_coordinates(table.geometry.to_numpy()).sum())
    pixels = shapely.get_num_coordinates(whole[0].geometry.to_numpy()).sum()
    assert max(counts) < 0.7 * pixels
    assert counts[0] != counts[1]


def test_nothing_stands_where_a_date_has_no_data_or_nothing_is_asked_for(
    tmp_path: Path,
    scene: list[Path],
    write_tif: Callable[..., Path],
    buildings: Path,
    whole: tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame],
) -> None:
    with rasterio.open(scene[1]) as dataset:
        pixels = dataset.read()
    pixels[:, :, SIDE // 2 :] = 0
    cut = write_tif(tmp_path / "cut.tif", pixels, transform=GRID, nodata=0)
    middle = 500_000 + SIDE / 4
    box = f"500000,{5_000_000 - SIDE / 4},500100,5000000"
    cases: tuple[tuple[Any, Any, list[str]], ...] = (
        (scene[0], cut, []),
        (scene[0], scene[1], ["--bbox", box]),
    )
    for number, (t1, t2, option) in enumerate(cases):
        path = tmp_path / f"{number}.gpkg"
        arguments = [t1, t2, "-m", buildings, "-o", tmp_path / f"{number}-c.tif", *option]
        assert main(["predict", *map(str, arguments), "--objects-t1", str(path), "-q"]) == 0
        _, low, right, _ = geopandas.read_file(path).total_bounds
        assert 0 < len(geopandas.read_file(path)) < len(whole[0])
        assert right <= middle + 1 if number == 0 else low >= 5_000_000 - SIDE / 4 - 1


@pytest.mark.parametrize(
    ("options", "code", "pattern"),
    [
        (["-m", "irmad"], 1, "expected a model that finds the buildings of each date for "
         "--objects-t1, such as -m buildings .*, found irmad; .*"),
        (["-m", "buildings", "--msi", "fast"], 1, "expected a model that finds .*"),
        (["-m", "ceg:fake"], 2, "unrecognized arguments: --objects-t1 .*; see rscd .*--help"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_models_without_building_maps_are_refused(
    tmp_path: Path,
    scene: list[Path],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    pattern: str,
    dry: list[Any],
) -> None:
    out = ["-o", tmp_path / "c.gpkg", "--objects-t1", tmp_path / "b.gpkg"]
    got, shown, err = run(capsys, "predict", *scene, *out, *options, *dry, "-q")
    assert (got, shown) == (code, "")
    assert re.fullmatch(rf"rscd: {pattern}\n", err), err
    assert list(tmp_path.iterdir()) == []


def test_places_and_names_are_checked_as_for_other_outputs(
    tmp_path: Path, scene: list[Path], buildings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(pattern: str, *arguments: Any) -> None:
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        for dry in ([], ["--dry-run"]):
            code, out, err = run(capsys, "predict", *scene, *arguments, "-q", *dry)
            if dry and "already there" in pattern:
                continue  # plans do not look at what is there
            assert (code != 0, out) == (True, "")
            assert re.fullmatch(rf"rscd: {pattern}\n", err), err
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    model = ["-m", buildings]
    out = [*model, "-o", tmp_path / "c.geojson"]
    refused("expected a file ending in .* for --objects-t2, found .*b.tif", *out,
            "--objects-t2", tmp_path / "b.tif")  # fmt: skip
    refused("expected different output files, .*", *out, "--objects-t2", tmp_path / "c.geojson")
    refused("expected --objects and outputs with different names, .* share the style c.qml; .*",
            *out, "--objects-t1", tmp_path / "c.fgb")  # fmt: skip
    refused("expected a folder for .*", *out, "--objects-t1", tmp_path / "none" / "b.gpkg")
    area = shapely.box(500_000, 4_999_950, 500_050, 5_000_000)
    geopandas.GeoSeries([area], crs=32633).to_file(tmp_path / "area.gpkg")
    refused("expected an output beside the inputs, .*", *out, "--aoi", tmp_path / "area.gpkg",
            "--objects-t1", tmp_path / "area.gpkg")  # fmt: skip
    (tmp_path / "b.gpkg").write_text("mine")
    refused("expected a new file, found .*b.gpkg already there; add --overwrite", *out,
            "--objects-t1", tmp_path / "b.gpkg")  # fmt: skip
    code, _, _ = run(capsys, "predict", *scene, *out, "--objects-t1", tmp_path / "b.gpkg", "-q",
                     "--overwrite")  # fmt: skip
    assert code == 0
    assert len(geopandas.read_file(tmp_path / "b.gpkg")) > 0


def test_pictures_of_folders_each_get_their_own(
    tmp_path: Path, town: dict[str, Any], buildings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for name, date in zip(("a", "b"), town["image"].numpy().astype(np.uint8), strict=True):
        (tmp_path / name).mkdir()
        for stem in ("x1", "x2"):
            part = date[:, :96, :96].transpose(1, 2, 0)
            Image.fromarray(part).save(tmp_path / name / f"{stem}.png")
    out = tmp_path / "out"
    out.mkdir()
    arguments = [tmp_path / "a", tmp_path / "b", "-o", out / "{name}.png", "--gsd", "0.5", "-q"]
    arguments += ["-m", buildings]
    arguments += ["--objects-t2", out / "{name}-after.gpkg"]
    code, _, err = run(capsys, "predict", *arguments)
    assert (code, err) == (2, err)
    assert "--pixel-coordinates" in err
    assert run(capsys, "predict", *arguments, "--pixel-coordinates")[0] == 0
    tables = [geopandas.read_file(out / f"x{i}-after.gpkg") for i in (1, 2)]
    assert len(tables[0]) > 0
    assert tables[0].equals(tables[1])
    left, low, right, top = tables[0].total_bounds
    assert left >= 0
    assert right <= 96
    assert top <= 0
    assert low >= -96
    shutil.rmtree(out)
