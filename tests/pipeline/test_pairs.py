"""Lists of pairs in every form, and what is wrong with them."""

import datetime
from pathlib import Path
from typing import Any

import geopandas
import pandas as pd
import pystac
import pytest
import shapely

from rscd.base.errors import RscdError
from rscd.pipeline.pairs import Pair, read_pairs


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_table_names_files_from_its_own_folder() -> None:
    Path("lists").mkdir()
    Path("lists/pairs.csv").write_bytes(
        b"\xef\xbb\xbfT1, t2 ,aoi,t1_date,note\n"
        b"a.tif,../b.tif,,2019-01-02,x\n"
        b"/vsis3/x/c.tif,https://y/d.tif,area.gpkg,,\n"
        b"/abs/e.json#red,f.tif,,,\n"
    )
    assert read_pairs(["lists/pairs.csv"]) == [
        Pair("a", "lists/a.tif", "lists/../b.tif", None, "2019-01-02", None),
        Pair("c", "/vsis3/x/c.tif", "https://y/d.tif", "lists/area.gpkg"),
        Pair("e", "/abs/e.json#red", "lists/f.tif"),
    ]


def test_geometries_of_geoparquet_are_areas() -> None:
    box = shapely.box(1, 2, 3, 4)
    frame = geopandas.GeoDataFrame(
        {
            "id": [7, 8],
            "t1": ["a.tif", "b.tif"],
            "t2": ["c.tif", "d.tif"],
            "t1_date": [datetime.date(2019, 1, 2), None],
        },
        geometry=[box, None],
        crs="EPSG:4326",
    )
    frame.to_parquet("pairs.parquet")
    first, second = read_pairs(["pairs.parquet"])
    assert (first.id, first.t1, first.t1_date) == ("7", "a.tif", "2019-01-02")
    assert first.area is not None
    assert first.area.geometry.equals(box)
    assert first.area.crs is not None
    assert first.area.crs.to_epsg() == 4326
    assert second == Pair("8", "b.tif", "d.tif")
    pd.DataFrame(frame.drop(columns="geometry")).to_parquet("plain.parquet")
    assert read_pairs(["plain.parquet"])[1] == second


def test_folders_are_pairs_by_name() -> None:
    for date in ("t1", "t2"):
        Path(date).mkdir()
        for name in ("10", "9"):
            Path(date, f"{name}.tif").touch()
    assert read_pairs(["t1", "t2"]) == [
        Pair("9", "t1/9.tif", "t2/9.tif"),
        Pair("10", "t1/10.tif", "t2/10.tif"),
    ]


def item(name: str, day: str, **about: Any) -> pystac.Item:
    bbox = about.pop("bbox", [0.0, 0.0, 1.0, 1.0])
    when = datetime.datetime.fromisoformat(f"{day}T10:00:00+00:00")
    geometry = shapely.geometry.mapping(shapely.box(*bbox))
    return pystac.Item(name, geometry, bbox, when, about)


def save(path: str, *items: pystac.Item) -> str:
    pystac.ItemCollection(items).save_object(path)
    return path


def names(found: list[Pair]) -> list[str]:
    return [pair.id for pair in found]


def test_items_of_one_place_follow_each_other(caplog: pytest.LogCaptureFixture) -> None:
    one, other = {"grid:code": "MGRS-33TWM"}, {"grid:code": "MGRS-33TWN"}
    path = save(
        "search.json",
        item("w3", "2020-01-15", **one),
        item("w1", "2020-01-01", **one),
        item("alone", "2020-01-01", **other),
        item("w2", "2020-01-08", **one, bbox=[0.0, 0.0, 0.9, 1.0]),
    )
    found = read_pairs([path])
    assert names(found) == ["w1__w2", "w2__w3"]
    assert (found[0].t1, found[0].t2) == ("search.json#w1", "search.json#w2")
    assert "1 items have no other date of their place and are skipped, such as alone" in caplog.text


def test_items_of_two_searches_meet_at_their_place(caplog: pytest.LogCaptureFixture) -> None:
    grid = {"proj:code": "EPSG:32633", "proj:shape": [9, 9]}
    here, there = [10, 0, 0, 0, -10, 0], [10, 0, 90, 0, -10, 0]
    first = save(
        "first.json",
        item("a1", "2019-01-01", **grid, **{"proj:transform": here}),
        item("b1", "2019-01-01", **grid, **{"proj:transform": there}),
        item("box1", "2019-01-01"),
    )
    second = save(
        "second.json",
        item("b2", "2020-01-01", **grid, **{"proj:transform": [*there, 0, 0, 1]}),
        item("a2", "2020-01-01", **grid, **{"proj:transform": here}),
        item("box2", "2020-01-01", bbox=[5.0, 0.0, 6.0, 1.0]),
    )
    assert names(read_pairs([first, second])) == ["a1__a2", "b1__b2"]
    assert "2 items have no other date" in caplog.text
    twice = save("twice.json", item("x", "2019-01-01"), item("y", "2019-02-01"))
    with pytest.raises(RscdError, match=r"one item per place in each of two searches, found x and"):
        read_pairs([twice, second])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "expected the columns t1 and t2"),
        ("t1,t2\n", "expected at least one pair in p.csv, found none"),
        ("t1,after\na,b\n", "expected the columns t1 and t2, each once, in p.csv, found t1, after"),
        ("t1,t1,t2\na,b,c\n", "each once"),
        ("t1,t2\na,b,c\n", "line 2; quote"),
        ("t1,t2\na\n", "line 2; quote"),
        ("id,t1,t2\n../x,a,b\n", "found '../x'; rename it"),
        ("id,t1,t2\n.x,a,b\n", "found '.x'; rename it"),
        ("t1,t2\nx/a.tif,b\ny/A.tif,c\n", "found a and A; give a column id"),
        ('t1,t2\n"a,b\n', "expected a table of pairs"),
        ("t1,t2\n\udcff,b\n", "text that is not UTF-8"),
    ],
)
def test_tables_that_are_none(text: str, found: str) -> None:
    Path("p.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RscdError) as caught:
        read_pairs(["p.csv"])
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["none.csv"], "no file"),
        (["none.parquet"], "no file"),
        (["none.json"], "expected a STAC ItemCollection in none.json"),
        (["x.tif", "y.tif"], "expected a list of pairs"),
        (["."], "expected a list of pairs"),
        (["a.csv", "b.csv"], "expected a list of pairs"),
        ([".", ".", "."], "expected a list of pairs"),
    ],
)
def test_what_is_no_list(given: list[str], found: str) -> None:
    with pytest.raises(RscdError) as caught:
        read_pairs(given)
    assert found in str(caught.value)


def test_json_that_is_no_collection() -> None:
    item("x", "2019-01-01").save_object(dest_href="x.json", include_self_link=False)
    with pytest.raises(RscdError, match=r"expected a STAC ItemCollection in x\.json"):
        read_pairs(["x.json"])
