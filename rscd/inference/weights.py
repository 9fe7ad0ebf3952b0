"""Weights on disk: safetensors with a card in the header, or a training checkpoint.

Reading either runs no code: a file that would have to be unpickled is refused.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from rscd.base.border import border, found_in, reason, shown
from rscd.base.errors import ModelError, RscdError
from rscd.base.files import write_verified, writing
from rscd.base.types import CARD_FORMAT, CARD_KEY, METHOD_PREFIX, NETWORK_PREFIX, Provenance
from rscd.inference.card import card_in, checked_card
from rscd.models.finite import non_finite
from rscd.models.networks import bands_of, build_network, bytes_per_pixel, receptive_radius

CHECKPOINT = ".ckpt"


def write_weights(path: Path, tensors: dict[str, Tensor], card: Provenance) -> None:
    """Write safetensors with their card.

    Args:
        path: ends in .safetensors.
        tensors: of the network.
        card: plain data.

    Raises:
        ModelError: for tensors that contain NaN or infinity.
        OutputError: if it cannot be written, or differs when read back.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    _check_finite(plain, path)
    full = {"format": CARD_FORMAT, **card}
    with writing(path):
        write_verified(path, save(plain, {CARD_KEY: json.dumps(full, sort_keys=True)}))


def read_card(path: Path) -> Provenance:
    """The card of a weights file.

    Raises:
        ModelError: if it is not such a file.
    """
    if path.suffix == CHECKPOINT:
        card = _checkpoint(path).get(CARD_KEY)
    else:
        with _weights_border(path, "a safetensors file"):
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(CARD_KEY)
            card = None if text is None else json.loads(text)
    return card_in(card, path)


def read_tensors(path: Path, teacher: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors of the predicting network, by the network's own names.

    Args:
        path: the file.
        teacher: for the teacher of a checkpoint: ``tensors`` of its card, see `teacher_card`.

    Raises:
        ModelError: if it is not such a file, or its tensors contain NaN or infinity.
    """
    if path.suffix == CHECKPOINT:
        tensors = _network_state(path, teacher or {})
    else:
        with _weights_border(path, "a safetensors file"):
            tensors = dict(load_file(path))
    _check_finite(tensors, path)
    return tensors


def teacher_card(card: Provenance, path: Path) -> tuple[Provenance, Mapping[str, str]]:
    """The card of a checkpoint's teacher, and which tensors are its own.

    Its threshold is 0.5: the one in the checkpoint was chosen for the network that predicts.

    Raises:
        ModelError: if the checkpoint has no teacher.
    """
    own = card.get("teacher")
    if not isinstance(own, dict) or not {"network_args", "tensors"} <= own.keys():
        raise ModelError(
            f"expected a checkpoint with a teacher, found one of method {card.get('method')} "
            f"without: {shown(path)}; drop --teacher, or give one of kdmsi or of scene with "
            "separate decoders"
        )
    changed = {"network_args": own["network_args"], "threshold": 0.5, "metrics": {}}
    return checked_card({**card, **changed, "part": "teacher"}, path), own["tensors"]


def _network_state(path: Path, teacher: Mapping[str, str]) -> dict[str, Tensor]:
    state = _checkpoint(path).get("state_dict")
    found = dict(state) if isinstance(state, dict) else {}
    tensors = _with_prefix(found, NETWORK_PREFIX)
    for ours, theirs in teacher.items():
        kept = {key: value for key, value in tensors.items() if not key.startswith(ours)}
        own = _with_prefix(found, f"{METHOD_PREFIX}{theirs}")
        tensors = kept | {f"{ours}{key}": value for key, value in own.items()}
    return tensors


def _with_prefix(state: Mapping[Any, Any], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if isinstance(value, Tensor) and str(key).startswith(prefix)
    }


def read_network(
    path: Path, card: Provenance, teacher: Mapping[str, str] | None = None
) -> nn.Module:
    """The network of a weights file, ready to predict.

    Args:
        path: of the file.
        card: of `read_card`, or of `teacher_card`.
        teacher: see `read_tensors`.

    Raises:
        ModelError: see `read_tensors`; or card and tensors do not belong together.
    """
    args = dict(card["network_args"])
    if "weights" in args:
        args["weights"] = None  # pretrained weights would only be overwritten
    tensors = read_tensors(path, teacher)
    name = card["network"]

    def not_built(error: Exception) -> ModelError:
        return ModelError(
            f"expected network_args that {name} can be built with in {shown(path)}, found {args} "
            f"({reason(error)}); export the weights again, or ask whoever made them"
        )

    def not_loaded(error: Exception) -> ModelError:
        return ModelError(
            f"expected the tensors of {name} in {shown(path)}, found others "
            f"({reason(error)[:200]}); export the weights again, or ask whoever made them"
        )

    def built() -> nn.Module:
        try:
            return build_network(name, args)
        except RscdError as error:  # its message would not name the file the arguments come from
            raise not_built(error) from error

    with border(not_built), torch.device("meta"):  # takes no memory, however large the sizes
        plan = built()
    with border(not_loaded):  # before a network of these sizes is built
        wanted = {key: tuple(value.shape) for key, value in plan.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in tensors.items()}
        for key in sorted(wanted.keys() | found.keys()):
            if wanted.get(key) != found.get(key):
                raise ValueError(f"{key} is {found.get(key)} instead of {wanted.get(key)}")
    with border(not_built):
        network = built()
    with border(not_loaded):
        network.load_state_dict(tensors)
    return network.eval()


def measured(network: nn.Module, card: Provenance) -> Provenance:
    """Card entries measured by running the network of a card once."""
    n_bands = bands_of(card["network"], card["network_args"])
    with running(card["network"]):
        return {
            "receptive_radius": receptive_radius(network, n_bands),
            "bytes_per_pixel": bytes_per_pixel(network, n_bands),
        }


def running(name: str) -> AbstractContextManager[None]:
    """Error handling around a network of that name while it runs."""

    def to_error(error: Exception) -> ModelError:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return ModelError(
                f"expected enough memory for {name}, found it used up; use a smaller --tile-size "
                "or --batch-size, or --device cpu"
            )
        return ModelError(
            f"expected {name} to take images, found: {reason(error)[:200]}; check its weights and "
            "card"
        )

    return border(to_error)


def _check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    broken = non_finite(tensors)
    if broken:
        raise ModelError(
            f"expected finite weights in {path}, found NaN or infinity in "
            f"{len(broken)} of {len(tensors)} tensors, such as {broken[0]}: their training "
            "diverged; take an earlier checkpoint, or train again with a lower model.lr"
        )


def _weights_border(path: Path, what: str) -> AbstractContextManager[None]:
    def to_error(error: Exception) -> ModelError:
        return ModelError(f"expected {what}, {found_in(path, error, 'copy it again', 'weights')}")

    return border(to_error)


def _is_pickled(path: Path) -> bool:
    """Whether a file is torch's archive format, or a pickle of any protocol in use."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == b"\x80"


def _checkpoint(path: Path) -> dict[str, Any]:
    with _weights_border(path, "a checkpoint"):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if not _is_pickled(path):
                raise
            raise ModelError(
                "expected a checkpoint of plain data, found one that would run code when loaded: "
                f"{shown(path)}; it is refused, export its weights as safetensors where they were "
                "made"
            ) from error
    if not isinstance(content, dict):
        raise ModelError(
            f"expected a training checkpoint, found {type(content).__name__} in {path}"
        )
    return content
