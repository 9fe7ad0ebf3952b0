"""Change events between two layers of footprints: time against their number.

    python benchmarks/ceg.py [--sizes 1000,10000,100000,1000000] [--repeat 3] [--threads 2]

Footprints are rectangles and L shapes turned at random, in UTM coordinates; a tenth goes, a tenth
comes, the others are drawn again half a metre off (``redrawn``) or are the same to the last digit
(``same``), as in two editions of a cadastre. Beside the smallest number stands the dense matrix of
all pairs. Each measurement is a child process of its own: wall and processor seconds of the work
alone, and by how much the work raised the peak of resident memory. On a machine that does other
things as well, trust the processor seconds. Prints JSON.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import shapely
from machine import machine
from numpy.typing import NDArray

CELL_M = 25.0
ORIGIN = np.array([500_000.0, 5_000_000.0])  # as large as UTM coordinates are
LAYERS = {"redrawn": 0.5, "same": 0.0}


def footprints(count: int, moved_m: float) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Two dates of about ``count`` buildings each."""
    rng = np.random.default_rng(0)
    lots = round(count / 0.9)
    columns = math.ceil(math.sqrt(lots))
    centre = np.stack([np.arange(lots) % columns, np.arange(lots) // columns], axis=1) * CELL_M
    corners = outlines(rng, lots) + (centre + ORIGIN)[:, None, :]
    again = corners + rng.normal(0, moved_m, (lots, 1, 2)) if moved_m else corners
    first, second = (
        shapely.polygons(points)[rng.random(lots) < 0.9] for points in (corners, again)
    )
    return first, second


def outlines(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """(count,6,2) corners in metres about the middle: half of them L shapes, turned."""
    width, height = rng.uniform(6, 16, (2, count))
    notch_x, notch_y = np.where(rng.random(count) < 0.5, rng.uniform(0.3, 0.7, (2, count)), 1.0)
    nil = np.zeros(count)
    x = np.stack([nil, width, width, notch_x * width, notch_x * width, nil], axis=1)
    y = np.stack([nil, nil, notch_y * height, notch_y * height, height, height], axis=1)
    x, y = x - width[:, None] / 2, y - height[:, None] / 2
    turn = rng.uniform(0, math.pi, (count, 1))
    return np.stack(
        [np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y], axis=2
    )


def peak_mib() -> float:
    """Peak of resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(count: int, layer: str, threads: int, dense: bool) -> None:
    """Do the work once and print its measurements as JSON."""
    from rscd.events.polygons import polygon_events
    from rscd.geo.polygons import iou

    first, second = footprints(count, LAYERS[layer])
    before, wall, cpu = peak_mib(), time.perf_counter(), time.process_time()
    if dense:
        table = iou(first[:, None], second[None, :])
        vanished, appeared = table.sum(axis=1) <= 0, table.sum(axis=0) <= 0
    else:
        events = polygon_events(first, second, threads=threads)
        vanished, appeared = events.vanished, events.appeared
    result = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "mib": peak_mib() - before,
        "t1": len(first),
        "t2": len(second),
        "vanished": int(vanished.sum()),
        "appeared": int(appeared.sum()),
    }
    print(json.dumps(result))


def measure(
    count: int, layer: str, threads: int, repeat: int, *, dense: bool = False
) -> dict[str, float]:
    """Median seconds and largest memory over several child processes."""
    command = [sys.executable, __file__, "--child", layer, "--sizes", str(count)]
    command += ["--threads", str(threads), *(["--dense"] if dense else [])]
    runs: list[dict[str, float]] = [
        json.loads(
            subprocess.run(
                command, check=True, capture_output=True, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            ).stdout
        )
        for _ in range(repeat)
    ]  # fmt: skip
    return runs[0] | {
        "wall_s": round(statistics.median(run["wall_s"] for run in runs), 3),
        "cpu_s": round(statistics.median(run["cpu_s"] for run in runs), 3),
        "mib": round(max(run["mib"] for run in runs)),
    }


def report(sizes: list[int], threads: int, repeat: int) -> dict[str, object]:
    """All measurements, and what they say about growth and the dense matrix."""
    sparse = {
        layer: {count: measure(count, layer, threads, repeat) for count in sizes}
        for layer in LAYERS
    }
    least, most = min(sizes), max(sizes)
    dense = measure(least, "redrawn", 1, repeat, dense=True)
    single = measure(least, "redrawn", 1, repeat)
    grown = sparse["redrawn"][most]["cpu_s"] / sparse["redrawn"][least]["cpu_s"]
    return {
        "threads": threads,
        "sparse": sparse,
        "dense": {least: dense},
        "dense_over_sparse": {
            "polygons": least,
            "cpu_s": round(dense["cpu_s"] / single["cpu_s"], 1),
            "wall_s": round(dense["wall_s"] / single["wall_s"], 1),
        },
        "growth_exponent": (
            round(math.log(grown) / math.log(most / least), 3) if most > least else None
        ),
    }


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="polygons per date")
    parser.add_argument("--repeat", type=int, default=3, help="child processes per measurement")
    parser.add_argument("--threads", type=int, default=2, help="threads that intersect")
    parser.add_argument("--child", choices=LAYERS, help=argparse.SUPPRESS)
    parser.add_argument("--dense", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(part) for part in options.sizes.split(",")]
    if options.child:
        child(sizes[0], options.child, options.threads, options.dense)
        return
    found = report(sizes, options.threads, options.repeat)
    versions = machine("shapely") | {"geos": shapely.geos_version_string}
    print(json.dumps({"machine": versions, **found}, indent=2))


if __name__ == "__main__":
    main()
