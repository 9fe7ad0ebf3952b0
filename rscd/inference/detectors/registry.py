"""The detectors that need no weights: a scene's own statistics are all they know."""

from collections.abc import Callable

from rscd.inference.detectors.cva import Cva
from rscd.inference.detectors.irmad import Irmad
from rscd.inference.detectors.pca_kmeans import PcaKmeans

DETECTORS: dict[str, Callable[[], Cva | Irmad | PcaKmeans]] = {
    "cva": Cva,
    "irmad": Irmad,
    "pca-kmeans": PcaKmeans,
}
"""Models by the name that ``--model`` takes; calling one gives it with its defaults."""

DEFAULT_DETECTOR = "irmad"
"""What ``rscd predict`` takes when no model is named and the images do not suit the network that
ships (`rscd.inference.shipped.default_model`).

Measured by ``benchmarks/detectors_on_real_pairs.py``: IR-MAD agrees best with the reference of the
Landsat pair (kappa 0.933; PCA-k-means 0.911, CVA 0.891) and has the highest F1 on average over 17
sets of pairs (0.24; 0.21; 0.22), where all three have the same mean kappa (0.15). On half-metre
building pairs none is of use (F1 below 0.2).
"""

ONE_BAND_DETECTOR = "pca-kmeans"
"""The same for images of one band.

IR-MAD compares combinations of bands; with one it is a difference of pixels that a threshold cuts.
PCA-k-means looks at the neighbourhood as well, which helps against the speckle of radar: F1 0.79
against 0.68 on the Ottawa pair.
"""
