"""How well shifts between the dates are estimated, and what registration is worth.

    python benchmarks/registration.py [--scenes 20] [--side 512]
    python benchmarks/registration.py --f1 [--towns 6] [--models irmad buildings]

Scenes are synthetic towns with other light, season and sensor at the dates, a fifth of the
buildings changed, and a known shift of 0.1 to 12 pixels; nothing leans. The first command prints
the error of several estimators in pixels, the second the F1 of change by shift, without and with
registration.
"""

import argparse
import json
import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from rscd import Options, open_pair, predict
from rscd.geo.registration import estimate_shift, looks, sample_boxes
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.synthetic.towns import Nuisance, TownPair, plan_town, render_town

HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
SHIFTS_PX = (0.0, 0.5, 1.0, 2.0, 4.0)
Estimate = tuple[float, float] | None


def town(seed: int, side: int, shift_px: tuple[float, float], strength: float = 1.0) -> TownPair:
    """Two dates of a town, t2 shifted."""
    drawn = Nuisance.draw(np.random.default_rng(1000 + seed), strength)
    upright = {date: replace(getattr(drawn, date), off_nadir_deg=0.0) for date in ("t1", "t2")}
    nuisance = replace(drawn, shift_px=shift_px, warp_px=0.0, **upright)
    return render_town(plan_town(seed, (side, side), 0.5, change_share=0.2), nuisance)


def written(image: NDArray[Any], folder: Path) -> tuple[Path, Path]:
    """Both dates as GeoTIFFs."""
    paths = folder / "t1.tif", folder / "t2.tif"
    for path, date in zip(paths, image, strict=True):
        bands, height, width = date.shape
        profile = {"driver": "GTiff", "dtype": date.dtype, "crs": "EPSG:32633"}
        size = {"count": bands, "height": height, "width": width, "transform": HALF_METRE}
        with rasterio.open(path, "w", **profile, **size) as dataset:
            dataset.write(date)
    return paths


def ours(pair: ScenePair) -> Estimate:
    """`rscd.geo.registration`."""
    found = estimate_shift(pair)
    return None if found is None else (found.cols, found.rows)


def _median(pair: ScenePair, one: Callable[[Any, Any], tuple[float, float]]) -> Estimate:
    windows = looks(pair, sample_boxes(pair.whole.shape_hw))
    found = np.median([one(*look.gray[:, 24:-24, 24:-24]) for look in windows], axis=0)
    return float(found[0]), float(found[1])


def opencv(pair: ScenePair) -> Estimate:
    """OpenCV's phaseCorrelate with a Hanning window, median of the windows."""

    def one(t1: Any, t2: Any) -> tuple[float, float]:
        window = cv2.createHanningWindow(t1.shape[::-1], cv2.CV_64F)
        (x, y), _ = cv2.phaseCorrelate(t1.astype(np.float64), t2.astype(np.float64), window)
        return x, y

    return _median(pair, one)


def skimage(pair: ScenePair) -> Estimate:
    """scikit-image's phase_cross_correlation, upsampled 20 times, median of the windows."""
    from skimage.registration import phase_cross_correlation

    def one(t1: Any, t2: Any) -> tuple[float, float]:
        window = np.outer(np.hanning(t1.shape[0]), np.hanning(t1.shape[1]))
        rows, cols = phase_cross_correlation(t2 * window, t1 * window, upsample_factor=20)[0]
        return float(cols), float(rows)

    return _median(pair, one)


AROSICS = """
import contextlib, json, sys, time, warnings
warnings.simplefilter("ignore")
from osgeo import gdal, ogr

@contextlib.contextmanager
def config_options(options, thread_local=True):
    for name, value in options.items():
        gdal.SetConfigOption(name, value)
    yield

if not hasattr(gdal, "config_options"):  # GDAL before 3.8
    gdal.config_options = config_options
    for kind in (gdal.Dataset, ogr.DataSource):
        kind.__enter__ = lambda self: self
    gdal.Dataset.__exit__ = lambda self, *_: self.FlushCache()
    ogr.DataSource.__exit__ = lambda self, *_: self.Destroy()
from arosics import COREG

shifts, started = [], time.process_time()
for scene in range(int(sys.argv[2])):
    paths = [f"{sys.argv[1]}/{scene}/{date}.tif" for date in ("t1", "t2")]
    try:
        found = COREG(*paths, max_shift=15, ws=(256, 256), q=True, CPUs=1)
        found.calculate_spatial_shifts()
        moved = found.coreg_info["corrected_shifts_px"]
        shifts.append((-moved["x"], -moved["y"]))
    except RuntimeError:  # no match
        shifts.append(None)
print(json.dumps({"shifts": shifts, "seconds": time.process_time() - started}))
"""

