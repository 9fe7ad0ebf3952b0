"""How well shifts between the dates are estimated, and what registration is worth.

    python benchmarks/registration.py [--scenes 20] [--side 512]
    python benchmarks/registration.py --f1 [--towns 6] [--models irmad buildings]

Scenes are synthetic towns with other light, season and sensor at the dates, a fifth of the
buildings changed, and a known shift of 0.1 to 12 pixels; nothing leans. The first command prints
the error of several estimators in pixels, the second the F1 of change by shift: without
registration, with it, with the shift that is true (``known``), and where t2 was corrected by
AROSICS before. A star stands for each scene that was compared as it is, its shift being unclear.
"""

import argparse
import itertools
import json
import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from rscd import Options, open_pair, predict
from rscd.base.errors import SceneError
from rscd.geo.register import MODES, Register
from rscd.geo.registration import estimate_shift, looks, sample_boxes
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.synthetic.towns import Nuisance, Town, TownPair, plan_town, render_town

HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
SHIFTS_PX = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
AROSICS_MODES = ("arosics", "arosics_local")
"""As `with_arosics.py` names what it writes."""
EDGE_PX = 24
"""No F1 is counted so near to the edge, where a moved date may have no data."""
Estimate = tuple[float, float] | None


def town_and_nuisance(
    seed: int, side: int, shift_px: tuple[float, float], strength: float = 1.0
) -> tuple[Town, Nuisance]:
    """A town and what differs between its dates besides: nothing leans, t2 is shifted."""
    drawn = Nuisance.draw(np.random.default_rng(1000 + seed), strength)
    upright = {date: replace(getattr(drawn, date), off_nadir_deg=0.0) for date in ("t1", "t2")}
    nuisance = replace(drawn, shift_px=shift_px, warp_px=0.0, **upright)
    return plan_town(seed, (side, side), 0.5, change_share=0.2), nuisance


def town(seed: int, side: int, shift_px: tuple[float, float], strength: float = 1.0) -> TownPair:
    """Two dates of a town, t2 shifted."""
    return render_town(*town_and_nuisance(seed, side, shift_px, strength))


def random_shift(rng: np.random.Generator) -> tuple[float, float]:
    """Columns and rows of 0.1 to 12 pixels, small ones as often as large ones."""
    length = float(np.exp(rng.uniform(np.log(0.1), np.log(12))))
    angle = rng.uniform(0, 2 * np.pi)
    return length * float(np.cos(angle)), length * float(np.sin(angle))


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


def arosics(python: str, what: str, folders: Sequence[Path]) -> Any:
    """What `with_arosics.py` answers, and its processor seconds."""
    command = [python, str(Path(__file__).with_name("with_arosics.py")), what]
    done = subprocess.run([*command, *map(str, folders)], check=True, stdout=subprocess.PIPE)
    told = json.loads(done.stdout.splitlines()[-1])
    return told["found"], told["seconds"]


ESTIMATORS: dict[str, Callable[[ScenePair], Estimate]] = {
    "rscd": ours,
    "OpenCV phaseCorrelate, grey": opencv,
    "scikit-image, grey": skimage,
}


def errors(scenes: int, side: int, python: str | None) -> None:
    """The error of each estimator."""
    rng = np.random.default_rng(1)
    missed: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    unknown = dict.fromkeys(ESTIMATORS, 0)
    spent = dict.fromkeys(ESTIMATORS, 0.0)
    kept = Path(tempfile.mkdtemp())
    shifts = []
    for seed in range(scenes):
        shift = random_shift(rng)
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
    if python is not None:
        name = "AROSICS COREG, one window of 256"
        told, spent[name] = arosics(python, "shifts", [kept / str(n) for n in range(scenes)])
        known = [(at, shift) for at, shift in zip(told, shifts, strict=True) if at]
        missed[name] = [float(np.hypot(*np.subtract(*one))) for one in known]
        unknown[name] = scenes - len(known)
        names.append(name)
    shutil.rmtree(kept)
    for name in names:
        far = np.array(missed[name])
        numbers = [np.median(far), np.quantile(far, 0.9), far.max()]
        row = " | ".join(f"{number:.2f}" for number in numbers)
        share = (far < 0.15).mean()
        each = spent[name] / scenes
        print(f"| {name} | {row} | {100 * share:.0f} % | {unknown[name]} | {each:.2f} |")


