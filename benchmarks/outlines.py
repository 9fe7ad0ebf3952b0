"""How well the polygons of the network that ships fit, before and after ``--regularize``.

    python benchmarks/outlines.py OUT [--data FOLDER] [--towns 40] [--model buildings]

On towns that training never drew, and on the pairs of ``fotbcd-binary`` in FOLDER, whose true
polygons are the connected parts of their masks: polygons are matched where they overlap by an IoU
of 0.5 or more. Prints JSON: precision and recall, mean IoU of the matched, vertices per polygon,
share of matched polygons of the right kind (towns), and the boundary F within one metre, in which
a point of one boundary is right when the other passes within a metre. Pictures go to OUT.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import rasterio.features
import shapely
from machine import machine

from rscd import Options, open_pair, predict
from rscd.data.folder import PairFolder
from rscd.data.images import write_picture
from rscd.synthetic.town_pairs import TownPairs

SEED = 4711
STEP_M = 0.25
"""Between points of a boundary."""
WITHIN_M = 1.0
PICTURES = 6


@dataclass(frozen=True)
class Case:
    """A pair and its true polygons in pixels, with their kinds where these are known."""

    name: str
    image: Any  # (2,3,H,W) uint8
    polygons: Any  # (N,) polygons
    kinds: list[str]
    gsd_m: float


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--towns", type=int, default=40)
    parser.add_argument("--model", default="buildings")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = {"towns": list(towns(options.towns))}
    if options.data is not None:
        sets["fotbcd-binary"] = list(pairs(options.data / "fotbcd-binary"))
    found: dict[str, Any] = {"machine": machine()}
    for name, cases in sets.items():
        for regularize in (False, True):
            rows = [(case, outlined(case, options.model, regularize)) for case in cases]
            found[f"{name} {'regularized' if regularize else 'pixel edges'}"] = measured(rows)
            for case, table in rows[:PICTURES]:
                draw(options.out / f"{name}-{case.name}-{int(regularize)}.png", case, table)
    print(json.dumps(found, indent=2))


def towns(count: int) -> Iterator[Case]:
    """Towns of 256 metres."""
    drawn = TownPairs(
        count, SEED, 512, gsd_m=0.5, change_share=(0.2, 0.6), keys=["image", "changes"]
    )
    frame = shapely.box(0, 0, 512, 512)
    for number in range(count):
        sample = drawn[number]
        inside = [(k, p.intersection(frame)) for k, p in sample["changes"] if p.intersects(frame)]
        inside = [(k, p) for k, p in inside if p.area * 0.25 >= 14]
        polygons = np.array([p for _, p in inside], dtype=object)
        image = sample["image"].numpy().astype(np.uint8)
        yield Case(f"{number}", image, polygons, [k for k, _ in inside], 0.5)


def pairs(root: Path) -> Iterator[Case]:
    """Labelled pairs of both splits; kinds are not known."""
    for split in ("test", "train"):
        data = PairFolder(root, split, keys={"image", "mask"})
        for name, number in zip(data.names, range(len(data)), strict=True):
            sample = data[number]
            mask = (sample["mask"][0].numpy() == 1).astype(np.uint8)
            shapes = rasterio.features.shapes(mask, mask=mask > 0, connectivity=4)
            polygons = [shapely.geometry.shape(shape) for shape, _ in shapes]
            polygons = [p for p in polygons if p.area * 0.04 >= 14]
            image = sample["image"].numpy().astype(np.uint8)
            yield Case(Path(name).stem, image, np.array(polygons, dtype=object), [], 0.2)


def outlined(case: Case, model: str, regularize: bool) -> Any:
    """What `rscd predict` writes, in pixels."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"t{i}.png" for i in (1, 2)]
        for path, date in zip(paths, case.image, strict=True):
            write_picture(path, date)
        out = Path(folder) / "out.gpkg"
        options = Options(
            model=model, gsd_m=case.gsd_m, regularize=regularize, pixel_coordinates=True
        )
        predict(open_pair(*paths), [out], options)
        return geopandas.read_file(out, layer="changes")


