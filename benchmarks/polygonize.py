"""Polygons of a mask on disk against `rasterio.features.shapes` on the whole array.

    python benchmarks/polygonize.py [--size 12000] [--repeat 3]

Each measurement is a child process of its own: wall and processor seconds of the work alone, and by
how much the work raised the peak of resident memory. On a machine that does other things as well,
trust the processor seconds. Prints JSON.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window
from scipy import ndimage

STRIP = 512
TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)


def make_scene(folder: Path, size: int, sigma: float, share: float) -> None:
    """Mask and probability of random blobs, written strip by strip."""
    profile = {
        "width": size, "height": size, "count": 1, "driver": "GTiff", "tiled": True,
        "blockxsize": 512, "blockysize": 512, "crs": CRS.from_epsg(32631), "transform": TRANSFORM,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    with (
        rasterio.open(folder / "mask.tif", "w", dtype="uint8", nodata=255, **profile) as mask,
        rasterio.open(folder / "prob.tif", "w", dtype="float32", **profile) as prob,
    ):
        for row in range(0, size, STRIP):
            height = min(STRIP, size - row)
            noise = rng.standard_normal((height, size), dtype=np.float32)
            field = ndimage.gaussian_filter(noise, sigma, mode="reflect")
            limit = np.quantile(field, 1 - share)
            changed = (field > limit).astype(np.uint8)
            changed[:, : size // 50] = 255  # a border without data
            window = Window(0, row, size, height)
            mask.write(changed, 1, window=window)
            prob.write(1 / (1 + np.exp(-field / field.std())), 1, window=window)


def whole_array(folder: Path) -> int:
    """The yardstick: read everything, keep the GeoJSON-like polygons."""
    with rasterio.open(folder / "mask.tif") as dataset:
        mask = dataset.read(1)
    return len(list(rasterio.features.shapes(mask, mask=mask == 1, transform=TRANSFORM)))


def whole_array_shapely(folder: Path) -> int:
    """The same, with shapely geometries as users make them."""
    with rasterio.open(folder / "mask.tif") as dataset:
        mask = dataset.read(1)
    found = rasterio.features.shapes(mask, mask=mask == 1, transform=TRANSFORM)
    return len([shapely.geometry.shape(region) for region, _ in found])


def streamed(folder: Path) -> int:
    """`trace`: from the file, by lines, to shapely geometries in order."""
    from rscd.geo.polygons import trace

    return len(trace(folder / "mask.tif"))


def streamed_mean(folder: Path) -> int:
    """`trace` and `mean_under`: the polygons with their scores."""
    from rscd.geo.polygons import mean_under, trace

    return len(mean_under(trace(folder / "mask.tif"), folder / "prob.tif"))


def table(folder: Path) -> int:
    """`change_polygons`: also areas and simplification by one metre."""
    from rscd.export.vector import change_polygons
    from rscd.geo.measure import Ground

    paths = folder / "mask.tif", folder / "prob.tif"
    ground = Ground(CRS.from_epsg(32631), TRANSFORM)
    return len(change_polygons(*paths, ground, min_area_m2=1, simplify_m=1))


WORK: dict[str, Callable[[Path], int]] = {
    work.__name__: work
    for work in (whole_array, whole_array_shapely, streamed, streamed_mean, table)
}


def peak_mib() -> float:
    """Peak of resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(name: str, folder: Path) -> None:
    """Run one piece of work and print its measurements as JSON."""
    import rscd.export.vector  # noqa: F401  imports are not what is measured

    before, wall, cpu = peak_mib(), time.perf_counter(), time.process_time()
    polygons = WORK[name](folder)
    result = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "mib": peak_mib() - before,
        "polygons": polygons,
    }
    print(json.dumps(result))


def measure(name: str, folder: Path, repeat: int) -> dict[str, float]:
    """Median seconds and largest memory over several child processes."""
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, __file__, "--child", name, "--folder", str(folder)],
                check=True, capture_output=True, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            ).stdout
        )
        for _ in range(repeat)
    ]  # fmt: skip
    return {
        "wall_s": round(statistics.median(run["wall_s"] for run in runs), 2),
        "cpu_s": round(statistics.median(run["cpu_s"] for run in runs), 2),
        "mib": round(max(run["mib"] for run in runs)),
        "polygons": runs[0]["polygons"],
    }


def report(size: int, repeat: int, sigma: float, share: float) -> dict[str, object]:
    """Measurements and ratios of one scene."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_scene(folder, size, sigma, share)
        results = {name: measure(name, folder, repeat) for name in WORK}
    return {
        "size": size,
        "blobs": {"sigma_px": sigma, "share": share},
        "results": results,
        "trace_over_shapes": ratios(results["streamed"], results["whole_array"]),
        "trace_over_shapes_with_shapely": ratios(
            results["streamed"], results["whole_array_shapely"]
        ),
    }


def ratios(mine: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """Ours over the yardstick: below 1 is faster, or less."""
    return {name: round(mine[name] / base[name], 2) for name in ("wall_s", "cpu_s", "mib")}


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=12_000, help="pixels per side")
    parser.add_argument("--repeat", type=int, default=3, help="child processes per measurement")
    parser.add_argument("--sigma", type=float, default=12.0, help="blob size in pixels")
    parser.add_argument("--share", type=float, default=0.03, help="share of changed pixels")
    parser.add_argument("--child", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder)
        return
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "gdal": rasterio.__gdal_version__,
    } | {name: version(name) for name in ("rasterio", "shapely", "numpy", "rscd")}
    scene = report(options.size, options.repeat, options.sigma, options.share)
    print(json.dumps({"machine": machine, **scene}, indent=2))


if __name__ == "__main__":
    main()
