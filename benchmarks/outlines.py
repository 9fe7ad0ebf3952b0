"""How well the polygons of the network that ships fit, before and after ``--regularize``.

    python benchmarks/outlines.py OUT [--data FOLDER] [--towns 20] [--model buildings] [--peer]

On towns that training never drew, and on the pairs of ``fotbcd-binary`` in FOLDER, whose true
polygons are the connected parts of their masks: polygons are matched where they overlap by an IoU
above 0.5. Prints a table in Markdown: precision and recall of polygons, mean IoU of the matched,
vertices per polygon, the boundary F within one metre, in which a point of one boundary is right
when the other passes within a metre; and of the regularized the largest change of a polygon's
area and how many overlap or are not valid. Pictures go to OUT, pixel edges above regularized.
"""

import argparse
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
from affine import Affine
from kinds import matches, true_changes
from tables import markdown

from rscd import Options, open_pair, predict
from rscd.data.folder import PairFolder
from rscd.data.images import write_picture
from rscd.geo.measure import Ground
from rscd.synthetic.town_pairs import TownPairs

SEED = 4711
STEP_M = 0.25
"""Between points of a boundary."""
WITHIN_M = 1.0
PICTURES = 6
PEER = ((0.5, 1.0), (1.2, 2.0))
"""Tolerances of buildingregulariser, metres: of simplification, and between parallel edges; its
own defaults first, then as few vertices as ``--regularize`` has."""


@dataclass(frozen=True)
class Case:
    """A pair and its true polygons in pixels."""

    name: str
    image: Any  # (2,3,H,W) uint8
    polygons: Any  # (N,) polygons
    gsd_m: float


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--towns", type=int, default=20)
    parser.add_argument("--model", default="buildings")
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = {"towns": list(towns(options.towns))}
    if options.data is not None:
        sets["fotbcd-binary"] = list(pairs(options.data / "fotbcd-binary"))
    rows: list[list[Any]] = []
    for name, cases in sets.items():
        edges = [outlined(case, options.model) for case in cases]
        regular = [regularized(case, table) for case, table in zip(cases, edges, strict=True)]
        ways = {"pixel edges": edges, "regularized": regular}
        for simplify_m, parallel_m in PEER if options.peer else ():
            tables = [
                by_peer(case, table, simplify_m, parallel_m)
                for case, table in zip(cases, edges, strict=True)
            ]
            ways[f"buildingregulariser, {simplify_m} and {parallel_m} m"] = tables
        for how, tables in ways.items():
            found = measured(list(zip(cases, tables, strict=True)))
            found |= harm(edges, tables)
            rows.append([name, how, *found.values()])
        for case, *tables in list(zip(cases, edges, regular, strict=True))[:PICTURES]:
            draw(options.out / f"{name}-{case.name}.png", case, tables)
    print(markdown(("images", "outlines", *found), rows))


def towns(count: int) -> Iterator[Case]:
    """Towns of 256 metres."""
    drawn = TownPairs(
        count, SEED, 512, gsd_m=0.5, change_share=(0.2, 0.6), keys=["image", "changes"]
    )
    for number in range(count):
        sample = drawn[number]
        polygons = np.array([p for _, p in true_changes(sample["changes"])], dtype=object)
        image = sample["image"].numpy().astype(np.uint8)
        yield Case(f"{number}", image, polygons, 0.5)


def pairs(root: Path) -> Iterator[Case]:
    """Labelled pairs of both splits."""
    for split in ("test", "train"):
        data = PairFolder(root, split, keys={"image", "mask"})
        for name, number in zip(data.names, range(len(data)), strict=True):
            sample = data[number]
            mask = (sample["mask"][0].numpy() == 1).astype(np.uint8)
            shapes = rasterio.features.shapes(mask, mask=mask > 0, connectivity=4)
            polygons = [shapely.geometry.shape(shape) for shape, _ in shapes]
            polygons = [p for p in polygons if p.area * 0.04 >= 14]
            image = sample["image"].numpy().astype(np.uint8)
            yield Case(Path(name).stem, image, np.array(polygons, dtype=object), 0.2)


