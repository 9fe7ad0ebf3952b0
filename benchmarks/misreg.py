"""How many false polygons `--misreg` tells from true ones, where dates do not fit and roofs lean.

    python benchmarks/misreg.py [--towns 8] [--model irmad] [--picture misreg.png]

Synthetic towns seen obliquely from two directions, t2 shifted by one pixel besides. A polygon is
true if at least a third of it is change. Prints a Markdown table: for limits of `misreg`, and for
limits of `score` that keep as many true polygons, the fraction of false ones that they leave out.
"""

import argparse
import logging
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import rasterio
import rasterio.features
from affine import Affine
from numpy.typing import NDArray

from rscd import Options, open_pair, predict
from rscd.geo.source import close_handles
from rscd.synthetic.towns import Nuisance, TownPair, plan_town, render_town

HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
LIMITS = (0.3, 0.5, 0.7, 0.9)
TRUE_SHARE = 1 / 3


@dataclass(frozen=True)
class Found:
    """Polygons of all towns."""

    true: NDArray[np.bool_]
    misreg: NDArray[np.float64]
    score: NDArray[np.float64]


def town(seed: int, side: int, strength: float) -> TownPair:
    """A town whose roofs lean by other angles at the dates."""
    rng = np.random.default_rng(500 + seed)
    drawn = Nuisance.draw(rng, strength)
    dates = {
        date: replace(
            getattr(drawn, date),
            off_nadir_deg=float(rng.uniform(5, 15)),
            view_azimuth_deg=float(rng.uniform(0, 360)),
        )
        for date in ("t1", "t2")
    }
    angle = rng.uniform(0, 2 * np.pi)
    shift = (float(np.cos(angle)), float(np.sin(angle)))
    return render_town(
        plan_town(seed, (side, side), 0.5, change_share=0.15),
        replace(drawn, shift_px=shift, warp_px=0.0, **dates),
    )


def examined(made: TownPair, model: str, folder: Path) -> tuple[geopandas.GeoDataFrame, float]:
    """The polygons of a town, and processor seconds of the run."""
    paths = folder / "t1.tif", folder / "t2.tif"
    for path, date in zip(paths, made.image, strict=True):
        bands, height, width = date.shape
        with rasterio.open(
            path, "w", driver="GTiff", dtype=date.dtype, crs="EPSG:32633",
            count=bands, height=height, width=width, transform=HALF_METRE,
        ) as dataset:  # fmt: skip
            dataset.write(date)
    started = time.process_time()
    predict(
        open_pair(*paths),
        [folder / "change.fgb"],
        Options(model=model, misreg="auto", min_score=0.0, min_area_m2=4.0),
    )
    close_handles()
    return geopandas.read_file(folder / "change.fgb"), time.process_time() - started


def is_true(table: geopandas.GeoDataFrame, mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Which polygons lie on change."""
    truth = []
    for polygon in table.geometry:
        inside = rasterio.features.geometry_mask(
            [polygon], mask.shape, HALF_METRE, invert=True, all_touched=True
        )
        truth.append(float((mask[inside] == 1).mean()) >= TRUE_SHARE)
    return np.array(truth, bool)


def picture(made: TownPair, table: geopandas.GeoDataFrame, path: Path) -> None:
    """t1, t2, and t2 with polygons from green (misreg 0) to red (1)."""
    dates = [np.ascontiguousarray(np.moveaxis(date[:3], 0, 2)) for date in made.image]
    drawn = dates[1].copy()
    for polygon, value in zip(table.geometry, table.misreg, strict=True):
        points = np.array([~HALF_METRE * xy for xy in polygon.exterior.coords])
        colour = (int(255 * value), int(255 * (1 - value)), 0)
        cv2.polylines(drawn, [np.rint(points).astype(np.int32)], True, colour, 1)
    for outline in cv2.findContours(
        (np.squeeze(made.mask) == 1).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )[0]:
        cv2.drawContours(dates[1], [outline], -1, (255, 255, 255), 1)
    cv2.imwrite(str(path), np.hstack([*dates, drawn])[..., ::-1])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--towns", type=int, default=8)
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--model", default="irmad")
    parser.add_argument("--strength", type=float, default=0.15, help="of light, season, sensor")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    logging.getLogger("rscd").setLevel(logging.ERROR)
    tables, truths, seconds = [], [], 0.0
    for seed in range(options.towns):
        made = town(seed, options.side, options.strength)
        with tempfile.TemporaryDirectory() as folder:
            table, spent = examined(made, options.model, Path(folder))
        seconds += spent
        tables.append(table)
        truths.append(is_true(table, np.squeeze(made.mask)))
        if seed == 0 and options.picture is not None:
            picture(made, table, options.picture)
    found = Found(
        np.concatenate(truths),
        np.concatenate([table.misreg for table in tables]),
        np.concatenate([table.score for table in tables]),
    )
    true, false = found.true, ~found.true
    print(f"{true.sum()} true and {false.sum()} false polygons, {seconds:.0f} s of processor time")
    print("| limit of misreg | true kept | false left out | false left out by score instead |")
    print("|---|---|---|---|")
    for limit in LIMITS:
        kept = found.misreg < limit
        share = kept[true].mean()
        score = np.quantile(found.score[true], 1 - share, method="lower")
        removed, instead = (
            100 * float(gone.mean()) if false.any() else float("nan")
            for gone in (~kept[false], found.score[false] < score)
        )
        print(f"| {limit} | {100 * share:.0f} % | {removed:.0f} % | {instead:.0f} % |")


if __name__ == "__main__":
    main()
