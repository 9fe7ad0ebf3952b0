"""Which polygons to review next: those from which most is to be learnt, or a random sample.

*By gain*: of the polygons nobody decided, `POOL` times as many as are wanted, the most uncertain by
the entropy of their score, are the candidates (Zhdanov 2019, "Diverse mini-batch active learning",
arXiv 1901.05954). Of these the one farthest from all that is decided or chosen is taken, one after
the other (the greedy k-center of Sener and Savarese 2018, "Active learning for convolutional neural
networks: a core-set approach"), in the space of score, size, shape and place.

*At random*: every undecided polygon with the same probability. Only such reviews tell how many of
all polygons are right.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from rscd.base.types import BoolArray, Float64Array
from rscd.geo.reviewed import UNREVIEWED

if TYPE_CHECKING:
    import geopandas

By = Literal["gain", "random"]

POOL = 4
"""Candidates for each polygon that is wanted."""

ORDER, CHOSEN_BY = "review_order", "review_by"
"""Columns: the turn in which a polygon is to be reviewed, from 1 over all draws, and how it was
chosen."""


def choose_next(
    table: "geopandas.GeoDataFrame", count: int, by: By = "gain", seed: int = 0
) -> list[int]:
    """Positions of the polygons to review next, in order.

    Args:
        table: of `rscd.geo.reviewed.checked_review`.
        count: how many; fewer where fewer are undecided.
        by: see above.
        seed: of the random sample.
    """
    open_ = np.flatnonzero((table["status"] == UNREVIEWED).to_numpy(bool))
    count = min(count, len(open_))
    if by == "random":
        random = np.random.default_rng(seed)
        return [int(index) for index in random.permutation(open_)[:count]]
    entropy = _entropy(table)
    pool = open_[np.argsort(-entropy[open_], kind="stable")[: POOL * count]]
    space = _attributes(table)
    decided = np.setdiff1d(np.arange(len(table)), open_)
    return _spread(space, pool, decided, count)


def with_order(
    table: "geopandas.GeoDataFrame", chosen: list[int], by: By
) -> "geopandas.GeoDataFrame":
    """The table with the columns `ORDER` and `CHOSEN_BY`.

    What stands there of decided polygons stays: it tells how they were chosen.
    """
    import pandas as pd

    found = table.copy()
    order = pd.Series(pd.NA, found.index, dtype="Int64")
    how = pd.Series(pd.NA, found.index, dtype="string")
    if {ORDER, CHOSEN_BY} <= set(found.columns):
        decided = found["status"] != UNREVIEWED
        order[decided] = found.loc[decided, ORDER].astype("Int64")
        how[decided] = found.loc[decided, CHOSEN_BY].astype("string")
    first = 1 + (0 if order.isna().all() else int(order.max()))
    rows = found.index[chosen]
    order[rows] = np.arange(first, first + len(chosen))
    how[rows] = by
    found[ORDER], found[CHOSEN_BY] = order, how
    return found


def _scores(table: "geopandas.GeoDataFrame") -> Float64Array:
    """(N,) scores; one half where there is none."""
    if "score" not in table.columns:
        return np.full(len(table), 0.5)
    scores: Float64Array = table["score"].to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isnan(scores), 0.5, np.clip(scores, 0, 1))


def _entropy(table: "geopandas.GeoDataFrame") -> Float64Array:
    p = np.clip(_scores(table), 1e-9, 1 - 1e-9)
    entropy: Float64Array = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return entropy


def _attributes(table: "geopandas.GeoDataFrame") -> Float64Array:
    """(N,5) score, size, compactness and place, each of unit variance."""
    shapes = table.geometry.to_numpy()
    area = np.maximum(shapely.area(shapes), 1e-12)
    compact = 4 * np.pi * area / np.maximum(shapely.length(shapes), 1e-12) ** 2
    x, y = shapely.get_coordinates(shapely.centroid(shapes)).T
    found = np.column_stack([_scores(table), np.log(area), compact, x, y])
    spread = found.std(axis=0)
    scaled: Float64Array = (found - found.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return scaled


def _spread(
    space: Float64Array, pool: NDArray[np.intp], decided: NDArray[Any], count: int
) -> list[int]:
    """Positions from the pool, each the farthest from the decided and those before it."""
    chosen: list[int] = []
    left: BoolArray = np.ones(len(pool), bool)
    gap = np.full(len(pool), np.inf)
    for index in decided.tolist():
        gap = np.minimum(gap, np.linalg.norm(space[pool] - space[index], axis=1))
    for _ in range(count):
        best = int(np.argmax(np.where(left, gap, -1)))  # the pool is sorted: ties go by entropy
        chosen.append(int(pool[best]))
        left[best] = False
        gap = np.minimum(gap, np.linalg.norm(space[pool] - space[pool[best]], axis=1))
    return chosen
