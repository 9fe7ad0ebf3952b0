"""Whether the first band of a scene is near infrared where a network expects red.

Colour infrared images (near infrared, red, green) have three bands, as true colour has, and most of
them are stored with the tags of true colour. Vegetation tells them apart: in the near infrared it
is far brighter than in red and green, so that the first band goes its own way while the other two
go together. In true colour all three go together.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rscd.base.types import BoolArray, FloatArray, Provenance
from rscd.geo.registration import sample_windows
from rscd.geo.scene import ScenePair

TRUE_COLOUR = "red, green and blue"
"""What the card of a network says under ``bands`` that expects these, in this order."""

N_BANDS = 3

LEAST_GAP = 0.2
"""Of the correlations, from which the first band goes its own way."""
LEAST_RED = 0.1
"""Share of the pixels that must be red: the vegetation of colour infrared."""
REDDER = 1.25
"""How far the first band exceeds both others at such a pixel."""
LEAST_PIXELS = 1000
"""Below, nothing is said."""
MOST_PIXELS = 20_000
"""Of a window; more are thinned out."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """How one date looks."""

    gap: float
    """Correlation of the second band with the third, less that with the first."""
    red: float
    """Share of the pixels whose first band far exceeds both others."""


def infrared(looks: Sequence[Look]) -> bool:
    """Whether this is how near infrared, red and green look, on the average of the dates."""
    gap, red = (np.mean([getattr(date, name) for date in looks]) for name in ("gap", "red"))
    return bool(gap >= LEAST_GAP and red >= LEAST_RED)


def look(values: NDArray[np.floating]) -> Look | None:
    """How the first three bands of pixels go together.

    Args:
        values: (3,N) of usable pixels, of any range.

    Returns:
        None for too few pixels, and where a band is the same everywhere.
    """
    if values.shape[1] < LEAST_PIXELS or (values.std(axis=1) == 0).any():
        return None
    together = np.corrcoef(values)
    red = values[0] > REDDER * values[1:].max(axis=0)
    return Look(float(together[1, 2] - together[0, 1]), float(red.mean()))


def looks_of(pieces: Sequence[tuple[FloatArray, BoolArray]]) -> tuple[Look, Look] | None:
    """How both dates look, over all pieces of a scene together.

    Args:
        pieces: (2,C,h,w) values, C >= 3, and (h,w) whether they are usable.

    Returns:
        t1 and t2; None where nothing can be said.
    """
    dates = []
    for date in (0, 1):
        kept = [image[date, :3][:, valid] for image, valid in pieces]
        thinned = [values[:, :: -(-values.shape[1] // MOST_PIXELS) or 1] for values in kept]
        dates.append(look(np.concatenate(thinned, axis=1).astype(np.float64)) if kept else None)
    t1, t2 = dates
    return None if t1 is None or t2 is None else (t1, t2)


def warn_of_near_infrared(pair: ScenePair, card: Provenance) -> bool:
    """Warn where the first bands are not those that a network expects.

    Args:
        pair: two dates on one grid; a few windows of it are read.
        card: of the model; only those that want true colour are concerned.

    Returns:
        Whether it was warned.
    """
    if card.get("bands") != TRUE_COLOUR or pair.n_bands < N_BANDS:
        return False
    reason = _tagged(pair) or _seen(pair)
    if reason is not None:
        log.warning(
            "%s; %s was trained on %s, and finds fewer buildings in colour infrared: give the "
            "numbers of those bands with --bands where the files have them",
            reason,
            card.get("name", "the network"),
            TRUE_COLOUR,
            extra={"fault": "near-infrared"},
        )
    return reason is not None


def _tagged(pair: ScenePair) -> str | None:
    for source in (pair.t1, pair.t2):
        for number, colour in zip(source.bands[:3], source.colours[:3], strict=True):
            if colour == "nir":
                return f"{source.date} says that its band {number} is near infrared"
    return None


def _seen(pair: ScenePair) -> str | None:
    looks = looks_of(list(sample_windows(pair)))
    if looks is None or not infrared(looks):
        return None
    shares = " and ".join(f"{100 * date.red:.0f} %" for date in looks)
    return (
        f"band {pair.t1.bands[0]} looks like near infrared, not red: {shares} of t1 and t2 would "
        "be red"
    )
