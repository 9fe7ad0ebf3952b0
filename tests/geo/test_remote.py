"""Remote rasters, against a server on this machine."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.env import get_gdal_config

from rscd.base.errors import RemoteError, SceneError
from rscd.geo import source as source_module
from rscd.geo.remote import Version, forget, look
from rscd.geo.scene import ScenePair
from rscd.geo.settings import input_files
from rscd.geo.source import inspect, read_source
from rscd.geo.tiles import Box
from rscd.geo.traffic import bytes_of
from tests.conftest import Web

SIDE = 512
BLOCK = 128
COG = {"driver": "COG", "compress": "deflate", "blocksize": BLOCK}


@pytest.fixture(scope="module")
def noise() -> Any:
    return np.random.default_rng(0).integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8)


def read(path: Any, box: Box, offset: Any = (0, 0), **more: Any) -> Any:
    one = inspect("t1", path, None, None)
    return read_source(one, offset, one.grid, box, **more)


def at_half_a_pixel(path: Any) -> Any:
    """The raster, and a grid between its pixels."""
    one = inspect("t1", path, None, None)
    return one, one.grid * Affine.translation(0.5, 0.5)


def test_ranges_of_the_wanted_blocks_are_asked_for(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any]
) -> None:
    local = write_tif(web.folder / "a.tif", noise, **COG)
    box = Box(100, 130, 200, 220)
    wanted = bytes_of(inspect("t1", local, None, None), (0, 0), None, [box])  # type: ignore[arg-type]
    assert np.array_equal(read(web.at("a.tif"), box)[0], noise[:, *box.slices])
    data = [line for line in web.asked("a.tif") if line["method"] == "GET"]
    assert all(line["range"] for line in data)
    assert wanted is not None
    assert wanted < sum(line["bytes"] for line in data) - (1 << 14) < 1.3 * wanted


def test_neighbours_do_not_fetch_a_block_again(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any]
) -> None:
    local = write_tif(web.folder / "a.tif", noise, **COG)
    one = inspect("t1", web.at("a.tif"), None, None)
    boxes = [Box(row, col, 100, 100) for row in (70, 140, 210) for col in (70, 140, 210)]
    wanted = bytes_of(inspect("t1", local, None, None), (0, 0), one.grid, boxes)
    for box in boxes:
        values, _ = read_source(one, (0, 0), one.grid, box)
        assert np.array_equal(values, noise[:, *box.slices])
    fetched = sum(line["bytes"] for line in web.asked("a.tif"))
    assert wanted is not None
    assert wanted < fetched - (1 << 14) < 1.3 * wanted


def test_what_is_resampled_is_fetched_once(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any]
) -> None:
    one, grid = at_half_a_pixel(write_tif(web.folder / "a.tif", noise, **COG))
    boxes = [Box(100, 100, 150, 150), Box(100, 200, 150, 150)]
    wanted = bytes_of(one, None, grid, boxes)
    there, _ = at_half_a_pixel(web.at("a.tif"))
    for box in boxes:
        here = read_source(one, None, grid, box)
        assert all(map(np.array_equal, read_source(there, None, grid, box), here))
    fetched = sum(line["bytes"] for line in web.asked("a.tif"))
    assert wanted is not None
    assert wanted < fetched - (1 << 14) < 1.3 * wanted


@pytest.mark.parametrize("resampled", [False, True])
def test_small_pictures_come_from_overviews(
    web: Web, write_tif: Callable[..., Path], resampled: bool
) -> None:
    rows, cols = np.mgrid[:1024, :1024]
    smooth = np.stack([rows // 8, cols // 8, (rows + cols) // 16]).astype(np.uint8)
    noisy = smooth + np.random.default_rng(0).integers(0, 8, smooth.shape).astype(np.uint8)
    local = write_tif(web.folder / "a.tif", noisy, **COG)
    one, grid = at_half_a_pixel(web.at("a.tif"))
    offset, grid = (None, grid) if resampled else ((0, 0), one.grid)
    values, valid = read_source(one, offset, grid, Box(0, 0, 1023, 1023), (128, 128))
    assert values.shape == (3, 128, 128)
    assert valid[1:-1, 1:-1].all()
    near = np.abs(values[:, :-1, :-1].astype(int) - smooth[:, 4:-4:8, 4:-4:8][:, :127, :127])
    assert np.median(near) <= 8
    assert sum(line["bytes"] for line in web.asked("a.tif")) < 0.15 * local.stat().st_size


def test_masks_beside_remote_files_count(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any]
) -> None:
    mask = np.arange(SIDE)[:, None] + np.zeros(SIDE) > 99
    write_tif(web.folder / "a.tif", noise)
    with rasterio.open(web.folder / "a.tif", "r+") as dataset:
        dataset.write_mask(mask)
    assert (web.folder / "a.tif.msk").exists() or dataset
    _, valid = read(web.at("a.tif"), Box(90, 0, 20, 5))
    assert np.array_equal(valid, mask[90:110, :5])


@pytest.mark.parametrize("mode", ["busy2", "cut2"])
@pytest.mark.parametrize("resampled", [False, True])
def test_what_fails_for_a_while_is_tried_again(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any], mode: str, resampled: bool
) -> None:
    one, grid = at_half_a_pixel(write_tif(web.folder / "a.tif", noise, **COG))
    there, _ = at_half_a_pixel(web.at("a.tif", mode))
    offset, grid = (None, grid) if resampled else ((0, 0), one.grid)
    box = Box(200, 200, 100, 100)
    here = read_source(one, offset, grid, box)
    assert all(map(np.array_equal, read_source(there, offset, grid, box), here))


@pytest.mark.parametrize("kind", [COG, {}, {"compress": "lzw"}, {"driver": "JPEG"}])
def test_a_broken_connection_is_an_error(
    web: Web,
    write_tif: Callable[..., Path],
    noise: NDArray[Any],
    kind: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    place = {"crs": None, "transform": None} if kind.get("driver") == "JPEG" else {}
    write_tif(web.folder / "a.tif", noise, **kind, **place)
    with pytest.raises(RemoteError, match=r"t1, found (a connection that broke off \(|damage)"):
        read(web.at("a.tif", "cut"), Box(0, 0, SIDE, SIDE))


def write_vrt(path: Path, url: str) -> None:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>/vsicurl/{url}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path.write_text(f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{bands}</VRTDataset>')


@pytest.mark.parametrize("driver", ["PNG", "ENVI", "BMP"])
def test_formats_that_would_turn_black_are_refused(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any], driver: str
) -> None:
    write_tif(web.folder / "a.img", noise, driver=driver, crs=None, transform=None)
    with pytest.raises(SceneError, match=rf"expected a GeoTIFF.*found {driver} .*copy it here"):
        inspect("t1", web.at("a.img"), None, None)
    inspect("t1", web.folder / "a.img", None, None)
    write_vrt(web.folder / "a.vrt", web.at("a.img"))
    with pytest.raises(SceneError, match=r"expected a GeoTIFF.*another kind of file in the VRT"):
        inspect("t1", web.folder / "a.vrt", None, None)


def test_a_vrt_here_of_files_there(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "3")
    write_tif(web.folder / "a.tif", noise, **COG)
    write_vrt(web.folder / "a.vrt", web.at("a.tif", "cut2"))
    values, _ = read(web.folder / "a.vrt", Box(300, 300, 50, 50))
    assert np.array_equal(values, noise[:, 300:350, 300:350])
    assert web.asked("a.tif")


def test_a_file_that_was_replaced_is_read_anew(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any]
) -> None:
    box = Box(0, 0, SIDE, SIDE)
    write_tif(web.folder / "a.tif", noise, **COG)
    before = inspect("t1", web.at("a.tif"), None, None)
    assert np.array_equal(read_source(before, (0, 0), before.grid, box)[0], noise)
    web.asked()
    assert np.array_equal(read(web.at("a.tif"), box)[0], noise)
    assert sum(line["bytes"] for line in web.asked("a.tif")) == 1  # its version
    write_tif(web.folder / "a.tif", 255 - noise, **COG)
    assert np.array_equal(read(web.at("a.tif"), box)[0], 255 - noise)
    assert look(web.at("a.tif")).stamp != before.stamp


def test_what_a_server_says_of_a_file(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any]
) -> None:
    local = write_tif(web.folder / "a.tif", noise)
    told = look(web.at("a.tif"))
    assert (told.nbytes, bool(told.etag)) == (local.stat().st_size, True)
    assert look(web.at("a.tif", "plain")) == told
    assert look(web.at("none.tif")) == look("gs://no-such-package/a.tif") == Version()
    assert Version().stamp != Version().stamp
    forget(web.at("none.tif"))


def test_object_stores_are_gdals_own(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With credentials from the environment alone, which no client library signs with."""
    write_tif(web.folder / "a.tif", noise, **COG)
    environment = {
        "AWS_S3_ENDPOINT": web.base.removeprefix("http://"),
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_ACCESS_KEY_ID": "OURKEY",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "AWS_REGION": "eu-north-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rscd.geo.remote._store", lambda _: Version())
    values, _ = read(f"s3://ok/{web.folder.name}/a.tif", Box(0, 0, 100, 100))
    assert np.array_equal(values, noise[:, :100, :100])
    signed = [line["authorization"] for line in web.asked("a.tif")]
    assert all(text and "Credential=OURKEY/" in text for text in signed)
    assert "/eu-north-1/s3/" in signed[0]
    with pytest.raises(SceneError, match=r"refuses access \(HTTP 403\)"):
        read(f"s3://403/{web.folder.name}/b.tif", Box(0, 0, 1, 1))


def test_settings_of_the_user_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "GDAL_HTTP_MAX_RETRY"
    with input_files("https://h/a.tif"):
        assert get_gdal_config(name) == 4
        assert get_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN") == "TRUE"
        assert get_gdal_config("AWS_ACCESS_KEY_ID") is None
    assert get_gdal_config(name) is None
    monkeypatch.setenv(name, "9")
    with input_files("https://h/a.tif"):
        assert get_gdal_config(name) == 9
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), input_files("s3://b/a.tif"):
        assert get_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN") == "EMPTY_DIR"


def test_nothing_stays_open(web: Web, write_tif: Callable[..., Path], noise: NDArray[Any]) -> None:
    """A dataset that stays open fetches ahead of what is wanted."""
    write_tif(web.folder / "a.tif", noise, **COG)
    read(web.at("a.tif"), Box(0, 0, 10, 10))
    assert not source_module._handles.open


def test_a_pair_of_addresses_given_as_paths(
    web: Web, write_tif: Callable[..., Path], noise: NDArray[Any]
) -> None:
    write_tif(web.folder / "a.tif", noise, **COG)
    shutil.copy(web.folder / "a.tif", web.folder / "b.tif")
    pair = ScenePair.open(Path(web.at("a.tif")), Path(web.at("b.tif")))
    image, valid = pair.read(Box(0, 0, 40, 40))
    assert valid.all()
    assert np.array_equal(image[0], image[1])
    assert pair.t1.path == web.at("a.tif")
    assert pair.thumbnail((64, 64))[0].shape == (2, 3, 64, 64)
