"""STAC items as images: bands by name, units, nodata and dates of the item."""

import datetime
import http.server
import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine

from rscd import open_pair
from rscd.base.errors import SceneError, UsageError
from rscd.geo import stac
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles, parse_choice
from rscd.geo.tiles import Box
from rscd.pipeline.provenance import describe_pair

SIDE = 8
COMMON = ("blue", "green", "red", "nir08")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    close_handles()


def pixels(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 3000, (count, SIDE, SIDE)).astype(np.uint16)


def item(name: str, day: str | None = "2020-03-04", **about: Any) -> pystac.Item:
    when = None if day is None else datetime.datetime.fromisoformat(f"{day}T10:20:30+00:00")
    return pystac.Item(name, None, None, when, about)


def save(made: pystac.Item, path: str, **assets: dict[str, Any]) -> str:
    """Write an item with assets given as JSON."""
    content = made.to_dict(include_self_link=False) | {"assets": assets}
    Path(path).write_text(json.dumps(content))
    return path


def of_one_file(write_tif: Any, name: str, seed: int, **bands: Any) -> str:
    """An item with one image of four bands and a thumbnail, in the words of STAC 1.0."""
    write_tif(Path(f"{name}.tif"), pixels(seed))
    asset = {
        "href": f"./{name}.tif",
        "type": "image/tiff; application=geotiff",
        "roles": ["data"],
        "eo:bands": [{"name": f"B{i}", "common_name": c} for i, c in enumerate(COMMON)],
        **bands,
    }
    thumbnail = {"href": "./thumb.png", "type": "image/png", "roles": ["thumbnail"]}
    return save(item(name), f"{name}.json", image=asset, thumbnail=thumbnail)


def of_many_files(write_tif: Any, name: str, seed: int, day: str, **each: Any) -> str:
    """An item with one file per band and a picture of three, in the words of STAC 1.1."""
    assets: dict[str, Any] = {}
    for band, common in zip(pixels(seed), COMMON, strict=True):
        write_tif(Path(f"{name}_{common}.tif"), band)
        one = {"eo:common_name": common, **each}
        kind = "image/tiff; application=geotiff; profile=cloud-optimized"
        assets[common] = {"href": f"{name}_{common}.tif", "type": kind, "bands": [one]}
    picture = [{"eo:common_name": common} for common in ("red", "green", "blue")]
    assets["visual"] = {"href": f"{name}_rgb.tif", "type": kind, "bands": picture}
    assets["visual"]["roles"] = ["visual"]
    assets["metadata"] = {"href": "granule.xml", "type": "application/xml"}
    return save(item(name, day), f"{name}.json", **assets)


def read(pair: ScenePair) -> np.ndarray:
    return pair.read(Box(0, 0, *pair.shape_hw))[0]


def test_two_items_of_one_grid_need_nothing_else(write_tif: Any) -> None:
    pair = open_pair(of_one_file(write_tif, "first", 1), of_one_file(write_tif, "second", 2))
    # red, green and blue first, as the item names them
    np.testing.assert_array_equal(read(pair), [pixels(1)[[2, 1, 0, 3]], pixels(2)[[2, 1, 0, 3]]])
    assert pair.alignment["t2"] == "read as it is"
    assert pair.t1.date_tag == "2020:03:04 10:20:30"
    assert {Path(file).name for file in pair.files} >= {"first.tif", "second.tif"}


@pytest.mark.parametrize("bands", [("nir08", "red"), ("red", "green", "blue", "nir08")])
@pytest.mark.parametrize("align", ["t1", "none"])
def test_bands_by_common_name_over_files(write_tif: Any, bands: Any, align: Any) -> None:
    t1 = of_many_files(write_tif, "first", 1, "2019-01-02")
    t2 = of_one_file(write_tif, "second", 2)
    pair = ScenePair.open(t1, t2, bands=bands, align=align)
    order = [COMMON.index(name) for name in bands]
    np.testing.assert_array_equal(read(pair), [pixels(1)[order], pixels(2)[order]])
    assert pair.t1.colours == tuple(name.replace("08", "") for name in bands)


def test_one_asset(write_tif: Any) -> None:
    t1, t2 = (of_many_files(write_tif, name, i, "2019-01-02") for i, name in enumerate("ab"))
    pair = open_pair(f"{t1}#nir08", f"{t2}#red")
    np.testing.assert_array_equal(read(pair), [pixels(0)[[3]], pixels(1)[[2]]])
    whole = of_one_file(write_tif, "whole", 5)
    pair = ScenePair.open(f"{whole}#image", f"{whole}#image", bands=(4, 1))
    np.testing.assert_array_equal(read(pair)[0], pixels(5)[[3, 0]])


