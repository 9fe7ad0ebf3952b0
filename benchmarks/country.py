"""What a country costs, from figures of the other benchmarks, and what merging its polygons takes.

    python benchmarks/country.py --cpu-s 7 [--km2 100000] [--gsd 0.5] [--tile 896] [--merge 200000]

Arithmetic alone: pixels, blocks, core hours, bytes to read and to keep while it runs, and how many
cores one scheduler and one command keep busy. `--cpu-s` are processor seconds per megapixel of the
model (`stages.py`); `--scheduler-ms` and `--command-ms` processor milliseconds per block of the
scheduler and of the command (`cluster.py`).

With `--merge N` N square polygons of 100 overlapping scenes are brought into one layer without
doubles, as `rscd batch` does at its end: processor seconds and largest memory per polygon, measured
in this process. Prints a table.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import shapely
from pyproj import CRS
from tables import markdown

from rscd.export.vector import write_vector
from rscd.geo.doubles import Found, without_doubles
from rscd.geo.table import feature_table

BYTES_READ = 6
"""Per pixel: two dates, three bands of one byte, uncompressed."""
BYTES_KEPT = 7
"""Per pixel while it runs: probability, mask, and buildings of either date."""


def costs(options: argparse.Namespace) -> list[list[object]]:
    """Rows of the table."""
    megapixels = options.km2 / options.gsd**2
    blocks = megapixels * 1e6 / options.tile**2
    block_s = options.cpu_s * options.tile**2 / 1e6
    return [
        ["pixels of a date", f"{megapixels * 1e6:.1e}"],
        ["blocks", f"{blocks:,.0f}"],
        ["core hours", f"{megapixels * options.cpu_s / 3600:,.0f}"],
        ["to read, uncompressed, TB", f"{megapixels * BYTES_READ / 1e6:.1f}"],
        ["scratch, if it were one scene, TB", f"{megapixels * BYTES_KEPT / 1e6:.1f}"],
        ["scratch of a scene of 20,000 x 20,000, GB", f"{400 * BYTES_KEPT / 1000:.1f}"],
        ["core seconds of a block", f"{block_s:.1f}"],
        ["cores that one scheduler serves", f"{1000 * block_s / options.scheduler_ms:.0f}"],
        ["cores that one command serves", f"{1000 * block_s / options.command_ms:.0f}"],
    ]


def merged(count: int) -> list[list[object]]:
    """Processor time and memory of the layer over all pairs."""
    rng = np.random.default_rng(0)
    pair = np.repeat(np.arange(100), -(-count // 100))[:count]
    left = pair * 8_000.0 + rng.uniform(0, 10_000, count)  # a fifth over the next scene
    low = rng.uniform(0, 10_000, count)
    day = np.full(count, np.datetime64("2020-01-01"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = time.process_time()
    polygons = shapely.box(left, low, left + 12, low + 9)
    names, kinds = pair.astype(str), np.full(count, "appeared")
    scores = rng.uniform(0, 1, count)
    keep = without_doubles(Found(polygons, names, kinds, day, day + 365, scores))
    columns = {
        "id": np.arange(1, keep.sum() + 1), "kind": kinds[keep], "class": "building",
        "score": scores[keep], "area_m2": 108.0, "t1": None, "t2": None, "model": "buildings",
    }  # fmt: skip
    table = feature_table(columns, polygons[keep], CRS("EPSG:32633"))
    with tempfile.TemporaryDirectory() as folder:
        write_vector(table, Path(folder) / "change.gpkg", provenance={})
    cpu = time.process_time() - cpu
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return [
        [f"merging {count:,} polygons, cpu s", f"{cpu:.1f}"],
        ["per million, cpu s", f"{cpu / count * 1e6:.0f}"],
        ["per million, GB", f"{grown / count / 1000:.1f}"],
    ]


def main() -> None:
    """Compute, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--km2", type=float, default=100_000)
    parser.add_argument("--gsd", type=float, default=0.5, help="metres")
    parser.add_argument("--tile", type=int, default=896, help="side of a block in pixels")
    parser.add_argument("--cpu-s", type=float, required=True, help="per megapixel")
    parser.add_argument("--scheduler-ms", type=float, default=41, help="per block")
    parser.add_argument("--command-ms", type=float, default=110, help="per block")
    parser.add_argument("--merge", type=int, default=0, metavar="N")
    options = parser.parse_args()
    rows = costs(options) + (merged(options.merge) if options.merge else [])
    print(markdown(["", ""], rows))


if __name__ == "__main__":
    main()
