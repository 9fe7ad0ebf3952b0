"""What `rscd predict` adds to the bare time of its network, and what others add.

    python benchmarks/predict_overhead.py [--size 6000] [--repeat 3] [--only WAY]
        [--terratorch PYTHON] [--geoai PYTHON]

A ResNet-18 siamese U-Net with random weights and a georeferenced pair of synthetic images. In each
repeat, in this order and each in a process of its own:

- bare: the network on the tiles of the scene, held in memory, with the best of the thread settings;
- rscd: the command as a user sees it, from start-up to mask and polygons;
- torchgeo: IntersectionDataset, GridGeoSampler, DataLoader; arrays stitched in memory and written;
- terratorch: its `tiled_inference` on the scene in memory, where an interpreter that has it is
  named;
- geoai: its `predict_geotiff` on a file with the bands of both dates, likewise;
- irmad, otb: `rscd predict -m irmad` and Orfeo ToolBox's MultivariateAlterationDetector on the same
  scene, no network; only where `--only` names them.

All others than bare are whole processes with start-up, and end with a mask and polygons (otb: with
its variates). Prints JSON: wall clock, processor and system seconds and peak MB of each repeat,
polygons and how many pixels of the mask differ from those of rscd, and ratios of wall clock and
processor time over bare. On a machine that others use too, those of processor time tell more.
`OMP_NUM_THREADS` limits the cores of every way.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import rasterio.features
from affine import Affine
from machine import machine
from rasterio.crs import CRS
from rasterio.windows import Window
from system_time import run as accounted

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
CORES = min(os.cpu_count() or 1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
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


def make_weights(path: Path, share: float = SHARE) -> Path:
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
    return path


@dataclass(frozen=True)
class Job:
    """What every way of predicting is given."""

    t1: Path
    t2: Path
    weights: Path
    folder: Path
    size: int
    way: str

    @property
    def mask(self) -> Path:
        """Where the way writes its mask; the polygons lie beside it."""
        return self.folder / f"{self.way}.tif"


@contextmanager
def clock(result: dict[str, float]) -> Iterator[None]:
    """Note wall-clock and processor seconds of this process."""
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    yield
    after = resource.getrusage(resource.RUSAGE_SELF)
    result["wall_s"] = time.perf_counter() - wall
    result["user_s"] = after.ru_utime - before.ru_utime
    result["system_s"] = after.ru_stime - before.ru_stime


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
                prob: torch.Tensor = network(image)["logits"].sigmoid()
                return prob

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


def command(job: Job) -> list[str]:
    """`rscd predict` from outside, start-up and all."""
    model = "irmad" if job.way == "irmad" else str(job.weights)
    rscd = str(Path(sys.executable).with_name("rscd"))
    arguments = [rscd, "predict", str(job.t1), str(job.t2), "-m", model, "-q", "--overwrite"]
    outputs = ["-o", str(job.mask), "-o", str(job.mask.with_suffix(".gpkg"))]
    return [*arguments, *outputs, "--workers", str(CORES)]


def otb(job: Job) -> list[str]:
    """Orfeo ToolBox's detector of the kind of IR-MAD, one iteration."""
    out = str(job.folder / "variates.tif")
    application = "otbcli_MultivariateAlterationDetector"
    return [application, "-in1", str(job.t1), "-in2", str(job.t2), "-out", out, "float"]


def torchgeo_way(job: Job) -> dict[str, Any]:
    """The loop that TorchGeo's documentation leads to."""
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    from rscd.inference.network import load_network, loaded

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
    return {}


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


def terratorch_way(job: Job) -> dict[str, Any]:
    """TerraTorch's tiled inference on the scene in memory."""
    import torch
    from terratorch.tasks.tiled_inference import tiled_inference

    from rscd.inference.network import load_network, loaded

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
    return {}


