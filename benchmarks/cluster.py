"""`rscd predict` on Dask workers of this machine over threads of one process.

    python benchmarks/cluster.py [--size 1024] [--workers 1 2] [--model buildings] [--runs 2]

A pair of half-metre pictures of noise; no polygons. Every way in a process of its own, whose start
and imports are not counted; those of the workers are. For threads, and for each number of workers
(of one thread, beside a scheduler, each a process):

- `seconds`, `cpu_s` of the command's process (which also writes), of the scheduler and of each
  worker, and the largest memory of each in MB;
- `scheduler_ms_per_block`: its processor time;
- `loopback_MB`: what passed between processes of this machine (others' included) in the first run;
- `stream_bytes`: sent by the scheduler to workers on its stream of tasks, on which no weights and
  no results travel; weights go apart from it, once per worker (`weights_bytes`);
- whether the mask is byte-identical to that of threads.

Later runs on the same cluster are in `seconds_again`. Prints JSON.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import rasterio
from affine import Affine
from distributed import Client
from distributed.deploy.subprocess import SubprocessCluster
from machine import machine
from rasterio.windows import Window

from rscd import Options, open_pair, predict
from rscd.export.targets import Targets
from rscd.inference.dask import dask_mapper, weights_folder
from rscd.pipeline.maps import plan
from rscd.pipeline.run import resolve

PATTERN = 1024
"""Side of the noise that is repeated over a scene."""


def write(path: Path, seed: int, size: int) -> None:
    """A raster of half-metre pixels, of three bands of one byte."""
    pixels = np.random.default_rng(seed).integers(1, 255, (3, PATTERN, PATTERN), np.uint8)
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    form = {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel"}
    with rasterio.open(
        path, "w", "GTiff", size, size, 3, dtype="uint8", **place, **form
    ) as dataset:
        for row in range(0, size, PATTERN):
            for col in range(0, size, PATTERN):
                high, wide = min(PATTERN, size - row), min(PATTERN, size - col)
                dataset.write(pixels[:, :high, :wide], window=Window(col, row, wide, high))


def run(folder: Path, model: str, name: str, **how: Any) -> dict[str, Any]:
    """One run: seconds of wall clock and of this process, its largest memory so far."""
    pair = open_pair(folder / "t1.tif", folder / "t2.tif")
    started, cpu = time.perf_counter(), time.process_time()
    predict(pair, [folder / name], Options(model=model, overwrite=True), **how)
    return {"seconds": round(time.perf_counter() - started, 1), "cpu_s": cpu_since(cpu)} | memory()


def cpu_since(before: float) -> float:
    """Processor seconds of this process."""
    return round(time.process_time() - before, 2)


def memory() -> dict[str, int]:
    """Largest memory of this process so far."""
    return {"peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)}


def sent(dask_scheduler: Any) -> int:
    """Bytes of messages to all workers."""
    return sum(comm.byte_count for comm in dask_scheduler.stream_comms.values())


def weights(dask_worker: Any) -> int:
    """Bytes of weights that a worker was given."""
    folder = weights_folder(dask_worker)
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.exists() else 0


def loopback() -> int:
    """Bytes that processes of this machine sent each other."""
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def in_threads(folder: Path, model: str) -> dict[str, Any]:
    """The command as it is."""
    targets = Targets.of([folder / "threads.tif"], None, None)
    pair = open_pair(folder / "t1.tif", folder / "t2.tif")
    blocks = plan(resolve(pair, targets, Options(model=model)))["tiles"]
    return {"blocks": blocks} | run(folder, model, "threads.tif")


def on_workers(folder: Path, model: str, number: int, runs: int, blocks: int) -> dict[str, Any]:
    """The same on a cluster."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not have this file
    with (
        SubprocessCluster(
            n_workers=number,
            worker_kwargs={"nthreads": 1},
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(number)
        moved, streamed = loopback(), client.run_on_scheduler(sent)
        scheduler, workers = client.run_on_scheduler(time.process_time), cpu_of(client)
        name = f"{number}.tif"
        found = run(folder, model, name, mapper=dask_mapper(client))
        scheduler = client.run_on_scheduler(time.process_time) - scheduler
        found |= {
            "scheduler_cpu_s": round(scheduler, 2),
            "scheduler_ms_per_block": round(1000 * scheduler / blocks, 2),
            "scheduler_peak_MB": client.run_on_scheduler(memory)["peak_MB"],
            "worker_cpu_s": [round(b - a, 1) for a, b in zip(workers, cpu_of(client), strict=True)],
            "worker_peak_MB": [each["peak_MB"] for each in client.run(memory).values()],
            "loopback_MB": round((loopback() - moved) / 1e6, 1),
            "stream_bytes": client.run_on_scheduler(sent) - streamed,
            "weights_bytes": list(client.run(weights).values()),
            "identical": (folder / name).read_bytes() == (folder / "threads.tif").read_bytes(),
        }
        again = [run(folder, model, name, mapper=dask_mapper(client)) for _ in range(runs - 1)]
        return found | {"seconds_again": [each["seconds"] for each in again]}


def cpu_of(client: Client) -> list[float]:
    """Processor seconds of each worker."""
    return list(client.run(time.process_time).values())


def alone(function: Any, *args: Any) -> dict[str, Any]:
    """The result of a function, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found: dict[str, Any] = pool.submit(function, *args).result()
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="buildings")
    parser.add_argument("--runs", type=int, default=2, help="runs on each cluster")
    args = parser.parse_args()
    about = {"size": args.size, "model": args.model}
    print(json.dumps({"machine": machine("distributed", "torch"), **about}), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for seed, date in enumerate(("t1", "t2")):
            write(folder / f"{date}.tif", seed, args.size)
        threads = alone(in_threads, folder, args.model)
        print(json.dumps({"way": "threads", **threads}), flush=True)
        for number in args.workers:
            found = alone(on_workers, folder, args.model, number, args.runs, threads["blocks"])
            print(json.dumps({"way": f"{number} workers", **found}), flush=True)


if __name__ == "__main__":
    main()
