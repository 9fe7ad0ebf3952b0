"""What a segmenter's change events score on labelled pairs, by level of change event generation.

    python benchmarks/segmenter_on_real_pairs.py FOLDER [SEGMENTER [KEY=VALUE ...]]

prints a table in Markdown of the sets of `real_pairs.SETS` in FOLDER, both splits together, beside
the change map of the network that ships at its own threshold. Counts are pooled. Pixel and instance
level are counted on all valid pixels; the mixed level, at the segmenter's own gamma, on the pixels
it keeps, and its recall of all change as well. One set alone: rscd evaluate --segmenter.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from real_pairs import SETS, SPLITS
from tables import markdown

from rscd.evaluation.dataset import facts, labelled_folder, predict_pair
from rscd.evaluation.events import LabelledEvents, evaluate_events
from rscd.inference.models import scene_model
from rscd.inference.shipped import SHIPPED
from rscd.labels.from_segmenter import LabelOptions
from rscd.metrics.pixels import Counts, summarise
from rscd.segmenters.prompts import BACKGROUND, FOREGROUND, parse_prompts
from rscd.segmenters.segmenter import Segmenter, load_segmenter


def main(folder: str, name: str = "spectral", *options: str) -> None:
    """See the module."""
    segmenter = load_segmenter(name, dict(text.split("=", 1) for text in options))
    print(markdown(*table(Path(folder), segmenter)))


def measured(root: Path, gsd_m: float, segmenter: Segmenter) -> tuple[int, list[Counts]]:
    """Number of pairs; counts of pixel and instance level, mixed on what it keeps, mixed of all."""
    prompts = parse_prompts(FOREGROUND, BACKGROUND)
    own = LabelOptions(min_object_m2=20).filled(segmenter).gamma or 0.0
    pairs, counts = 0, [Counts.none()] * 4
    for split in SPLITS:
        data = LabelledEvents.open(root, split, gsd_m=gsd_m)
        with tempfile.TemporaryDirectory() as store:
            options = LabelOptions(min_object_m2=20)
            gammas = sorted({0.0, own})
            found = evaluate_events(data, segmenter, prompts, Path(store), options, gammas)
        parts = found.counts["pixel", 0.0][:1], found.counts["instance", None][:1]
        mixed = found.counts["mixed", own][::-1]
        new = [one for part in (*parts, mixed) for one in part]
        counts = [old + more for old, more in zip(counts, new, strict=True)]
        pairs += found.subject["pairs"]
    return pairs, counts


def table(folder: Path, segmenter: Segmenter) -> tuple[list[str], list[list[Any]]]:
    """Head and rows, see the module."""
    rows: list[list[Any]] = []
    for name, gsd_m in SETS.items():
        pairs, counts = measured(folder / name, gsd_m, segmenter)
        rows.append([name, pairs, f"{network_f1(folder / name, gsd_m):.3f}"])
        for one in map(summarise, counts[:3]):
            both = f"{one['precision']:.2f} / {one['recall']:.2f}"
            rows[-1] += [f"{one['f1_change']:.3f}", both]
        kept = sum(counts[2].true) / sum(counts[3].true)
        rows[-1] += [f"{kept:.3f}", f"{summarise(counts[3])['recall']:.3f}"]
    levels = ("pixel", "instance", "mixed")
    head = ["set", "pairs", "change map: F1"]
    head += [f"{level}: {what}" for level in levels for what in ("F1", "precision / recall")]
    return [*head, "mixed: kept", "mixed: recall of all"], rows


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
    return 2 * hit / max(called + true, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
