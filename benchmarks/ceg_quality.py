"""How good change events are as the segmentation under them gets worse.

    python benchmarks/ceg_quality.py [--towns 8] [--size 256] [--real DIR] [--plots FOLDER]

Synthetic towns with known buildings are seen through a fake segmenter that misses and invents
objects, draws ragged outlines and displaces t2. Two questions: what becomes of the pixel, instance
and mixed level as the displacement grows (IoU of change, pooled over the towns, 255 counted as no
change), and how precise is what is kept as gamma grows. With exact footprints in place of masks:
how many of the found objects are true, and how many of the true ones are found.

``--real`` adds real outlines: folders with ``building/`` and ``label/`` masks, both of one date;
buildings that touch the label are taken out of t2. The outlines are real, the change is not.
Prints JSON; ``--plots`` writes ceg_shift.png and ceg_gamma.png.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from machine import machine
from numpy.typing import NDArray
from scipy import ndimage

from rscd.data.images import read_label_values
from rscd.data.town_dataset import TownPairs
from rscd.data.towns import LAND_COVER
from rscd.pseudo.events import ChangeLabels, change_labels
from rscd.pseudo.fake import FakeSegmenter, Faults
from rscd.pseudo.polygon_events import polygon_events, repaired
from rscd.pseudo.prompts import parse_prompts
from rscd.pseudo.segmenter import View

PROMPTS = parse_prompts("building", "road,grass,tree,water")
COVERS = {"building": ["building"], "road": ["road", "paved"], "grass": ["grass", "crop"],
          "tree": ["tree"], "water": ["water"]}  # fmt: skip
SHIFTS_PX = (0, 1, 2, 3, 4, 6, 8)
LARGEST_PX = 512  # of a real mask, from its upper left corner
GAMMAS = (0.0, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
FAULTS = {
    "outlines": {"ragged_px": 1.0},
    "outlines and objects": {"ragged_px": 1.0, "missed": 0.05, "invented": 0.05, "doubt": 0.1},
}
LEVELS = ("pixel", "pixel, reliable", "instance", "mixed")

Masks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pair:
    """The truth about one pair."""

    name: str
    planes: tuple[Masks, Masks]
    """(C,H,W) of t1 and t2."""
    changed: Masks
    """(H,W)."""

    def truth(self, view: View, _: object) -> NDArray[np.float32]:
        """What a perfect segmenter would see."""
        return self.planes[view.date == "t2"].astype(np.float32)


def town_pairs(count: int, size: int) -> list[Pair]:
    """Synthetic towns; only their land cover is looked at."""
    towns = TownPairs(count, 11, size, change_share=0.3, keys=("mask", "land_cover"))
    pairs = []
    for index in range(count):
        sample = towns[index]
        covers = sample["land_cover"].numpy()
        planes = tuple(
            np.stack([np.isin(cover, [LAND_COVER[n] for n in COVERS[c]]) for c in PROMPTS.classes])
            for cover in covers
        )
        pairs.append(Pair(sample["name"], planes, sample["mask"].numpy()[0] == 1))
    return pairs


def real_pairs(folder: Path) -> list[Pair]:
    """Real building outlines, of which the damaged ones are gone at t2."""
    pairs = []
    for path in sorted(folder.glob("*/building/*.png")):
        label = path.parents[1] / "label" / path.name
        buildings, damaged = (
            read_label_values(file)[:LARGEST_PX, :LARGEST_PX] > 0 for file in (path, label)
        )
        numbers, _ = ndimage.label(buildings)
        gone = np.isin(numbers, np.unique(numbers[damaged & buildings])) & buildings
        if not gone.any():
            continue
        nothing = np.zeros_like(buildings)
        planes = tuple(
            np.stack([front, nothing, ~front, nothing, nothing])
            for front in (buildings, buildings & ~gone)
        )
        pairs.append(Pair(path.stem, planes, gone))
    return pairs


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


def iou_against_shift(pairs: Sequence[Pair], **faults: float) -> dict[str, list[float]]:
    """IoU of change of each level for each displacement."""
    found: dict[str, list[float]] = {level: [] for level in LEVELS}
    for shift in SHIFTS_PX:
        counts = {level: np.zeros(2) for level in LEVELS}
        for pair in pairs:
            labels = labels_of(pair, Faults(shift_px=shift, **faults), 0.8)
            for level, change in maps_of(labels).items():
                said = change == 1
                counts[level] += [(said & pair.changed).sum(), (said | pair.changed).sum()]
        for level in LEVELS:
            found[level].append(round(float(counts[level][0] / counts[level][1]), 4))
    return found


def precision_over_gamma(pairs: Sequence[Pair], **faults: float) -> list[dict[str, float]]:
    """Share kept, precision and recall on what is kept, for each gamma."""
    rows = []
    for gamma in GAMMAS:
        kept, pixels = 0, 0
        counts = {level: np.zeros(3) for level in ("pixel, reliable", "mixed")}
        for pair in pairs:
            labels = labels_of(pair, Faults(**faults), gamma)
            kept += int((labels.mixed != 255).sum())
            pixels += labels.mixed.size
            for level in counts:
                change = maps_of(labels)[level]
                said, true = change == 1, pair.changed & (change != 255)
                counts[level] += [(said & true).sum(), said.sum(), true.sum()]
        row = {"gamma": gamma, "kept": round(kept / pixels, 4)}
        for level, (both, said, true) in counts.items():
            row[f"{level}: precision"] = round(float(both / max(said, 1)), 4)
            row[f"{level}: recall"] = round(float(both / max(true, 1)), 4)
        rows.append(row)
    return rows


def footprints_against_shift(count: int, size: int) -> dict[str, list[float]]:
    """Objects found from exact footprints of which those of t2 are displaced."""
    towns = TownPairs(count, 11, size, change_share=0.3, keys=("buildings", "changes"))
    found: dict[str, list[float]] = {"precision": [], "recall": []}
    samples = [towns[index] for index in range(count)]
    for shift in SHIFTS_PX:
        both = said = true = 0
        for sample in samples:
            first, second = (repaired(np.array(part, object))[0] for part in sample["buildings"])
            moved = shapely.transform(second, lambda points, by=shift: points + by)
            events = polygon_events(first, moved)
            wanted = {(kind, polygon.wkb) for kind, polygon in sample["changes"]}
            got = {("vanished", first[i].wkb) for i in np.flatnonzero(events.vanished)}
            got |= {("appeared", second[i].wkb) for i in np.flatnonzero(events.appeared)}
            both, said, true = both + len(got & wanted), said + len(got), true + len(wanted)
        found["precision"].append(round(both / max(said, 1), 4))
        found["recall"].append(round(both / max(true, 1), 4))
    return found


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
    figure, axis = plt.subplots(figsize=(5.4, 3.8))
    for level in ("pixel, reliable", "mixed"):
        rows = report["gamma"]["rows"]
        kept = [row["kept"] for row in rows]
        axis.plot(kept, [row[f"{level}: precision"] for row in rows], marker="o", label=level)
    for row in report["gamma"]["rows"]:
        at = (row["kept"], row["mixed: precision"])
        axis.annotate(
            f"{row['gamma']:g}", at, xytext=(0, 6), textcoords="offset points", fontsize=7
        )
    axis.set(xlabel="share of the pixels kept (gamma beside)", ylabel="precision of change")
    axis.grid(alpha=0.3)
    axis.legend()
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
    shift = {
        name: {"faults": faults, "iou": iou_against_shift(towns, **faults)}
        for name, faults in FAULTS.items()
    }
    if options.real:
        real = [pair for folder in options.real for pair in real_pairs(folder)]
        faults = FAULTS["outlines"]
        iou = iou_against_shift(real, **faults)
        shift["real outlines"] = {"faults": faults, "pairs": [p.name for p in real], "iou": iou}
    worst = FAULTS["outlines and objects"] | {"shift_px": 2.0}
    report = {
        "machine": machine("shapely", "scipy"),
        "towns": {"number": options.towns, "size": options.size},
        "defaults": asdict(Faults()),
        "shifts_px": SHIFTS_PX,
        "shift": shift,
        "gamma": {"faults": worst, "rows": precision_over_gamma(towns, **worst)},
        "footprints": footprints_against_shift(options.towns, options.size),
    }
    if options.plots:
        plot(report, options.plots)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
