"""What `rscd batch` costs beside the comparison of its pairs, and how its memory grows.

    python benchmarks/batch.py [--pairs 1 100 1000] [--size 128] [--model buildings] [--dask N]

Pairs of half-metre pixels side by side, each a fifth over the next, with one building more at t2.
Per number of pairs: seconds and processor seconds of the whole run and of its comparisons (open,
predict, write), the difference per pair and as a fraction of the comparison (``overhead``), the
processor seconds of the same command again, which finds all done, how often weights were read, and
the process's largest memory. With ``--dask`` pairs go to N worker processes of this machine:
processor seconds are then those of this process alone, which is what a pair costs the scheduler and
what gathers results. Prints JSON, one object per number of pairs.
"""

import argparse
import json
import resource
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from machine import machine

from rscd import Options
from rscd.inference import network
from rscd.inference.dask import cluster_mapper
from rscd.inference.weights import read_network
from rscd.pipeline import batch
from rscd.pipeline.batch import Work, run_batch
from rscd.pipeline.pairs import Pair

GSD_M = 0.5


def write_pair(folder: Path, number: int, size: int) -> Pair:
    """A pair in a row of them."""
    rng = np.random.default_rng(number)
    ground = rng.integers(60, 100, (3, size, size), np.uint8)
    built = ground.copy()
    built[:, size // 4 : size // 2, size // 4 : size // 2] = 200
    place = Affine(GSD_M, 0, 5e5 + number * 0.8 * size * GSD_M, 0, -GSD_M, 5e6)
    paths = [folder / f"{number}_{date}.tif" for date in ("t1", "t2")]
    for path, pixels in zip(paths, (ground, built), strict=True):
        with rasterio.open(
            path, "w", "GTiff", size, size, 3, "EPSG:32633", place, "uint8"
        ) as dataset:
            dataset.write(pixels)
    t1, t2 = map(str, paths)
    return Pair(f"p{number:05d}", t1, t2, None, "2019-06-01", "2020-06-01")


def measure(folder: Path, count: int, size: int, model: str, workers: int) -> dict[str, Any]:
    """One run of that many pairs, and the same again."""
    pairs = [write_pair(folder, number, size) for number in range(count)]
    work = Work(folder / "out", Options(model=model, workers=1))
    own = {"cpu": 0.0, "wall": 0.0}
    loads: list[str] = []
    compare = batch.compare

    def timed(*args: Any) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        line = compare(*args)
        own["cpu"] += time.process_time() - cpu
        own["wall"] += time.perf_counter() - wall
        return line

    def counted(path: Path, *args: Any) -> Any:
        loads.append(path.name)
        return read_network(path, *args)

    if not workers:
        vars(batch)["compare"] = timed
    vars(network)["read_network"] = counted
    try:
        with cluster_mapper(f"local:{workers}") if workers else nullcontext() as cluster:
            cpu, wall = time.process_time(), time.perf_counter()
            summary = run_batch(pairs, work, cluster=cluster)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        again = time.process_time()
        idle = run_batch(pairs, work)
        again = time.process_time() - again
    finally:
        vars(batch)["compare"] = compare
        vars(network)["read_network"] = read_network
    found = {
        "pairs": count,
        "done": summary.done,
        "skipped_again": idle.skipped,
        "seconds": round(wall, 1),
        "cpu_s": round(cpu, 2),
        "again_cpu_s_per_pair": round(again / count, 4),
        "networks_read": len(loads),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if workers:
        return found | {"workers": workers, "cpu_s_here_per_pair": round(cpu / count, 4)}
    return found | {
        "compare_cpu_s": round(own["cpu"], 2),
        "overhead_cpu_s_per_pair": round((cpu - own["cpu"]) / count, 4),
        "overhead": round((cpu - own["cpu"]) / own["cpu"], 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--model", default="buildings")
    parser.add_argument("--dask", type=int, default=0, metavar="N")
    args = parser.parse_args()
    print(json.dumps({"machine": machine(), "size": args.size, "model": args.model}))
    for count in args.pairs:
        with tempfile.TemporaryDirectory() as scratch:
            row = measure(Path(scratch), count, args.size, args.model, args.dask)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
