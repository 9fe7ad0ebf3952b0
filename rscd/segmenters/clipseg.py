"""CLIPSeg (Lueddecke and Ecker, arXiv 2112.10003): a blurry map per phrase, no objects.

Ungated (Apache-2.0), some 150 million parameters, feasible on a CPU. Its scores are uncalibrated
and usually low.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rscd.base.errors import UsageError
from rscd.base.types import FloatArray, Provenance
from rscd.segmenters.hub import opened, require_transformers
from rscd.segmenters.prompts import PromptSet, check_lengths
from rscd.segmenters.segmenter import Segmenter, SegmenterInfo, SemanticPrediction, View

MODEL = "CIDAS/clipseg-rd64-refined"
CLASSES = {"clipseg": "CLIPSegForImageSegmentation"}


@dataclass(frozen=True)
class Options:
    """Weights and prompt options."""

    model: str = MODEL
    """Folder, or name on the hub."""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    template: str = "{}"
    """Sentence around each phrase, such as ``an aerial image of {}``."""
    prompt_batch: int = 8


def build(options: Options) -> "ClipSeg":
    """Load the weights.

    Raises:
        ModelError: if library or weights are missing or do not fit.
        UsageError: for an invalid option.
    """
    library = require_transformers("clipseg", ("CLIPSegForImageSegmentation", "CLIPSegProcessor"))
    if options.template.count("{}") != 1 or options.prompt_batch < 1:
        raise UsageError(
            "expected template= with {} once and prompt_batch= of 1 or more, found "
            f"{options.template!r} and {options.prompt_batch}; correct them"
        )
    other = "--segmenter precomputed"
    parts = opened("clipseg", options, library, CLASSES, "CLIPSegProcessor", alternatives=other)
    return ClipSeg(options, *parts)


@dataclass(frozen=True)
class ClipSeg(Segmenter):
    """Network and processor."""

    options: Options
    model: Any
    processor: Any
    weights: Provenance

    @property
    def info(self) -> SegmenterInfo:
        """Windows of its native side, 352 pixels."""
        return SegmenterInfo("clipseg", tile=352, overlap=48, gamma=0.5)

    def fingerprint(self) -> Provenance:
        """Weights, dtype, library and the sentence around phrases."""
        return self.weights | {"template": self.options.template}

    def predict(self, views: Sequence[View], prompts: PromptSet) -> list[SemanticPrediction]:
        """Segment every phrase.

        Raises:
            UsageError: for a phrase with too many tokens.
        """
        return [self._one(view, prompts) for view in views]

    def _one(self, view: View, prompts: PromptSet) -> SemanticPrediction:
        import torch

        texts = self._texts(prompts)
        with torch.inference_mode():
            image = self.processor(images=view.rgb, return_tensors="pt")["pixel_values"]
            seen = self._activations(image.to(self.model.device, self.model.dtype))
            maps = [
                self._decode(seen, texts[start : start + self.options.prompt_batch])
                for start in range(0, len(texts), self.options.prompt_batch)
            ]
            scores = resized(torch.cat(maps), view.rgb.shape[:2])
        owners = [index for index, _ in prompts.phrases]
        prob = best_of(scores, owners, len(prompts.classes))
        return SemanticPrediction(prob, prompts.classes, prompts.n_foreground)

    def _texts(self, prompts: PromptSet) -> list[str]:
        texts = [self.options.template.format(phrase) for _, phrase in prompts.phrases]
        lengths = [len(ids) for ids in self.processor.tokenizer(texts)["input_ids"]]
        check_lengths(prompts, lengths, self.model.config.text_config.max_position_embeddings)
        return texts

    def _activations(self, pixels: Any) -> list[Any]:
        """Run the image encoder, four fifths of the work, once per window."""
        seen = self.model.clip.get_image_features(
            pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True
        )
        return [seen.hidden_states[layer + 1] for layer in self.model.extract_layers]

    def _decode(self, seen: list[Any], texts: list[str]) -> Any:
        tokens = self.processor.tokenizer(texts, padding=True, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        meant = self.model.get_conditional_embeddings(
            batch_size=len(texts),
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
        )
        layers = tuple(layer.expand(len(texts), -1, -1) for layer in seen)
        logits = self.model.decoder(layers, meant).logits
        return logits.reshape(len(texts), *logits.shape[-2:]).float().sigmoid()


def resized(planes: Any, shape_hw: Sequence[int]) -> FloatArray:
    """(K,h,w) tensor as (K,H,W) float32 in [0,1], bilinear."""
    from torch.nn.functional import interpolate

    size = (int(shape_hw[0]), int(shape_hw[1]))
    wide = interpolate(planes[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    array: FloatArray = wide.clamp(0, 1).cpu().numpy()
    return array


def best_of(scores: FloatArray, owners: Sequence[int], n_classes: int) -> FloatArray:
    """(K,H,W) -> (C,H,W): the best phrase of each class."""
    prob = np.zeros((n_classes, *scores.shape[1:]), np.float32)
    for owner, plane in zip(owners, scores, strict=True):
        np.maximum(prob[owner], plane, out=prob[owner])
    return prob
