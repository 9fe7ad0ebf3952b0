"""Models by name or file, adapted to a scene."""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rscd.base.errors import ModelError
from rscd.inference import gpu
from rscd.inference.adapted import adapted
from rscd.inference.detectors.registry import (
    DEEP_DETECTORS,
    DEFAULT_DETECTOR,
    DETECTORS,
    ONE_BAND_DETECTOR,
)
from rscd.inference.predictor import Model
from rscd.inference.shipped import (
    SHIPPED,
    SceneFacts,
    default_model,
    shipped_weights,
    weights_path,
)

if TYPE_CHECKING:
    from rscd.inference.network import Network

WEIGHTS_SUFFIXES = (".safetensors", ".ckpt")
ONNX_SUFFIX = ".onnx"

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
            extra={"fault": "one-band"},
        )
    views = msi is not None or tta is not None
    model = load_model(name, device, threads, torch=views)
    if views:
        from rscd.inference.views import multi_scale  # imports torch

        model = multi_scale(model, msi=msi, tta=tta, eight_bit=scene.eight_bit, flip=flip)
    return adapted(
        model,
        scene.n_bands,
        scene.gsd_m,
        eight_bit=scene.eight_bit,
        one_type=scene.one_type,
    )


def load_model(name: str, device: str = "auto", threads: int = 1, *, torch: bool = False) -> Model:
    """A model by its name or file.

    Args:
        name: a name of `model_names` or a weights file.
        device: ``auto``, ``cpu`` or ``cuda``, for networks.
        threads: cores that one call of a network may use.
        torch: whether the network that ships has to be one of torch, whose layers and further
            outputs can be used.

    Raises:
        ModelError: for an unknown name.
    """
    if torch and name == SHIPPED:
        return _network(name, device, threads)
    prefix = name.partition(":")[0]
    for kind in (name, f"{prefix}:", Path(name).suffix):
        if kind in LOADERS:
            return LOADERS[kind](name, device, threads)
    if prefix == CEG:
        raise ModelError(
            f"expected a model that gives a map of change, found {name!r}, which finds whole "
            "objects; use rscd events T1 T2 --segmenter NAME -o events.gpkg, or in Python "
            "rscd.predict_events"
        )
    raise ModelError(
        f"expected a model among {', '.join(model_names())} or a weights file "
        f"({', '.join((*WEIGHTS_SUFFIXES, ONNX_SUFFIX))}), found {name!r}; see rscd model list"
    )


def _detector(name: str, device: str, threads: int) -> Model:
    return DETECTORS[name]()


def _deep(name: str, device: str, threads: int) -> Model:
    from rscd.inference.detectors.deep import load_deep  # imports torch

    return load_deep(name, device, threads)


def _network(name: str, device: str, threads: int) -> "Network":
    from rscd.inference.network import load_network  # imports torch

    return load_network(weights_path(name), device, threads)


def _shipped(name: str, device: str, threads: int) -> Model:
    """On processors by ONNX Runtime, in half of torch's time; on GPUs by torch, if it is there.

    Raises:
        ModelError: no GPU, or no torch for the one that was asked for.
    """
    if gpu.worth_a_look(device):
        if find_spec("torch") is not None:
            network = _network(name, device, threads)
            if network.device == "cuda":
                return network
        elif device == "cuda":
            raise ModelError(
                f"expected PyTorch for {name} with --device cuda, found none; pip install "
                "'rscd[train]', or use --device cpu"
            )
        else:
            log.info("a GPU may be there; %s uses one with pip install 'rscd[train]'", name)
    from rscd.inference.onnx_network import load_onnx

    return load_onnx(shipped_weights(ONNX_SUFFIX), "cpu", threads)


def _onnx(name: str, device: str, threads: int) -> Model:
    from rscd.inference.onnx_network import load_onnx

    return load_onnx(Path(name), device, threads)


LOADERS: dict[str, Callable[[str, str, int], Model]] = {
    SHIPPED: _shipped,
    **dict.fromkeys(DETECTORS, _detector),
    **dict.fromkeys((f"{kind}:" for kind in DEEP_DETECTORS), _deep),
    **dict.fromkeys(WEIGHTS_SUFFIXES, _network),
    ONNX_SUFFIX: _onnx,
}
"""What loads a model of a name, device and number of threads: by the whole name, the kind before
its colon, or its suffix."""


def model_names() -> list[str]:
    """Names that `load_model` accepts, the defaults first."""
    plain = sorted(DETECTORS, key=lambda name: (name != DEFAULT_DETECTOR, name))
    return [SHIPPED, *plain, *DEEP_DETECTORS]
