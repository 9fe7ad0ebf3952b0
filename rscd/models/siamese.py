"""Siamese networks: one encoder for both dates, fused features, one decoder."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from rscd.errors import ModelError
from rscd.models.normalize import Normalize

FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda t1, t2: torch.cat([t1, t2], dim=1),
    "diff": lambda t1, t2: t2 - t1,
    "abs": lambda t1, t2: (t2 - t1).abs(),
}
"""How the features of both dates (B,C,h,w) become one; ``concat`` doubles the channels."""


class Siamese(nn.Module):
    """Encoder shared by both dates + fusion at every level + decoder + head."""

    def __init__(
        self,
        *,
        normalize: nn.Module,
        encoder: Any,
        fusion: str,
        decoder: nn.Module,
        head: nn.Module,
        multiple: int,
    ) -> None:
        """Take the parts; sizes of images must be multiples of `multiple`."""
        super().__init__()
        self.multiple = multiple
        self.normalize = normalize
        self.encoder = encoder
        self.fusion = fusion
        self.decoder = decoder
        self.head = head

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict change.

        Args:
            image: (B,2,C,H,W) float32 raw values, H and W multiples of the encoder's stride.

        Returns:
            ``logits`` (B,1,H,W): change where positive.
        """
        pairs = image.shape[0]
        both = self.encoder(self.normalize(image).flatten(0, 1))
        fuse = FUSIONS[self.fusion]
        levels = [level.unflatten(0, (pairs, 2)) for level in both]
        fused = [fuse(level[:, 0], level[:, 1]) for level in levels]
        return {"logits": self.head(self.decoder(fused))}


def siamese_unet(
    n_bands: int = 3,
    encoder: str = "resnet18",
    fusion: str = "diff",
    weights: str | None = None,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Siamese:
    """Siamese U-Net with any encoder of segmentation-models-pytorch or timm (``tu-...``).

    Args:
        n_bands: bands per date.
        encoder: its name there.
        fusion: one of `FUSIONS`.
        weights: pretrained weights of the encoder by their name there (downloaded); None: random.
        decoder_channels: from the deepest level to full resolution.
        mean: per band, subtracted from raw values; default 0.
        std: per band; default 1.
    """
    if fusion not in FUSIONS:
        raise ModelError(f"expected a fusion among {', '.join(FUSIONS)}, found {fusion!r}")
    depth = len(decoder_channels)
    backbone = get_encoder(encoder, in_channels=n_bands, depth=depth, weights=weights)
    factor = 2 if fusion == "concat" else 1
    return Siamese(
        normalize=Normalize(mean or [0.0] * n_bands, std or [1.0] * n_bands),
        encoder=backbone,
        fusion=fusion,
        decoder=UnetDecoder(
            encoder_channels=[factor * channels for channels in backbone.out_channels],
            decoder_channels=list(decoder_channels),
            n_blocks=depth,
        ),
        head=SegmentationHead(decoder_channels[-1], 1, kernel_size=3),
        multiple=2**depth,
    )
