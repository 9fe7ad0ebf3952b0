"""Processor time from the start of a command to its first block, or to its end.

    python benchmarks/start_up.py [--repeat 3]

On a small synthetic town, in a process of its own each time: `rscd predict` with several models up
to the first block of the scene, and commands that need no network from start to end. With them the
imports of the heaviest libraries alone, and which of those each command imports. Prints JSON:
seconds of user and system time, the least of all repeats.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

from rscd.inference.shipped import SHIPPED, shipped_path

LIBRARIES = ("torch", "geopandas", "scipy.ndimage", "rasterio", "odc.geo.geobox", "pyogrio")
WATCHED = (
    "torch", "torchvision", "torchmetrics", "timm", "segmentation_models_pytorch", "lightning",
    "matplotlib", "geopandas", "dask", "onnxruntime",
)  # fmt: skip
RUN = """
import os, sys, time
import rscd.cli
def told(*_, **__):
    print(time.process_time(), *(name for name in {watched!r} if name in sys.modules))
    sys.stdout.flush()
    os._exit(0)
if {until_block}:
    from rscd.inference import tiled
    tiled.run_block = told
sys.argv = ["rscd", *{args!r}]
try:
    code = rscd.cli.main()
except SystemExit as end:
    code = end.code
if code or {until_block}:
    os._exit(1)
told()
"""


def measured(code: str) -> tuple[float, list[str]]:
    """Processor seconds that a piece of Python says it took, and the libraries it names."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    seconds, *names = done.stdout.splitlines()[-1].split()
    return float(seconds), names


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    rows: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        town = Path(name) / "town"
        subprocess.run(
            [sys.executable, "-m", "rscd", "sample", "-o", town, "--size", "512,512", "-q"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        images = [str(town / f"scene_{date}.tif") for date in ("t1", "t2")]
        out = ["-o", str(Path(name) / "c.gpkg"), "--overwrite", "-q"]
        truth = str(town / "truth_mask.tif")
        buildings = [str(town / f"buildings_{date}.geojson") for date in ("t1", "t2")]
        blocks = {
            f"predict -m {Path(model).name}, first block": ["predict", *images, "-m", model, *out]
            for model in (SHIPPED, "cva", str(shipped_path()))
        }
        ends = {
            "--help": ["--help"],
            "predict --help": ["predict", "--help"],
            "model list": ["model", "list"],
            "evaluate A.tif B.tif": ["evaluate", truth, truth],
            "events A.geojson B.geojson": ["events", *buildings, *out],
        }
        for about, args in {**blocks, **ends}.items():
            code = RUN.format(watched=WATCHED, until_block=about in blocks, args=args)
            runs = [measured(code) for _ in range(options.repeat)]
            rows[about] = {"cpu_s": round(min(runs)[0], 2), "imports": runs[0][1]}
    for library in LIBRARIES:
        code = f"import time, {library}\nprint(time.process_time())"
        runs = [measured(code) for _ in range(options.repeat)]
        rows[f"import {library}"] = {"cpu_s": round(min(runs)[0], 2)}
    print(json.dumps({"machine": machine("torch"), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
