"""Change vectors of frozen deep features: DCVA, and the deepest features of one encoder.

``dcva``: Saha, Bovolo and Bruzzone 2019, "Unsupervised deep change vector analysis for
multiple-change detection in VHR images", IEEE Transactions on Geoscience and Remote Sensing 57(6):
maps of several depths of a frozen network, resampled to the image; of each depth, the features
whose difference varies most in some part of the scene; the length of the difference of all of them;
Otsu's threshold. Kinds of change are not told apart. Differences from the paper: any encoder
instead of a network trained on aerial images; the median difference of each feature is subtracted,
which stands for the radiometric normalisation that the paper does beforehand; parts are quarters of
a random sample of the scene in row-major order; the share of the features that is kept is ours.

``features``: the change vector of the deepest map alone, in the literature "DINOv2 + CVA" (Zheng et
al. 2024, "Segment any change", arXiv 2402.01188): the length of the difference in standard
deviations, feature by feature; Otsu's threshold.

Unlike `rscd.inference.detectors.pointwise`, the threshold has no lower bound by the noise of
unchanged pixels, because features are not independent: like the published methods, these split a
scene without change in two.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.base.types import BoolArray, FloatArray, Provenance
from rscd.geo.tiles import round_up
from rscd.inference.detectors.otsu import otsu_threshold
from rscd.inference.detectors.registry import DEEP_DETECTORS
from rscd.inference.detectors.sampling import BUDGET, Indices, sample, usable_pixels
from rscd.inference.network import device_of
from rscd.inference.predictor import Block, Expected, Tiling
from rscd.inference.weights import running
from rscd.models.frozen import N_BANDS, FrozenEncoder, frozen_encoder
from rscd.models.networks import bytes_per_pixel, receptive_radius

Float64Array = NDArray[np.float64]

SHARE = 0.1
"""Features of each depth kept by ``dcva`` in each part of the scene."""
PARTS = 4

LEAST_DIFFERENCE = 1e-2
"""Least threshold, as a fraction of the spread of the features: invisible differences between equal
dates are no change."""

NUMBERS = 4 * BUDGET
"""Most features of both dates kept for statistics: thousands of pixels, as each has hundreds."""

MOST_HALO = 256
"""A larger receptive field is cut off; results then depend slightly on the tiling."""
SOME_HALO = 64
"""Context where it is cut off."""
TILE = 512
CHUNK = 32
"""Features resampled to the image at once."""
AGREEMENT = 1e-3
"""Largest relative difference between a result and that of another tile, if they are the same."""


@dataclass(frozen=True)
class Change:
    """What `Deep.fit` found in a scene."""

    offset: tuple[float, ...]
    """(K,) median difference of each feature, t2 - t1."""
    gain: tuple[float, ...]
    """(K,) factor of each feature's difference; 0 leaves it out."""
    tau: float
    """Length from which a pixel is change."""


