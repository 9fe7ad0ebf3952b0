"""The detectors that need no weights: a scene's own statistics are all they know."""

from rscd.inference.irmad import Irmad

DETECTORS = {"irmad": Irmad}
"""Models by the name that ``--model`` takes; calling one gives it with its defaults."""

DEFAULT_DETECTOR = "irmad"
"""What ``rscd predict`` takes when no model is named."""
