"""Training-free detectors on labelled real pairs: F1, kappa, and the share called change.

Counts are pooled over all pairs of a set, each pair fitted by itself through blocks, as
``rscd predict`` does. Sets are folders ``<set>/{train,test}/{A,B,label}`` of images with labels
0 and 255, and the Landsat pair of Taizhou, whose reference has 127 for pixels without label.

    python benchmarks/detectors_on_real_pairs.py FOLDER [--models cva dcva ...] [--json FILE]
"""

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import scipy
from numpy.typing import NDArray

from rscd.evaluation.dataset import predict_pair
from rscd.inference.detectors.registry import DEEP_DETECTORS, DETECTORS
from rscd.inference.models import scene_model
from rscd.inference.shipped import SceneFacts

Pair = tuple[NDArray[np.float32], NDArray[np.uint8]]
TAIZHOU = "landsat-taizhou"


def main() -> None:
    """Print a table, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    parser.add_argument("--models", nargs="+", default=[*DETECTORS, *DEEP_DETECTORS])
    options = parser.parse_args()
    models = options.models
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    sets = [TAIZHOU, *sorted({p.parts[-3] for p in options.folder.glob("*/*/label")})]
    results = {}
    print(f"{'set':24}{'pairs':>6}{'changed':>9}" + "".join(f"{n:>28}" for n in models))
    print(f"{'':39}" + f"{'F1':>10}{'kappa':>9}{'called':>9}" * len(models))
    for name in sets:
        results[name] = evaluate(list(pairs(options.folder, name)), models)
        print(row(name, results[name], models), flush=True)
    means = {n: mean([r[n] for r in results.values()]) for n in models}
    report = {"environment": environment(), "mean_over_sets": means, "sets": results}
    print(json.dumps({k: report[k] for k in ("environment", "mean_over_sets")}))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1))


def environment() -> dict[str, object]:
    """What the numbers belong to."""
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {"machine": platform.machine(), "cpus": os.cpu_count(), "scipy": scipy.__version__} | (
        versions
    )


def mean(scores: list[dict[str, float]]) -> dict[str, float]:
    """Over the sets, each counting once."""
    return {key: float(np.mean([s[key] for s in scores])) for key in ("f1", "kappa", "seconds")}


def row(name: str, result: dict[str, Any], models: Sequence[str]) -> str:
    """One line of the table."""
    cells = [result[n] for n in models]
    scores = "".join(f"{c['f1']:10.3f}{c['kappa']:9.3f}{c['called']:9.3f}" for c in cells)
    return f"{name:24}{result['pairs']:6}{result['changed']:9.3f}{scores}"


def pairs(folder: Path, name: str) -> Iterator[Pair]:
    """Images (2, C, H, W) and masks (H, W) of 0, 1 and 255 = not labelled."""
    if name == TAIZHOU:
        home = folder / "geotiff" / TAIZHOU
        reference = _read(next(home.glob("reference*.tif")))[0]
        mask = np.select([reference == 127, reference == 255], [255, 1], 0).astype(np.uint8)
        yield np.stack([_read(next(home.glob(f"{date}_*.tif"))) for date in "AB"]), mask
        return
    for label in sorted((folder / name).glob("*/label/*.png")):
        dates = [_read(label.parents[1] / date / label.name) for date in "AB"]
        yield np.stack(dates), (_read(label)[0] > 127).astype(np.uint8)


def _read(path: Path) -> NDArray[np.float32]:
    with rasterio.open(path) as source:
        bands = list(range(1, min(source.count, 6) + 1))
        pixels: NDArray[np.float32] = source.read(bands, out_dtype="float32")
    return pixels


def evaluate(data: list[Pair], models: Sequence[str]) -> dict[str, Any]:
    """Scores of all models on one set."""
    labels = np.concatenate([mask[mask != 255] for _, mask in data])
    result: dict[str, Any] = {"pairs": len(data), "changed": float(labels.mean())}
    for name in models:
        start = time.perf_counter()
        calls = [(change(name, image), mask) for image, mask in data]
        seconds = time.perf_counter() - start
        called = np.concatenate([call[mask != 255] for call, mask in calls])
        result[name] = score(called, labels == 1) | {"seconds": seconds}
    return result


def change(name: str, image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Change mask of one pair by the automatic threshold."""
    facts = SceneFacts(image.shape[1], None, georeferenced=False, eight_bit=image.max() <= 255)
    prob, threshold = predict_pair(scene_model(name, facts), image, np.ones(image.shape[2:], bool))
    return prob >= threshold


def score(called: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """F1 of change, Cohen's kappa and share called change."""
    p, t, both = called.mean(), truth.mean(), (called & truth).mean()
    chance = p * t + (1 - p) * (1 - t)
    kappa = ((called == truth).mean() - chance) / (1 - chance)
    return {"f1": float(2 * both / (p + t)), "kappa": float(kappa), "called": float(p)}


if __name__ == "__main__":
    main()
