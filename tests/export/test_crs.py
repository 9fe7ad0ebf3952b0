"""CRS that a format lacks are refused before the work; those it keeps are not."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine

from rscd.base.errors import UsageError
from rscd.cli import main
from rscd.export.crs import check_crs, read_back, same_crs
from rscd.export.vector import write_vector
from rscd.geo.vectors import read_layer

POLE = (
    "+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=180 +a=6371229 +b=6371229 "
    "+no_defs"
)
GAUSS = (
    "+proj=tmerc +lat_0=0 +lon_0=9 +k=1 +x_0=3500000 +ellps=bessel +units=m "
    "+towgs84=598.1,73.7,418.2,0.202,0.045,-2.455,6.7"
)
MINE = 'LOCAL_CS["Mine grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
PLACES = {
    "EPSG:32633": (5e5, 5e6), "EPSG:4326": (9.0, 48.0), "EPSG:3857": (1e6, 5e6),
    "EPSG:25832+5783": (5e5, 5.3e6), "EPSG:2154": (7e5, 6.6e6), "EPSG:27700": (4e5, 3e5),
    "EPSG:5514": (-5e5, -1e6), "ESRI:54009": (1e6, 1e6), "EPSG:3413": (1e5, -1e6),
    GAUSS: (3.5e6, 5.3e6),
    "+proj=tmerc +lat_0=10 +lon_0=20 +k=0.99 +ellps=bessel +units=us-ft": (3000.0, 100.0),
}  # fmt: skip
FORMATS = (".tif", ".gpkg", ".fgb", ".parquet", ".geojson")


@pytest.mark.parametrize("crs", PLACES)
def test_no_crs_of_the_earth_is_refused(crs: str) -> None:
    for suffix in FORMATS:
        check_crs(Path(f"change{suffix}"), crs, PLACES[crs])


@pytest.mark.parametrize(
    ("crs", "refused"),
    [
        ("IAU_2015:30110", {".geojson"}),  # the Moon
        ("IAU_2015:49900", {".geojson"}),  # Mars
        (MINE, {".geojson"}),
        (POLE, {".gpkg", ".fgb"}),
    ],
)
def test_what_formats_lack(crs: str, refused: set[str]) -> None:
    for suffix in FORMATS:
        hopeless = suffix in refused
        with pytest.raises(UsageError, match="expected a") if hopeless else nullcontext():
            check_crs(Path(f"change{suffix}"), crs, (1.0, 1.0))


@pytest.mark.parametrize("crs", ["IAU_2015:30110", POLE, "EPSG:32633", "EPSG:4326"])
def test_what_is_said_is_what_files_hold(tmp_path: Path, crs: str) -> None:
    """The function of the format alone tells what a reader of a real file finds."""
    table = geopandas.GeoDataFrame({"id": [1]}, geometry=[shapely.box(1, 1, 2, 2)], crs=crs)
    for suffix in (".gpkg", ".fgb", ".parquet"):
        path = tmp_path / f"a{suffix}"
        try:
            write_vector(table, path, provenance={})
        except UsageError:
            said = read_back(suffix, crs)
            assert said is None or not same_crs(said, crs, (1, 1))
            assert not path.exists()
            continue
        found = read_layer(f"{path}|layername=changes" if suffix == ".gpkg" else path, "it").crs
        assert same_crs(found, read_back(suffix, crs), (1, 1))
        assert same_crs(found, crs, (1, 1))


def test_places_tell_crs_apart() -> None:
    assert same_crs("EPSG:4326", "OGC:CRS84", (9, 48))
    assert not same_crs("EPSG:32633", "EPSG:32634", (5e5, 5e6))
    assert not same_crs("EPSG:4326", "IAU_2015:30100", (9, 48))
    assert not same_crs("EPSG:2263", "EPSG:32118", (1e6, 2e5))  # the same in feet
    assert not same_crs("EPSG:4326", "EPSG:32633", (9, 48))


@pytest.mark.parametrize(
    ("crs", "pixel", "suffix"),
    [("IAU_2015:30110", 10.0, "geojson"), (POLE, 0.01, "gpkg"), (POLE, 0.01, "fgb")],
)
def test_predict_refuses_before_the_work(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    crs: str,
    pixel: float,
    suffix: str,
) -> None:
    rng = np.random.default_rng(0)
    wkt = rasterio.CRS.from_wkt(pyproj.CRS(crs).to_wkt())
    place = {"crs": wkt, "transform": Affine(pixel, 0, 1, 0, -pixel, 1)}
    paths = [
        str(
            write_tif(
                tmp_path / f"t{date}.tif", rng.integers(1, 255, (3, 40, 40), "uint8"), **place
            )
        )
        for date in (1, 2)
    ]
    before = sorted(tmp_path.iterdir())
    for extra in ([], ["--dry-run"]):
        out = ["-o", str(tmp_path / f"c.{suffix}"), "-q", *extra]
        assert main(["predict", *paths, "-m", "cva", *out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("rscd: expected a ")
    assert sorted(tmp_path.iterdir()) == before
    assert main(["predict", *paths, "-m", "cva", "-o", str(tmp_path / "c.parquet"), "-q"]) == 0
