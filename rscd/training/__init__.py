"""Training: a run, its streams of data, its checkpoints, and chains of commands."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Names of `rscd.training.run`: chains and checkpoints are read without importing a trainer."""
    if name.startswith("_"):
        raise AttributeError(f"module 'rscd.training' has no attribute {name!r}")
    return getattr(import_module("rscd.training.run"), name)