def outlined(case: Case, model: str) -> Any:
    """What `rscd predict --no-regularize` writes, in pixels."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "t1.png", Path(folder) / "t2.png"
        for path, date in zip(paths, case.image, strict=True):
            write_picture(path, date)
        out = Path(folder) / "out.gpkg"
        options = Options(model=model, regularize=False, pixel_coordinates=True)
        predict(open_pair(*paths, gsd_m=case.gsd_m), [out], options)
        table = geopandas.read_file(out, layer="changes")
    # the polygons of a picture have y = -row
    return table.set_geometry(table.geometry.affine_transform([1, 0, 0, -1, 0, 0]))


def regularized(case: Case, table: Any) -> Any:
    """What `rscd predict --regularize` makes of them."""
    ground = Ground(None, Affine.identity(), case.gsd_m)
    return table.set_geometry(ground.regularize(np.array(table.geometry.values, dtype=object)))


def by_peer(case: Case, table: Any, simplify_m: float, parallel_m: float) -> Any:
    """What buildingregulariser makes of them."""
    from buildingregulariser import regularize_geodataframe

    if not len(table):
        return table
    return regularize_geodataframe(
        table.set_crs(None, allow_override=True),
        simplify_tolerance=simplify_m / case.gsd_m,
        parallel_threshold=parallel_m / case.gsd_m,
        num_cores=1,
    )


def harm(before: list[Any], after: list[Any]) -> dict[str, Any]:
    """What must not be."""
    changes, overlapping, broken = [0.0], 0, 0
    for old, new in zip(before, after, strict=True):
        polygons = np.array(new.geometry.values, dtype=object)
        if not len(polygons):
            continue
        areas = shapely.area(np.array(old.geometry.loc[new.index].values, dtype=object))
        changes.append(float(np.abs(shapely.area(polygons) / areas - 1).max()))
        a, b = shapely.STRtree(polygons).query(polygons, predicate="intersects")
        shared = shapely.area(shapely.intersection(polygons[a], polygons[b]))
        overlapping += int(((a < b) & (shared > 1e-6)).sum())
        broken += int((~shapely.is_valid(polygons)).sum())
    return {"largest change of area": max(changes), "overlaps": overlapping, "not valid": broken}


def measured(rows: list[tuple[Case, Any]]) -> dict[str, float]:
    """See the module."""
    matched = called = true = 0
    ious: list[float] = []
    vertices: list[int] = []
    near = np.zeros(4)
    for case, table in rows:
        found = np.array(table.geometry.values, dtype=object)
        called, true = called + len(found), true + len(case.polygons)
        vertices += [len(shapely.get_coordinates(p)) - 1 for p in found]
        pairs = matches(found, case.polygons)
        matched += len(pairs)
        ious += [iou for _, _, iou in pairs]
        near += boundaries(found, case.polygons, case.gsd_m)
    precision, recall = near[0] / max(near[1], 1), near[2] / max(near[3], 1)
    return {
        "polygons": called,
        "precision": matched / max(called, 1),
        "recall": matched / max(true, 1),
        "mean IoU of matched": float(np.mean(ious)) if ious else 0.0,
        "vertices per polygon": float(np.mean(vertices)) if vertices else 0.0,
        "boundary F within 1 m": float(2 * precision * recall / max(precision + recall, 1e-9)),
    }


def boundaries(found: Any, true: Any, gsd_m: float) -> Any:
    """Points of the found boundaries near true ones, all of them; and the other way round."""
    lines = [shapely.MultiLineString(_rings(polygons)) for polygons in (found, true)]
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


def draw(path: Path, case: Case, tables: list[Any]) -> None:
    """Both dates with true outlines (yellow), and found ones by kind on t2; a row per table."""
    scale = 2
    colours = {"appeared": (255, 0, 255), "vanished": (0, 255, 255), "changed": (255, 128, 0)}
    rows = []
    for table in tables:
        dates = [
            np.ascontiguousarray(cv2.resize(date.transpose(1, 2, 0), None, fx=scale, fy=scale))
            for date in case.image
        ]
        for date in dates:
            for polygon in case.polygons:
                outline(date, polygon, (255, 255, 0), scale)
        for polygon, kind in zip(table.geometry, table["kind"], strict=True):
            outline(dates[1], polygon, colours[kind], scale)
        rows.append(np.hstack(dates))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def outline(image: Any, polygon: Any, colour: tuple[int, int, int], scale: int) -> None:
    """Draw one polygon."""
    for part in shapely.get_parts(polygon):
        for ring in (part.exterior, *part.interiors):
            points = np.round(np.array(ring.coords) * scale).astype(np.int32)
            cv2.polylines(image, [points], True, colour, 1, cv2.LINE_AA)


if __name__ == "__main__":
    main()
