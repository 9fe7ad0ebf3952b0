"""How good change events are as the segmentation under them gets worse.

    python benchmarks/ceg_quality.py [--towns 8] [--size 256] [--real DIR ...] [--plots FOLDER]

Synthetic towns with known buildings are seen through a fake segmenter that misses and invents
objects, draws ragged outlines and displaces t2. Two questions: what becomes of the pixel, instance
and mixed level as the displacement grows (IoU of change, pooled over the towns, 255 counted as no
change), and how precise each level is on the pixels that gamma keeps, t2 two pixels off. With exact
footprints in place of masks: how many of the found objects are true, how many of the true ones are
found, and what hides the others.

``--real`` adds real outlines: a folder whose parts (``train/``, ``test/``) hold ``building/`` and
``label/`` masks. They are of one date only, so t2 is made up: the same buildings without those
that touch the label. The masks are read back by the ``precomputed`` segmenter, everything that is
no building as background; the outlines are real, the change and the faults are not.
Prints JSON; ``--plots`` writes ceg_shift.png and ceg_gamma.png.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from machine import machine
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from rscd.data.images import read_label_values
from rscd.events.pixels import ChangeLabels, change_labels
from rscd.events.polygons import polygon_events, repaired
from rscd.segmenters import precomputed
from rscd.segmenters.fake import FakeSegmenter, Faults, Truth
from rscd.segmenters.prompts import PromptSet, parse_prompts
from rscd.segmenters.segmenter import View
from rscd.synthetic.town_pairs import TownPairs
from rscd.synthetic.towns import LAND_COVER

PROMPTS = parse_prompts("building", "road,grass,tree,water")
COVERS = {"building": ["building"], "road": ["road", "paved"], "grass": ["grass", "crop"],
          "tree": ["tree"], "water": ["water"]}  # fmt: skip
SHIFTS_PX = (0, 1, 2, 3, 4, 6, 8)
GAMMAS = (0.0, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
FAULTS = {
    "outlines": Faults(ragged_px=1.0),
    "outlines and objects": Faults(ragged_px=1.0, missed=0.05, invented=0.05, doubt=0.1),
}
LEVELS = ("pixel", "pixel, reliable", "instance", "mixed")
ON_KEPT = ("pixel", "mixed")
"""Of a fake, the instance level is the mixed one there: its objects and its scores agree."""
SHIFT_OF_GAMMA_PX = 2.0

Masks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pair:
    """The truth about one pair."""

    name: str
    truth: Truth
    """What a perfect segmenter would see."""
    changed: Masks
    """(H,W)."""
    gone: str = ""
    """How many of the objects, for pairs whose change is made up."""


def town_pairs(count: int, size: int) -> list[Pair]:
    """Synthetic towns; only their land cover is looked at."""
    towns = TownPairs(count, 11, size, change_share=0.3, keys=("mask", "land_cover"))
    pairs = []
    for index in range(count):
        sample = towns[index]
        covers = sample["land_cover"].numpy()
        pairs.append(Pair(sample["name"], _truth_of(covers), sample["mask"].numpy()[0] == 1))
    return pairs


def _truth_of(covers: NDArray[np.int64]) -> Truth:
    """The classes that a land cover (2,H,W) shows."""

    def truth(view: View, prompts: PromptSet) -> NDArray[np.float32]:
        cover = covers[0 if view.date == "t1" else 1]
        shown = [[LAND_COVER[name] for name in COVERS[each]] for each in prompts.classes]
        return np.stack([np.isin(cover, values) for values in shown]).astype(np.float32)

    return truth


def real_pairs(folders: Sequence[Path], scratch: Path) -> list[Pair]:
    """Real building masks as t1, and without the buildings that touch the label as t2.

    Args:
        folders: with ``*/building/*.png`` and ``*/label/*.png``.
        scratch: where the masks of both dates are kept for `rscd.segmenters.precomputed`.
    """
    paths = sorted(path for folder in folders for path in folder.glob("*/building/*.png"))
    truth = precomputed.Options(str(scratch), missing="complement")
    found = [(path.stem, *_keep_dates(path, scratch)) for path in paths]
    seen = precomputed.build(truth).planes
    return [Pair(name, seen, gone, said) for name, gone, said in found if gone.any()]


def _keep_dates(path: Path, scratch: Path) -> tuple[Masks, str]:
    """Write both dates' masks of one image; (H,W) what is gone at t2, and the number of objects."""
    label = path.parents[1] / "label" / path.name
    buildings, damaged = (read_label_values(file) > 0 for file in (path, label))
    numbers, n_objects = ndimage.label(buildings, np.ones((3, 3)))
    taken = np.unique(numbers[damaged & buildings])
    gone = np.isin(numbers, taken)
    for date, mask in (("t1", buildings), ("t2", buildings & ~gone)):
        target = scratch / date / PROMPTS.classes[0] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)
    return gone, f"{len(taken)} of {n_objects}"


def labels_of(pair: Pair, faults: Faults, gamma: float) -> ChangeLabels:
    """Change labels of one pair seen through faults."""
    segmenter = FakeSegmenter(pair.truth, faults)
    rgb = np.zeros((*pair.changed.shape, 3), np.uint8)
    views = [View(rgb, pair.name, "t1"), View(rgb, pair.name, "t2")]
    return change_labels(*segmenter.predict(views, PROMPTS), gamma=gamma)


def maps_of(labels: ChangeLabels) -> dict[str, NDArray[np.uint8]]:
    """The levels by name, {0,1,255}."""
    maps = (labels.flips, labels.pixel, labels.events.mask, labels.mixed)
    return dict(zip(LEVELS, maps, strict=True))


def iou_against_shift(pairs: Sequence[Pair], faults: Faults) -> dict[str, list[float]]:
    """IoU of change of each level for each displacement."""
    found: dict[str, list[float]] = {level: [] for level in LEVELS}
    for shift in SHIFTS_PX:
        counts = {level: np.zeros(2) for level in LEVELS}
        for pair in pairs:
            labels = labels_of(pair, replace(faults, shift_px=shift), 0.8)
            for level, change in maps_of(labels).items():
                said = change == 1
                counts[level] += [(said & pair.changed).sum(), (said | pair.changed).sum()]
        for level in LEVELS:
            found[level].append(round(float(counts[level][0] / max(counts[level][1], 1)), 4))
    return found


def precision_over_gamma(pairs: Sequence[Pair], faults: Faults) -> list[dict[str, float]]:
    """Share kept, precision and recall of each level on the pixels kept, for each gamma."""
    rows = []
    for gamma in GAMMAS:
        n_kept, n_pixels = 0, 0
        counts = {level: np.zeros(3) for level in ON_KEPT}
        for pair in pairs:
            labels = labels_of(pair, faults, gamma)
            kept = labels.mixed != 255
            n_kept += int(kept.sum())
            n_pixels += kept.size
            true = pair.changed & kept
            for level in ON_KEPT:
                said = (maps_of(labels)[level] == 1) & kept
                counts[level] += [(said & true).sum(), said.sum(), true.sum()]
        row = {"gamma": gamma, "kept": round(n_kept / n_pixels, 4)}
        for level, (both, n_said, n_true) in counts.items():
            row[f"{level}: precision"] = round(float(both / max(n_said, 1)), 4)
            row[f"{level}: recall"] = round(float(both / max(n_true, 1)), 4)
        rows.append(row)
    return rows


def footprints_against_shift(count: int, size: int) -> dict[str, Any]:
    """Objects found from exact footprints of which those of t2 are displaced.

    Precision and recall for each displacement, and why objects are missed without any.
    """
    towns = TownPairs(count, 11, size, change_share=0.3, keys=("buildings", "changes"))
    samples = [towns[index] for index in range(count)]
    found: dict[str, Any] = {"precision": [], "recall": []}
    for shift in SHIFTS_PX:
        pairs = [_found_and_wanted(sample, shift) for sample in samples]
        both = sum(len(got & wanted) for got, wanted in pairs)
        found["precision"].append(round(both / max(sum(len(got) for got, _ in pairs), 1), 4))
        found["recall"].append(round(both / max(sum(len(wanted) for _, wanted in pairs), 1), 4))
    return found | {"without_displacement": dict(sum(map(_fates, samples), Counter()))}


def _footprints(sample: dict[str, Any]) -> list[NDArray[np.object_]]:
    return [repaired(np.array(date, object))[0] for date in sample["buildings"]]


def _found_and_wanted(sample: dict[str, Any], shift: float) -> tuple[set[Any], set[Any]]:
    first, second = _footprints(sample)
    events = polygon_events(first, shapely.transform(second, lambda points: points + shift))
    got = {("vanished", polygon.wkb) for polygon in first[events.vanished]}
    got |= {("appeared", polygon.wkb) for polygon in second[events.appeared]}
    return got, {(kind, polygon.wkb) for kind, polygon in sample["changes"]}


def _fates(sample: dict[str, Any]) -> Counter[str]:
    """What becomes of the true objects when nothing is displaced."""
    dates = dict(zip(("appeared", "vanished"), _footprints(sample), strict=True))
    changed = {polygon.wkb for _, polygon in sample["changes"]}
    fates = Counter[str]()
    for kind, polygon in sample["changes"]:
        others = dates[kind]  # of the date at which the object is not there
        met = others[shapely.area(shapely.intersection(others, polygon)) > 0]
        stays = any(other.wkb not in changed for other in met)
        missed = "meets a house that stays" if stays else "meets the house it replaces"
        fates[missed if len(met) else "found"] += 1
    return fates


def plot(report: dict[str, Any], folder: Path) -> None:
    """Two pictures of the report."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    panels = {name: report["shift"][name]["iou"] for name in report["shift"]}
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), sharey=True)
    for axis, (name, curves) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        for level, values in curves.items():
            axis.plot(SHIFTS_PX, values, marker="o", label=level)
        axis.set(title=name, xlabel="displacement of t2 along each axis (px)", ylim=(0, 1))
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("IoU of change")
    np.atleast_1d(axes)[-1].legend()
    figure.tight_layout()
    figure.savefig(folder / "ceg_shift.png", dpi=110)
    panels = {name: report["gamma"][name]["rows"] for name in report["gamma"]}
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), sharey=True)
    for axis, (name, rows) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        kept = [row["kept"] for row in rows]
        for level in ON_KEPT:
            axis.plot(kept, [row[f"{level}: precision"] for row in rows], marker="o", label=level)
        for row in rows[2:]:
            at = (row["kept"], row["mixed: precision"])
            axis.annotate(
                f"{row['gamma']:g}", at, xytext=(0, 6), textcoords="offset points", fontsize=7
            )
        axis.set(title=name, xlabel="share of the pixels kept (gamma beside)", ylim=(0.4, 1.05))
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("precision of change on what is kept")
    np.atleast_1d(axes)[0].legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(folder / "ceg_gamma.png", dpi=110)


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--towns", type=int, default=8, help="synthetic towns")
    parser.add_argument("--size", type=int, default=256, help="pixels per side of half a metre")
    parser.add_argument("--real", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    towns = town_pairs(options.towns, options.size)
    shift: dict[str, dict[str, Any]] = {
        name: {"faults": asdict(faults), "iou": iou_against_shift(towns, faults)}
        for name, faults in FAULTS.items()
    }
    if options.real:
        with tempfile.TemporaryDirectory() as scratch:
            real = real_pairs(options.real, Path(scratch))
            faults = FAULTS["outlines"]
            iou = iou_against_shift(real, faults)
        shift["real outlines, made-up change"] = {
            "faults": asdict(faults),
            "gone": {pair.name: pair.gone for pair in real},
            "iou": iou,
        }
    gamma = {}
    for name, outlines in FAULTS.items():
        faults = replace(outlines, shift_px=SHIFT_OF_GAMMA_PX)
        rows = precision_over_gamma(towns, faults)
        gamma[name] = {"faults": asdict(faults), "rows": rows}
    report = {
        "machine": machine("shapely", "scipy"),
        "towns": {"number": options.towns, "size": options.size},
        "shifts_px": SHIFTS_PX,
        "shift": shift,
        "gamma": gamma,
        "footprints": footprints_against_shift(options.towns, options.size),
    }
    if options.plots:
        plot(report, options.plots)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
