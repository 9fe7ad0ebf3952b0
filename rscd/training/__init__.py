"""Training: runs, their data streams and checkpoints, and chains of commands."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import names of `rscd.training.run` lazily: chains and checkpoints do not need a trainer."""
    if name.startswith("_"):
        raise AttributeError(f"module 'rscd.training' has no attribute {name!r}")
    return getattr(import_module("rscd.training.run"), name)