@dataclass(frozen=True)
class Deep:
    """A detector on frozen features, as `Model` and, once fitted, as `Predictor`.

    ``change_prob = d / (d + tau)`` for a change vector of length d: one half at the threshold.
    """

    asked: str
    """As given with ``-m``, see `parse_deep`."""
    kind: str
    """One of `DEEP_DETECTORS`."""
    name: str
    encoder: str
    """With the tag of its weights."""
    sha256: str
    """Of its tensors."""
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """Cores a call may use."""
    tiling: Tiling
    strides: tuple[int, ...]
    """Of the maps that count."""
    sizes: tuple[int, ...]
    """Number of features of each of them."""
    change: Change | None = None
    threshold: float = 0.5

    @property
    def summary(self) -> str:
        """One line for ``rscd model list``."""
        return DEEP_DETECTORS[self.kind]

    def card(self) -> Provenance:
        """Name, encoder, hash of its tensors, and parameters; see ``Model``."""
        own = {"share": SHARE, "parts": PARTS} if self.kind == "dcva" else {}
        return {"name": self.name, "encoder": self.encoder, "sha256": self.sha256, **own}

    def expects(self, n_bands: int) -> Expected:
        """Three bands, or one, at any resolution."""
        return Expected(1 if n_bands == 1 else N_BANDS, None)

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> "Deep":
        """Choose features and threshold on a sample of the scene, in one pass.

        Raises:
            SceneError: if no pixel is usable at both dates.
        """

        def look(block: Block, usable: BoolArray, rows: Indices, cols: Indices) -> FloatArray:
            maps = self._maps(block.image[None], usable[None])
            pairs = zip(maps, self.strides, strict=True)
            return np.concatenate([_at(level, stride, rows, cols) for level, stride in pairs])

        most = max(1, NUMBERS // (2 * sum(self.sizes)))
        seen = sample(blocks, look, lambda _: most)
        return replace(self, change=change_of(seen, self.sizes, self.kind))

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``. Invalid pixels get 0.

        Raises:
            ModelError: if the image has neither three bands nor one.
        """
        if self.change is None:
            raise ValueError("expected a fitted model: call fit first")
        usable = np.stack([usable_pixels(*pair) for pair in zip(image, valid, strict=True)])
        maps = self._maps(image, usable)
        ends = np.cumsum(self.sizes)[:-1]
        offset, gain = (np.split(values, ends) for values in (self.change.offset, self.change.gain))
        vectors = []
        for level, shift, scale in zip(maps, offset, gain, strict=True):
            kept = scale != 0
            move, stretch = (torch.tensor(x[kept]).view(-1, 1, 1).to(level) for x in (shift, scale))
            vectors.append((level[:, 1, kept] - level[:, 0, kept] - move) * stretch)
        length = squared_length(vectors, self.strides, valid.shape[1:]).sqrt().cpu().numpy()
        tau = np.float32(self.change.tau)
        prob: FloatArray = np.where(usable, 1 - tau / (length + tau), np.float32(0))
        return prob

    def _maps(self, image: FloatArray, usable: BoolArray) -> list[Tensor]:
        """Features (B,2,K,h,w) of each depth that counts.

        Unusable pixels get the same value at both dates: it does not look like a change around
        them.
        """
        if image.shape[2] not in (1, N_BANDS):
            raise ModelError(
                f"expected {N_BANDS} bands or one for {self.name}, found {image.shape[2]}; choose "
                "them with --bands"
            )
        # the OpenMP thread count belongs to the calling thread: every worker sets its own
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        vectors, digest = _ready(self.asked, self.device)
        if digest != self.sha256:
            raise ModelError(
                f"expected the weights of {self.name} as they were when it was opened, found "
                "others; open it again"
            )
        dates = torch.from_numpy(image).to(self.device).expand(-1, -1, N_BANDS, -1, -1)
        keep = torch.from_numpy(usable).to(self.device)[:, None, None]
        dates = torch.where(keep, dates, vectors.encoder.normalize.mean)
        high, wide = (-side % vectors.multiple for side in usable.shape[1:])
        with torch.inference_mode(), running(self.name):
            flat = F.pad(dates.flatten(0, 1), (0, wide, 0, high), mode="replicate")
            return vectors.maps(flat.contiguous(memory_format=torch.channels_last))


def squared_length(
    vectors: Sequence[Tensor], strides: Sequence[int], shape_hw: Sequence[int]
) -> Tensor:
    """Sum of squares of all features, each resampled to the image (bilinear).

    Args:
        vectors: (B,K,h,w) differences of each depth.
        strides: pixels of the image per cell of each of them.
        shape_hw: of the image, at most what the maps cover.

    Returns:
        (B,H,W).
    """
    height, width = shape_hw
    total = vectors[0].new_zeros(len(vectors[0]), height, width)
    for vector, stride in zip(vectors, strides, strict=True):
        for start in range(0, vector.shape[1], CHUNK):
            chunk = vector[:, start : start + CHUNK]
            fine = F.interpolate(chunk, scale_factor=float(stride), mode="bilinear")
            total = total + fine[..., :height, :width].square().sum(1)
    return total


def change_of(seen: FloatArray, sizes: Sequence[int], kind: str) -> Change:
    """Features, factors and threshold from a sample.

    Args:
        seen: (K,2,n) features of n pixels of both dates, in row-major order of the scene.
        sizes: number of features of each depth.
        kind: of `DEEP_DETECTORS`.
    """
    t1, t2 = np.moveaxis(seen, 1, 0).astype(np.float64)
    difference = t2 - t1
    offset = np.median(difference, axis=1)  # most of a scene is unchanged
    spread = np.sqrt((t1.var(axis=1) + t2.var(axis=1)) / 2)
    if kind == "dcva":
        gain = varying(difference, sizes).astype(np.float64)
    else:
        varies = spread > LEAST_DIFFERENCE * np.median(spread)
        gain = np.divide(1, spread, where=varies, out=np.zeros_like(spread))
    length = np.sqrt((((difference - offset[:, None]) * gain[:, None]) ** 2).sum(axis=0))
    least = LEAST_DIFFERENCE * float(np.sqrt(np.sum((spread * gain) ** 2)))
    tau = max(otsu_threshold(length), least, float(np.finfo(np.float32).tiny))
    return Change(tuple(map(float, offset)), tuple(map(float, gain)), tau)


def varying(difference: Float64Array, sizes: Sequence[int]) -> BoolArray:
    """The features of each depth whose difference varies most in one of the parts of a sample.

    Args:
        difference: (K,n).
        sizes: number of features of each depth.

    Returns:
        (K,) bool.
    """
    parts = [part for part in np.array_split(difference, PARTS, axis=1) if part.shape[1]]
    chosen = np.zeros(len(difference), bool)
    start = 0
    for size in sizes:
        best = max(1, round(SHARE * size))
        for part in parts:
            order = np.argsort(part[start : start + size].var(axis=1), kind="stable")
            chosen[start + order[-best:]] = True
        start += size
    return chosen


def _at(level: Tensor, stride: int, rows: Indices, cols: Indices) -> FloatArray:
    """Features (1,2,K,h,w) at n pixels of the image: (K,2,n), bilinear as in `squared_length`."""
    places = []
    for index, side in ((cols, level.shape[4]), (rows, level.shape[3])):
        places.append(torch.from_numpy((index + 0.5) * 2 / (side * stride) - 1))
    grid = torch.stack(places, dim=1)[None, None].to(level).expand(2, -1, -1, -1)
    found = F.grid_sample(level[0], grid, padding_mode="border", align_corners=False)
    features: FloatArray = found[:, :, 0].transpose(0, 1).cpu().numpy()
    return features


class Vectors(nn.Module):
    """Squared length of the change vector of all features, by which an encoder is measured."""

    probe_size = 2 * MOST_HALO

    def __init__(self, encoder: FrozenEncoder, kind: str) -> None:
        """Take the maps that count for a kind of `DEEP_DETECTORS`."""
        super().__init__()
        self.encoder, self.multiple = encoder, encoder.multiple
        self.last = len(encoder.strides) if kind == "dcva" else 1
        self.strides = encoder.strides[-self.last :]

    def maps(self, dates: Tensor) -> list[Tensor]:
        """(2B,3,H,W), the dates of each pair together -> features (B,2,K,h,w) of each depth."""
        levels = self.encoder(dates)[-self.last :]
        return [level.unflatten(0, (-1, 2)) for level in levels]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B,2,3,H,W) -> ``logits`` (B,1,H,W)."""
        vectors = [level[:, 1] - level[:, 0] for level in self.maps(image.flatten(0, 1))]
        return {"logits": squared_length(vectors, self.strides, image.shape[-2:])[:, None]}


def parse_deep(asked: str) -> tuple[str, str | None, str | None]:
    """``KIND[:[ENCODER][@FILE]]`` -> one of `DEEP_DETECTORS`, and what `frozen_encoder` takes.

    Raises:
        ModelError: no file after ``@``.
    """
    kind, _, encoder = asked.partition(":")
    name, at, file = encoder.partition("@")
    if at and not file:
        raise ModelError(
            f"expected a file of weights after @ in {asked!r}, found none; name one, or drop @"
        )
    return kind, name or None, file or None


def load_deep(asked: str, device: str = "auto", threads: int = 1) -> Deep:
    """A detector with its encoder loaded and measured.

    Args:
        asked: see `parse_deep`.
        device: ``auto`` uses a GPU if there is one.
        threads: cores a call may use.

    Raises:
        ModelError: see `frozen_encoder`; or for a missing GPU.
    """
    device = device_of(device)
    vectors, digest = _ready(asked, device)
    kind, given, file = parse_deep(asked)
    encoder = vectors.encoder.name
    name = kind if given is file is None else f"{kind}:{encoder}"
    with running(name), torch.inference_mode():
        side = 2 * vectors.multiple
        maps = vectors.maps(torch.zeros(2, N_BANDS, side, side, device=device))
    return Deep(
        asked=asked,
        kind=kind,
        name=name,
        encoder=encoder,
        sha256=digest,
        device=device,
        threads=threads,
        tiling=_tiling(asked, device),
        strides=vectors.strides,
        sizes=tuple(level.shape[2] for level in maps),
    )


@cache  # seconds
def _tiling(asked: str, device: str) -> Tiling:
    """Halo and exactness, as the encoder is found to behave."""
    vectors, _ = _ready(asked, device)
    encoder, multiple = vectors.encoder, vectors.multiple
    with running(encoder.name):
        radius = receptive_radius(vectors.cpu(), N_BANDS)
        halo = round_up(SOME_HALO if radius is None else radius, multiple)
        exact = radius is not None and _agree(vectors, halo)
        cost = bytes_per_pixel(vectors, N_BANDS)
        vectors.to(device)
    tile = TILE
    if not exact:
        pyramid = len(set(encoder.strides)) > 1
        halo = round_up(SOME_HALO if pyramid else encoder.side // 8, multiple)
        # transformers with one stride see images of the size they were trained with
        tile = TILE if pyramid else max(multiple, encoder.side - 2 * halo)
    return Tiling(
        halo=halo,
        multiple=multiple,
        tile_size=tile,
        batch_size=8 if device == "cuda" else 1,
        bytes_per_pixel=cost + 3 * 4 * CHUNK,
        fit_bytes=12 * NUMBERS,
        exact=exact,
        patch=encoder.side,
    )


def _agree(vectors: Vectors, halo: int) -> bool:
    """Whether a tile with this halo gives the same result wherever it begins.

    Windows and position embeddings of transformers are not seen by the receptive field.
    """
    step = vectors.multiple
    side = 2 * halo + 4 * step
    image = 255 * torch.rand(1, 2, N_BANDS, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = vectors(image)["logits"][..., halo + step : -halo, halo + step : -halo]
        moved = vectors(image[..., step:, step:])["logits"][..., halo:-halo, halo:-halo]
    return bool((whole - moved).abs().max() <= AGREEMENT * whole.max())


_lock = threading.Lock()
_held: dict[tuple[str, str], tuple[Vectors, str]] = {}


def _ready(asked: str, device: str) -> tuple[Vectors, str]:
    """The encoder and the hash of its tensors; cached, one per process."""
    with _lock:
        if (asked, device) not in _held:
            kind, encoder, file = parse_deep(asked)
            vectors = Vectors(frozen_encoder(encoder, file), kind).to(device)
            digest = sha256()
            for name, tensor in vectors.state_dict().items():
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
            _held[asked, device] = vectors, digest.hexdigest()
        return _held[asked, device]
