"""Weights of vision-language models: found, checked and loaded, with helpful errors.

There is no automatic fallback to another model: error messages name the alternatives.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rscd.base.errors import ModelError, UsageError
from rscd.base.files import sha256_of
from rscd.base.types import Provenance

OLDEST = (5, 10, 2)
"""5.10.1 leaves SAM 3's text encoder uninitialised (huggingface/transformers issue 46402)."""

FILES = ["*.json", "*.txt", "*.safetensors"]
"""Files to download: a repository may contain the same weights in several formats."""

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Either of these contains the vocabulary of a CLIP tokenizer."""


@dataclass(frozen=True)
class Snapshot:
    """A folder with a model."""

    name: str
    """The name or folder given by the user."""
    path: Path
    commit: str | None
    """Commit on the hub; None for a local folder."""

    def fingerprint(self) -> Provenance:
        """The commit, or hashes of a local folder's files."""
        if self.commit is not None:
            return {"model": self.name, "commit": self.commit}
        files = sorted([*self.path.glob("*.safetensors"), self.path / "config.json"])
        hashes = {path.name: sha256_of(path) for path in files if path.is_file()}
        return {"model": self.path.name, "files": hashes}


def require_transformers(backend: str, classes: Collection[str]) -> Any:
    """Import transformers if it is installed and recent enough.

    Args:
        backend: for messages.
        classes: names that the backend needs from it.

    Raises:
        ModelError: if it is missing, too old, or lacks a class.
    """
    if find_spec("transformers") is None:
        raise ModelError(
            f"expected the optional package transformers for the segmenter {backend}, found none; "
            'install it with: pip install "rscd[vlm]"'
        )
    found = library_version("transformers")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if numbers < OLDEST or numbers >= (6,):
        raise ModelError(
            f"expected transformers from 5.10.2 to below 6, found {found} (5.10.1 leaves the text "
            'encoder of SAM 3 random); pip install "rscd[vlm]" --upgrade'
        )
    library = import_module("transformers")
    lost = [name for name in classes if not hasattr(library, name)]
    if lost:
        raise ModelError(
            f"expected transformers with {lost[0]} for the segmenter {backend}, found {found} "
            'without it; pip install "rscd[vlm]" --upgrade'
        )
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def library_version(name: str) -> str:
    """Installed version, ``none`` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def fetch(model: str, revision: str | None, *, alternatives: str) -> Snapshot:
    """A local folder unchanged, or a model from the hub through its cache.

    Args:
        model: folder, or ``owner/name`` on the hub.
        revision: branch, tag or commit on the hub.
        alternatives: suggestions instead of gated weights, for the message.

    Raises:
        ModelError: if it is gated, unknown, or not in the cache while the hub is unreachable.
        UsageError: if it is neither a folder nor a name.
    """
    folder = Path(model)
    if folder.is_dir():
        return Snapshot(model, folder, None)
    if folder.is_absolute() or model.count("/") != 1 or model.startswith((".", "~", "/")):
        raise UsageError(
            f"expected a folder or a name on the hub (owner/name) as model, found {model!r}; check "
            "the path"
        )
    from huggingface_hub import errors, snapshot_download

    where = f"{model!r}" + (f" (revision {revision})" if revision else "")
    try:
        path = Path(snapshot_download(model, revision=revision, allow_patterns=FILES))
    except errors.GatedRepoError as error:  # must come first: a subclass of the next one
        raise ModelError(_gated(model, alternatives)) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelError(
            f"expected a model on the hub, found no {where}; check the spelling, or give a folder"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"expected the weights of {where} in the local cache, found none, and the hub cannot "
            f"be reached; download once with network (hf download {model}), or copy the folder and "
            f"give --segmenter-option model=FOLDER; without weights: --segmenter precomputed"
        ) from error
    return Snapshot(model, path, path.name)


def _gated(model: str, alternatives: str) -> str:
    from huggingface_hub import get_token

    token = "the token found has no access" if get_token() else "no token was found"
    return (
        f"expected access to the gated model {model!r}, found none ({token}); accept the licence "
        f"on its page, wait for approval, then run hf auth login or set HF_TOKEN; ungated: "
        f"{alternatives}"
    )


def model_type(snapshot: Snapshot, accepted: Collection[str]) -> str:
    """Type of the model in a folder.

    Raises:
        ModelError: if it is another type, or not a model.
    """
    path = snapshot.path / "config.json"
    try:
        kind = str(json.loads(path.read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"expected a folder with config.json, found none that can be read in {snapshot.path}; "
            "give the folder of a downloaded model"
        ) from error
    if kind not in accepted:
        raise ModelError(
            f"expected a {' or '.join(accepted)} model in {snapshot.path}, found {kind!r}; give "
            "the folder of the right model, or another --segmenter"
        )
    return kind


def load(kind: Any, snapshot: Snapshot, dtype: Any) -> Any:
    """Build a model from a folder, requiring all its parameters in the file.

    If parameters are missing, the library only prints a table and continues with random ones: the
    user would see "nothing detected".

    Raises:
        ModelError: if there are no weights, they are damaged, or the file lacks any parameter.
    """
    from safetensors import SafetensorError

    _check_files(snapshot.path)
    try:
        model, report = kind.from_pretrained(
            snapshot.path, output_loading_info=True, local_files_only=True, dtype=dtype
        )
    except SafetensorError as error:
        raise ModelError(_damaged(snapshot.path)) from error
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"expected a {kind.__name__} in {snapshot.path}, found one that cannot be loaded "
            f"({str(error).splitlines()[0]}); download it again"
        ) from error
    wrong = sorted(
        [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])], key=str
    )
    if wrong:
        raise ModelError(
            f"expected all parameters of {kind.__name__} in {snapshot.path}, found {len(wrong)} "
            f"missing or of another shape, first {wrong[0]}; it is refused, because they would be "
            "random: use a matching checkpoint and transformers version"
        )
    return model.eval()


def load_processor(kind: Any, snapshot: Snapshot) -> Any:
    """Tokenizer and image processor of a folder.

    If its files are missing, the library continues with an empty tokenizer: every word would be
    unknown, and nothing found.

    Raises:
        ModelError: if files are missing.
    """
    if not any(all((snapshot.path / n).is_file() for n in names) for names in TOKENIZER_FILES):
        raise ModelError(
            f"expected a tokenizer (tokenizer.json, or vocab.json and merges.txt) in "
            f"{snapshot.path}, found none; copy all .json and .txt files of the model"
        )
    try:
        return kind.from_pretrained(snapshot.path, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"expected tokenizer and image processor in {snapshot.path}, found them incomplete "
            f"({str(error).splitlines()[0]}); copy all .json and .txt files of the model"
        ) from error


def opened(
    backend: str,
    options: Any,
    library: Any,
    classes: Mapping[str, str],
    processor: str,
    *,
    alternatives: str,
) -> tuple[Any, Any, Provenance]:
    """Load the model that the options of a backend name.

    Args:
        backend: for messages.
        options: with ``model``, ``revision``, ``device`` and ``dtype``.
        library: transformers, from `require_transformers`.
        classes: class of the model in the library, by the type in its folder.
        processor: class of the processor.
        alternatives: see `fetch`.

    Returns:
        Model, processor, and what determines their output: weights, dtype and versions.

    Raises:
        ModelError: if the weights are missing or do not fit.
        UsageError: for an unknown device or dtype.
    """
    device = choose_device(options.device)
    snapshot = fetch(options.model, options.revision, alternatives=alternatives)
    kind = classes[model_type(snapshot, classes)]
    require_transformers(backend, (kind,))
    dtype = choose_dtype(options.dtype, device)
    model = load(getattr(library, kind), snapshot, dtype).to(device)
    made = {name: library_version(name) for name in ("transformers", "torch")}
    made["dtype"] = str(model.dtype)
    own = load_processor(getattr(library, processor), snapshot)
    return model, own, snapshot.fingerprint() | made


def choose_device(name: str) -> Any:
    """``auto``, ``cpu`` or ``cuda`` as a torch device.

    Raises:
        UsageError: if it is unknown, or there is no GPU.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"expected device auto, cpu or cuda, found {name!r}; correct it")
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UsageError("expected a GPU for --device cuda, found none; use --device cpu")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def choose_dtype(name: str, device: Any) -> Any:
    """``auto`` is bfloat16 on a GPU and float32 elsewhere.

    Raises:
        UsageError: if it is unknown.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in known:
        raise UsageError(f"expected dtype auto or {', '.join(known)}, found {name!r}; correct it")
    return known[name]


def _check_files(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"expected weights (.safetensors) in {folder}, found only a config; copy them too"
        )
    for path in files:
        with path.open("rb") as file:
            if file.read(20).startswith(b"version https://git"):
                raise ModelError(_damaged(folder))


def _damaged(folder: Path) -> str:
    return (
        f"expected whole weights in {folder}, found a .safetensors file that is damaged or a Git "
        "LFS pointer; delete it and download it again"
    )
