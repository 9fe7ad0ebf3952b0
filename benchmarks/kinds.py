"""How often the kind of a change polygon is right, by the margin of the rule, on synthetic towns.

    python benchmarks/kinds.py [--towns 60] [--model buildings]

Polygons are those that `rscd predict` writes by default with pixel edges; they are matched with the
true ones where they overlap by an IoU of 0.5 or more. True kinds: ``appeared`` and ``vanished`` as
the town says; ``changed`` where a building that came and one that went overlap (replaced). A third
of the towns chooses the margin (highest share right, then the smallest margin), the others measure
it; training drew none of them. Then, on all of them, the buildings of each date as ``--objects-t1``
and ``--objects-t2`` write them, against the footprints. Prints tables in Markdown.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from tables import markdown

from rscd.geo.changemap import RawRaster
from rscd.geo.polygons import mean_under, trace
from rscd.geo.tiles import Box
from rscd.inference.kinds import MARGIN, kind_of
from rscd.inference.network import Network, load_network
from rscd.inference.shipped import SHIPPED, shipped_weights
from rscd.synthetic.town_pairs import TownPairs

SEED = 9173
"""Of the towns; neither training nor calibration uses it."""
SIDE = 512
GSD_M = 0.5
MARGINS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
STANDING = 0.5
"""Probability from which a pixel is a building."""
KINDS = ("appeared", "vanished", "changed")

Polygons = NDArray[np.object_]


@dataclass(frozen=True)
class Matched:
    """True and found polygons of a town that are one another's."""

    true: list[str]
    t1: NDArray[np.float64]
    """(N,) mean probability of a building under the found ones."""
    t2: NDArray[np.float64]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--towns", type=int, default=60)
    parser.add_argument("--model", default=SHIPPED)
    options = parser.parse_args()
    path = shipped_weights() if options.model == SHIPPED else Path(options.model)
    model = load_network(path, "cpu", 1)
    found, objects = [], Counter[str]()
    for sample in towns(options.towns):
        change, standing = maps(model, sample["image"])
        found.append(matched(change, standing, sample, model.card()))
        for date in (0, 1):
            objects += objects_of(standing[date], sample["buildings"][date], model.card())
    chosen = found[: options.towns // 3]
    others = found[options.towns // 3 :]
    rows = [(margin, share(chosen, margin), share(others, margin)) for margin in MARGINS]
    best = max(rows, key=lambda row: row[1])[0]
    own = model.card()[MARGIN]
    print(markdown(("margin", "right, towns that choose", "right, others"), rows))
    print(f"\nbest {best:g}, the card's {own:g}; with the card's, on the others:\n")
    print(markdown(("true kind", "matched", *KINDS, "right"), confusion(others, own)))
    precision = objects["hit"] / max(objects["called"], 1)
    recall = objects["hit"] / max(objects["true"], 1)
    print("\nbuildings of either date:\n")
    iou = objects["iou"] / max(objects["hit"], 1) / 1e4
    row = (objects["called"], objects["true"], precision, recall, iou)
    print(markdown(("polygons", "true", "precision", "recall", "mean IoU of matched"), [row]))


def towns(count: int) -> Iterator[Mapping[str, Any]]:
    """Towns of 256 metres."""
    drawn = TownPairs(
        count,
        SEED,
        SIDE,
        gsd_m=GSD_M,
        change_share=(0.2, 0.6),
        keys=["image", "changes", "buildings"],
    )
    return (drawn[number] for number in range(count))


def maps(model: Network, image: torch.Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """(H,W) probability of change and (2,H,W) of buildings, from one look."""
    with torch.inference_mode():
        outputs = model.outputs(image[None])
    change, buildings = (
        outputs[name][0].float().sigmoid().numpy().squeeze() for name in ("logits", "buildings")
    )
    return change, buildings


def matched(
    change: NDArray[Any], standing: NDArray[Any], sample: Mapping[str, Any], card: Mapping[str, Any]
) -> Matched:
    """The polygons of a town that have a true partner."""
    with tempfile.TemporaryDirectory() as folder:
        mask = stored(Path(folder), "mask", (change >= card["threshold"]).astype(np.uint8))
        polygons = trace(mask)
        polygons = polygons[shapely.area(polygons) * GSD_M**2 >= card["min_area_m2"]]
        sure = mean_under(polygons, stored(Path(folder), "prob", change)) >= card["min_score"]
        polygons = polygons[sure]
        dates = [
            mean_under(polygons, stored(Path(folder), f"t{date + 1}", standing[date]))
            for date in (0, 1)
        ]
    truth = true_changes(sample["changes"])
    pairs = matches(polygons, np.array([polygon for _, polygon in truth], dtype=object))
    own = [i for i, _, _ in pairs]
    return Matched([truth[j][0] for _, j, _ in pairs], dates[0][own], dates[1][own])


def stored(folder: Path, name: str, values: NDArray[Any]) -> Path:
    """A map as a raster on disk."""
    raster = RawRaster(folder / f"{name}.img", values.shape, str(values.dtype))
    raster.create()
    raster.write(Box(0, 0, *values.shape), values)
    return raster.path


def true_changes(changes: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Kinds and outlines in pixels: what overlaps is one change, cut at the edge of the town.

    Args:
        changes: of a sample of `TownPairs`.
    """
    frame = shapely.box(0, 0, SIDE, SIDE)
    outlines = np.array([polygon for _, polygon in changes], dtype=object)
    found = []
    for part in shapely.get_parts(shapely.union_all(outlines)):
        seen = part.intersection(frame)
        if seen.area * GSD_M**2 < 14:
            continue
        inside = [
            kind
            for kind, own in changes
            if own.intersects(part) and own.intersection(part).area > 1
        ]
        kinds = set(inside)
        found.append(("changed" if len(kinds) > 1 else kinds.pop(), seen))
    return found


def matches(found: Polygons, true: Polygons) -> list[tuple[int, int, float]]:
    """Pairs of numbers of found and true polygons with IoU above 0.5, each at most once."""
    if not len(found) or not len(true):
        return []
    a, b = shapely.STRtree(true).query(found, predicate="intersects")
    common = shapely.area(shapely.intersection(found[a], true[b]))
    iou = common / (shapely.area(found[a]) + shapely.area(true[b]) - common)
    return [(i, j, float(v)) for i, j, v in zip(a, b, iou, strict=True) if v > 0.5]


def share(found: list[Matched], margin: float) -> float:
    """Of matched polygons with the right kind."""
    right = total = 0
    for town in found:
        kinds = kind_of(town.t1, town.t2, margin)
        right += sum(a == b for a, b in zip(kinds, town.true, strict=True))
        total += len(town.true)
    return right / max(total, 1)


def confusion(found: list[Matched], margin: float) -> list[list[object]]:
    """A row for each true kind, and one for all."""
    counted = Counter[tuple[str, str]]()
    for town in found:
        counted.update(zip(town.true, kind_of(town.t1, town.t2, margin), strict=True))
    rows: list[list[object]] = []
    for true in KINDS:
        said = [counted[true, kind] for kind in KINDS]
        rows.append([true, sum(said), *said, counted[true, true] / max(sum(said), 1)])
    said = [sum(counted[true, kind] for true in KINDS) for kind in KINDS]
    rows.append(["all", sum(said), *said, share(found, margin)])
    return rows


def objects_of(prob: NDArray[Any], footprints: list[Any], card: Mapping[str, Any]) -> Counter[str]:
    """Found, true and matched buildings of one date; ``iou`` in ten thousandths."""
    frame = shapely.box(0, 0, SIDE, SIDE)
    joined = shapely.union_all(np.array(footprints, dtype=object)).intersection(frame)
    true = shapely.get_parts(joined)
    least = card["min_area_m2"] / GSD_M**2
    true = true[shapely.area(true) >= least]
    with tempfile.TemporaryDirectory() as folder:
        found = trace(stored(Path(folder), "mask", (prob >= STANDING).astype(np.uint8)))
    found = found[shapely.area(found) >= least]
    pairs = matches(found, true)
    return Counter(
        called=len(found),
        true=len(true),
        hit=len(pairs),
        iou=round(1e4 * sum(v for _, _, v in pairs)),
    )


if __name__ == "__main__":
    main()
