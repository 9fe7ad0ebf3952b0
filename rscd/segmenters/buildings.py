"""The shipped network as a segmenter: buildings in images of 0.1 to 1 m, without a download.

It knows only buildings. A class whose prompts name them gets the network's probability, any
background class the complement: anything else is confident background.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import cast

import numpy as np

from rscd.base.errors import ModelError, UsageError
from rscd.base.types import FloatArray, Provenance
from rscd.inference.file_model import FileModel
from rscd.inference.kinds import BuildingModel, finds_buildings
from rscd.inference.models import load_model
from rscd.inference.shipped import SHIPPED, shipped_card
from rscd.segmenters.prompts import PromptSet
from rscd.segmenters.segmenter import Segmenter, SegmenterInfo, SemanticPrediction, View

WORDS = frozenset(
    {"building", "buildings", "house", "houses", "roof", "roofs", "rooftop", "rooftops"}
)
"""Prompts that name a building."""


@dataclass(frozen=True)
class Options:
    """Options of the network."""

    gsd_m: float = 0.5
    """Pixel size in metres, if the image has none."""
    device: str = "auto"


def build(options: Options) -> "Buildings":
    """Load the weights.

    Raises:
        ModelError: if they are not the released ones, or do not predict buildings.
        UsageError: for an invalid pixel size.
    """
    if not options.gsd_m > 0:
        raise UsageError(f"expected gsd_m= in metres above 0, found {options.gsd_m}; correct it")
    model = load_model(SHIPPED, options.device)
    if not isinstance(model, FileModel) or not finds_buildings(model):
        raise ModelError("expected weights that find buildings, found others; install rscd again")
    return Buildings(options, model)


@dataclass(frozen=True)
class Buildings(Segmenter):
    """The network."""

    options: Options
    network: FileModel

    @property
    def info(self) -> SegmenterInfo:
        """Windows of 1024 pixels with context."""
        return SegmenterInfo("buildings", tile=1024, overlap=128, gamma=0.5)

    def fingerprint(self) -> Provenance:
        """Weights, which are the same for torch and ONNX Runtime, and assumptions."""
        return {"sha256": shipped_card()["sha256"], "options": asdict(self.options)}

    def predict(self, views: Sequence[View], prompts: PromptSet) -> list[SemanticPrediction]:
        """Find buildings.

        Raises:
            UsageError: for a foreground prompt that does not name buildings.
        """
        names = [
            any(phrase.casefold() in WORDS for phrase in prompt.phrases) for prompt in prompts.all
        ]
        for prompt, known in zip(prompts.foreground, names, strict=False):
            if not known:
                raise UsageError(
                    f"expected foreground prompts among {', '.join(sorted(WORDS))} for the "
                    f"segmenter buildings, which finds nothing else, found {prompt.name!r}; use "
                    "another segmenter for it"
                )
        found = []
        for _, group in groupby(views, key=lambda view: (view.rgb.shape, view.gsd_m)):
            for prob in self._standing(list(group)):
                planes = np.stack([prob if known else 1 - prob for known in names])
                found.append(SemanticPrediction(planes, prompts.classes, prompts.n_foreground))
        return found

    def _standing(self, views: Sequence[View]) -> list[FloatArray]:
        """(h,w) probability of a building for views of one size, two at a time."""
        from rscd.geo.resample import resampled
        from rscd.inference.adapted import scale_between

        card = shipped_card()
        scale = scale_between(views[0].gsd_m or self.options.gsd_m, card["gsd_m"])
        height, width = views[0].rgb.shape[:2]
        inner = max(1, int(height * scale)), max(1, int(width * scale))
        multiple = int(card["multiple"])
        below, right = (-side % multiple for side in inner)
        images = [view.rgb.transpose(2, 0, 1).astype(np.float32) for view in views]
        images += images[-1:] * (len(images) % 2)
        maps: list[FloatArray] = []
        for first in range(0, len(images), 2):
            dates = resampled(np.stack(images[first : first + 2]), inner)
            dates = np.pad(dates, ((0, 0), (0, 0), (0, below), (0, right)), mode="edge")
            seen = np.ones((1, *dates.shape[2:]), bool)
            _, prob = cast(BuildingModel, self.network).with_buildings(dates[None], seen)
            back = resampled(prob[0, :, : inner[0], : inner[1]], (height, width))
            maps += list(np.clip(back, 0, 1))
        return maps[: len(views)]
