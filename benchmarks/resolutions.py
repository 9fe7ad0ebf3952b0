"""F1 of change when the same labelled pairs are given at other resolutions, and in 16 bit.

    python benchmarks/resolutions.py FOLDER [--model buildings] [--splits test]
        [--metres 0.1 0.2 0.3 0.5 0.8 1.0]

FOLDER holds ``<set>/{train,test}/{A,B,label}``, see `real_pairs.SETS`. Images are brought to each
pixel size by area where they shrink and by cubic interpolation where they grow (which adds no
detail); a pixel of the label is change where at least half of it is. Then the pairs at their own
resolution with their values in 16 bit: stretched to the full range (x 257), and as reflectance
x 10000 (gamma 2.2 taken away). Counts are pooled over the splits that are named, at the
model's own threshold; the mean is that of the sets. Prints two tables in Markdown.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from real_pairs import SETS, SPLITS
from tables import markdown

from rscd.evaluation.dataset import labelled_folder, predict_pair
from rscd.inference.models import scene_model
from rscd.inference.shipped import SceneFacts

METRES = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
GAMMA = 2.2

Image = NDArray[np.float32]
"""(2,3,H,W) values of 0 to 255."""
Values = Callable[[Image], Image]

VALUES: dict[str, Values] = {
    "8 bit": lambda image: image,
    "16 bit, full range": lambda image: image * 257,
    "16 bit, reflectance x 10000": lambda image: np.rint(10000 * (image / 255) ** GAMMA),
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="buildings")
    parser.add_argument("--splits", nargs="+", default=["test"], choices=SPLITS)
    parser.add_argument("--metres", type=float, nargs="+", default=METRES)
    options = parser.parse_args()

    def row(title: str, gsd_m: float | None, values: str) -> list[Any]:
        scores = [
            f1(options.folder / name, options.splits, options.model, own, gsd_m, values)
            for name, own in SETS.items()
        ]
        return [title, *scores, float(np.mean(scores))]

    head = (*SETS, "mean")
    sizes = [row(f"{metres:g} m", metres, "8 bit") for metres in options.metres]
    print(markdown(("pixels", *head), [row("as they are", None, "8 bit"), *sizes]))
    print()
    others = [row(name, None, name) for name in VALUES if name != "8 bit"]
    print(markdown(("values", *head), others))


def f1(
    root: Path,
    splits: Sequence[str],
    name: str,
    own_m: float,
    gsd_m: float | None,
    values: str,
) -> float:
    """Pooled over splits of a set.

    Args:
        root: of the set.
        splits: of it.
        name: of the model.
        own_m: metres of its pixels.
        gsd_m: metres of the pixels that are given; None leaves them.
        values: name among `VALUES`.
    """
    wanted = own_m if gsd_m is None else gsd_m
    facts = SceneFacts(3, wanted, georeferenced=False, eight_bit=values == "8 bit")
    model = scene_model(name, facts)
    hit = called = true = 0
    for split in splits:
        data = labelled_folder(root, split)
        for index in range(len(data)):
            sample = data[index]
            image, mask = resampled(
                sample["image"].numpy(), sample["mask"][0].numpy() == 1, own_m / wanted
            )
            valid = np.ones(mask.shape, bool)
            prob, threshold = predict_pair(model, VALUES[values](image), valid)
            found = prob >= threshold
            hit += int((found & mask).sum())
            called += int(found.sum())
            true += int(mask.sum())
    return 2 * hit / max(called + true, 1)


def resampled(
    image: Image, mask: NDArray[np.bool_], factor: float
) -> tuple[Image, NDArray[np.bool_]]:
    """A pair and its label with ``factor`` times as many pixels along each side."""
    if factor == 1:
        return image, mask
    height, width = (round(side * factor) for side in mask.shape)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    dates = [
        cv2.resize(date.transpose(1, 2, 0), (width, height), interpolation=how) for date in image
    ]
    brought = np.stack([date.transpose(2, 0, 1) for date in dates])
    # of eight bit, as an archive would hold them
    brought = np.clip(np.rint(brought), 0, 255).astype(np.float32)
    linear = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=linear)
    return brought, share >= 0.5


if __name__ == "__main__":
    main()
