"""What `rscd predict` adds to the bare time of its network, and what others add.

    python benchmarks/predict_overhead.py [--size 6000] [--repeat 3] [--terratorch PYTHON]

A ResNet-18 siamese U-Net with random weights and a georeferenced pair of synthetic images. In each
repeat, in this order and each in a process of its own:

- bare: the network on the tiles of the scene, held in memory, with the best of the thread settings;
- rscd: the command as a user sees it, from start-up to mask and polygons;
- torchgeo: IntersectionDataset, GridGeoSampler, DataLoader; arrays stitched in memory and written;
- terratorch: its `tiled_inference` on the scene in memory, where an interpreter that has it is
  named.

Prints JSON: seconds of each repeat and ratios over bare, of wall clock and of processor time. On a
machine that others use too, the ratios of processor time tell more.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.features
from affine import Affine
from machine import machine
from rasterio.crs import CRS
from rasterio.windows import Window

PATCH, HALO, MULTIPLE = 512, 64, 32
STRIDE = PATCH - 2 * HALO
SHARE = 0.002
"""Of the pixels that the random network shall call changed; sets its threshold. A trained network
finds more pixels in far fewer polygons: random ones scatter, and polygons are what costs time."""

NETWORK, NETWORK_ARGS = (
    "siamese-unet",
    {"n_bands": 3, "encoder": "resnet18", "mean": [110.0] * 3, "std": [40.0] * 3},
)
TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
CRS_WKT = CRS.from_epsg(32631).to_wkt()
CORES = os.cpu_count() or 1
PATTERN = 2048
"""Side of the image that is repeated over the scene."""


def pattern() -> tuple[np.ndarray, np.ndarray]:
    """Both dates of one piece of town: (3, PATTERN, PATTERN) uint8 each.

    Smooth ground, sensor noise, a change of light, and houses of 12 to 40 pixels: three in four
    stand at both dates, the others at one.
    """
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 25, (3, PATTERN // 64, PATTERN // 64)).astype(np.float32)
    ground = 110 + coarse.repeat(64, 1).repeat(64, 2)
    dates = [ground.copy(), ground * 1.08 + 6]
    for row in range(0, PATTERN, 64):
        for col in range(0, PATTERN, 64):
            height, width = rng.integers(12, 41, 2)
            house = np.s_[:, row + 10 : row + 10 + height, col + 10 : col + 10 + width]
            colour = rng.uniform(150, 240) * rng.uniform(0.8, 1.1, (3, 1, 1))
            fate = rng.choice(["stays", "appears", "vanishes", "none"], p=[0.3, 0.05, 0.05, 0.6])
            for date, gone in zip(dates, ("appears", "vanishes"), strict=True):
                if fate not in ("none", gone):
                    date[house] = colour
    noisy = [date + rng.normal(0, 2, date.shape) for date in dates]
    t1, t2 = (np.clip(np.rint(date), 0, 255).astype(np.uint8) for date in noisy)
    return t1, t2


def make_pair(folder: Path, height: int, width: int) -> tuple[Path, Path]:
    """Write a georeferenced RGB pair as tiled GeoTIFFs, block by block."""
    paths = folder / f"t1_{height}x{width}.tif", folder / f"t2_{height}x{width}.tif"
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8",
        "crs": CRS_WKT, "transform": TRANSFORM, "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": "deflate", "predictor": 2, "zlevel": 1,
        "interleave": "pixel", "BIGTIFF": "IF_SAFER", "NUM_THREADS": "ALL_CPUS",
    }  # fmt: skip
    for path, image in zip(paths, pattern(), strict=True):
        with rasterio.open(path, "w", **profile) as dataset:
            for row in range(0, height, 512):
                for col in range(0, width, 512):
                    window = Window(col, row, min(512, width - col), min(512, height - row))
                    top, left = row % PATTERN, col % PATTERN
                    piece = image[:, top : top + window.height, left : left + window.width]
                    dataset.write(piece, window=window)
    return paths


def make_weights(path: Path, share: float = SHARE) -> None:
    """Write a random network whose threshold makes it find about `share` of a scene changed."""
    import torch

    from rscd.inference.network import save_weights
    from rscd.models.networks import build_network

    torch.manual_seed(0)
    network = build_network(NETWORK, NETWORK_ARGS).eval()
    image = torch.from_numpy(np.stack(pattern())[None, :, :, :1024, :1024].astype(np.float32))
    with torch.inference_mode():
        prob = network(image)["logits"].sigmoid().numpy()
    card = {
        "halo": HALO, "multiple": MULTIPLE, "patch_size": PATCH,
        "threshold": float(np.quantile(prob, 1 - share)),
    }  # fmt: skip
    save_weights(path, network, NETWORK, NETWORK_ARGS, card)


@dataclass(frozen=True)
class Job:
    """What every way of predicting is given."""

    t1: Path
    t2: Path
    weights: Path
    folder: Path
    size: int


@contextmanager
def clock(result: dict[str, float]) -> Iterator[None]:
    """Note wall-clock and processor seconds of this process and the children it waited for."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    yield
    result["wall_s"] = time.perf_counter() - wall
    result["cpu_s"] = _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def bare(job: Job) -> dict[str, Any]:
    """The network alone, on all tiles of the scene in memory, as loaded by rscd."""
    import torch

    from rscd.geo.scene import ScenePair
    from rscd.geo.tiles import plan_tiles
    from rscd.inference.network import load_network, loaded

    model = load_network(job.weights, "cpu", 1)
    network = loaded(model.path, model.device, model.sha256)
    pair = ScenePair.open(job.t1, job.t2)
    tiles = plan_tiles(pair.shape_hw, model.tiling.tile_size, HALO, MULTIPLE)
    images = [torch.from_numpy(pair.read(tile.read)[0][None]) for tile in tiles]

    def run(workers: int, images: list[torch.Tensor]) -> dict[str, Any]:
        threads = max(1, CORES // workers)

        def one(image: torch.Tensor) -> torch.Tensor:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                return network(image)["logits"].sigmoid()

        result: dict[str, Any] = {"setting": f"{workers} x {threads} threads"}
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, images[:workers]))  # the first call is slower
            with clock(result):
                result["tiles"] = len(list(pool.map(one, images)))
        return result

    # few calls with many threads each, or many with one: the faster setting counts
    trials = [(run(workers, images[:16])["wall_s"], workers) for workers in (1, CORES) * 2]
    return run(min(trials)[1], images) | {
        "trials_wall_s": {f"{w} at a time": round(min(t for t, x in trials if x == w), 2)
                          for w in (1, CORES)}
    }  # fmt: skip


