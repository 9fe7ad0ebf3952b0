"""The detectors that need no training, only statistics of the scene itself."""

from collections.abc import Callable

from rscd.inference.detectors.cva import Cva
from rscd.inference.detectors.irmad import Irmad
from rscd.inference.detectors.pca_kmeans import PcaKmeans

DETECTORS: dict[str, Callable[[], Cva | Irmad | PcaKmeans]] = {
    "cva": Cva,
    "irmad": Irmad,
    "pca-kmeans": PcaKmeans,
}
"""Model classes by their ``--model`` name; calling one returns it with default parameters."""

DEFAULT_DETECTOR = "irmad"
"""Default of ``rscd predict`` if no model is named and the images do not suit the shipped network
(`rscd.inference.shipped.default_model`).

Measured by ``benchmarks/detectors_on_real_pairs.py``: IR-MAD agrees best with the reference of the
Landsat pair (kappa 0.933; PCA-k-means 0.911, CVA 0.891) and has the highest F1 on average over 17
sets of pairs (0.24; 0.21; 0.22), where all three have the same mean kappa (0.15). On half-metre
building pairs none is useful (F1 below 0.2). Frozen features have more on average (0.34), but less
on the Landsat pair (kappa 0.72), and need an encoder.
"""

ONE_BAND_DETECTOR = "pca-kmeans"
"""The default for single-band images.

IR-MAD compares combinations of bands; with one band it is a thresholded pixel difference.
PCA-k-means also uses the neighbourhood, which helps against radar speckle: F1 0.79 against 0.68 on
the Ottawa pair.
"""

DEEP_DETECTORS = {
    "dcva": (
        "deep change vector analysis (Saha 2019) on several depths of a frozen encoder; "
        "sub-metre scenes; dcva:ENCODER takes one of timm"
    ),
    "features": (
        "change vector of the deepest features of a frozen encoder; likewise features:ENCODER, "
        "such as features:vit_small_patch14_dinov2"
    ),
}
"""Detectors on frozen features by name, with their summaries (`rscd.inference.detectors.deep`)."""
