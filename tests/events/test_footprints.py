"""``rscd events``: two layers of footprints in any format and CRS."""

import datetime
import decimal
import json
import logging
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely

from rscd.base.errors import DataError, UsageError
from rscd.cli import main
from rscd.events.footprints import (
    COLUMNS,
    Footprints,
    footprint_events,
    in_crs,
    outside,
    read_footprints,
)
from rscd.geo.vectors import read_layer

UTM = "EPSG:32632"
EAST, NORTH = 500_000, 5_300_000


def box(x: float, y: int, width: int = 10, height: int = 10) -> shapely.Polygon:
    return shapely.box(EAST + x, NORTH + y, EAST + x + width, NORTH + y + height)


BOW_TIE = shapely.Polygon(
    [(EAST + x, NORTH + y) for x, y in ((100, 0), (110, 10), (110, 0), (100, 10))]
)


def layer(shapes: list[Any], crs: str | int | None = UTM, **fields: Any) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(fields, geometry=shapes, crs=crs)


@pytest.fixture
def t1() -> geopandas.GeoDataFrame:
    return layer([box(0, 0), box(20, 0), BOW_TIE], use=["a", "b", "c"], height=[1, 2, 3], old=1.5)


@pytest.fixture
def t2() -> geopandas.GeoDataFrame:
    several = shapely.MultiPolygon([box(60, 0), box(80, 0)])
    return layer([box(5, 0), several], use=["d", "e"], height=["low", None], new=[True, False])


def footprints(frame: geopandas.GeoDataFrame, name: str = "layer") -> Footprints:
    attributes = pd.DataFrame(frame.drop(columns="geometry"))
    return Footprints(name, frame.geometry.to_numpy(), pyproj.CRS(frame.crs), attributes)


def events(*args: Any) -> int:
    return main(["events", *map(str, args)])


FORMATS = (".gpkg", ".shp", ".geojson", ".fgb", ".parquet")