def test_units_and_nodata_of_the_item(write_tif: Any) -> None:
    """As the same raster with the same said by itself."""
    said = {"scale": 0.0001, "offset": -0.1, "nodata": int(pixels(2)[0, 3, 4])}
    t1 = of_one_file(write_tif, "first", 1, **{"raster:bands": [{"scale": 0.0002}] * 4})
    t2 = of_one_file(write_tif, "second", 2, **{"raster:bands": [said] * 4})
    pair = open_pair(t1, t2)
    values, valid = pair.read(Box(0, 0, SIDE, SIDE))
    expected = (pixels(2)[[2, 1, 0, 3]] * 0.0001 - 0.1) / 0.0002
    # a pixel is nodata where all bands are
    assert valid.all()
    np.testing.assert_allclose(values[1], expected, rtol=1e-5)
    blank = pixels(3)
    blank[:, 2, 2] = 7
    write_tif(Path("first.tif"), blank)
    t1 = of_many_files(write_tif, "many", 4, "2020-01-01", **{"raster:scale": 0.5, "nodata": 9})
    for band, common in zip(pixels(4), COMMON, strict=True):
        band[1, 1] = 9
        write_tif(Path(f"many_{common}.tif"), band)
    pair = ScenePair.open(t1, t1, bands=("red", "nir08"))
    _, valid = pair.read(Box(0, 0, SIDE, SIDE))
    assert (~valid).nonzero() == (np.array([1]), np.array([1]))
    assert pair.t1.metadata.units == ((0.5, 0.0),) * 2


def test_a_mask_of_the_file_counts(write_tif: Any) -> None:
    t1 = of_one_file(write_tif, "first", 1)
    mask = np.ones((SIDE, SIDE), bool)
    mask[3, 5] = False
    write_tif(Path("first.tif"), pixels(1), mask=mask)
    for bands in (None, ("red", "green")):
        pair = ScenePair.open(t1, t1, bands=bands)
        np.testing.assert_array_equal(pair.read(Box(0, 0, SIDE, SIDE))[1], mask)


def test_an_alpha_band_of_the_file_counts(write_tif: Any) -> None:
    plane = np.full((SIDE, SIDE), 255, np.uint16)
    plane[0, 0] = 0
    stacked = np.concatenate([pixels(1, 3), plane[None]])
    write_tif(Path("rgba.tif"), stacked, alpha=True)
    asset = {"href": "rgba.tif", "type": "image/tiff; application=geotiff"}
    path = save(item("rgba"), "rgba.json", image=asset)
    pair = open_pair(path, path)
    assert pair.n_bands == 3
    np.testing.assert_array_equal(pair.read(Box(0, 0, SIDE, SIDE))[1], plane > 0)


def test_place_and_pixel_size_of_the_item(write_tif: Any) -> None:
    place = {"transform": None, "crs": None}
    write_tif(Path("bare.tif"), pixels(1, 3), **place)
    asset = {"href": "bare.tif", "type": "image/tiff", "gsd": 0.3}
    bare = save(item("bare", gsd=5), "bare.json", image=asset)
    pair = open_pair(bare, bare)
    assert pair.grid.crs is None
    assert pair.pixel_size_m == 0.3
    assert open_pair(bare, bare, gsd_m=0.4).pixel_size_m == 0.4
    about: dict[str, Any] = {"proj:code": "EPSG:32633", "proj:transform": [2, 0, 5e5, 0, -2, 5e6]}
    put = save(item("put", gsd=5, **about), "put.json", image=asset)
    pair = open_pair(put, put)
    assert pair.grid.crs is not None
    assert pair.grid.crs.to_epsg() == 32633
    assert pair.grid.affine == Affine(2, 0, 5e5, 0, -2, 5e6)


def test_dates_of_items(write_tif: Any) -> None:
    asset = {"href": "x.tif", "type": "image/tiff"}
    write_tif(Path("x.tif"), pixels(1, 3))
    day = {"start_datetime": "2020-01-02T01:00:00Z", "end_datetime": "2020-01-02T02:00:00Z"}
    month = day | {"end_datetime": "2020-02-01T00:00:00Z"}
    for about, tag in ((day, "2020:01:02 01:00:00"), (month, None)):
        path = save(item("x", None, **about), "x.json", image=asset)
        assert open_pair(path, path).t1.date_tag == tag


def test_items_of_a_collection_and_of_a_server(write_tif: Any) -> None:
    one = json.loads(Path(of_one_file(write_tif, "first", 1)).read_text())
    other = json.loads(Path(of_one_file(write_tif, "second", 2)).read_text())
    collection = {"type": "FeatureCollection", "features": [one, other]}
    Path("items.json").write_text(json.dumps(collection))
    pair = open_pair("items.json#first", "items.json#second#image")
    np.testing.assert_array_equal(read(pair)[1], pixels(2)[[2, 1, 0, 3]])
    with pytest.raises(SceneError, match=r"a collection of 2 items; .* items.json#first"):
        open_pair("items.json", "items.json#second")