def measured(rows: list[tuple[Case, Any]]) -> dict[str, float]:
    """See the module."""
    matched = called = true = right = known = 0
    ious: list[float] = []
    vertices: list[int] = []
    near = np.zeros(4)
    for case, table in rows:
        found = np.array(table.geometry.values, dtype=object)
        called, true = called + len(found), true + len(case.polygons)
        vertices += [len(shapely.get_coordinates(p)) - 1 for p in found]
        for a, b, iou in matches(found, case.polygons):
            matched += 1
            ious.append(iou)
            if case.kinds:
                known += 1
                right += case.kinds[b] == table["kind"][a]
        near += boundaries(found, case.polygons, case.gsd_m)
    precision, recall = near[0] / max(near[1], 1), near[2] / max(near[3], 1)
    numbers = {
        "polygons": called,
        "precision": matched / max(called, 1),
        "recall": matched / max(true, 1),
        "mean_iou_of_matched": float(np.mean(ious)) if ious else 0.0,
        "vertices_per_polygon": float(np.mean(vertices)) if vertices else 0.0,
        "boundary_f_within_1_m": 2 * precision * recall / max(precision + recall, 1e-9),
    }
    if known:
        numbers["right_kind_of_matched"] = right / known
    return {name: round(value, 4) for name, value in numbers.items()}


def matches(found: Any, true: Any) -> list[tuple[int, int, float]]:
    """Pairs of numbers of found and true polygons with IoU of 0.5 or more, each at most once."""
    if not len(found) or not len(true):
        return []
    a, b = shapely.STRtree(true).query(found, predicate="intersects")
    common = shapely.area(shapely.intersection(found[a], true[b]))
    iou = common / (shapely.area(found[a]) + shapely.area(true[b]) - common)
    # at 0.5 and above no polygon has two partners, but for ties
    return [(i, j, float(v)) for i, j, v in zip(a, b, iou, strict=True) if v > 0.5]


def boundaries(found: Any, true: Any, gsd_m: float) -> Any:
    """Points of the found boundaries near true ones, all of them; and the other way round."""
    lines = [shapely.multilinestrings(_rings(polygons)) for polygons in (found, true)]
    dense = [shapely.segmentize(line, STEP_M / gsd_m) for line in lines]
    points = [shapely.points(shapely.get_coordinates(line)) for line in dense]
    for line in lines:
        shapely.prepare(line)
    counts = []
    for own, other in ((points[0], lines[1]), (points[1], lines[0])):
        near = shapely.dwithin(own, other, WITHIN_M / gsd_m) if len(own) else np.zeros(0)
        counts += [int(near.sum()), len(own)]
    return np.array(counts)


def _rings(polygons: Any) -> list[Any]:
    """All rings as lines."""
    rings = shapely.get_rings(shapely.get_parts(polygons))
    return [shapely.linestrings(shapely.get_coordinates(ring)) for ring in rings]


def draw(path: Path, case: Case, table: Any) -> None:
    """T2 with true outlines (yellow) and found ones by kind."""
    scale = 2
    colours = {"appeared": (255, 0, 255), "vanished": (0, 255, 255), "changed": (255, 128, 0)}
    dates = [
        np.ascontiguousarray(cv2.resize(date.transpose(1, 2, 0), None, fx=scale, fy=scale))
        for date in case.image
    ]
    for date in dates:
        for polygon in case.polygons:
            outline(date, polygon, (255, 255, 0), scale)
    for polygon, kind in zip(table.geometry, table["kind"], strict=True):
        outline(dates[1], polygon, colours[kind], scale)
    cv2.imwrite(str(path), np.hstack(dates)[..., ::-1])


def outline(image: Any, polygon: Any, colour: tuple[int, int, int], scale: int) -> None:
    """Draw one polygon."""
    for part in shapely.get_parts(polygon):
        for ring in (part.exterior, *part.interiors):
            points = np.round(np.array(ring.coords) * scale).astype(np.int32)
            cv2.polylines(image, [points], True, colour, 1, cv2.LINE_AA)


if __name__ == "__main__":
    main()
