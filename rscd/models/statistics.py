"""Band statistics that pretrained weights expect, in raw sensor values."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per band."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of red, green, blue in 0..1; the same in torchvision and timm."""


def raw_statistics(n_bands: int) -> Statistics:
    """Leave raw values as they are."""
    return (0.0,) * n_bands, (1.0,) * n_bands


def imagenet_statistics(n_bands: int) -> Statistics:
    """ImageNet's statistics for 8-bit values; their mean for band counts other than three."""

    def fitted(values: tuple[float, float, float]) -> tuple[float, ...]:
        bands = values if n_bands == 3 else (sum(values) / 3,) * n_bands
        return tuple(255 * value for value in bands)

    return fitted(IMAGENET_MEAN), fitted(IMAGENET_STD)