def geoai_way(job: Job) -> dict[str, Any]:
    """Tiled inference of geoai, which takes one raster: both dates are written into one first."""
    import torch
    from geoai.inference import predict_geotiff

    from rscd.inference.network import load_network, loaded

    class Stacked(torch.nn.Module):
        """(B,6,H,W) -> (B,1,H,W) probabilities."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            prob: torch.Tensor = network(image.unflatten(1, (2, 3)))["logits"].sigmoid()
            return prob

    model = load_network(job.weights, "cpu", CORES)
    network = loaded(model.path, model.device, model.sha256)
    both, found = str(job.folder / "both.tif"), str(job.folder / "prob.tif")
    with rasterio.open(job.t1) as t1, rasterio.open(job.t2) as t2:
        images, profile = np.concatenate([t1.read(), t2.read()]), t1.profile | {"count": 6}
    with rasterio.open(both, "w", **profile) as dataset:
        dataset.write(images)
    del images
    predict_geotiff(
        Stacked(), both, found, tile_size=PATCH, overlap=2 * HALO, batch_size=1, device="cpu",
        preprocess_fn=lambda tile: tile.astype(np.float32), verbose=False,
    )  # fmt: skip
    with rasterio.open(found) as dataset:
        write(job, dataset.read(1), model.threshold)
    return {}


def write(job: Job, prob: np.ndarray, threshold: float) -> None:
    """Mask and polygons the ordinary way: from the whole array."""
    import geopandas

    mask = (prob >= threshold).astype(np.uint8)
    profile = {
        "driver": "COG", "height": job.size, "width": job.size, "count": 1, "dtype": "uint8",
        "crs": CRS_WKT, "transform": TRANSFORM, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(job.mask, "w", **profile) as dataset:
        dataset.write(mask, 1)
    regions = rasterio.features.shapes(mask, mask=mask == 1, transform=TRANSFORM)
    features = [{"geometry": region, "properties": {"change": 1}} for region, _ in regions]
    table = geopandas.GeoDataFrame.from_features(features, crs=CRS_WKT)
    table.to_file(job.mask.with_suffix(".gpkg"))


WAYS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "bare": bare,
    "torchgeo": torchgeo_way,
    "terratorch": terratorch_way,
    "geoai": geoai_way,
}
"""What runs in a process of this script."""
COMMANDS = {"rscd": command, "irmad": command, "otb": otb}
PEERS = ("terratorch", "geoai")
"""Those that need an interpreter of their own."""


def in_process(job: Job, python: str) -> dict[str, Any]:
    """Run one way in a process of its own."""
    if job.way in COMMANDS:
        line = COMMANDS[job.way](job)
    else:
        line = [python, __file__, "--child", json.dumps(job.__dict__, default=str)]
    threads = str(CORES)
    outer = accounted(line, OMP_NUM_THREADS=threads, ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=threads)
    inner = json.loads(_found(job).read_text()) if job.way in WAYS else {}
    result = outer | inner
    return result | {"cpu_s": round(result["user_s"] + result["system_s"], 2)}


def _found(job: Job) -> Path:
    return job.folder / f"{job.way}.json"


def child(text: str) -> None:
    """The other end of `in_process`."""
    asked = json.loads(text)
    paths = {name: Path(asked.pop(name)) for name in ("t1", "t2", "weights", "folder")}
    job = Job(**paths, size=asked["size"], way=asked["way"])
    _found(job).write_text(json.dumps(WAYS[job.way](job)))


def agreement(job: Job) -> dict[str, Any]:
    """Polygons, and the share of pixels whose mask is another than that of rscd."""
    if not job.mask.exists():
        return {}
    found = {"polygons": pyogrio.read_info(job.mask.with_suffix(".gpkg"), layer=0)["features"]}
    reference = job.folder / "rscd.tif"
    if reference.exists() and job.way != "irmad":
        with rasterio.open(job.mask) as one, rasterio.open(reference) as other:
            found["pixels_that_differ"] = float((one.read(1) != other.read(1)).mean())
    return found


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
        if way not in ("bare", "irmad", "otb")
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
        # elsewhere: the peak that the kernel notes of a process begins with that of its parent
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            t1, t2 = other.submit(make_pair, folder, options.size, options.size).result()
            weights = other.submit(make_weights, folder / "random.safetensors").result()
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
        for _ in range(options.repeat):
            for way in options.ways:
                job = Job(t1, t2, weights, folder, options.size, way)
                result = in_process(job, vars(options).get(way) or sys.executable)
                runs[way].append(result | agreement(job))
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
    parser.add_argument("--geoai", metavar="PYTHON", help="interpreter with rscd, geoai-py")
    parser.add_argument(
        "--only", metavar="WAY", action="append", choices=[*WAYS, *COMMANDS],
        help="beside bare; may be repeated",
    )  # fmt: skip
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    ways = ["bare", *(options.only or ["rscd", "torchgeo", *PEERS])]
    options.ways = [way for way in ways if way not in PEERS or vars(options)[way]]
    if "otb" in ways and not shutil.which("otbcli_MultivariateAlterationDetector"):
        raise SystemExit("expected Orfeo ToolBox for otb, found none; install Debian's otb-bin")
    versions = machine("torch", "torchgeo", "segmentation-models-pytorch")
    for peer, package in zip(PEERS, ("terratorch", "geoai-py"), strict=True):
        if peer in options.ways:
            code = f"from importlib.metadata import version; print(version({package!r}))"
            versions[peer] = subprocess.run(
                [vars(options)[peer], "-c", code], check=True, capture_output=True, text=True
            ).stdout.strip()
    print(json.dumps({"machine": versions, **report(options)}, indent=2))


if __name__ == "__main__":
    main()