def test_items_of_a_server(write_tif: Any) -> None:
    """Its files are here: GDAL would wait for the server in its own process."""
    for name, href in (("here", Path("first.tif").absolute().as_uri()), ("there", "first.tif")):
        content = json.loads(Path(of_one_file(write_tif, "first", 1)).read_text())
        content["assets"]["image"]["href"] = href
        Path(f"{name}.json").write_text(json.dumps(content))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(Path.cwd()))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            pair = open_pair(f"{address}/here.json", f"{address}/here.json#image")
            np.testing.assert_array_equal(read(pair)[0], pixels(1)[[2, 1, 0, 3]])
            item, base, _ = stac._item("t1", f"{address}/there.json")
            assert stac._bands(item, base)[0].href == f"{address}/first.tif"
            with pytest.raises(SceneError, match=r"STAC item for t1, found .*404"):
                open_pair(f"{address}/none.json", "first.json")
        finally:
            server.shutdown()


def test_provenance_names_item_and_files(write_tif: Any) -> None:
    t1 = of_one_file(write_tif, "first", 1)
    first = describe_pair(open_pair(t1, t1))["t1"]
    assert first["path"] == "first.json"
    (file,) = first["with"]
    assert Path(file["path"]).name == "first.tif"
    assert len(file["sha256"]) == 64
    # what else changes the pixels
    of_one_file(write_tif, "first", 1, **{"raster:bands": [{"nodata": 5}] * 4})
    second = describe_pair(open_pair(t1, t1))["t1"]
    assert first["with"] == second["with"]
    assert first["vrt_sha256"] != second["vrt_sha256"]


@pytest.mark.parametrize(
    ("path", "bands", "found"),
    [
        ("none.json", None, "found no file at none.json"),
        ("many.json", None, r"expected one asset with data in t1 many.json, found 5: .*-b red"),
        ("many.json", ("swir16",), "expected one band named swir16 .* found .*nir08.*red"),
        ("many.json#red", ("blue",), "expected one band named blue .* found red"),
        ("many.json#B99", None, "expected an asset B99 .* found blue, green"),
        ("many.json", ("red", "coarse"), r"one grid .* red 8 x 8, coarse 4 x 4 pixels"),
        ("one.json#image", (5,), "band numbers from 1 to 4 .* found 5"),
        ("lost.json", None, "expected a readable raster for t1 lost.json, found no file at .*lost"),
        ("short.json", ("x9",), "expected 9 bands in .*as its item says, found 4"),
        ("vector.json", None, r"found vector data \(GeoJSON\)"),
        ("broken.json", None, "found damaged JSON"),
    ],
)
def test_items_that_cannot_be_used(write_tif: Any, path: str, bands: Any, found: str) -> None:
    of_one_file(write_tif, "one", 1)
    many = json.loads(Path(of_many_files(write_tif, "many", 1, "2020-01-01")).read_text())
    write_tif(Path("coarse.tif"), pixels(1, 1)[:, :4, :4], transform=Affine.scale(20, -20))
    many["assets"]["coarse"] = {"href": "coarse.tif", "type": "image/tiff"}
    Path("many.json").write_text(json.dumps(many))
    save(item("lost"), "lost.json", image={"href": "lost.tif", "type": "image/tiff"})
    nine = [{"name": f"x{n}"} for n in range(1, 10)]
    short = {"href": "one.tif", "type": "image/tiff", "bands": nine}
    save(item("short"), "short.json", image=short)
    Path("vector.json").write_text('{"type": "Feature", "geometry": null, "properties": {}}')
    Path("broken.json").write_text('{"type": "Feat')
    with pytest.raises(SceneError, match=found):
        ScenePair.open(path, path, bands=bands)


def test_bands_by_colour_of_a_plain_raster(write_tif: Any) -> None:
    write_tif(Path("rgb.tif"), pixels(1, 3), photometric="rgb")
    pair = ScenePair.open("rgb.tif", "rgb.tif", bands=("blue", "red"))
    np.testing.assert_array_equal(read(pair)[0], pixels(1, 3)[[2, 0]])
    with pytest.raises(SceneError, match=r"one band named nir in t1 rgb.*found red, g"):
        ScenePair.open("rgb.tif", "rgb.tif", bands=("nir",))


@pytest.mark.parametrize(
    ("text", "choice"), [("1,2", (1, 2)), ("Red, nir08", ("red", "nir08")), ("B04", ("b04",))]
)
def test_bands_on_the_command_line(text: str, choice: Any) -> None:
    assert parse_choice(text) == choice


@pytest.mark.parametrize("text", ["1,red", "red,red", "red,", "0"])
def test_bands_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_choice(text)


def test_a_file_beside_rasters_is_no_item() -> None:
    with rasterio.Env(), pytest.raises(SceneError, match="no file"):
        open_pair("change.geojson", "t2.tif")