@dataclass(frozen=True)
class Scene:
    """Two dates on disk, and what is true of them."""

    folder: Path
    truth: NDArray[np.uint8]
    """(H,W) 1 where a building exists at one date only."""
    shift_px: tuple[float, float]

    def pair(self, mode: str) -> tuple[ScenePair, Register] | None:
        """What is compared: both dates and the value of ``--register``; None: not corrected."""
        t1, t2 = self.folder / "t1.tif", self.folder / "t2.tif"
        if mode == "known":
            return open_pair(t1, t2).registered("t2", self.shift_px), "off"
        if mode in MODES:
            return open_pair(t1, t2), mode
        corrected = self.folder / f"{mode}.tif"
        return (open_pair(t1, corrected), "off") if corrected.exists() else None


def scores(
    kept: Path, towns: int, side: int, models: list[str], modes: list[str],
    strengths: list[float], python: str | None,
) -> None:  # fmt: skip
    """F1 by shift, with and without registration."""
    print("| model | light | register | " + " | ".join(f"{by:g} px" for by in SHIFTS_PX) + " |")
    print("|---|---|---|" + "---|" * len(SHIFTS_PX))
    for strength in strengths:
        scenes = {by: _scenes(kept / f"{strength}", towns, side, by, strength) for by in SHIFTS_PX}
        if python is not None:
            folders = [scene.folder for some in scenes.values() for scene in some]
            failed, _ = arosics(python, "correct", folders)
            for path in (path for folder in folders for path in folder.glob("arosics*.tif")):
                with rasterio.open(path, "r+") as dataset:
                    dataset.nodata = 0  # with which AROSICS fills the edge, and does not say so
            print(f"not corrected: {failed}" if failed else "", end="")
        shown = [*modes, *(AROSICS_MODES if python is not None else ())]
        for model, mode in itertools.product(models, shown):
            found = [_f1(scenes[by], model, mode) for by in SHIFTS_PX]
            cells = " | ".join(f"{f1:.2f}{'*' * unknown}" for f1, unknown in found)
            print(f"| {model} | {strength:g} | {mode} | {cells} |", flush=True)


def _f1(scenes: Sequence[Scene], model: str, mode: str) -> tuple[float, int]:
    """F1 away from the edges, where every way has data; how many stay as they are."""
    counts, unknown = np.zeros(3), 0
    inner = (slice(EDGE_PX, -EDGE_PX), slice(EDGE_PX, -EDGE_PX))
    for scene in scenes:
        path = scene.folder / "change.tif"
        try:
            given = scene.pair(mode)
            if given is None:
                raise SceneError("not corrected")
            predict(given[0], [path], Options(model=model, register=given[1], overwrite=True))
        except SceneError:
            unknown += 1
            predict(
                open_pair(scene.folder / "t1.tif", scene.folder / "t2.tif"),
                [path], Options(model=model, overwrite=True),
            )  # fmt: skip
        with rasterio.open(path) as dataset:
            mask = dataset.read(1)
        close_handles()
        said, true = mask[inner] == 1, scene.truth[inner] == 1
        counts += (said & true).sum(), (said & ~true).sum(), (~said & true).sum()
    hit, false, lost = counts
    return float(2 * hit / (2 * hit + false + lost)), unknown


def _scenes(kept: Path, towns: int, side: int, shift_px: float, strength: float) -> list[Scene]:
    """The same towns in the same light for every shift."""
    made = []
    for seed in range(towns):
        angle = 2.4 * seed + 0.7
        shift = shift_px * float(np.cos(angle)), shift_px * float(np.sin(angle))
        sample = town(seed, side, shift, strength)
        folder = kept / f"{shift_px:g}" / str(seed)
        folder.mkdir(parents=True)
        written(sample.image, folder)
        made.append(Scene(folder, np.squeeze(sample.mask), shift))
    return made


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--f1", action="store_true")
    parser.add_argument("--towns", type=int, default=6)
    parser.add_argument("--models", nargs="+", default=["irmad", "buildings"])
    parser.add_argument(
        "--strength", type=float, nargs="+", default=[1.0], help="of light, season, sensor"
    )
    parser.add_argument("--arosics", metavar="PYTHON", help="an interpreter that has AROSICS")
    parser.add_argument("--modes", nargs="+", default=[*MODES, "known"])
    options = parser.parse_args()
    logging.getLogger("rscd").setLevel(logging.ERROR)
    if options.f1:
        with tempfile.TemporaryDirectory() as kept:
            scores(
                Path(kept), options.towns, options.side, options.models, options.modes,
                options.strength, options.arosics,
            )  # fmt: skip
    else:
        errors(options.scenes, options.side, options.arosics)


if __name__ == "__main__":
    main()
