"""How many false polygons `--misreg` tells from true ones, where dates do not fit and roofs lean.

    python benchmarks/misreg.py [--towns 8] [--model irmad] [--picture misreg.png]
    python benchmarks/misreg.py --pairs DATA [--sets fotbcd-binary] [--model buildings]

Synthetic towns seen obliquely from two directions, t2 shifted by one pixel besides; or real pairs
`SET/{train,test}/{A,B,label}`, whose pixel size stands in `DATA/index.csv`. A polygon is true if
at least a third of it is change. Prints a Markdown table: for limits of `misreg`, the fraction of
false polygons that they leave out, and that limits of `score` and of the area leave out which keep
as many true ones. The last line says how often a false polygon has a worse value than a true one:
a half is chance.
"""

import argparse
import csv
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import geopandas
import numpy as np
import pandas as pd
import rasterio
import rasterio.features
from affine import Affine
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from rscd import Options, open_pair, predict
from rscd.geo.register import MODES
from rscd.geo.source import close_handles
from rscd.synthetic.towns import Nuisance, plan_town, render_town

LIMITS = (0.3, 0.5, 0.7, 0.9)
TRUE_SHARE = 1 / 3
LEAST_M2 = 4.0
SETS = ("levir-cd", "levir-cd-grid", "fotbcd-binary", "fotbcd-instances")
"""Buildings of two dates, from satellites and aeroplanes, whose label is change of buildings."""


@dataclass(frozen=True)
class Labelled:
    """Two dates and what changed."""

    name: str
    image: NDArray[Any]
    """(2,C,H,W)."""
    mask: NDArray[np.bool_]
    """(H,W)."""
    gsd_m: float

    @property
    def transform(self) -> Affine:
        """Of its files."""
        return Affine(self.gsd_m, 0, 500_000, 0, -self.gsd_m, 5_000_000)


def town(seed: int, side: int, strength: float) -> Labelled:
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
    made = render_town(
        plan_town(seed, (side, side), 0.5, change_share=0.15),
        replace(drawn, shift_px=shift, warp_px=0.0, **dates),
    )
    return Labelled(f"town {seed}", made.image, np.squeeze(made.mask) == 1, 0.5)


