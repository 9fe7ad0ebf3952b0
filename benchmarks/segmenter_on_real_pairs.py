"""What a segmenter's change events score on labelled pairs, by level of change event generation.

    python benchmarks/segmenter_on_real_pairs.py DATASET SPLIT GSD_M [SEGMENTER [KEY=VALUE ...]]
    python benchmarks/segmenter_on_real_pairs.py --all FOLDER [SEGMENTER [KEY=VALUE ...]]

The first prints one split as JSON; SPLIT may be ``all``. The second prints a table in Markdown of
the sets of `real_pairs.SETS` in FOLDER, both splits together, beside the change map of the network
that ships at its own threshold. Counts are pooled. Pixel and instance level are counted on all
valid pixels; the mixed level on the pixels it keeps, and its recall of all change as well.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from real_pairs import SETS, SPLITS
from tables import markdown

from rscd.data.images import read_mask
from rscd.data.layout import find_layout
from rscd.evaluation.dataset import facts, labelled_folder, predict_pair
from rscd.geo.measure import ground_of
from rscd.inference.models import scene_model
from rscd.inference.shipped import SHIPPED
from rscd.labels.from_segmenter import DATES, LabelOptions, folder_pairs, labels_of, view_of
from rscd.segmenters.prompts import BACKGROUND, FOREGROUND, parse_prompts
from rscd.segmenters.segmenter import Segmenter, load_segmenter
from rscd.segmenters.stitch import segment

LEVELS = ("pixel", "instance", "mixed")


def main(root: str, *rest: str) -> None:
    """See the module."""
    whole = root == "--all"
    given = rest[1:] if whole else rest[2:]
    name = given[0] if given else "spectral"
    segmenter = load_segmenter(name, dict(text.split("=", 1) for text in given[1:]))
    if whole:
        print(markdown(*table(Path(rest[0]), segmenter)))
        return
    found = measured(Path(root), rest[0], float(rest[1]), segmenter)
    print(json.dumps({"dataset": Path(root).name, "split": rest[0], "segmenter": name} | found))


def measured(root: Path, split: str, gsd_m: float, segmenter: Segmenter) -> dict[str, Any]:
    """Segment, compare, count: pooled scores by level."""
    prompts = parse_prompts(FOREGROUND, BACKGROUND)
    rules = LabelOptions(min_object_m2=20).filled(segmenter)
    layout = find_layout(root)
    counts = {level: np.zeros(3, int) for level in LEVELS}
    kept = seen = changed = 0
    splits = SPLITS if split == "all" else (split,)
    pairs = [pair for part in splits for pair in folder_pairs(root, None, part, gsd_m=gsd_m)]
    for pair in pairs:
        dates = []
        for date in DATES:
            image = pair.read(date)
            view = view_of(image, pair.name, date, pair.gsd_m)
            dates.append(replace(segment(segmenter, view, prompts), valid=image.valid))
        labels = labels_of(dates, rules, ground_of(None, pair.gsd_m))
        part = pair.name.rpartition("/")[0]
        truth = read_mask(layout.parts[part].mask[pair.stem], "threshold") == 1
        for level, mask, where in (
            ("pixel", labels.flips, labels.valid),
            ("instance", labels.events.mask, labels.valid),
            ("mixed", labels.mixed, labels.mixed != 255),
        ):
            found = (mask == 1) & where
            true = truth & where
            counts[level] += [(found & true).sum(), (found & ~true).sum(), (~found & true).sum()]
        kept += int((labels.mixed != 255).sum())
        seen += int(labels.valid.sum())
        changed += int((truth & labels.valid).sum())
    result: dict[str, Any] = {"pairs": len(pairs), "gamma": rules.gamma}
    result["kept_by_mixed"] = round(kept / seen, 3)
    result["recall_of_all_by_mixed"] = round(int(counts["mixed"][0]) / max(changed, 1), 3)
    return result | {level: scores(*counts[level].tolist()) for level in LEVELS}


def scores(tp: int, fp: int, fn: int) -> dict[str, float]:
    """F1, IoU, precision and recall of change."""
    parts = {"iou": tp + fp + fn, "precision": tp + fp, "recall": tp + fn}
    ratios = {name: round(tp / max(total, 1), 3) for name, total in parts.items()}
    return {"f1": round(2 * tp / max(2 * tp + fp + fn, 1), 3), **ratios}


def table(folder: Path, segmenter: Segmenter) -> tuple[list[str], list[list[Any]]]:
    """Head and rows, see the module."""
    rows = []
    for name, gsd_m in SETS.items():
        found = measured(folder / name, "all", gsd_m, segmenter)
        rows.append([name, found["pairs"], network_f1(folder / name, gsd_m)])
        for level in LEVELS:
            rows[-1] += [found[level]["f1"], *_both(found[level])]
        rows[-1] += [found["kept_by_mixed"], found["recall_of_all_by_mixed"]]
    head = ["set", "pairs", "change map: F1"]
    head += [f"{level}: {what}" for level in LEVELS for what in ("F1", "precision / recall")]
    return [*head, "mixed: kept", "mixed: recall of all"], rows


def _both(found: dict[str, float]) -> list[str]:
    return [f"{found['precision']:.2f} / {found['recall']:.2f}"]


def network_f1(root: Path, gsd_m: float) -> float:
    """Of the change map of the network that ships, pooled over both splits."""
    hit = called = true = 0
    for split in SPLITS:
        data = labelled_folder(root, split)
        model = scene_model(SHIPPED, facts(data, gsd_m))
        for index in range(len(data)):
            sample = data[index]
            valid = sample["valid"][0].numpy()
            prob, threshold = predict_pair(model, sample["image"].numpy(), valid)
            found, truth = prob >= threshold, sample["mask"][0].numpy() == 1
            hit += int((found & truth).sum())
            called += int(found.sum())
            true += int(truth.sum())
    return round(2 * hit / max(called + true, 1), 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
