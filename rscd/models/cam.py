"""KD-MSI's classifier, whose map before pooling is a class activation map (section 2)."""

from collections.abc import Sequence

from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.models.deeplab import kdmsi_statistics
from rscd.models.encoders import Backbone, build_encoder, encode_dates, hold_statistics
from rscd.models.fusion import FUSIONS, fused_channels
from rscd.models.inputs import check_image, normalize_layer
from rscd.models.logits import exact
from rscd.models.resize import resize, size_of
from rscd.models.siamese import BATCH_NORMS
from rscd.models.smp_encoders import STRIDE_16

COMBINATIONS = {"cat": "concat-reversed", "minus": "diff", "abs": "abs"}
"""Published name -> fusion (section 2.2): t2 first, t2 - t1, absolute."""


class CamClassifier(nn.Module):
    """Image-level change classifier; ``minus`` and ``abs`` have equal tensors but differ.

    Tensors have the published names: ``model.*`` for the encoder, ``classifier.weight``.
    """

    def __init__(
        self, *, normalize: nn.Module, backbone: Backbone, combination: str, batch_norm: str
    ) -> None:
        super().__init__()
        if combination not in COMBINATIONS or batch_norm not in BATCH_NORMS:
            raise ModelError(
                f"expected combination {', '.join(COMBINATIONS)} and batch_norm "
                f"{', '.join(BATCH_NORMS)}, found {combination!r} and {batch_norm!r}"
            )
        self.n_bands = backbone.channels[0]
        self.multiple = backbone.multiple
        self.any_size = backbone.any_size
        self.combination = combination
        self.batch_norm = batch_norm
        self.normalize = normalize
        self.model = backbone.module
        channels = fused_channels(COMBINATIONS[combination], backbone.channels)
        self.classifier = nn.Conv2d(channels[-1], 1, 1, bias=False)
        nn.init.kaiming_normal_(self.classifier.weight)
        self.train(self.training)

    def train(self, mode: bool = True) -> "CamClassifier":
        """Switch modes; fixed batch norms stay in eval mode."""
        super().train(mode)
        if self.batch_norm == "fix":
            hold_statistics(self.model)
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Classify pairs and locate the change.

        In train mode each date is a separate pass, t2 first (section 2.3), unless the batch norms
        are fixed, when the order does not matter.

        Args:
            image: (B,2,C,H,W) float32 raw values.

        Returns:
            ``cam`` (B,1,h,w): the map G at the encoder's stride, signed; ``label_logit`` (B,1): its
            spatial mean; ``logits`` (B,1,H,W): G resized bilinearly to the image, whose sigmoid is
            a change probability once the network is a trained student.
        """
        check_image(image, self.n_bands, 1 if self.any_size else self.multiple)
        order = "joint" if self.batch_norm == "fix" else "t2-first"
        t1, t2 = encode_dates(self.model, self.normalize(image), order)
        cam = exact(self.classifier(FUSIONS[COMBINATIONS[self.combination]](t1[-1], t2[-1])))
        return {"logits": resize(cam, size_of(image)), "cam": cam, "label_logit": cam.mean((2, 3))}


def cam_classifier(
    n_bands: int = 3,
    encoder: str = STRIDE_16,
    combination: str = "minus",
    weights: str | None = None,
    output_stride: int = 16,
    depth: int = 5,
    batch_norm: str = "normal",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> CamClassifier:
    """KD-MSI's teacher or student.

    Args:
        n_bands: bands per date.
        encoder: see `rscd.models.encoders`.
        combination: one of `COMBINATIONS`.
        weights: of the encoder; None: random.
        output_stride: of other encoders than the default one, by dilation.
        depth: stages of other encoders; 4 or 3 see less around a pixel and, of most architectures,
            give maps of stride 16 or 8 without dilation: for small tiles and random weights.
        batch_norm: ``normal`` as published, or ``fix``.
        mean: per band; default 127.5, as published.
        std: per band; default 127.5.
    """
    backbone = build_encoder(
        encoder, n_bands=n_bands, weights=weights, depth=depth, output_stride=output_stride
    )
    return CamClassifier(
        normalize=normalize_layer(n_bands, mean, std, kdmsi_statistics(n_bands)),
        backbone=backbone,
        combination=combination,
        batch_norm=batch_norm,
    )
