"""The least score for a budget of false alarms, from a reviewed layer of the same model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rscd.base.errors import DataError
from rscd.base.types import BoolArray, Float64Array, Provenance
from rscd.evaluation.reviews import Reviews, random_reviews
from rscd.geo.grid import grid_text
from rscd.geo.origin import rasters_of
from rscd.geo.reviewed import ACCEPTED
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import plan_tiles
from rscd.metrics.budget import (
    CONFIDENCE,
    Budget,
    LeastScore,
    area_needed_km2,
    best_rate,
    for_density,
    for_fraction,
    reviews_needed,
)
from rscd.pipeline.provenance import describe_file

SQUARE_PX = 1024
"""Side of the squares in which the ground of a scene is measured."""


@dataclass(frozen=True)
class Chosen:
    """A least score and how it was found."""

    min_score: float
    guarantee: str
    """In words, one line."""
    record: Provenance
    """Plain data for the provenance of what is predicted with it."""


def choose_least_score(path: str | Path, budget: Budget, confidence: float = CONFIDENCE) -> Chosen:
    """The least score with which a model keeps a budget of false alarms.

    Rejected and unsure polygons are false alarms.

    Args:
        path: layer of the model, reviewed as a whole or at random.
        budget: how many.
        confidence: how often the budget is kept.

    Raises:
        DataError: too few reviews, or none that stand for all polygons; no score keeps the budget.
        SceneError: a raster of the layer is needed and gone.
    """
    reviews = random_reviews(path)
    table, provenance = reviews.layer.table, reviews.layer.provenance
    if "score" not in table.columns or table["score"].isna().any():
        raise DataError(
            f"expected a score of every polygon of {path}, found none; give a layer of rscd predict"
        )
    parameters = provenance.get("parameters")
    if not isinstance(parameters, dict) or "model" not in provenance:
        raise DataError(
            f"expected the model and its options in the provenance of {path}, found none; give the "
            "file that rscd predict wrote, with the decisions in it"
        )
    floor = float(parameters.get("min_score") or 0.0)
    scores: Float64Array = table["score"].to_numpy(np.float64)[reviews.rows]
    false: BoolArray = reviews.status != ACCEPTED
    if budget.fraction is not None:
        found = for_fraction(scores, false, budget.fraction, confidence, floor)
        if found is None:
            raise _too_few(path, scores, false, budget.fraction, confidence)
        what = f"at most {budget.text} of the polygons written are false alarms"
    else:
        assert budget.per_km2 is not None
        area = _searched_km2(reviews, path) * len(scores) / len(table)
        found = for_density(scores, false, budget.per_km2, area, confidence, floor)
        if found is None or not found.kept:
            raise _no_density(path, area, budget, confidence)
        what = f"at most {budget.per_km2:g} false alarms per square kilometre are to be expected"
    guarantee = (
        f"least score {found.score:g}: {what}, with a confidence of {100 * confidence:g} %, on "
        f"ground like that of {path} ({found.false} of {found.kept} reviewed polygons from this "
        "score on are false alarms)"
    )
    return Chosen(found.score, guarantee, _record(path, budget, confidence, found, provenance))


def _record(
    path: str | Path,
    budget: Budget,
    confidence: float,
    found: LeastScore,
    provenance: Provenance,
) -> Provenance:
    return {
        "max_false_alarms": budget.text,
        "confidence": confidence,
        "calibration": describe_file(path),
        "reviewed": found.kept,
        "false": found.false,
        "model": provenance["model"],
        "parameters": provenance["parameters"],
    }


def _too_few(
    path: str | Path, scores: Float64Array, false: BoolArray, budget: float, confidence: float
) -> DataError:
    needed = reviews_needed(budget, confidence)
    start = (
        f"expected enough reviewed polygons in {path} to show that at most {100 * budget:g} % are "
        f"false alarms, found {len(scores)}, {int(false.sum())} of them false"
    )
    best = best_rate(scores, false, min(10, len(scores)))
    more = None if best is None else reviews_needed(budget, confidence, best[1])
    if best is not None and more is None:
        return DataError(
            f"{start}: from no score on fewer than {100 * best[1]:.3g} % are; allow more, or train "
            "on the review first"
        )
    rate = "" if best is None or best[1] == 0 else f", some {more} at the rate found"
    return DataError(
        f"{start}; at least {needed} from one score on without a false alarm are needed{rate}: "
        "review more"
    )


def _no_density(path: str | Path, area: float, budget: Budget, confidence: float) -> DataError:
    assert budget.per_km2 is not None
    needed = area_needed_km2(budget.per_km2, confidence)
    if area < needed:
        return DataError(
            f"expected reviews of at least {needed:.3g} square kilometres to show {budget.text}, "
            f"found {area:.3g} in {path} (ground, times the fraction reviewed); review more"
        )
    return DataError(
        f"expected a score from which {path} has no more false alarms than {budget.text}, found "
        "none that keeps a polygon; allow more, or train on the review first"
    )


def _searched_km2(reviews: Reviews, path: str | Path) -> float:
    """Ground that was compared, square kilometres."""
    provenance = reviews.layer.provenance
    parameters: dict[str, Any] = provenance["parameters"]
    files = rasters_of(path, provenance)
    pair = ScenePair.open(
        files["t1"],
        files["t2"],
        align=parameters.get("align") or "t1",
        src_nodata=parameters.get("src_nodata"),
        gsd_m=parameters.get("gsd_m"),
    )
    searched = str(provenance.get("alignment", {}).get("grid", ""))
    if provenance.get("aoi") is not None or searched not in ("", grid_text(pair.grid)):
        raise DataError(
            f"expected a layer of whole rasters for false alarms per square kilometre, found that "
            f"only an area of them was searched for {path}; give a fraction such as 10%"
        )
    areas = pair.ground.pixel_areas_m2(pair.shape_hw)
    total = 0.0
    for tile in plan_tiles(pair.shape_hw, SQUARE_PX):
        box = tile.write
        _, valid = pair.read(box)
        total += areas.total(valid, box.row, box.col)
    if not np.isfinite(total):
        raise DataError(
            f"expected a pixel size for false alarms per square kilometre, found none in {path}; "
            "give a fraction such as 10%"
        )
    return total / 1e6
