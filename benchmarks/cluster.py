"""`rscd predict` on Dask workers of this machine over threads of one process.

    python benchmarks/cluster.py [--size 1024] [--workers 1 2]

The network that ships, on a pair of half-metre pictures of noise; no polygons. For each number of
workers: seconds, whether the mask is byte-identical to that of threads, and bytes that the
scheduler sent to workers on its stream of tasks, on which no weights travel; weights go apart from
it, once per worker (``weights_bytes``). Results come back as 4 bytes per pixel. Start-up of the
cluster is not counted, the workers' imports are. Prints JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from distributed import Client, LocalCluster
from machine import machine

from rscd import Options, open_pair, predict
from rscd.inference.dask import dask_mapper, weights_folder


def write(path: Path, pixels: np.ndarray) -> Path:
    """(C,H,W) uint8 as a raster of half-metre pixels."""
    count, height, width = pixels.shape
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    with rasterio.open(
        path, "w", "GTiff", width, height, count, dtype="uint8", tiled=True, **place
    ) as dataset:
        dataset.write(pixels)
    return path


def run(pair: Any, out: Path, **how: Any) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    predict(pair, [out], Options(model="buildings"), **how)
    return time.perf_counter() - started


def sent(dask_scheduler: Any) -> int:
    """Bytes of messages to all workers."""
    return sum(comm.byte_count for comm in dask_scheduler.stream_comms.values())


def weights(dask_worker: Any) -> int:
    """Bytes of weights that a worker was given."""
    return sum(path.stat().st_size for path in weights_folder(dask_worker).iterdir())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dates = rng.integers(1, 255, (2, 3, args.size, args.size), np.uint8)
        pair = open_pair(*(write(folder / f"t{i}.tif", date) for i, date in enumerate(dates, 1)))
        rows: list[dict[str, Any]] = [{"threads": run(pair, folder / "threads.tif")}]
        for number in args.workers:
            with (
                LocalCluster(
                    n_workers=number, threads_per_worker=1, dashboard_address=":0"
                ) as cluster,
                Client(cluster) as client,
            ):
                before = client.run_on_scheduler(sent)
                out = folder / f"{number}.tif"
                seconds = run(pair, out, mapper=dask_mapper(client))
                again = run(pair, folder / f"{number}_again.tif", mapper=dask_mapper(client))
                rows.append(
                    {
                        "workers": number,
                        "seconds": seconds,
                        "seconds_again": again,
                        "identical": out.read_bytes() == (folder / "threads.tif").read_bytes(),
                        "stream_bytes_of_two_runs": client.run_on_scheduler(sent) - before,
                        "weights_bytes": list(client.run(weights).values()),
                    }
                )
    print(json.dumps({"machine": machine(), "size": args.size, "runs": rows}, indent=2))


if __name__ == "__main__":
    main()
