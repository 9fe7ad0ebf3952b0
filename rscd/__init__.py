"""rscd: what changed between two images of one place."""

__version__ = "0.1.0"
