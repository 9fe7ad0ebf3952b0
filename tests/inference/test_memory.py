"""Memory: what is planned, and what a run really takes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from rscd.base.errors import UsageError
from rscd.inference.memory import GDAL_CACHE, MIN_TILE, Load, fit_load, parse_memory
from rscd.inference.predictor import POINTWISE, Tiling

ASKED = Load(tile_size=1024, batch_size=8, workers=8, gdal_cache=GDAL_CACHE)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2_000_000_000),
        ("2G", 2_000_000_000),
        ("800MB", 800_000_000),
        ("1.5GiB", 3 << 29),
        (" 64 kib ", 65_536),
        ("12345", 12_345),
        ("1tb", 10**12),
        ("7B", 7),
    ],
)
def test_sizes_are_understood(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-2GB", "2 apples", "1e9", "2GBB", "2,5GB", "iB"])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="expected a memory size such as 2GB"):
        parse_memory(text)


def test_without_a_limit_nothing_changes() -> None:
    assert fit_load(ASKED, None, 3, POINTWISE) == ASKED


def with_room(monkeypatch: pytest.MonkeyPatch, resident: int) -> None:
    class Process:
        def memory_info(self) -> type[Any]:
            return type("Info", (), {"rss": resident})

    monkeypatch.setattr(psutil, "Process", Process)


@given(st.integers(1, 64), st.integers(1, 16), st.integers(0, 200), st.integers(1, 400))
def test_the_load_fits_or_the_message_says_what_would(
    gigabyte_64th: int, bands: int, halo: int, per_pixel: int
) -> None:
    limit = gigabyte_64th * 10**9 // 16
    tiling = Tiling(halo=halo, bytes_per_pixel=per_pixel)
    try:
        load = fit_load(ASKED, limit, bands, tiling)
    except UsageError as error:
        needed = parse_memory(str(error).split("at least ")[1].split(" ")[0])
        assert needed > limit
        assert fit_load(ASKED, needed + (64 << 20), bands, tiling)  # what it says is enough
        return
    assert load.nbytes(bands, tiling) + psutil.Process().memory_info().rss < limit
    for name in ("tile_size", "batch_size", "workers", "gdal_cache"):
        assert 1 <= getattr(load, name) <= getattr(ASKED, name)
    assert load.tile_size in {1024, 512, 256, 128, MIN_TILE}  # halved, as often as needed
    assert load.batch_size in {8, 4, 2, 1}


def test_batches_shrink_first_and_tiles_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 200 << 20)
    loads = [
        fit_load(ASKED, limit, 3, POINTWISE) for limit in (8 << 30, 2 << 30, 1 << 30, 400 << 20)
    ]
    sizes = [(load.batch_size, load.workers, load.tile_size) for load in loads]
    assert sizes[0][2] == 1024
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1][0] < 8
    assert sizes[1][2] == 1024
    assert sizes[3][:2] == (1, 1)


def test_remote_files_in_memory_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 200 << 20)
    remote = replace(ASKED, remote_cache=300 << 20)
    assert remote.nbytes(3, POINTWISE) - ASKED.nbytes(3, POINTWISE) == 300 << 20
    limit = 700 << 20
    here, there = (fit_load(load, limit, 3, POINTWISE) for load in (ASKED, remote))
    assert there.nbytes(3, POINTWISE) <= limit - (200 << 20)
    assert (there.workers, there.tile_size) < (here.workers, here.tile_size)
    with pytest.raises(UsageError, match="expected --max-memory of at least"):
        fit_load(remote, 560 << 20, 3, POINTWISE)
    assert fit_load(ASKED, 560 << 20, 3, POINTWISE)


def test_small_tiles_asked_for_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    with_room(monkeypatch, 100 << 20)
    small = Load(tile_size=16, batch_size=1, workers=1, gdal_cache=GDAL_CACHE)
    assert fit_load(small, 1 << 30, 3, POINTWISE).tile_size == 16


RUN_AND_REPORT_PEAK = """
import sys
from pathlib import Path
from rscd.cli import main
code = main()
status = Path("/proc/self/status").read_text()
sys.stderr.write(status.split("VmHWM:")[1].split()[0])
sys.exit(code)
"""


def write_scene(path: Path, side: int, *, changed: int) -> None:
    texture = np.random.default_rng(0).integers(60, 180, (3, 500, side), np.uint8)
    texture += np.random.default_rng(int(changed)).integers(0, 9, texture.shape, np.uint8)
    if changed:
        texture[:, 100:160, 200:300] = 250
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=side,
        width=side,
        count=3,
        dtype="uint8",
        tiled=True,
        crs="EPSG:32633",
        transform=Affine(10, 0, 500_000, 0, -10, 5_000_000),
    ) as dataset:
        for row in range(0, side, 500):
            dataset.write(texture, window=Window(0, row, side, 500))


def peak_bytes(folder: Path, side: int, *options: Any) -> int:
    """Largest resident size of a whole ``rscd predict`` in a process of its own."""
    paths = [folder / f"{side}_{date}.tif" for date in (1, 2)]
    for path in paths:
        if not path.exists():
            write_scene(path, side, changed=path == paths[1])
    outputs = [folder / "out.gpkg", folder / "out.tif", folder / "prob.tif"]
    command = [
        sys.executable,
        "-c",
        RUN_AND_REPORT_PEAK,
        "predict",
        *paths,
        "-q",
        "--overwrite",
        "-o",
        outputs[0],
        "-o",
        outputs[1],
        "--prob",
        outputs[2],
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) * 1024


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


@needs_proc
@pytest.mark.slow
def test_sixteen_times_the_scene_takes_no_more_memory(tmp_path: Path) -> None:
    small, large = (
        peak_bytes(tmp_path, side, "-m", "cva", "--max-memory", "420MB") for side in (1000, 4000)
    )
    assert large - small < 40 << 20  # probabilities of the whole scene take 64 MB
    assert large < 420e6


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("model", ["irmad", "pca-kmeans"])
def test_the_limit_holds_for_detectors_that_take_samples(tmp_path: Path, model: str) -> None:
    assert peak_bytes(tmp_path, 1500, "-m", model, "--max-memory", "500MB") < 500e6
