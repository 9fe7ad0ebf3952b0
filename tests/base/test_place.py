from pathlib import Path

import pytest

from rscd.base.place import (
    address,
    gdal_name,
    is_file_name,
    is_remote,
    local_file,
    named,
    suffix_of,
)


@pytest.mark.parametrize(
    ("path", "gdal"),
    [
        ("https://h/a.tif?sig=1", "/vsicurl/https://h/a.tif?sig=1"),
        ("s3://bucket/a/b.tif", "/vsis3/bucket/a/b.tif"),
        ("gs://bucket/b.tif", "/vsigs/bucket/b.tif"),
        ("az://box/b.tif", "/vsiaz/box/b.tif"),
    ],
)
def test_an_address_has_a_name_of_gdal_and_back(path: str, gdal: str) -> None:
    assert gdal_name(path) == gdal
    assert gdal_name(gdal) == gdal
    assert address(path) == address(gdal) == path
    assert is_remote(path)
    assert is_remote(gdal)
    assert not is_file_name(path)
    assert not is_file_name(gdal)
    assert local_file(path) is None


@pytest.mark.parametrize("path", ["https://h/a.tif", "s3://b/c.tif", "/vsicurl/http://h:1/a.tif"])
def test_pathlib_spoils_no_address(path: str) -> None:
    assert named(Path(path)) == path
    assert gdal_name(Path(path)) == gdal_name(path)


@pytest.mark.parametrize("path", ["a.tif", "/data/s3/a.tif", "https:", "C:/a.tif", "gs/a.tif"])
def test_files_are_files(path: str) -> None:
    assert is_file_name(path)
    assert not is_remote(path)
    assert gdal_name(path) == path
    assert address(path) is None
    assert local_file(path) == Path(path)


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("/vsizip//data/a.zip/b.tif", False),
        ("/vsizip/vsicurl/https://h/a.zip/b.tif", True),
        ("/vsizip//vsis3/b/a.zip/b.tif", True),
        ("/vsicurl?max_retry=3&url=https%3A%2F%2Fh", True),
        ("zip+https://h/a.zip!b.tif", True),
        ("NETCDF:a.nc:band", False),
    ],
)
def test_gdals_own_names_stay(path: str, remote: bool) -> None:
    assert is_remote(path) is remote
    assert gdal_name(path) == path
    assert address(path) is None


def test_suffixes_and_local_addresses() -> None:
    assert suffix_of("https://h/a.TIF?x=b.png") == ".tif"
    assert suffix_of(Path("b.Png")) == ".png"
    assert local_file("file:///data/a%20b.tif") == Path("/data/a b.tif")
