"""What a segmenter's change events score on labelled pairs, pooled over a split, as JSON.

    python benchmarks/segmenter_on_real_pairs.py DATASET SPLIT GSD_M [SEGMENTER [KEY=VALUE ...]]

Pixel and instance level over all valid pixels; the mixed level over the pixels it keeps.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from rscd.data.images import read_mask
from rscd.data.layout import find_layout
from rscd.geo.measure import ground_of
from rscd.labels.from_segmenter import DATES, LabelOptions, folder_pairs, labels_of, view_of
from rscd.segmenters.prompts import BACKGROUND, FOREGROUND, parse_prompts
from rscd.segmenters.segmenter import load_segmenter
from rscd.segmenters.stitch import segment

LEVELS = ("pixel", "instance", "mixed")


def scores(tp: int, fp: int, fn: int) -> dict[str, float]:
    """IoU, precision and recall of change."""
    parts = {"iou": tp + fp + fn, "precision": tp + fp, "recall": tp + fn}
    return {name: round(tp / max(total, 1), 3) for name, total in parts.items()}


def main(root: str, split: str, gsd: str, backend: str = "spectral", *options: str) -> None:
    """Segment, compare, count."""
    segmenter = load_segmenter(backend, dict(text.split("=", 1) for text in options))
    prompts = parse_prompts(FOREGROUND, BACKGROUND)
    rules = LabelOptions(min_object_m2=20).filled(segmenter)
    layout = find_layout(Path(root))
    counts = {level: np.zeros(3, int) for level in LEVELS}
    kept = seen = 0
    pairs = folder_pairs(Path(root), None, split, gsd_m=float(gsd))
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
    result = {"dataset": Path(root).name, "split": split, "backend": backend, "pairs": len(pairs)}
    result |= {"gamma": rules.gamma, "kept_by_mixed": round(kept / seen, 3)}
    result |= {level: scores(*counts[level].tolist()) for level in LEVELS}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
