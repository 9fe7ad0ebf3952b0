"""The detectors that need no weights: a scene's own statistics are all they know."""

from collections.abc import Callable

from rscd.inference.cva import Cva
from rscd.inference.irmad import Irmad
from rscd.inference.pca_kmeans import PcaKmeans

DETECTORS: dict[str, Callable[[], Cva | Irmad | PcaKmeans]] = {
    "cva": Cva,
    "irmad": Irmad,
    "pca-kmeans": PcaKmeans,
}
"""Models by the name that ``--model`` takes; calling one gives it with its defaults."""

DEFAULT_DETECTOR = "irmad"
"""What ``rscd predict`` takes when no model is named."""