def command(job: Job) -> dict[str, float]:
    """`rscd predict` from outside, start-up and all."""
    out = job.folder / "out"
    arguments = ["predict", job.t1, job.t2, "-m", job.weights, "-q", "--json", "--overwrite"]
    outputs = ["-o", f"{out}.tif", "-o", f"{out}.gpkg"]
    result: dict[str, float] = {}
    with clock(result):
        run = subprocess.run(
            [Path(sys.executable).with_name("rscd"), *map(str, arguments), *outputs],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    said = json.loads(run.stdout)
    return result | {name: said[name] for name in ("seconds", "n_polygons", "changed_share")}


def torchgeo_way(job: Job) -> dict[str, float]:
    """The loop that TorchGeo's documentation leads to."""
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    from rscd.inference.network import load_network, loaded

    result: dict[str, float] = {}
    with clock(result):
        model = load_network(job.weights, "cpu", CORES)
        network = loaded(model.path, model.device, model.sha256)
        dataset = RasterDataset(str(job.t1)) & RasterDataset(str(job.t2))
        sampler = GridGeoSampler(dataset, size=PATCH, stride=STRIDE)
        loader = DataLoader(dataset, sampler=sampler, collate_fn=stack_samples, num_workers=CORES)
        prob = np.zeros((job.size, job.size), np.float32)
        for sample in loader:
            image = sample["image"].unflatten(1, (2, 3))
            with torch.inference_mode():
                patch = network(image)["logits"].sigmoid()[0, 0].numpy()
            x, y, _ = sample["bounds"][0]
            col, row = (round(value) for value in ~TRANSFORM @ (x.start, y.stop))
            paste(prob, patch, row, col)
        write(job, prob, model.threshold)
    return result


def paste(prob: np.ndarray, patch: np.ndarray, row: int, col: int) -> None:
    """Lay a patch into the scene without its halo, except at the scene's edges."""
    height, width = prob.shape
    top = row + HALO if row > 0 else 0
    left = col + HALO if col > 0 else 0
    bottom = min(height, row + PATCH - HALO if row + PATCH < height else row + PATCH)
    right = min(width, col + PATCH - HALO if col + PATCH < width else col + PATCH)
    top, left = max(top, 0), max(left, 0)
    if bottom > top and right > left:
        inner = np.s_[top - row : bottom - row, left - col : right - col]
        prob[top:bottom, left:right] = patch[inner]


def terratorch_way(job: Job) -> dict[str, float]:
    """TerraTorch's tiled inference on the scene in memory."""
    import torch
    from terratorch.tasks.tiled_inference import tiled_inference

    from rscd.inference.network import load_network, loaded

    result: dict[str, float] = {}
    with clock(result):
        model = load_network(job.weights, "cpu", CORES)
        network = loaded(model.path, model.device, model.sha256)
        image = np.concatenate([rasterio.open(path).read() for path in (job.t1, job.t2)])
        with torch.inference_mode():
            logits = tiled_inference(
                lambda patch: network(patch.unflatten(1, (2, 3)))["logits"],
                torch.from_numpy(image.astype(np.float32))[None],
                crop=PATCH,
                stride=STRIDE,
                batch_size=1,
            )
        write(job, logits.sigmoid().numpy().reshape(job.size, job.size), model.threshold)
    return result


def write(job: Job, prob: np.ndarray, threshold: float) -> None:
    """Mask and polygons the ordinary way: from the whole array."""
    import geopandas

    mask = (prob >= threshold).astype(np.uint8)
    profile = {
        "driver": "COG", "height": job.size, "width": job.size, "count": 1, "dtype": "uint8",
        "crs": CRS_WKT, "transform": TRANSFORM, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(job.folder / "other.tif", "w", **profile) as dataset:
        dataset.write(mask, 1)
    regions = rasterio.features.shapes(mask, mask=mask == 1, transform=TRANSFORM)
    features = [{"geometry": region, "properties": {"change": 1}} for region, _ in regions]
    table = geopandas.GeoDataFrame.from_features(features, crs=CRS_WKT)
    table.to_file(job.folder / "other.gpkg")


WAYS = {"bare": bare, "rscd": command, "torchgeo": torchgeo_way, "terratorch": terratorch_way}


def in_process(way: str, job: Job, python: str = sys.executable) -> dict[str, Any]:
    """Run one way in a process of its own."""
    text = json.dumps({"way": way, "job": job.__dict__}, default=str)
    run = subprocess.run(
        [python, __file__, "--child", text], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def child(text: str) -> None:
    """The other end of `in_process`."""
    asked = json.loads(text)
    paths = {name: Path(asked["job"].pop(name)) for name in ("t1", "t2", "weights", "folder")}
    print(json.dumps(WAYS[asked["way"]](Job(**paths, **asked["job"]))))


def ratios(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Each way over bare: median of the ratios within a repeat, and ratio of the fastest."""
    return {
        f"{way}_over_bare": {
            f"{kind}_{name}": round(value, 3)
            for kind in ("wall", "cpu")
            for name, value in _two_ratios([run[f"{kind}_s"] for run in found],
                                           [run[f"{kind}_s"] for run in runs["bare"]]).items()
        }
        for way, found in runs.items()
        if way != "bare"
    }  # fmt: skip


def _two_ratios(times: list[float], bare_times: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(a / b for a, b in zip(times, bare_times, strict=True)),
        "fastest": min(times) / min(bare_times),
    }


def report(options: argparse.Namespace) -> dict[str, object]:
    """Make the scene, run everything, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        t1, t2 = make_pair(folder, options.size, options.size)
        weights = folder / "random.safetensors"
        make_weights(weights)
        job = Job(t1, t2, weights, folder, options.size)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
        for _ in range(options.repeat):
            for way in options.ways:
                python = options.terratorch if way == "terratorch" else sys.executable
                runs[way].append(in_process(way, job, python))
    return {
        "scene": f"{options.size} x {options.size} RGB uint8, deflate",
        "network": f"{NETWORK} {NETWORK_ARGS['encoder']}, random weights, patch {PATCH}, halo "
        f"{HALO}, threshold set for {SHARE:.1%} change",
        "runs": runs,
        "ratios": ratios(runs),
    }


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=6000, help="pixels per side")
    parser.add_argument("--repeat", type=int, default=3, help="interleaved repeats")
    parser.add_argument("--terratorch", metavar="PYTHON", help="interpreter with rscd, terratorch")
    parser.add_argument(
        "--only", metavar="WAY", action="append", choices=WAYS, help="beside bare; may be repeated"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    ways = ["bare", *(options.only or ["rscd", "torchgeo", "terratorch"])]
    options.ways = [way for way in ways if way != "terratorch" or options.terratorch]
    versions = machine("torch", "torchgeo", "segmentation-models-pytorch")
    if options.terratorch:
        versions["terratorch"] = subprocess.run(
            [options.terratorch, "-c",
             "from importlib.metadata import version; print(version('terratorch'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
    print(json.dumps({"machine": versions, **report(options)}, indent=2))


if __name__ == "__main__":
    main()
