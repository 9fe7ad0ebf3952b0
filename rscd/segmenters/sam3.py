"""SAM 3 (Meta, 2025) and SAM 3 LiteText: dense scores and objects from one model.

Each phrase gives up to 200 objects with scores, a semantic map and a presence score. They are
fused as SegEarth-OV3 does (arXiv 2512.08730), except that presence enters once, not twice:

    score = sigmoid(object) * sigmoid(presence)
    prob  = max( max over objects of score * sigmoid(mask),  sigmoid(semantic) * sigmoid(presence) )

Maps are 288 x 288 whatever the window, so a window of 512 pixels loses little.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rscd.base.arguments import check_range
from rscd.base.errors import ModelError
from rscd.base.types import Provenance
from rscd.segmenters.clipseg import best_of, resized
from rscd.segmenters.hub import opened, require_transformers
from rscd.segmenters.instances import Instance, from_masks
from rscd.segmenters.prompts import PromptSet, check_lengths
from rscd.segmenters.segmenter import SegmenterInfo, SemanticPrediction, View

MODEL = "facebook/sam3"
UNGATED = (
    "--segmenter-option model=vil-uob/sam3-litetext-s0 (check both licences), --segmenter clipseg"
)

CLASSES = {
    "sam3": "Sam3Model",
    "sam3_video": "Sam3Model",  # the published file also contains a tracker, which is not loaded
    "sam3_lite_text": "Sam3LiteTextModel",
}

THRESHOLDS = ("fuse_threshold", "instance_threshold", "mask_threshold")
"""Options from 0 to 1."""

CPU_SECONDS = (66.0, 23.0)
"""Seconds per window and per phrase, with random full-size weights, float32, two cores."""

CROWDED = 180
"""Warn from this many of 200 possible objects: there were probably more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Weights, and how their outputs are fused."""

    model: str = MODEL
    """Folder, or name on the hub; the kind is read from its config."""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    fuse_threshold: float = 0.1
    """Score from which an object enters the dense scores."""
    instance_threshold: float = 0.5
    """Score from which an object is kept."""
    mask_threshold: float = 0.5
    """Probability from which a pixel belongs to an object."""
    use_presence: bool = True
    prompt_batch: int = 8
    """Phrases per batch; fewer need less memory."""


def build(options: Options) -> "Sam3":
    """Load the weights.

    Raises:
        ModelError: if library or weights are missing, gated or do not fit.
        UsageError: if an option is out of range.
    """
    library = require_transformers("sam3", ("Sam3Model", "Sam3Processor"))
    check_range(options, THRESHOLDS, 0, 1)
    check_range(options, ["prompt_batch"], 1)
    parts = opened("sam3", options, library, CLASSES, "Sam3Processor", alternatives=UNGATED)
    return Sam3(options, *parts)


@dataclass
class Sam3:
    """Network and processor."""

    options: Options
    model: Any
    processor: Any
    weights: Provenance = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._prompt_batch = self.options.prompt_batch  # reduced if memory is short

    @property
    def info(self) -> SegmenterInfo:
        """Windows as in the published change-detection runs."""
        least = self.options.instance_threshold
        return SegmenterInfo(
            "sam3", native_instances=True, tile=512, overlap=64, instance_threshold=least
        )

    def fingerprint(self) -> Provenance:
        """Weights, dtype, library, and how outputs are fused."""
        return self.weights | {n: getattr(self.options, n) for n in (*THRESHOLDS, "use_presence")}

    def seconds_per_view(self, prompts: PromptSet) -> float | None:
        """Minutes on a CPU for full-size weights."""
        large = sum(p.numel() for p in self.model.parameters()) > 100e6
        if self.model.device.type != "cpu" or not large:
            return None
        return CPU_SECONDS[0] + CPU_SECONDS[1] * len(prompts.phrases)

    def predict(self, views: Sequence[View], prompts: PromptSet) -> list[SemanticPrediction]:
        """Segment every phrase in every view.

        Raises:
            UsageError: for a phrase with too many tokens.
            ModelError: if GPU memory is insufficient.
        """
        import torch

        tokens = self._tokens(prompts)
        with torch.inference_mode():
            return [self._one(view, prompts, tokens) for view in views]

    def _tokens(self, prompts: PromptSet) -> Any:
        texts = [phrase for _, phrase in prompts.phrases]
        lengths = [len(ids) for ids in self.processor.tokenizer(texts)["input_ids"]]
        # the processor pads to this length and does not truncate longer phrases
        check_lengths(prompts, lengths, self.model.config.text_config.max_position_embeddings)
        return self.processor(text=texts, return_tensors="pt").to(self.model.device)

    def _one(self, view: View, prompts: PromptSet, tokens: Any) -> SemanticPrediction:
        import torch

        image = self.processor(images=view.rgb, return_tensors="pt")["pixel_values"]
        image = image.to(self.model.device, self.model.dtype)
        try:
            seen = self.model.get_vision_features(image)
        except torch.OutOfMemoryError as error:
            raise ModelError(_too_little_memory(view)) from error
        owners = [index for index, _ in prompts.phrases]
        maps, instances = [], []
        start = 0
        while start < len(owners):
            stop = start + self._prompt_batch
            try:
                out = self._ask(seen, tokens, slice(start, stop))
                fused, found = self._fuse(out, view, owners[start:stop], prompts.n_foreground)
            except torch.OutOfMemoryError as error:
                if self._prompt_batch == 1:
                    raise ModelError(_too_little_memory(view)) from error
                self._prompt_batch = max(1, self._prompt_batch // 2)
                text = "GPU memory is short: %d phrases per batch from now on"
                log.warning(text, self._prompt_batch)
                continue
            maps.append(fused)
            instances += found
            start = stop
        scores = resized(torch.cat(maps), view.rgb.shape[:2])
        prob = best_of(scores, owners, len(prompts.classes))
        return SemanticPrediction(prob, prompts.classes, prompts.n_foreground, instances)

    def _ask(self, seen: Any, tokens: Any, part: slice) -> Any:
        """One image, several phrases: the image's features are repeated for each."""
        ids, mask = tokens["input_ids"][part], tokens["attention_mask"][part]
        count = len(ids)
        repeated = type(seen)(
            fpn_hidden_states=tuple(_repeat(t, count) for t in seen.fpn_hidden_states),
            fpn_position_encoding=tuple(_repeat(t, count) for t in seen.fpn_position_encoding),
        )
        return self.model(vision_embeds=repeated, input_ids=ids, attention_mask=mask)

    def _fuse(
        self, out: Any, view: View, owners: Sequence[int], n_foreground: int
    ) -> tuple[Any, list[Instance]]:
        """(K,h,w) scores of K phrases at the model's size, and their objects in the view."""
        maps, instances = [], []
        for row, owner in enumerate(owners):
            presence, scores = 1.0, out.pred_logits[row].float().sigmoid()
            if self.options.use_presence:
                presence = out.presence_logits[row].float().sigmoid()
                scores = scores * presence
            fused = out.semantic_seg[row, 0].float().sigmoid() * presence
            for index in (scores > self.options.fuse_threshold).nonzero()[:, 0]:
                mask = out.pred_masks[row, index].float().sigmoid()
                fused = fused.maximum(scores[index] * mask)
            maps.append(fused[None])
            if owner < n_foreground:
                instances += self._instances(out.pred_masks[row], scores, view, owner)
        import torch

        return torch.cat(maps), instances

    def _instances(self, masks: Any, scores: Any, view: View, owner: int) -> list[Instance]:
        kept = (scores > self.options.instance_threshold).nonzero()[:, 0]
        if len(kept) > CROWDED:
            log.warning(
                "%s %s: %d objects in one window, of at most %d; use a smaller --tile-size",
                *(view.name, view.date, len(kept), len(scores)),
            )
        found = []
        for index in kept:  # one at a time: 200 full-size masks would fill the memory
            mask = resized(masks[index][None].float().sigmoid(), view.rgb.shape[:2])
            inside = np.asarray(mask > self.options.mask_threshold)
            if inside.any():
                found += from_masks(inside, [owner], [float(scores[index])])
        return found


def _repeat(tensor: Any, count: int) -> Any:
    return tensor.expand(count, *tensor.shape[1:])


def _too_little_memory(view: View) -> str:
    side = max(view.rgb.shape[:2])
    return (
        f"expected more GPU memory for windows of {side} pixels, found it used up; set "
        "--segmenter-option prompt_batch=1, a smaller --tile-size, or --segmenter-option "
        "dtype=bfloat16"
    )
