"""Whether colour infrared images are told from true colour, and what they cost.

    python benchmarks/colour_infrared.py --data FOLDER [--towns 20] [--f1 MODEL]

Counts, by kind of images, how often `rscd.inference.near_infrared` would warn. True colour: all
pairs of FOLDER (``<set>/{train,test}/{A,B}``), all pictures of one date of its
``buildings-single-date`` (each with itself), towns of 8 and of 16 bit. Colour infrared (near
infrared, red, green): windows of 180 pixels of the NAIP rasters in ``geotiff/naip`` by all pairs of
dates, and towns with a near infrared band. With ``--f1`` also F1 of change on these towns both
ways. Prints tables in Markdown.
"""

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from tables import markdown

from rscd.evaluation.dataset import predict_pair
from rscd.inference.models import scene_model
from rscd.inference.near_infrared import infrared, looks_of
from rscd.inference.shipped import SceneFacts
from rscd.synthetic.town_pairs import TownPairs

Pair = NDArray[np.float32]
"""(2,3,H,W) raw values."""

SEED = 4711
WINDOW = 180
INFRARED = [3, 0, 1]
"""Of bands in the order red, green, blue, near infrared."""
STREET = "street"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--towns", type=int, default=20)
    parser.add_argument("--f1", metavar="MODEL", help="such as buildings")
    options = parser.parse_args()
    count = options.towns
    kinds = {
        "true colour: labelled pairs": labelled(options.data),
        "true colour: pictures of one date": singles(options.data / "buildings-single-date"),
        "true colour: towns": towns(count, [0, 1, 2]),
        "true colour: towns of 16 bit": towns(count, [0, 1, 2], "uint16"),
        "colour infrared: NAIP": naip(options.data / "geotiff" / "naip", INFRARED),
        "true colour: NAIP": naip(options.data / "geotiff" / "naip", [0, 1, 2]),
        "colour infrared: towns": towns(count, INFRARED),
        "colour infrared: towns of 16 bit": towns(count, INFRARED, "uint16"),
    }
    rows = []
    for name, pairs in kinds.items():
        found = [warned(pair) for pair in pairs]
        rows.append((name, len(found), sum(found), float(np.mean(found))))
    print(markdown(("images", "pairs", "warned of", "share"), rows))
    if options.f1 is None:
        return
    print()
    scores = [
        (name, change_f1(count, bands, options.f1))
        for name, bands in (("true colour", [0, 1, 2]), ("colour infrared", INFRARED))
    ]
    print(markdown(("towns in", "F1 of change"), scores))


def warned(pair: Pair) -> bool:
    """Whether a pair looks like colour infrared."""
    looks = looks_of([(pair, pair.max(axis=(0, 1)) > 0)])
    return looks is not None and infrared(looks)


def labelled(root: Path) -> Iterator[Pair]:
    """All pairs of three bands but those taken from the street."""
    for path in sorted(root.glob("*/*/A/*")):
        if path.parts[-4] == STREET or STREET in path.parts:
            continue
        t1, t2 = picture(path), picture(path.parent.with_name("B") / path.name)
        if t1 is not None and t2 is not None:
            yield np.stack([t1, t2])


def singles(root: Path) -> Iterator[Pair]:
    """Each with itself."""
    for path in sorted(root.glob("*/image/*")):
        if (date := picture(path)) is not None:
            yield np.stack([date, date])


def picture(path: Path) -> NDArray[np.float32] | None:
    """(3,H,W) red, green, blue; None for a picture of one band."""
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert found is not None, path
    if found.ndim < 3:
        return None
    return np.ascontiguousarray(found[..., 2::-1].transpose(2, 0, 1), dtype=np.float32)


def towns(
    count: int, bands: list[int], dtype: Literal["uint8", "uint16"] = "uint8"
) -> Iterator[Pair]:
    """Towns with a near infrared band, seen in three bands."""
    drawn = TownPairs(count, SEED, 256, bands=4, dtype=dtype)
    for number in range(count):
        yield drawn[number]["image"].numpy()[:, bands]


def naip(root: Path, bands: list[int]) -> Iterator[Pair]:
    """Windows of all pairs of dates; the four rasters lie on each other to a pixel."""
    dates = []
    for path in sorted(root.glob("*.tif")):
        with rasterio.open(path) as dataset:
            dates.append(dataset.read().astype(np.float32)[bands])
    height, width = (min(date.shape[axis] for date in dates) for axis in (1, 2))
    for first, second in combinations(dates, 2):
        for row in range(0, height - WINDOW + 1, WINDOW):
            for col in range(0, width - WINDOW + 1, WINDOW):
                cut = np.s_[:, row : row + WINDOW, col : col + WINDOW]
                yield np.stack([first[cut], second[cut]])


def change_f1(count: int, bands: list[int], name: str) -> float:
    """Pooled over towns of pixels of half a metre."""
    model = scene_model(name, SceneFacts(3, 0.5, georeferenced=False, eight_bit=True))
    drawn = TownPairs(count, SEED, 256, bands=4, gsd_m=0.5)
    hit = called = true = 0
    for number in range(count):
        sample = drawn[number]
        image = np.ascontiguousarray(sample["image"].numpy()[:, bands])
        prob, threshold = predict_pair(model, image, np.ones(image.shape[-2:], bool))
        found, truth = prob >= threshold, sample["mask"][0].numpy() == 1
        hit += int((found & truth).sum())
        called += int(found.sum())
        true += int(truth.sum())
    return 2 * hit / max(called + true, 1)


if __name__ == "__main__":
    main()
