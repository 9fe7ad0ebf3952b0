"""How much the two dates of real pairs differ in light and tone, beside those of synthetic towns.

    python benchmarks/light_of_archives.py FOLDER [--towns 60]

FOLDER holds ``<set>/train/{A,B}``. Prints a Markdown table: medians, over the images, of mean,
standard deviation, 1st and 99th percentile of brightness (0 to 255), and the median difference of
the first two between the dates. Towns: those of ``configs/default_model.yaml``, and the same with
light as it is drawn without knobs.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from rscd.synthetic.town_pairs import TownPairs

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]

CONFIG = Path(__file__).parents[1] / "configs" / "default_model.yaml"
SETS = {"levir-cd": 1.0, "levir-cd-grid": 1.0, "fotbcd-binary": 0.4, "fotbcd-instances": 0.4}
"""Real sets, and the factor that brings their pixels to half a metre."""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--towns", type=int, default=60)
    options = parser.parse_args()
    print("| pairs | mean | deviation | 1 % | 99 % | dates differ: mean | deviation |")
    print("|---|---|---|---|---|---|---|")
    for name, factor in SETS.items():
        print(row(name, real(options.folder / name / "train", factor)))
    recipe = yaml.safe_load(CONFIG.read_text())["data"]["streams"]["train"]["init_args"]
    of_config = recipe | {"length": options.towns, "seed": 77, "patch_size": 256, "cache": None}
    plain = of_config | {"nuisance": {"strength": of_config["nuisance"]["strength"]}}
    print(row("towns as light is drawn without knobs", towns(TownPairs(**plain))))
    print(row("towns of the configuration", towns(TownPairs(**of_config))))


def real(folder: Path, factor: float) -> Iterable[Pair]:
    """Brightness of both dates of each pair."""
    for path in sorted((folder / "A").iterdir()):
        t1, t2 = (cv2.imread(str(folder / date / path.name)) for date in ("A", "B"))
        if t1 is None or t2 is None:
            raise SystemExit(f"expected pictures at {folder}/A and B, found none named {path.name}")
        shape = [max(1, round(side * factor)) for side in t1.shape[1::-1]]
        t1, t2 = (cv2.resize(t, shape, interpolation=cv2.INTER_AREA) for t in (t1, t2))
        yield brightness(t1[..., ::-1]), brightness(t2[..., ::-1])


def towns(dataset: TownPairs) -> Iterable[Pair]:
    """The same of drawn towns."""
    for index in range(len(dataset)):
        t1, t2 = np.moveaxis(dataset[index]["image"].numpy(), 1, 3)
        yield brightness(t1), brightness(t2)


def brightness(rgb: NDArray[np.generic]) -> NDArray[np.float32]:
    """(H,W) of an image (H,W,3)."""
    weights = np.asarray([0.299, 0.587, 0.114], np.float32)
    return np.asarray(rgb.astype(np.float32) @ weights, np.float32)


def row(name: str, pairs: Iterable[Pair]) -> str:
    """One line of the table."""
    found = np.asarray([[figures(date) for date in pair] for pair in pairs])
    middle = np.median(found.reshape(-1, 4), axis=0)
    apart = np.median(np.abs(found[:, 0, :2] - found[:, 1, :2]), axis=0)
    return f"| {name} ({len(found)}) | {' | '.join(f'{v:.0f}' for v in (*middle, *apart))} |"


def figures(image: NDArray[np.float32]) -> tuple[float, ...]:
    """Mean, standard deviation, 1st and 99th percentile."""
    low, high = np.percentile(image, [1, 99])
    return float(image.mean()), float(image.std()), float(low), float(high)


if __name__ == "__main__":
    main()
