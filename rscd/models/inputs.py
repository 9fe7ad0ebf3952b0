"""Input of every network: pairs of raw images, checked once."""

from collections.abc import Sequence

from torch import Tensor

from rscd.base.errors import ModelError
from rscd.models.normalize import Normalize


def check_image(image: Tensor, n_bands: int, multiple: int = 1) -> None:
    """Refuse anything that is not a batch of image pairs for this network.

    Args:
        image: expected (B,2,`n_bands`,H,W).
        n_bands: bands per date.
        multiple: H and W must be multiples of this.

    Raises:
        ModelError: stating the shape found and the sizes to use.
    """
    found = tuple(image.shape)
    if image.ndim != 5 or found[1:3] != (2, n_bands):
        raise ModelError(
            f"expected image pairs (B,2,{n_bands},H,W), found {found}; choose the bands this "
            "network was built for, or build it with another n_bands"
        )
    height, width = found[-2:]
    if height % multiple or width % multiple or not height or not width:
        padded = tuple(max(1, -(-side // multiple)) * multiple for side in (height, width))
        raise ModelError(
            f"expected height and width that are multiples of {multiple}, found {height}x{width}; "
            f"pad to {padded[0]}x{padded[1]} or choose another patch_size"
        )


def normalize_layer(
    n_bands: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    default: tuple[Sequence[float], Sequence[float]],
) -> Normalize:
    """The first layer of a network.

    Args:
        n_bands: bands per date.
        mean: per band; None for the default.
        std: per band; None for the default.
        default: means and deviations that the network's weights were trained with.

    Raises:
        ModelError: if the numbers do not match the bands.
    """
    means, stds = list(mean or default[0]), list(std or default[1])
    if len(means) != n_bands or len(stds) != n_bands or min(stds) <= 0:
        raise ModelError(
            f"expected mean and positive std for {n_bands} bands, found {means} and {stds}"
        )
    return Normalize(means, stds)
