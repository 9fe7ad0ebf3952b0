"""Samples per second of our loader, over a bare loop of reads and over TorchGeo's data module.

    python benchmarks/loader.py [--pairs 240] [--size 256] [--workers 2] [--repeat 5]

Pictures: PNG pairs in LEVIR-CD's layout, of drawn towns, read by Pillow in a plain loop, by the
`LEVIRCDDataModule` of TorchGeo and by our data module. Scenes: one GeoTIFF pair with polygon
labels, random patches read by rasterio in a plain loop, by TorchGeo's `RasterDataset`s and by ours.
The bare loops only decode, in one process; the loaders also make batches of float tensors. All are
measured in turn, `--repeat` times; the ratios are medians over the turns. Prints JSON.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
import torch
from affine import Affine
from machine import machine
from PIL import Image
from rasterio.windows import Window
from torch.utils.data import DataLoader
from torchgeo.datamodules import LEVIRCDDataModule
from torchgeo.datasets import RasterDataset, stack_samples
from torchgeo.samplers import RandomGeoSampler

from rscd.synthetic.town_pairs import TownPairs
from rscd.training.module import ChangeDataModule

BATCH = 8
FOLDERS = ("A", "B", "label")


def town_pixels(size: int) -> list[np.ndarray[Any, Any]]:
    """(3,size,size,...) as t1, t2, mask of one drawn town."""
    towns = TownPairs(seed=1, patch_size=size, change_share=0.5)
    sample = next(s for s in (towns[i] for i in range(20)) if s["label"])
    t1, t2 = (np.moveaxis(date.astype(np.uint8), 0, 2) for date in sample["image"].numpy())
    return [t1, t2, (sample["mask"][0].numpy() * 255).astype(np.uint8)]


def make_pictures(root: Path, pairs: int, size: int) -> None:
    """A/ B/ label/ with train_*.png and one val_0.png; one town, shifted from pair to pair."""
    pixels = town_pixels(size)
    rng = np.random.default_rng(0)
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    for name in [f"train_{i}" for i in range(pairs)] + [f"val_{i}" for i in range(BATCH)]:
        shift = tuple(rng.integers(0, size, 2))
        for folder, image in zip(FOLDERS, pixels, strict=True):
            shown = np.roll(image, shift, axis=(0, 1))
            Image.fromarray(shown).save(root / folder / f"{name}.png")


def make_scene(root: Path, side: int) -> None:
    """t1.tif, t2.tif, mask.tif of `side` pixels (tiled, deflated) and the mask's polygons."""
    pixels = town_pixels(512)
    count = -(-side // 512)
    transform = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    profile = {
        "driver": "GTiff", "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32633",
        "transform": transform, "tiled": True, "blockxsize": 256, "blockysize": 256,
        "compress": "deflate",
    }  # fmt: skip
    for name, image in zip(("t1", "t2", "mask"), pixels, strict=True):
        bands = np.moveaxis(image, 2, 0) if image.ndim == 3 else image[None] // 255
        whole = np.tile(bands, (1, count, count))[:, :side, :side]
        with rasterio.open(root / f"{name}.tif", "w", count=len(bands), **profile) as file:
            file.write(whole)
    found = rasterio.features.shapes(whole[0], mask=whole[0] == 1, transform=transform)
    shapes = [shapely.geometry.shape(region) for region, _ in found]
    geopandas.GeoDataFrame(geometry=shapes, crs="EPSG:32633").to_file(root / "change.gpkg")


def bare_pictures(root: Path) -> int:
    """Decode every training pair with Pillow."""
    files = sorted((root / "A").glob("train_*.png"))
    for file in files:
        for folder in FOLDERS:
            with Image.open(root / folder / file.name) as image:
                np.asarray(image)
    return len(files)


def bare_scene(root: Path, patches: list[tuple[int, int]], size: int) -> int:
    """Decode the same windows of t1, t2 and the mask with rasterio."""
    with (
        rasterio.open(root / "t1.tif") as t1,
        rasterio.open(root / "t2.tif") as t2,
        rasterio.open(root / "mask.tif") as mask,
    ):
        for row, col in patches:
            window = Window(col, row, size, size)
            for file in (t1, t2, mask):
                file.read(window=window)
    return len(patches)


def drained(loader: Iterable[Any]) -> int:
    """Samples of one pass."""
    return sum(len(batch["image"]) for batch in loader)


def ours(stream: dict[str, Any], workers: int) -> Callable[[], int]:
    """A pass of our data module's training loader."""
    module = ChangeDataModule({"train": stream}, batch_size=BATCH, num_workers=workers)
    module.setup("fit")
    loader = module.train_dataloader().iterables["train"]
    return lambda: drained(loader)


def torchgeo_pictures(root: Path, workers: int) -> Callable[[], int]:
    """A pass of the loader of TorchGeo's own module; its augmentation is not part of it."""
    module = LEVIRCDDataModule(
        batch_size=BATCH, num_workers=workers, root=str(root), download=False
    )
    module.setup("fit")
    loader = module.train_dataloader()
    return lambda: drained(loader)


class _T1(RasterDataset):
    filename_glob = "t1.tif"


class _T2(RasterDataset):
    filename_glob = "t2.tif"


class _Mask(RasterDataset):
    filename_glob = "mask.tif"
    is_image = False


def torchgeo_scene(root: Path, size: int, count: int, workers: int) -> Callable[[], int]:
    """A pass over an intersection of TorchGeo's datasets; its labels are a raster."""
    dataset = _T1(root) & _T2(root) & _Mask(root)
    sampler = RandomGeoSampler(dataset, size, count)
    loader = DataLoader(
        dataset, BATCH, sampler=sampler, num_workers=workers, collate_fn=stack_samples,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return lambda: drained(loader)


def in_turn(runs: dict[str, Callable[[], int]], repeat: int) -> dict[str, Any]:
    """Samples per second of each, and ours over the others, turn by turn."""
    for run in runs.values():
        run()  # workers start, files are cached
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat):
        for name, run in runs.items():
            start = time.perf_counter()
            count = run()
            rates[name].append(count / (time.perf_counter() - start))
    ratios = {
        f"ours over {name}": [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
        for name in runs
        if name != "ours"
    }
    return {
        "samples_per_s": {k: round(statistics.median(v), 1) for k, v in rates.items()},
        "ratios": {k: round(statistics.median(v), 2) for k, v in ratios.items()},
        "ratios_lowest": {k: round(min(v), 2) for k, v in ratios.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    count = args.pairs // BATCH * BATCH
    with tempfile.TemporaryDirectory() as folder:
        pictures, scene = Path(folder) / "pictures", Path(folder) / "scene"
        scene.mkdir()
        make_pictures(pictures, count, args.size)
        make_scene(scene, 4096)
        rng = np.random.default_rng(0)
        corners = (rng.integers(0, 4096 - args.size, 2).tolist() for _ in range(count))
        patches = [(row, col) for row, col in corners]
        folder_stream = {
            "class_path": "rscd.data.folder.PairFolder",
            "init_args": {"root": str(pictures), "split": "train", "keys": ["image", "mask"]},
        }
        scene_stream = {
            "class_path": "rscd.data.scenes.ScenePairs",
            "init_args": {
                "scenes": [{"t1": str(scene / "t1.tif"), "t2": str(scene / "t2.tif"),
                            "labels": str(scene / "change.gpkg")}],
                "keys": ["image", "mask"],
            },
            "patch_size": args.size,
            "length": count,
        }  # fmt: skip
        results = {
            "pictures": in_turn({
                "bare Pillow loop": lambda: bare_pictures(pictures),
                "TorchGeo's data module": torchgeo_pictures(pictures, args.workers),
                "ours": ours(folder_stream, args.workers),
            }, args.repeat),
            "scenes": in_turn({
                "bare rasterio loop": lambda: bare_scene(scene, patches, args.size),
                "TorchGeo's datasets": torchgeo_scene(scene, args.size, count, args.workers),
                "ours": ours(scene_stream, args.workers),
            }, args.repeat),
        }  # fmt: skip
    settings = {**vars(args), "batch_size": BATCH}
    found = machine("torch", "torchgeo", "lightning", "pillow", "opencv-python-headless")
    print(json.dumps({**results, "settings": settings, "machine": found}, indent=2))


if __name__ == "__main__":
    main()
