"""Networks as ONNX files, run by ONNX Runtime: prediction without torch.

`rscd.inference.graphs` writes them. The graph maps ``image`` (B,2,C,H,W) float32 raw values to
``change`` (B,H,W) and, if the network finds buildings, ``buildings`` (B,2,H,W), probabilities in
[0,1]; the metadata hold the card.
"""

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rscd.base.border import border, found_in, reason
from rscd.base.errors import ModelError
from rscd.base.files import sha256_of
from rscd.base.types import CARD_KEY, BoolArray, FloatArray, Provenance
from rscd.inference.card import card_in
from rscd.inference.file_model import FileModel

IMAGE, CHANGE, BUILDINGS = "image", "change", "buildings"
"""Names of the graph's input and outputs."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Of ONNX Runtime, by our names of devices."""


@dataclass(frozen=True)
class OnnxNetwork(FileModel):
    """A network of an ONNX file; loaded on the first call in each process."""

    def file_card(self) -> Provenance:
        """The card in the metadata."""
        return card_of(self._session(), self.path)

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``.

        Raises:
            ModelError: if the image has other bands than the network.
        """
        return self._run(image, [CHANGE])[0]

    def with_buildings(self, image: FloatArray, valid: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Change and buildings, of networks that return both; see `rscd.inference.kinds`."""
        change, buildings = self._run(image, [CHANGE, BUILDINGS])
        return change, buildings

    def _run(self, image: FloatArray, outputs: list[str]) -> list[FloatArray]:
        if image.shape[2] != self.n_bands:
            raise ModelError(
                f"expected {self.n_bands} bands for {self.name}, found {image.shape[2]}; choose "
                "them with --bands"
            )
        session = self._session()
        with border(self._not_run):
            found: list[FloatArray] = session.run(outputs, {IMAGE: image})
        return found

    def _not_run(self, error: Exception) -> ModelError:
        return ModelError(
            f"expected ONNX Runtime to run {self.name}, found: {reason(error)[:200]}; use a "
            "smaller --tile-size or --batch-size, or export the network again"
        )

    def _session(self) -> Any:
        return session_of(self.path, self.device, self.threads, self.sha256)


_lock = threading.Lock()
_sessions: dict[tuple[Path, str, int], tuple[str, Any]] = {}


def session_of(path: Path, device: str, threads: int, sha256: str) -> Any:
    """The session of a file, which several threads may use; cached, one per process.

    Args:
        path: of the file.
        device: ``cpu`` or ``cuda``.
        threads: cores that a call may use.
        sha256: of the content; a replaced file is read again.

    Raises:
        ModelError: the file is not an ONNX model, or no longer the requested one.
    """
    runtime = _runtime()
    with _lock:
        held, session = _sessions.get((path, device, threads), ("", None))
        if held != sha256:
            if sha256_of(path) != sha256:
                raise ModelError(
                    f"expected {path} as it was when it was opened, found another file in its "
                    "place; open it again"
                )
            options = runtime.SessionOptions()
            options.intra_op_num_threads = threads
            # threads that wait for work would burn a third more of the cores' time
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            # weights in other files: none can be where no folder is
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", os.devnull
            )
            options.log_severity_level = 3  # errors
            with border(lambda error: _unreadable(path, error)):
                session = runtime.InferenceSession(
                    path.read_bytes(), options, providers=[PROVIDERS[device]]
                )
            _sessions[path, device, threads] = sha256, session
        return session


def card_of(session: Any, path: Path) -> Provenance:
    """The checked card in the metadata of a model.

    Raises:
        ModelError: it has none, or an unusable one.
    """
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    with border(lambda error: _unreadable(path, error)):
        content = None if text is None else json.loads(text)
    return card_in(content, path)


def load_onnx(path: Path, device: str = "auto", threads: int = 1) -> OnnxNetwork:
    """An ONNX file as a model.

    Args:
        path: written by `rscd.inference.graphs.export_graph`.
        device: ``auto`` uses a GPU if ONNX Runtime has its provider.
        threads: cores a call may use.

    Raises:
        ModelError: for an unusable file, or a missing GPU or ONNX Runtime.
    """
    device = _device(device)
    with border(lambda error: _unreadable(path, error)):
        sha256 = sha256_of(path)
    session = session_of(path, device, threads, sha256)
    card = card_of(session, path)
    names = {each.name: each.shape for each in session.get_inputs()}
    missing = {"receptive_radius", "bytes_per_pixel"} - card.keys()
    if [*names] != [IMAGE] or len(names[IMAGE]) != 5 or missing:
        raise ModelError(
            f"expected an ONNX model of rscd with the input {IMAGE} (B,2,C,H,W) and a whole card, "
            f"found the inputs {', '.join(names)} in {path}; write it with rscd model export"
        )
    return OnnxNetwork.of(path, card, device, threads, int(names[IMAGE][2]))


def _device(device: str) -> str:
    there = PROVIDERS["cuda"] in _runtime().get_available_providers()
    if device == "cuda" and not there:
        raise ModelError(
            "expected an ONNX Runtime for CUDA for --device cuda, found one without; pip install "
            "onnxruntime-gpu, or use --device cpu"
        )
    return ("cuda" if there else "cpu") if device == "auto" else device


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "expected ONNX Runtime, which carries this network out, found none that loads "
            f"({reason(error)}); install it again: pip install --force-reinstall onnxruntime"
        ) from error
    return onnxruntime


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"expected an ONNX model, {found_in(path, error, 'copy it again', 'weights')}"
    )
