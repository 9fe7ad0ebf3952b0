"""Models by name or file, adapted to a scene."""

import logging
from pathlib import Path

from rscd.base.errors import ModelError
from rscd.inference.detectors.registry import (
    DEEP_DETECTORS,
    DEFAULT_DETECTOR,
    DETECTORS,
    ONE_BAND_DETECTOR,
    DeepName,
)
from rscd.inference.predictor import Model
from rscd.inference.shipped import SHIPPED, SceneFacts, default_model, load_shipped

WEIGHTS_SUFFIXES = (".safetensors", ".ckpt")

CEG = "ceg"
"""Prefix of segmenters (``ceg:NAME``), which find objects and give no map of probabilities:
change event generation, of DiffMatch (arXiv 2405.04788)."""

log = logging.getLogger(__name__)


def scene_model(
    name: str | None,
    scene: SceneFacts,
    device: str = "auto",
    threads: int = 1,
    *,
    msi: str | None = None,
    tta: str | None = None,
    flip: str = "width",
) -> Model:
    """The model for a scene, at the scene's resolution and range of values.

    Args:
        name: see `load_model`; None uses `default_model` and logs which and why.
        scene: facts known about it.
        device: ``auto``, ``cpu`` or ``cuda``, for networks.
        threads: cores that one call of a network may use.
        msi: scales over which a network's maps are averaged, see `rscd.inference.views`.
        tta: likewise for its logits.
        flip: axes flipped with either, see `rscd.inference.views.multi_scale`.

    Raises:
        ModelError: see `load_model`.
    """
    if name is None:
        name, reason = default_model(scene)
        log.info("model %s: %s", name, reason)
    if name == DEFAULT_DETECTOR and scene.n_bands == 1:
        log.warning(
            "%s needs two bands or more and finds little in the one of these images; take -m %s",
            *(name, ONE_BAND_DETECTOR),
        )
    model = load_model(name, device, threads)
    if msi is not None or tta is not None:
        from rscd.inference.views import multi_scale  # imports torch

        model = multi_scale(model, msi=msi, tta=tta, eight_bit=scene.eight_bit, flip=flip)
    if name in DETECTORS:
        return model
    from rscd.inference.adapted import adapted, brought_to_eight_bit  # imports torch

    values = {"eight_bit": scene.eight_bit, "one_type": scene.one_type}
    if DeepName.of(name) is not None:
        return brought_to_eight_bit(model, scene.n_bands, **values)
    return adapted(model, scene.n_bands, scene.gsd_m, **values)


def load_model(name: str, device: str = "auto", threads: int = 1) -> Model:
    """A model by its name or file.

    Args:
        name: a name of `model_names` or a weights file.
        device: ``auto``, ``cpu`` or ``cuda``, for networks.
        threads: cores that one call of a network may use.

    Raises:
        ModelError: for an unknown name.
    """
    if name == SHIPPED:
        return load_shipped(device, threads)
    if name in DETECTORS:
        return DETECTORS[name]()
    deep = DeepName.of(name)
    if deep is not None:
        from rscd.inference.detectors.deep import load_deep  # imports torch

        return load_deep(deep, device, threads)
    if Path(name).suffix in WEIGHTS_SUFFIXES:
        from rscd.inference.network import load_network

        return load_network(Path(name), device, threads)
    if name.partition(":")[0] == CEG:
        raise ModelError(
            f"expected a model that gives a map of change, found {name!r}, which finds whole "
            "objects; use rscd events T1 T2 --segmenter NAME -o events.gpkg, or in Python "
            "rscd.predict_events"
        )
    raise ModelError(
        f"expected a model among {', '.join(model_names())} or a weights file "
        f"({', '.join(WEIGHTS_SUFFIXES)}), found {name!r}; see rscd model list"
    )


def model_names() -> list[str]:
    """Names that `load_model` accepts, the defaults first."""
    plain = sorted(DETECTORS, key=lambda name: (name != DEFAULT_DETECTOR, name))
    return [SHIPPED, *plain, *DEEP_DETECTORS]
