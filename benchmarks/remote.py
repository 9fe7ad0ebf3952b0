"""What a run fetches of rasters on a server, against what it said it would.

    python benchmarks/remote.py [--size 2048] [--models cva buildings]

Makes two cloud-optimised GeoTIFFs of noise, which does not compress, serves them from this machine,
predicts a quarter of the scene, and prints for each model: bytes that `--dry-run` names (the blocks
looked at, each once), bytes fetched, their ratio, requests, and seconds.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from rscd.cli import main

SERVER = Path(__file__).parents[1] / "tests" / "web_server.py"
DATES = ("t1.tif", "t2.tif")


def write_pair(folder: Path, size: int, gsd_m: float) -> str:
    """Write both dates; returns the bounding box of their middle quarter."""
    rng = np.random.default_rng(0)
    corner = (500_000, 5_000_000)
    for name in DATES:
        with rasterio.open(
            folder / name,
            "w",
            driver="COG",
            width=size,
            height=size,
            count=3,
            dtype="uint8",
            crs="EPSG:32633",
            transform=Affine(gsd_m, 0, corner[0], 0, -gsd_m, corner[1]),
            compress="deflate",
        ) as dataset:
            dataset.write(rng.integers(0, 255, (3, size, size), np.uint8))
    low, high = size / 4 * gsd_m, size * 3 / 4 * gsd_m
    return f"{corner[0] + low},{corner[1] - high},{corner[0] + high},{corner[1] - low}"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder; gives its address."""
    command = [sys.executable, str(SERVER), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


def run(*words: str) -> dict[str, Any]:
    """Carry out a command in this process; returns what it prints with ``--json``."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        if main([*words, "--json", "-q"]) != 0:
            sys.exit(f"failed: {' '.join(words)}")
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


def measure(model: str, size: int) -> None:
    """Print the line of a model."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bbox = write_pair(folder, size, gsd_m=0.5)
        with served(folder) as base:
            words = ["predict", *(f"{base}/ok/{name}" for name in DATES), "-m", model]
            words += ["--bbox", bbox, "-o", str(folder / "change.tif")]
            planned = sum(run(*words, "--dry-run")["read_bytes"].values())
            urllib.request.urlopen(f"{base}/log").read()
            started = time.monotonic()
            run(*words)
            seconds = time.monotonic() - started
            log = json.load(urllib.request.urlopen(f"{base}/log"))
        fetched = sum(line[4] for line in log)
        print(
            f"{model:10} {planned:>12,} {fetched:>12,} {fetched / planned:6.3f} {len(log):>5} "
            f"{seconds:6.1f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--models", nargs="+", default=["cva", "buildings"])
    args = parser.parse_args()
    print(f"{'model':10} {'planned':>12} {'fetched':>12} {'ratio':>6} {'reqs':>5} {'s':>6}")
    for each in args.models:
        measure(each, args.size)
