"""Siamese networks: one encoder for both dates, fused features, one decoder."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.models.deeplab import DeepLabDecoder, kdmsi_statistics
from rscd.models.encoders import Backbone, build_encoder, encode_dates, hold_statistics
from rscd.models.fusion import fuse, fused_channels
from rscd.models.inputs import check_image, normalize_layer
from rscd.models.mlp_head import LightHead, feature_distance, resize_distance
from rscd.models.resize import resize, size_of
from rscd.models.smp_encoders import STRIDE_16

BATCH_NORMS = ("normal", "fix")
"""``fix``: the encoder's batch norms keep their stored statistics in training as well."""


class Siamese(nn.Module):
    """Encoder shared by both dates + fusion at every level + decoder + head."""

    def __init__(
        self,
        *,
        normalize: nn.Module,
        backbone: Backbone,
        fusion: str,
        decoder: nn.Module,
        head: nn.Module | None = None,
        align_corners: bool = False,
        batch_norm: str = "normal",
    ) -> None:
        """Assemble the parts.

        Args:
            normalize: raw values -> input of the encoder.
            backbone: the encoder.
            fusion: one of `rscd.models.fusion.FUSIONS`.
            decoder: list of fused levels -> map.
            head: map -> logits; None if the decoder returns logits.
            align_corners: how logits of another size are resized to the image, bilinearly.
            batch_norm: one of `BATCH_NORMS`.

        Attributes:
            order: in which the dates are encoded, see `rscd.models.encoders.encode_dates`; a method
                may set another than ``joint``.

        Raises:
            ModelError: for an unknown batch norm.
        """
        super().__init__()
        if batch_norm not in BATCH_NORMS:
            raise ModelError(f"expected one of {', '.join(BATCH_NORMS)}, found {batch_norm!r}")
        self.n_bands = backbone.channels[0]
        self.channels = backbone.channels
        self.multiple = backbone.multiple
        self.any_size = backbone.any_size
        self.normalize = normalize
        self.encoder = backbone.module
        self.fusion = fusion
        self.decoder = decoder
        self.head = head or nn.Identity()
        self.align_corners = align_corners
        self.order = "joint"
        self.batch_norm = batch_norm
        self.train(self.training)

    def train(self, mode: bool = True) -> "Siamese":
        """Switch modes; fixed batch norms stay in eval mode."""
        super().train(mode)
        if self.batch_norm == "fix":
            hold_statistics(self.encoder)
        return self

    def encode(self, image: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """(B,2,C,H,W) raw -> maps of t1 and maps of t2; map k has stride 2**k.

        Raises:
            ModelError: for other bands or sizes than the network takes.
        """
        check_image(image, self.n_bands, 1 if self.any_size else self.multiple)
        return encode_dates(self.encoder, self.normalize(image), self.order)

    def decode(self, t1: Sequence[Tensor], t2: Sequence[Tensor]) -> Tensor:
        """Maps of both dates -> logits (B,K,H,W) at the size of map number 0."""
        return self.to_image(self.head(self.decoder(fuse(self.fusion, t1, t2))), t1[0])

    def to_image(self, logits: Tensor, image: Tensor) -> Tensor:
        """Resize logits to the size of an image, if different."""
        size = image.shape[-2:]
        if logits.shape[-2:] == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=self.align_corners)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Predict change.

        Args:
            image: (B,2,C,H,W) float32 raw values, H and W multiples of `multiple`.

        Returns:
            ``logits`` (B,K,H,W).
        """
        return {"logits": self.decode(*self.encode(image))}


def training_heads(network: Siamese) -> tuple[nn.Conv2d, LightHead]:
    """The heads that DiffMatch's training adds to a `siamese_mlp`, with new weights.

    Returns:
        The second classifier on the decoder's features, and the segmentation head for each date.
    """
    decoder = cast(LightHead, network.decoder)
    width = decoder.conv_seg.in_channels
    classifier = nn.Conv2d(width, decoder.conv_seg.out_channels, 1)
    return classifier, LightHead(network.channels, width=width, skip=SKIP)


def training_outputs(
    network: Siamese,
    vl_classifier: nn.Module,
    segmentation: LightHead,
    t1: Sequence[Tensor],
    t2: Sequence[Tensor],
    image: Tensor,
) -> dict[str, Tensor]:
    """All inputs of DiffMatch's losses.

    Args:
        network: with a light head as decoder.
        vl_classifier: on the decoder's features.
        segmentation: head applied to each date on its own.
        t1: maps of `Siamese.encode`.
        t2: maps of the other date.
        image: only its size is used.

    Returns:
        ``logits`` (B,2,H,W) of the classifier used for prediction; ``vl_logits`` (B,2,H,W) of the
        one guided by vision-language labels; ``sem_t1`` and ``sem_t2`` (B,2,H,W), background and
        foreground of each date; ``embed_t1`` and ``embed_t2`` (B,256,H/4,W/4), their features;
        ``distance`` (B,H,W) between those.
    """
    decoder = cast(LightHead, network.decoder)
    q = decoder.features(fuse(network.fusion, t1, t2))
    q_t1, q_t2 = segmentation.features(t1), segmentation.features(t2)
    maps = {
        "logits": decoder.conv_seg(q),
        "vl_logits": vl_classifier(q),
        "sem_t1": segmentation.conv_seg(q_t1),
        "sem_t2": segmentation.conv_seg(q_t2),
    }
    size = size_of(image)
    return {name: resize(value, size) for name, value in maps.items()} | {
        "embed_t1": q_t1,
        "embed_t2": q_t2,
        "distance": resize_distance(feature_distance(q_t1, q_t2), size),
    }


def siamese_unet(
    n_bands: int = 3,
    encoder: str = "resnet18",
    fusion: str = "diff",
    weights: str | None = None,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    n_classes: int = 1,
    batch_norm: str = "normal",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Siamese:
    """Siamese U-Net.

    Args:
        n_bands: bands per date.
        encoder: see `rscd.models.encoders`.
        fusion: one of `rscd.models.fusion.FUSIONS`.
        weights: of the encoder; None: random.
        decoder_channels: from the deepest level to full resolution.
        n_classes: 1 or 2.
        batch_norm: one of `BATCH_NORMS`.
        mean: per band, subtracted from raw values; default: expected by the weights, else 0.
        std: per band; default: expected by the weights, else 1.
    """
    from segmentation_models_pytorch.base import SegmentationHead  # seconds to import
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    depth = len(decoder_channels)
    backbone = build_encoder(encoder, n_bands=n_bands, weights=weights, depth=depth)
    return Siamese(
        normalize=normalize_layer(n_bands, mean, std, backbone.statistics),
        backbone=backbone,
        fusion=fusion,
        decoder=UnetDecoder(
            encoder_channels=fused_channels(fusion, backbone.channels),
            decoder_channels=list(decoder_channels),
            n_blocks=depth,
        ),
        head=SegmentationHead(decoder_channels[-1], n_classes, kernel_size=3),
        batch_norm=batch_norm,
    )


SKIP = 2
"""The light head takes the levels of stride 4 and coarser."""


def siamese_mlp(
    n_bands: int = 3,
    encoder: str = "tu-resnet50",
    fusion: str = "abs",
    weights: str | None = None,
    output_stride: int = 16,
    width: int = 256,
    n_classes: int = 2,
    batch_norm: str = "normal",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Siamese:
    """Siamese encoder with the light all-MLP head of DiffMatch (section 3).

    Args:
        n_bands: bands per date.
        encoder: see `rscd.models.encoders`; timm's ResNets dilate as in the paper, those of
            segmentation-models-pytorch also dilate the first block of the last stage.
        fusion: one of `rscd.models.fusion.FUSIONS`.
        weights: of the encoder; None: random.
        output_stride: 16 dilates the last stage, 32 leaves the encoder unchanged.
        width: of the head.
        n_classes: 1 or 2.
        batch_norm: one of `BATCH_NORMS`.
        mean: per band; default: expected by the weights, else 0.
        std: per band; default: expected by the weights, else 1.
    """
    backbone = build_encoder(encoder, n_bands=n_bands, weights=weights, output_stride=output_stride)
    return Siamese(
        normalize=normalize_layer(n_bands, mean, std, backbone.statistics),
        backbone=backbone,
        fusion=fusion,
        decoder=LightHead(
            fused_channels(fusion, backbone.channels), width=width, n_classes=n_classes, skip=SKIP
        ),
        batch_norm=batch_norm,
    )


def siamese_deeplab(
    n_bands: int = 3,
    encoder: str = STRIDE_16,
    fusion: str = "diff-reversed",
    weights: str | None = None,
    output_stride: int = 16,
    n_classes: int = 2,
    batch_norm: str = "fix",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Siamese:
    """Siamese DeepLabV3+ of KD-MSI (section 5); not local: group norm and a pooled branch.

    Args:
        n_bands: bands per date.
        encoder: see `rscd.models.encoders`.
        fusion: one of `rscd.models.fusion.FUSIONS`; published: t1 - t2.
        weights: of the encoder; None: random.
        output_stride: of other encoders than the default one, by dilation.
        n_classes: 1 or 2.
        batch_norm: ``fix`` as published, for pretrained weights; use ``normal`` with random ones.
        mean: per band; default 127.5, as published.
        std: per band; default 127.5.
    """
    backbone = build_encoder(encoder, n_bands=n_bands, weights=weights, output_stride=output_stride)
    return Siamese(
        normalize=normalize_layer(n_bands, mean, std, kdmsi_statistics(n_bands)),
        backbone=backbone,
        fusion=fusion,
        decoder=DeepLabDecoder(fused_channels(fusion, backbone.channels), n_classes),
        align_corners=True,
        batch_norm=batch_norm,
    )
