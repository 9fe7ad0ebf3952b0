"""Trained networks as models: weights files are self-describing and never unpickled."""

import json
import threading
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from rscd.base.errors import ModelError
from rscd.base.files import sha256_of, write_whole
from rscd.base.types import BoolArray, FloatArray, Provenance
from rscd.inference.file_model import FileModel
from rscd.inference.weights import (
    measured,
    read_card,
    read_network,
    running,
    teacher_card,
    write_weights,
)
from rscd.methods.parts.alikeness import dissimilarity_map
from rscd.models.folding import folded
from rscd.models.logits import change_logit
from rscd.models.networks import bands_of, probe_image
from rscd.models.scene import SceneNetwork


def save_weights(
    path: Path, network: nn.Module, name: str, args: Provenance, card: Provenance
) -> None:
    """Write a network's weights with everything prediction needs.

    Args:
        path: ends in .safetensors.
        network: made by ``build_network(name, args)``.
        name: of the network.
        args: plain data.
        card: ``halo``, ``multiple``, ``patch_size`` in pixels, ``threshold``; and other useful
            facts (bands, data, metrics, licence).
    """
    full = card | {"network": name, "network_args": dict(args)}
    write_weights(path, network.state_dict(), full | measured(network, full))


def export_weights(source: Path, target: Path, *, teacher: bool = False) -> Provenance:
    """Export a training checkpoint as safetensors; the card is also written beside it as JSON.

    Args:
        source: the checkpoint.
        target: ends in .safetensors.
        teacher: export the teacher in place of the network that predicts.

    Returns:
        The card.

    Raises:
        ModelError: if the checkpoint cannot be used.
    """
    card = read_card(source)
    card, tensors = teacher_card(card, source) if teacher else (card, None)
    network = read_network(source, card, tensors)
    card = {key: value for key, value in card.items() if key != "teacher"}
    card |= measured(network, card)
    write_weights(target, network.state_dict(), card)
    write_whole(target.with_suffix(".json"), json.dumps(card, indent=2, sort_keys=True) + "\n")
    return card


@lru_cache(maxsize=16)
def _card_of(path: Path, sha256: str) -> Provenance:
    return read_card(path)


class Network(FileModel):
    """A network of torch; loaded on the first call in each process."""

    def file_card(self) -> Provenance:
        """See `read_card`; read once, as a checkpoint has to be read whole."""
        return dict(_card_of(self.path, self.sha256))

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``.

        Raises:
            ModelError: if the image has other bands than the network.
        """
        with torch.inference_mode():
            return _change(self.outputs(torch.from_numpy(image)))

    def flow(self, image: FloatArray) -> FloatArray | None:
        """(B,2,C,H,W) raw values -> (B,2,H,W) flow in pixels, None if the network has none."""
        with torch.inference_mode():
            found = self.outputs(torch.from_numpy(image)).get("flow")
        return None if found is None else found.float().cpu().numpy()

    def dissimilarity(self, image: FloatArray) -> FloatArray | None:
        """(B,2,C,H,W) raw values -> (B,1,H,W) in [0,1] after alignment, None without flow.

        See `rscd.methods.parts.alikeness.dissimilarity_map`.
        """
        network = self._loaded()
        if not isinstance(network, SceneNetwork):
            return None
        with torch.inference_mode(), running(self.name):
            found = dissimilarity_map(network, torch.from_numpy(image).to(self.device))
            return found.float().cpu().numpy()

    def with_buildings(self, image: FloatArray, valid: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Change and buildings, of networks that return both; see `rscd.inference.kinds`."""
        with torch.inference_mode():
            found = self.outputs(torch.from_numpy(image))
            return _change(found), found["buildings"].float().sigmoid().cpu().numpy()

    def outputs(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """All outputs of the network for (B,2,C,H,W) raw values, on its device.

        Raises:
            ModelError: if the image has other bands than the network.
        """
        if image.shape[2] != self.n_bands:
            raise ModelError(
                f"expected {self.n_bands} bands for {self.name}, found {image.shape[2]}; choose "
                "them with --bands"
            )
        network = self._loaded()
        with running(self.name):
            found: dict[str, torch.Tensor] = network(image.to(self.device))
        return found

    def _loaded(self) -> nn.Module:
        """The network, ready to run in this thread."""
        network = loaded(self.path, self.device, self.sha256)
        # the OpenMP thread count belongs to the calling thread: every worker sets its own
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        return network


def _change(outputs: dict[str, torch.Tensor]) -> FloatArray:
    """(B,H,W) probability of change from the outputs of a network."""
    prob: FloatArray = change_logit(outputs["logits"].float()).sigmoid()[:, 0].cpu().numpy()
    return prob


_lock = threading.Lock()
_networks: dict[tuple[Path, str], tuple[str, nn.Module]] = {}


def loaded(path: Path, device: str, sha256: str) -> nn.Module:
    """The network of a weights file, ready to predict; cached, one per process.

    Args:
        path: of the file.
        device: ``cpu`` or ``cuda``.
        sha256: of the content; a replaced file is read again.

    Raises:
        ModelError: see `read_card`; or if the file is no longer the requested one.
    """
    with _lock:
        held, network = _networks.get((path, device), ("", nn.Module()))
        if held != sha256:
            if sha256_of(path) != sha256:
                raise ModelError(
                    f"expected {path} as it was when it was opened, found another file in its "
                    "place; open it again"
                )
            card = read_card(path)
            network = read_network(path, card)
            probe = probe_image(network, bands_of(card["network"], card["network_args"]))
            with running(card["network"]):
                network = folded(network, probe).to(device)
            if device == "cpu":  # avoids copies in oneDNN: a quarter less time for a ResNet-18
                network = network.to(memory_format=torch.channels_last)
            _networks[path, device] = sha256, network
        return network


def load_network(path: Path, device: str, threads: int) -> Network:
    """A weights file as a model.

    Args:
        path: written by `save_weights`, or a training checkpoint.
        device: ``auto`` uses a GPU if there is one.
        threads: cores a call may use.

    Raises:
        ModelError: for an unusable file, or a missing GPU.
    """
    device, card = device_of(device), read_card(path)
    if not {"receptive_radius", "bytes_per_pixel"} <= card.keys():
        card |= measured(read_network(path, card), card)
    return Network.of(path, card, device, threads, bands_of(card["network"], card["network_args"]))


def device_of(device: str) -> str:
    """``cpu`` or ``cuda``, also for ``auto``.

    Raises:
        ModelError: for a missing GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("expected a CUDA GPU for --device cuda, found none; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
