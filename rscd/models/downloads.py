"""Pretrained weights: from a model hub with one clear error, or from a local file."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.models.finite import non_finite

SUFFIXES = (".safetensors", ".pth", ".pt")
"""Suffixes of local files; the last two may contain only tensors, code in them is refused."""

INSTEAD = "name a local file of tensors (.safetensors, .pth), or set weights: null"


@contextmanager
def downloading(what: str, where: str, instead: str = INSTEAD) -> Iterator[None]:
    """Explain what to do if weights cannot be obtained.

    Args:
        what: the weights.
        where: address or hub to download from.
        instead: what else the user can do.

    Raises:
        ModelError: instead of the many errors of the network and hubs, all of them OSError.
    """
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # a line for each of ten attempts says no more than the error
    try:
        yield
    except OSError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"expected pretrained weights {what} in the local cache or at {where}, could not get "
            f"them ({reason}); connect, or copy a filled cache (HF_HOME, TORCH_HOME) from another "
            f"machine, or {instead}"
        ) from error
    finally:
        hub.setLevel(level)


def is_file(weights: str | None) -> bool:
    """Whether the name is a local file rather than published weights."""
    return weights is not None and weights.endswith(SUFFIXES)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a .safetensors or .pth file; code in it is never run.

    Raises:
        ModelError: for a missing, damaged or unsafe file.
    """
    if not path.is_file():
        raise ModelError(f"expected a file of weights, found none at {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            found: object = load_file(path)
        else:
            with warnings.catch_warnings():
                # torch warns about formats that it then refuses
                warnings.simplefilter("ignore", UserWarning)
                found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(
            f"expected a file of tensors and nothing else, found damage, code or another format in "
            f"{path} ({str(error).splitlines()[0]}); save the state dict alone"
        ) from error
    tensors = found.get("state_dict", found) if isinstance(found, dict) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ModelError(f"expected a dict of tensors in {path}; save the state dict alone")
    broken = non_finite(tensors)
    if broken:
        raise ModelError(
            f"expected finite weights in {path}, found NaN or infinity in {broken[0]} "
            f"and {len(broken) - 1} others; take another file"
        )
    return dict(tensors)


WHOLE = "encoder."
"""Names of the encoder's tensors begin so in the weights of a whole network."""


def load_file_into(encoder: nn.Module, path: str) -> None:
    """Load an encoder's tensors from a local file, ignoring any classifier in it.

    Args:
        encoder: changed in place.
        path: .safetensors or .pth with the names of the encoder, of the timm model inside it, or
            of a whole network of rscd or segmentation-models-pytorch with this encoder.

    Raises:
        ModelError: if tensors are missing or have other shapes.
    """
    load_tensors_into(encoder, read_tensors(Path(path)), path)


def load_tensors_into(encoder: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load an encoder's tensors, whatever classifier is also among them.

    A first convolution of another band count becomes the mean over its bands, scaled so that the
    response to equal bands stays.

    Args:
        encoder: changed in place.
        tensors: by the names of the encoder, of the timm model inside it, or of a whole network
            whose ``encoder`` it is.
        source: where they come from, for messages.

    Raises:
        ModelError: if tensors are missing or have other shapes.
    """
    target, missing = _target_of(encoder, tensors)
    whole = {n.removeprefix(WHOLE): value for n, value in tensors.items() if n.startswith(WHOLE)}
    if missing and whole and not (inside := _target_of(encoder, whole))[1]:
        tensors, (target, missing) = whole, inside
    own = target.state_dict()
    if missing:
        raise ModelError(
            f"expected all {len(own)} tensors of the encoder in {source}, found no {missing[0]} "
            f"and {len(missing) - 1} others missing; check that file and encoder belong together"
        )
    fitted = {name: _fit_bands(tensors[name], value) for name, value in own.items()}
    for name, value in own.items():
        if fitted[name].shape != value.shape:
            raise ModelError(
                f"expected {tuple(value.shape)} for {name} in {source}, found "
                f"{tuple(fitted[name].shape)}; check that file and encoder belong together"
            )
    # an encoder of segmentation-models-pytorch drops its classifier in its own way: not asked here
    nn.Module.load_state_dict(target, fitted)


def _target_of(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[nn.Module, list[str]]:
    """The module whose names the tensors have, and those of its names that they lack."""
    inner = getattr(encoder, "model", None)
    wrapped = any(name.startswith("model.") for name in tensors)
    target = inner if isinstance(inner, nn.Module) and not wrapped else encoder
    return target, [name for name in target.state_dict() if name not in tensors]


def _fit_bands(weight: Tensor, own: Tensor) -> Tensor:
    if weight.ndim != 4 or weight.shape[1] == own.shape[1] or weight.shape[1] not in (1, 3):
        return weight
    n_bands = own.shape[1]
    return weight.mean(1, keepdim=True).repeat(1, n_bands, 1, 1) * weight.shape[1] / n_bands