@pytest.mark.parametrize("suffix", FORMATS)
def test_any_format_and_crs(
    tmp_path: Path,
    t1: geopandas.GeoDataFrame,
    t2: geopandas.GeoDataFrame,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [tmp_path / f"t{date}{suffix}" for date in (1, 2)]
    for path, frame, crs in zip(paths, (t1, t2), (UTM, 3035), strict=True):
        carried = frame.to_crs(4326 if suffix == ".geojson" else crs)
        (carried.to_parquet if suffix == ".parquet" else carried.to_file)(path)
    out = tmp_path / "events.gpkg"
    assert events(*paths, "-o", out, "--class", "use") == 0
    assert capsys.readouterr().out == f"{out}\n"
    found = pyogrio.read_dataframe(out, layer="changes").set_index("class")
    assert found["kind"].to_dict() == {
        "d": "kept",
        "e": "appeared",
        "b": "vanished",
        "c": "vanished",
    }
    assert found["iou_sum"].to_dict() == pytest.approx(
        {"d": 1 / 3, "e": 0, "b": 0, "c": 0}, abs=2e-3
    )
    # a UTM square metre at the central meridian is 1 / 0.9996 ** 2 on the ground
    true = {"d": 100, "e": 200, "b": 100, "c": 50}
    assert found["area_m2"].to_dict() == pytest.approx(
        {name: area / 0.9996**2 for name, area in true.items()}, rel=2e-3
    )
    assert found["layer"].to_dict() == {"d": "t2", "e": "t2", "b": "t1", "c": "t1"}
    heights = found["height"].astype(object).where(found["height"].notna(), None)
    assert heights.to_dict() == {"d": "low", "e": None, "b": "2", "c": "3"}
    assert not {"old", "new"} & set(found.columns)


def test_delta_fields_and_kinds(t1: geopandas.GeoDataFrame, t2: geopandas.GeoDataFrame) -> None:
    first, second = footprints(t1[:2]), footprints(t2)
    strict = footprint_events(first, second)
    assert strict["kind"].tolist() == ["kept", "appeared", "vanished"]
    lenient = footprint_events(first, second, delta=0.4, fields=["old"])
    assert lenient["kind"].tolist() == ["appeared", "appeared", "vanished", "vanished"]
    assert lenient["old"].tolist()[2:] == [1.5, 1.5]
    assert lenient["old"].isna().tolist() == [True, True, False, False]
    assert list(footprint_events(first, second, fields=[]).columns) == [*COLUMNS, "geometry"]
    gone = footprint_events(first, second, kinds=["vanished"], min_area_m2=200)
    assert len(gone) == 0
    assert list(gone.columns) == list(strict.columns)


def test_fields_never_hide_columns() -> None:
    shapes = [box(0, 0)]
    frame = layer(shapes, id=["x"], kind=["house"], feature=["f"], tags=[["a", "b"]])
    found = footprint_events(footprints(frame), footprints(frame))
    assert found["kind"].tolist() == ["kept"]
    assert found["feature"].tolist() == ["0"]
    assert found.loc[0, ["source_id", "source_kind", "source_feature"]].tolist() == [
        "x",
        "house",
        "f",
    ]
    assert [list(tags) for tags in found["tags"]] == [["a", "b"]]


def compared(tmp_path: Path, frame: geopandas.GeoDataFrame, suffix: str, *options: Any) -> Path:
    """A layer against itself through files, and what was said."""
    paths = [tmp_path / f"{name}.parquet" for name in ("a", "b")]
    for path in paths:
        frame.to_parquet(path)
    out = tmp_path / f"o{suffix}"
    assert events(*paths, "-o", out, "--overwrite", *options) == 0
    return out


def read(out: Path) -> geopandas.GeoDataFrame:
    layer: dict[str, Any] = {} if out.suffix == ".parquet" else {"layer": "changes"}
    return read_layer(out, "it", **layer).sort_values("id").reset_index(drop=True)


OUTPUTS = (".gpkg", ".geojson", ".fgb", ".parquet")
FOUR = [box(30 * i, 0) for i in range(4)]


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_identifiers_are_those_of_the_sources(tmp_path: Path, suffix: str) -> None:
    """Whole numbers with gaps are whole numbers, however large."""
    gids = [2**53 + 1, 2**53 + 3, 7, None]
    frame = layer(
        FOUR, gid=pd.array(gids, dtype="Int64"), floors=pd.array([1, None, 2, 3], "UInt8")
    )
    found = read(compared(tmp_path, frame, suffix))
    for name in ("gid", "floors"):
        expected = [None if value is pd.NA else value for value in frame[name]]
        assert [None if pd.isna(v) else int(v) for v in found[name].astype(object)] == expected
        assert pd.api.types.is_integer_dtype(found[name].dtype)


COLUMNS_OF_ALL_KINDS = {
    "age": (pd.to_timedelta([1, 2, 3, 4], unit="D"), "durations as text"),
    "cell": (np.array([2**63 + 5, 1, 2, 3], "uint64"), "beyond 2^63 as text"),
    "tags": ([["a"], ["b", "c"], [], None], "nested values as text"),
    "owner": ([{"name": "x"}, None, {"name": "y"}, None], "nested values as text"),
    "use": (pd.Categorical(["x", "y", "x", None]), None),
    "seen": (pd.to_datetime(["2020-01-02T03:04:05+02:00"] * 4), None),
    "day": ([datetime.date(2020, 1, 2)] * 4, None),
    "price": ([decimal.Decimal("1.5"), None, decimal.Decimal("2"), None], None),
    "cost": ([decimal.Decimal("0.123456789012345678901")] * 4, "decimal numbers as text"),
    "raw": ([b"a", None, b"b", b""], None),
    "built": (pd.array([True, None, False, None], "boolean"), None),
    "small": (np.array([1, 2, 3, 4], "float32"), None),
}


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_columns_survive_in_every_format(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one type or as text; what has become text is said."""
    columns = {name: column for name, (column, _) in COLUMNS_OF_ALL_KINDS.items()}
    frame = layer(FOUR, **columns)
    found = read(compared(tmp_path, frame, suffix))
    said = capsys.readouterr().err
    for name, (column, became) in COLUMNS_OF_ALL_KINDS.items():
        missing = pd.Series(column).isna().tolist()
        assert found[name].isna().tolist() == missing, name
        if became is not None and suffix != ".parquet":
            assert f"{name}: " in said
            assert became in said
    assert "raw: bytes as text" in said or suffix != ".geojson"
    assert pd.to_datetime(found["seen"], utc=True)[0].isoformat() == "2020-01-02T01:04:05+00:00"
    assert int(found["cell"][0]) == 2**63 + 5
    assert str(found["cost"][0]) == "0.123456789012345678901"


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_names_that_meet(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    columns: dict[str, Any] = {
        "id": [11, 12, 13, 14],
        "source_id": list("abcd"),
        "Name": list("ABCD"),
        "name": list("efgh"),
    }
    found = read(compared(tmp_path, layer(FOUR, **columns), suffix))
    assert found["id"].tolist() == [1, 2, 3, 4]
    for name, written in (("id", "source_id_2"), ("source_id", "source_id"), ("name", "name_2")):
        assert found[written].tolist() == columns[name]
    assert "id as source_id_2, name as name_2" in capsys.readouterr().err


def test_events_of_events_keep_their_sources(tmp_path: Path) -> None:
    for year in (2018, 2021, 2024):
        layer(FOUR, id=[10 * year + i for i in range(4)]).to_file(tmp_path / f"{year}.gpkg")
    for first, second in ((2018, 2021), (2021, 2024)):
        made = tmp_path / f"e{second}.parquet"
        assert events(*(tmp_path / f"{y}.gpkg" for y in (first, second)), "-o", made, "-q") == 0
    out = tmp_path / "chain.gpkg"
    assert events(tmp_path / "e2021.parquet", tmp_path / "e2024.parquet", "-o", out, "-q") == 0
    found = read(out)
    assert found["source_id"].tolist() == [20240, 20241, 20242, 20243]
    assert found["source_id_2"].tolist() == [1, 2, 3, 4]


def test_what_only_geopandas_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = layer(FOUR, use=list("abcd"))
    frame["centre"] = frame.geometry.centroid
    pairs = [("way", 1), ("way", 2), ("relation", 7), ("way", 3)]
    frame.index = pd.MultiIndex.from_tuples(pairs, names=["element", "id"])
    found = read(compared(tmp_path, frame, ".gpkg"))
    assert "omitted the additional geometries centre" in capsys.readouterr().err
    assert found["feature"].tolist() == ["way/1", "way/2", "relation/7", "way/3"]
    assert found["source_id"].tolist() == [1, 2, 7, 3]


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_any_place(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "!archive;1"
    folder.mkdir()
    layer(FOUR, use=list("abcd")).to_file(tmp_path / "plain.gpkg")
    for name in ("a", "b"):
        shutil.copy(tmp_path / "plain.gpkg", folder / f"{name};!.gpkg")
    out = folder / f"north;south!{suffix}"
    assert events(folder / "a;!.gpkg", folder / "b;!.gpkg", "-o", out, "-q") == 0
    assert len(read(out)) == 4
    beside = {".gpkg": [], ".parquet": [".qml"]}.get(suffix, [".qml", f"{suffix}.json"])
    names = ["a;!.gpkg", "b;!.gpkg", out.name, *(f"north;south!{end}" for end in beside)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_slivers_do_not_keep_a_neighbour() -> None:
    first, second = layer([box(0, 0)]), layer([box(9.995, 0)])
    assert footprint_events(footprints(first), footprints(second))["kind"].tolist() == [
        "appeared",
        "vanished",
    ]
    strict = footprint_events(footprints(first), footprints(second), min_overlap_m2=0)
    assert strict["kind"].tolist() == ["kept"]
    # the limit is in square metres in degrees as well
    degrees = [footprints(frame.to_crs(4326)) for frame in (first, second)]
    assert footprint_events(*degrees)["kind"].tolist() == ["appeared", "vanished"]
    assert footprint_events(*degrees, min_overlap_m2=0.01)["kind"].tolist() == ["kept"]


def test_reprojection_leaves_short_edges_alone_and_bends_long_ones(
    t1: geopandas.GeoDataFrame,
) -> None:
    there = in_crs(footprints(t1), pyproj.CRS(3035))
    assert shapely.get_num_coordinates(there.polygons).tolist()[:2] == [5, 5]
    wide = footprints(layer([box(0, 0, 100_000, 100_000)]))
    assert shapely.get_num_coordinates(in_crs(wide, pyproj.CRS(4326)).polygons)[0] == 401
    world = footprints(layer([shapely.box(-179, -90, 179, 90)], crs=4326))
    with pytest.raises(DataError, match="inside the area"):
        in_crs(world, pyproj.CRS("+proj=gnom +lat_0=50 +lon_0=10"))


@pytest.mark.parametrize("empty", [(True, False), (False, True), (True, True)])
def test_empty_layers_are_dates_without_buildings(
    tmp_path: Path, t1: geopandas.GeoDataFrame, empty: tuple[bool, bool]
) -> None:
    t1 = t1[:2]
    paths = [tmp_path / f"t{date}.gpkg" for date in (1, 2)]
    for path, nothing in zip(paths, empty, strict=True):
        (t1[:0] if nothing else t1).to_file(path)
    out = tmp_path / "events.gpkg"
    assert events(*paths, "-o", out, "-q") == 0
    found = pyogrio.read_dataframe(out, layer="changes")
    wanted = {(True, False): ["appeared"] * 2, (False, True): ["vanished"] * 2, (True, True): []}
    assert found["kind"].tolist() == wanted[empty]
    assert {*COLUMNS, "use", "height", "old"} <= set(found.columns)
    assert pyogrio.read_info(out, layer="changes")["geometry_type"] == "Polygon"


def test_two_layers_of_one_file_json_and_provenance(
    tmp_path: Path,
    t1: geopandas.GeoDataFrame,
    t2: geopandas.GeoDataFrame,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = tmp_path / "city.gpkg", tmp_path / "events.parquet"
    t1.to_file(path, layer="y2018")
    t2.to_file(path, layer="y2024")
    layers = ["--layer-t1", "y2018", "--layer-t2", "y2024"]
    assert events(path, path, *layers, "-o", out, "--json") == 0
    streams = capsys.readouterr()
    told = json.loads(streams.out)
    assert told["outputs"] == [str(out)]
    assert {kind: c["number"] for kind, c in told["events"].items()} == {
        "appeared": 1,
        "vanished": 2,
        "kept": 1,
    }
    assert "1 invalid outlines repaired" in streams.err
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_schema(out).metadata
    made = json.loads(metadata[b"provenance"])
    assert made["t1"]["layer"] == "y2018"
    assert made["t1"]["repaired"] == 1
    assert made["parameters"]["delta"] == 0.0


def test_geojson_is_longitude_and_latitude(
    tmp_path: Path, t1: geopandas.GeoDataFrame, t2: geopandas.GeoDataFrame
) -> None:
    paths = [tmp_path / f"t{date}.gpkg" for date in (1, 2)]
    t1.to_file(paths[0])
    t2.to_file(paths[1])
    out = tmp_path / "events.geojson"
    assert events(*paths, "-o", out, "-q") == 0
    made = json.loads(out.read_text())
    assert "crs" not in made
    assert [f["geometry"]["type"] for f in made["features"]] == [
        "Polygon",
        "MultiPolygon",
        "Polygon",
        "MultiPolygon",  # both halves of the bow-tie
    ]
    assert np.allclose(made["features"][0]["geometry"]["coordinates"][0][0], (9, 47.85), atol=0.01)


def test_user_mistakes(
    tmp_path: Path,
    t1: geopandas.GeoDataFrame,
    t2: geopandas.GeoDataFrame,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, other = tmp_path / "good.gpkg", tmp_path / "other.gpkg"
    t1.to_file(good)
    t2.to_file(other)
    made = {
        "points": layer([shapely.Point(1, 1)]),
        "bare": layer([box(0, 0)], crs=None),
        "far": layer([box(900_000, 0)]),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        for name, frame in made.items():
            frame.to_file(tmp_path / f"{name}.gpkg")
    (tmp_path / "broken.gpkg").write_text("not a database")
    (tmp_path / "image.tif").write_bytes(b"II*\0")
    (tmp_path / "metres.geojson").write_text(t1.set_crs(None, allow_override=True).to_json())
    t1.to_file(tmp_path / "two.gpkg", layer="a")
    t2.to_file(tmp_path / "two.gpkg", layer="b")
    out = tmp_path / "out.gpkg"
    one_date = [
        ("missing.gpkg", "no such file", 1),
        ("points.gpkg", "found Point", 1),
        ("bare.gpkg", "found none; name it with --crs", 1),
        ("far.gpkg", "two layers of one place", 1),
        ("broken.gpkg", "check the file", 1),
        ("metres.geojson", "longitude and latitude", 1),
        ("two.gpkg", "found a, b; name it with --layer-t1", 1),
        ("good.gpkg", "found .* twice", 2),
        ("image.tif", "found the raster .*image.tif; for two rasters add --segmenter buildings", 2),
    ]
    for name, message, code in one_date:
        check_mistake(capsys, message, code, good, tmp_path / name, "-o", out)
    pair = (good, other)
    check_mistake(capsys, "ending in", 2, *pair, "-o", tmp_path / "out.tif")
    check_mistake(capsys, "expected a folder", 1, *pair, "-o", tmp_path / "no" / "out.gpkg")
    check_mistake(capsys, "the input .* itself", 1, *pair, "-o", good)
    check_mistake(capsys, "--kinds of appeared", 2, *pair, "-o", out, "--kinds", "new")
    check_mistake(capsys, "they have height", 2, *pair, "-o", out, "--fields", "foo")
    check_mistake(capsys, "the field foo for --class", 2, *pair, "-o", out, "--class", "foo")
    check_mistake(capsys, "expected layer foo", 1, *pair, "-o", out, "--layer-t2", "foo")
    bare = (good, tmp_path / "bare.gpkg")
    check_mistake(capsys, "a CRS such as", 2, *bare, "-o", out, "--crs", "EPSG:foo")
    assert not out.exists()
    assert events(*bare, "-o", out, "--crs", UTM, "-q") == 0
    check_mistake(capsys, "add --overwrite", 1, *pair, "-o", out)
    assert events(*pair, "-o", out, "--overwrite", "-q") == 0


def check_mistake(capsys: pytest.CaptureFixture[str], message: str, code: int, *args: Any) -> None:
    assert events(*args) == code, message
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rscd: ")
    assert re.search(message, said), said


def test_different_extents_are_said(
    tmp_path: Path, t1: geopandas.GeoDataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"t{date}.gpkg" for date in (1, 2)]
    t1.to_file(paths[0])
    t1[:1].to_file(paths[1])
    assert events(*paths, "-o", tmp_path / "out.gpkg") == 0
    assert "2 of 3 footprints are outside the other layer's extent" in capsys.readouterr().err
    first, second = (read_footprints(path) for path in paths)
    assert [mask.tolist() for mask in outside(first, second)] == [[False, True, True], [False]]


def test_features_without_area_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mixed.geojson"
    line = shapely.LineString([(9, 48), (9.1, 48)])
    layer([shapely.box(9, 48, 9.001, 48.001), line, None], crs=4326).to_file(path)
    with caplog.at_level(logging.INFO):
        found = read_footprints(path)
    assert (len(found.polygons), found.dropped, found.repaired) == (1, 2, 0)


def test_functions_refuse_unknown_words(t1: geopandas.GeoDataFrame) -> None:
    first = footprints(t1[:1])
    with pytest.raises(UsageError, match="expected kinds"):
        footprint_events(first, first, kinds=["new"])
    with pytest.raises(UsageError, match="delta"):
        footprint_events(first, first, delta=-1)