def real_pairs(data: Path, sets: Sequence[str]) -> Iterator[Labelled]:
    """The pairs of some sets."""
    with (data / "index.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] in sets]
    for row in rows:
        folder = data / row["dataset"] / row["split"]
        files = [next((folder / part).glob(f"{row['name']}.*")) for part in ("A", "B", "label")]
        t1, t2, label = (np.asarray(cv2.imread(str(path)))[..., ::-1] for path in files)
        image = np.moveaxis(np.stack([t1, t2]), 3, 1)
        yield Labelled(row["name"], image, label[..., 0] > 127, float(row["gsd_m"]))


def examined(made: Labelled, options: Options) -> tuple[geopandas.GeoDataFrame, float]:
    """The polygons of a pair, and processor seconds of the run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = folder / "t1.tif", folder / "t2.tif"
        for path, date in zip(paths, made.image, strict=True):
            bands, height, width = date.shape
            with rasterio.open(
                path, "w", driver="GTiff", dtype=date.dtype, crs="EPSG:32633",
                count=bands, height=height, width=width, transform=made.transform,
            ) as dataset:  # fmt: skip
                dataset.write(date)
        started = time.process_time()
        predict(open_pair(*paths), [folder / "change.fgb"], options)
        close_handles()
        return geopandas.read_file(folder / "change.fgb"), time.process_time() - started


def is_true(polygons: geopandas.GeoSeries, made: Labelled) -> NDArray[np.bool_]:
    """Which polygons lie on change."""
    truth = []
    for polygon in polygons:
        inside = rasterio.features.geometry_mask(
            [polygon], made.mask.shape, made.transform, invert=True, all_touched=True
        )
        truth.append(float(made.mask[inside].mean()) >= TRUE_SHARE)
    return np.array(truth, bool)


def picture(made: Labelled, table: geopandas.GeoDataFrame, path: Path) -> None:
    """t1, t2, and t2 with polygons from green (misreg 0) to red (1)."""
    dates = [np.ascontiguousarray(np.moveaxis(date[:3], 0, 2)) for date in made.image]
    drawn = dates[1].copy()
    for polygon, value in zip(table.geometry, table.misreg, strict=True):
        points = np.array([~made.transform * xy for xy in polygon.exterior.coords])
        colour = (int(255 * value), int(255 * (1 - value)), 0)
        cv2.polylines(drawn, [np.rint(points).astype(np.int32)], True, colour, 1)
    for outline in cv2.findContours(
        made.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )[0]:
        cv2.drawContours(dates[1], [outline], -1, (255, 255, 255), 1)
    cv2.imwrite(str(path), np.hstack([*dates, drawn])[..., ::-1])


def left_out(worse: pd.Series, true: NDArray[np.bool_], kept: float) -> float:
    """Fraction of false polygons beyond the limit within which a fraction of the true ones lies.

    Args:
        worse: of each polygon, the larger the less it is believed.
        true: which are.
        kept: fraction of the true ones that stay, from 0 to 1.
    """
    limit = np.quantile(worse[true], kept, method="higher")
    return float((worse[~true] > limit).mean())


def report(found: pd.DataFrame, seconds: float) -> None:
    """Print the table of some polygons: ``true``, ``misreg``, ``score``, ``area``."""
    true = found.true.to_numpy(bool)
    print(
        f"{true.sum()} true and {(~true).sum()} false polygons, {seconds:.0f} s of processor time\n"
    )
    if true.all() or not true.any():
        print("nothing to tell apart")
        return
    print("| limit of misreg | true kept | false left out | by score instead | by area instead |")
    print("|---|---|---|---|---|")
    instead = {"score": 1 - found.score, "area": -found.area_m2}
    for limit in LIMITS:
        share = float((found.misreg[true] < limit).mean())
        removed = [float((found.misreg[~true] >= limit).mean())]
        removed += [left_out(worse, true, share) if share else 1.0 for worse in instead.values()]
        cells = " | ".join(f"{100 * part:.0f} %" for part in (share, *removed))
        print(f"| {limit} | {cells} |")
    pairs = true.sum() * (~true).sum()
    ranks = {
        name: mannwhitneyu(worse[~true], worse[true]).statistic / pairs
        for name, worse in ({"misreg": found.misreg} | instead).items()
    }
    told = ", ".join(f"{name} {part:.2f}" for name, part in ranks.items())
    print(f"\na false polygon has the worse value: {told}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--towns", type=int, default=8)
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--pairs", type=Path, metavar="DATA", help="real pairs in place of towns")
    parser.add_argument("--sets", nargs="+", default=SETS, help="of the real pairs")
    parser.add_argument("--model", default="irmad")
    parser.add_argument("--register", choices=MODES, default="off")
    parser.add_argument("--move", type=float, help="pixels of --misreg; default: as estimated")
    parser.add_argument("--strength", type=float, default=0.15, help="of light, season, sensor")
    parser.add_argument("--picture", type=Path, help="of the first town, or of every real pair")
    given = parser.parse_args()
    logging.getLogger("rscd").setLevel(logging.ERROR)
    move: float | Literal["auto"] = "auto" if given.move is None else given.move
    options = Options(
        model=given.model, misreg=move, register=given.register, min_score=0.0,
        min_area_m2=LEAST_M2,
    )  # fmt: skip
    places = (
        real_pairs(given.pairs, given.sets)
        if given.pairs is not None
        else (town(seed, given.side, given.strength) for seed in range(given.towns))
    )
    tables, seconds = [], 0.0
    for number, made in enumerate(places):
        table, spent = examined(made, options)
        seconds += spent
        columns = table[["misreg", "score", "area_m2"]]
        tables.append(columns.assign(true=is_true(table.geometry, made)))
        if given.picture is not None and given.pairs is not None:
            named = f"{given.picture.stem}_{made.name}{given.picture.suffix}"
            picture(made, table, given.picture.with_name(named))
        elif given.picture is not None and number == 0:
            picture(made, table, given.picture)
    report(pd.concat(tables, ignore_index=True), seconds)


if __name__ == "__main__":
    main()