ESTIMATORS: dict[str, Callable[[ScenePair], Estimate]] = {
    "rscd": ours,
    "OpenCV phaseCorrelate, grey": opencv,
    "scikit-image, grey": skimage,
}


def errors(scenes: int, side: int, arosics: str | None) -> None:
    """The error of each estimator."""
    rng = np.random.default_rng(1)
    missed: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    unknown = dict.fromkeys(ESTIMATORS, 0)
    spent = dict.fromkeys(ESTIMATORS, 0.0)
    kept = Path(tempfile.mkdtemp())
    shifts = []
    for seed in range(scenes):
        length = float(np.exp(rng.uniform(np.log(0.1), np.log(12))))
        angle = rng.uniform(0, 2 * np.pi)
        shift = length * float(np.cos(angle)), length * float(np.sin(angle))
        shifts.append(shift)
        folder = kept / str(seed)
        folder.mkdir()
        pair = open_pair(*written(town(100 + seed, side, shift).image, folder))
        for name, estimate in list(ESTIMATORS.items()):
            started = time.process_time()
            try:
                found = estimate(pair)
            except ModuleNotFoundError as error:
                print(f"{name}: no package {error.name}, left out")
                del ESTIMATORS[name]
                continue
            spent[name] += time.process_time() - started
            if found is None:
                unknown[name] += 1
            else:
                missed[name].append(float(np.hypot(*np.subtract(found, shift))))
        close_handles()
    print("| estimator | median | 90 % | largest | below 0.15 px | not known | cpu s |")
    print("|---|---|---|---|---|---|---|")
    names = list(ESTIMATORS)
    if arosics is not None:
        name = "AROSICS COREG, one window of 256"
        code = ["-c", AROSICS, str(kept), str(scenes)]
        done = subprocess.run([arosics, *code], check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        known = [(at, shift) for at, shift in zip(told["shifts"], shifts, strict=True) if at]
        missed[name] = [float(np.hypot(*np.subtract(*one))) for one in known]
        unknown[name], spent[name] = scenes - len(known), told["seconds"]
        names.append(name)
    shutil.rmtree(kept)
    for name in names:
        far = np.array(missed[name])
        numbers = [np.median(far), np.quantile(far, 0.9), far.max()]
        row = " | ".join(f"{number:.2f}" for number in numbers)
        share = (far < 0.15).mean()
        each = spent[name] / scenes
        print(f"| {name} | {row} | {100 * share:.0f} % | {unknown[name]} | {each:.2f} |")


def scores(towns: int, side: int, models: list[str], modes: list[str], strength: float) -> None:
    """F1 by shift, with and without registration."""
    print("| model | register | " + " | ".join(f"{shift:g} px" for shift in SHIFTS_PX) + " |")
    print("|---|---|" + "---|" * len(SHIFTS_PX))
    for model in models:
        for mode in modes:
            found = [
                f"{_f1(_made(towns, side, shift, strength), model, mode):.2f}"
                for shift in SHIFTS_PX
            ]
            print(f"| {model} | {mode} | " + " | ".join(found) + " |", flush=True)


def _f1(pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]], model: str, mode: Any) -> float:
    counts = np.zeros(3)
    for made, truth in pairs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pair = open_pair(*written(made, folder))
            predict(pair, [folder / "change.tif"], Options(model=model, register=mode))
            with rasterio.open(folder / "change.tif") as dataset:
                mask = dataset.read(1)
            close_handles()
        use = (mask != 255) & (truth != 255)
        said, true = (mask == 1) & use, (truth == 1) & use
        counts += (said & true).sum(), (said & ~true).sum(), (~said & true).sum()
    hit, false, lost = counts
    return float(2 * hit / (2 * hit + false + lost))


def _made(
    towns: int, side: int, shift_px: float, strength: float
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for seed in range(towns):
        angle = 2.4 * seed + 0.7
        shift = shift_px * float(np.cos(angle)), shift_px * float(np.sin(angle))
        sample = town(seed, side, shift, strength)
        yield sample.image, np.squeeze(sample.mask)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--f1", action="store_true")
    parser.add_argument("--towns", type=int, default=6)
    parser.add_argument("--models", nargs="+", default=["irmad", "buildings"])
    parser.add_argument("--strength", type=float, default=1.0, help="of light, season, sensor")
    parser.add_argument("--arosics", metavar="PYTHON", help="an interpreter that has AROSICS")
    parser.add_argument("--modes", nargs="+", default=["off", "shift", "local"])
    options = parser.parse_args()
    logging.getLogger("rscd").setLevel(logging.ERROR)
    if options.f1:
        scores(options.towns, options.side, options.models, options.modes, options.strength)
    else:
        errors(options.scenes, options.side, options.arosics)


if __name__ == "__main__":
    main()
