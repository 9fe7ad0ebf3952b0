"""No command ends in a traceback, whatever its input holds; half of a file never stays."""

import argparse
import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

import rscd.cli
from rscd.base.errors import DataError
from rscd.base.types import CARD_KEY
from rscd.cli import main
from rscd.geo.changemap import RawRaster
from rscd.geo.tiles import Box
from rscd.inference.shipped import shipped_path

FAULT = "this is a bug in rscd"
SIDE = 48


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> list[str]:
    folder = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    t1 = rng.integers(20, 200, (3, SIDE, SIDE), np.uint8)
    t2 = t1.copy()
    t2[:, 10:30, 10:30] = 255 - t2[:, 10:30, 10:30]
    return [str(write_tif(folder / name, date)) for name, date in (("a.tif", t1), ("b.tif", t2))]


def command(scene: list[str], folder: Path, *more: str) -> list[str]:
    out = str(folder / "c.tif")
    return ["predict", *scene, "-m", "cva", "-o", out, "-q", "--overwrite", *more]


def damaged(raw: bytes, rng: random.Random, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes with a few of them changed, removed or added between two places; or cut short."""
    found = bytearray(raw)
    stop = len(raw) if stop is None else min(stop, len(raw))
    for _ in range(rng.choice((1, 1, 3, 9))):
        place = rng.randrange(start, max(start + 1, min(stop, len(found))))
        match rng.randrange(4):
            case 0:
                del found[place : place + 2]
            case 1:
                found[place:place] = rng.randbytes(3)
            case _:
                found[place : place + 1] = bytes([rng.randrange(256)])
    return bytes(found) if rng.random() < 0.9 else bytes(found[: rng.randrange(len(found) + 1)])


def survives(args: list[str], capfd: pytest.CaptureFixture[str]) -> int:
    """Run a command; it must say what is wrong in its own words, and leave no half file."""
    out = Path(args[args.index("-o") + 1])
    out.unlink(missing_ok=True)
    code = main(args)
    told = capfd.readouterr().err
    assert code in (0, 1, 2)
    assert FAULT not in told, told
    assert (code == 0) == out.exists(), told
    return code


@pytest.mark.parametrize("seed", range(12))
def test_damaged_rasters(
    scene: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], seed: int
) -> None:
    rng = random.Random(seed)
    raw = Path(scene[1]).read_bytes()
    (directory,) = struct.unpack("<I", raw[4:8])
    bad = tmp_path / "x.tif"
    bad.write_bytes(damaged(raw, rng, directory, directory + 300))
    survives(command([scene[0], str(bad)], tmp_path), capfd)


@pytest.mark.parametrize("seed", range(6))
def test_vrts_with_bytes_that_are_no_text(
    scene: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], seed: int
) -> None:
    rng = random.Random(seed)
    vrt = tmp_path / "x.vrt"
    band = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><Description>d</Description><SimpleSource>'
        f"<SourceFilename>{scene[1]}</SourceFilename><SourceBand>{n}</SourceBand>"
        "</SimpleSource></VRTRasterBand>"
        for n in (1, 2, 3)
    )
    raw = bytearray(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>{band}</VRTDataset>".encode()
    )
    for _ in range(rng.choice((1, 3))):
        raw[rng.randrange(len(raw))] = rng.randrange(128, 256)
    vrt.write_bytes(raw)
    survives(command([scene[0], str(vrt)], tmp_path), capfd)


@pytest.mark.parametrize("seed", range(10))
def test_damaged_cards_and_weights(
    scene: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], seed: int
) -> None:
    rng = random.Random(seed)
    raw = shipped_path().read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8 : 8 + length])
    card = json.loads(head["__metadata__"][CARD_KEY])
    field = rng.choice(["halo", "network", "network_args", "gsd_m", "threshold", "multiple"])
    card[field] = rng.choice([None, "x", -1, 1e308, [], {"a": []}, {"widths": 7}, 10**12])
    head["__metadata__"][CARD_KEY] = json.dumps(card)
    changed = json.dumps(head).encode()
    if seed % 3 == 0:
        changed = damaged(changed, rng)
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])
    assert survives(command(scene, tmp_path, "-m", str(path)), capfd) == 1


@pytest.fixture(scope="module")
def interrupted(scene: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Work folder of a run that was stopped, and what the whole run writes."""
    folder = tmp_path_factory.mktemp("interrupted")
    write = RawRaster.write
    written: list[Box] = []

    def failing(raster: RawRaster, box: Box, values: NDArray[Any]) -> None:
        if raster.path.name == "prob.img" and raster.shape_hw != (1, 1):
            if len(written) == 5:
                raise KeyboardInterrupt
            written.append(box)
        write(raster, box, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawRaster, "write", failing)
        assert main(command(scene, folder, "--tile-size", "16")) == 130
    work = folder / ".c.tif.rscd"
    kept = folder / "kept"
    shutil.copytree(work, kept)
    assert main(command(scene, folder, "--tile-size", "16")) == 0
    return kept, (folder / "c.tif").read_bytes()


@pytest.mark.parametrize("name", ["done", "tile_size", "claim.json", "prob.hdr", "prob.img size"])
@pytest.mark.parametrize("seed", range(3))
def test_damaged_notes_of_a_run_change_nothing_in_its_result(
    scene: list[str],
    interrupted: tuple[Path, bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    seed: int,
) -> None:
    kept, whole = interrupted
    work = tmp_path / ".c.tif.rscd"
    shutil.copytree(kept, work)
    file = work / name.partition(" ")[0]
    raw, rng = file.read_bytes(), random.Random(seed)
    file.write_bytes(raw[: 100 * seed] if "size" in name and "prob" in name else damaged(raw, rng))
    assert survives(command(scene, tmp_path, "--tile-size", "16"), capfd) == 0
    assert (tmp_path / "c.tif").read_bytes() == whole
    assert not work.exists()


def test_every_bit_of_the_list_of_tiles_counts(
    scene: list[str],
    interrupted: tuple[Path, bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    kept, whole = interrupted
    raw = (kept / "done").read_bytes()
    for bit in (0, 3, 64, 8 * len(raw) - 1):
        work = tmp_path / ".c.tif.rscd"
        shutil.copytree(kept, work)
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        (work / "done").write_bytes(changed)
        assert survives(command(scene, tmp_path, "--tile-size", "16"), capfd) == 0
        assert (tmp_path / "c.tif").read_bytes() == whole


def test_a_ring_that_does_not_close(
    scene: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import geopandas
    import pyarrow as pa
    import pyarrow.parquet
    import shapely

    box = shapely.box(500_000, 4_999_600, 500_300, 5_000_000)
    path = tmp_path / "aoi.parquet"
    geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32633").to_parquet(path)
    assert survives(command(scene, tmp_path, "--aoi", str(path)), capfd) == 0
    wkb = bytearray(box.wkb)
    struct.pack_into("<d", wkb, len(wkb) - 8, 1.0)
    table = pyarrow.parquet.read_table(path)
    broken = table.set_column(0, "geometry", pa.array([bytes(wkb)], pa.binary()))
    pyarrow.parquet.write_table(broken.replace_schema_metadata(table.schema.metadata), path)
    assert survives(command(scene, tmp_path, "--aoi", str(path)), capfd) == 1


def test_names_that_are_not_utf8(
    scene: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcnchen")
    Path(odd).mkdir()
    inside = shutil.copy(scene[0], f"{odd}/a.tif")
    assert survives(command([inside, scene[1]], tmp_path), capfd) == 1
    assert main(command([inside, scene[1]], tmp_path)) == 1
    assert r"M\xfcnchen/a.tif; rename" in capfd.readouterr().err
    for out in (f"{odd}/c.gpkg", os.fsdecode(os.fsencode(tmp_path) + b"/s\xfcd.gpkg")):
        assert main(["predict", *scene, "-m", "cva", "-q", "-o", out]) == 1
        told = capfd.readouterr().err
        assert FAULT not in told
        assert "UTF-8" in told
        assert not Path(out).exists()


def test_nul_in_a_name(
    scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", "a\0.tif", scene[1], "-o", str(tmp_path / "c.tif")])
    assert caught.value.code == 2
    assert "NUL" in capsys.readouterr().err


def failing_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr("rscd.cli.sample.run", run)


def test_the_last_net_says_what_it_caught_and_v_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(KeyError("odd\nkey"), monkeypatch)
    assert main(["sample", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "KeyError" in told
    assert FAULT in told
    assert main(["sample", str(tmp_path), "-v"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "raise error\nKeyError" in told


def test_v_shows_what_stands_behind_an_error_that_was_translated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = DataError("expected this, found that")
    error.__cause__ = ZeroDivisionError("deep")
    failing_with(error, monkeypatch)
    assert main(["sample", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "rscd: expected this, found that\n"
    main(["sample", str(tmp_path), "-v"])
    assert "ZeroDivisionError: deep" in capsys.readouterr().err


def test_only_the_command_line_has_a_net(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(KeyError("x"), monkeypatch)
    args = rscd.cli.build_parser().parse_args(["sample", "x"])
    with pytest.raises(KeyError):
        args.run(args)


@pytest.mark.slow
def test_a_foreign_database_of_proj_is_left_out(scene: list[str], tmp_path: Path) -> None:
    own = Path(rasterio.__file__).parent / "proj_data" / "proj.db"
    if not own.is_file():
        pytest.skip("this rasterio brings no database of PROJ of its own")
    shutil.copy(own, tmp_path / "proj.db")
    database = sqlite3.connect(tmp_path / "proj.db")
    key = "DATABASE.LAYOUT.VERSION.MINOR"
    database.execute("UPDATE metadata SET value = '0' WHERE key = ?", (key,))
    database.commit()
    database.close()
    box = "15.0,45.0,15.01,45.2"
    line = [*command(scene, tmp_path), "--bbox", box, "--bbox-crs", "EPSG:4326"]
    line.remove("-q")
    done = subprocess.run(
        [sys.executable, "-m", "rscd", *line],
        env=os.environ | {"PROJ_LIB": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"PROJ_LIB={tmp_path} belongs to another installation" in done.stderr


def test_a_vrt_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    """GDAL's message holds the bytes, and rasterio's log of it cannot."""
    vrt = tmp_path / "v.vrt"
    vrt.write_bytes(
        b'<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand band="1" dataType="\xe7\x94"/>'
        b"</VRTDataset\xe7>"
    )
    out = str(tmp_path / "c.tif")
    command = [sys.executable, "-m", "rscd", "predict", str(vrt), str(vrt), "-o", out, "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
