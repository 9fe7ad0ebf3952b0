"""Models by name or file."""

from pathlib import Path

from rscd.errors import ModelError
from rscd.inference.baselines import DEFAULT_DETECTOR, DETECTORS
from rscd.inference.predictor import Model

WEIGHTS_SUFFIXES = (".safetensors", ".ckpt")


def load_model(name: str | None, device: str = "auto", threads: int = 1) -> Model:
    """A model by its name or file.

    Args:
        name: a name of `model_names`, a weights file, or None for the default.
        device: ``auto``, ``cpu`` or ``cuda``, for networks.
        threads: cores that one call of a network may use.

    Raises:
        ModelError: for an unknown name.
    """
    if name is None:
        return DETECTORS[DEFAULT_DETECTOR]()
    if name in DETECTORS:
        return DETECTORS[name]()
    if Path(name).suffix in WEIGHTS_SUFFIXES:
        from rscd.inference.network import load_network

        return load_network(Path(name), device, threads)
    raise ModelError(
        f"expected a model among {', '.join(model_names())} or a weights file "
        f"({', '.join(WEIGHTS_SUFFIXES)}), found {name!r}; see rscd model list"
    )


def model_names() -> list[str]:
    """Names that `load_model` takes, the default first."""
    return sorted(DETECTORS, key=lambda name: (name != DEFAULT_DETECTOR, name))
