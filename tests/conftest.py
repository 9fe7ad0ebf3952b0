"""Folders of outside data; tests that need them skip with a reason when they are absent."""

import gc
import json
import logging
import multiprocessing
import multiprocessing.process
import os
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

import rscd.cli

ROOT = Path(__file__).parents[1]

settings.register_profile("rscd", deadline=None)  # a busy machine is no failure
settings.load_profile("rscd")


def shared_folder(variable: str, default: str, what: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{what} not found at {folder}; set {variable} to their folder")
    return folder


@dataclass(frozen=True)
class Golden:
    """Arrays of the reference implementations: all of them, or the small ones of a bare clone."""

    folder: Path

    def files(self, pattern: str) -> list[Path]:
        found = sorted(self.folder.glob(pattern))
        if not found and self.folder == SMALL_GOLDEN:
            pytest.skip(f"no {pattern} among the arrays of the clone; set RSCD_GOLDEN")
        assert found, f"no {pattern} in {self.folder}"
        return found


SMALL_GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(scope="session")
def golden() -> Golden:
    given = os.environ.get("RSCD_GOLDEN")
    usual = ROOT.parent / "shared" / "golden"
    return Golden(Path(given) if given else usual if usual.is_dir() else SMALL_GOLDEN)


@pytest.fixture(scope="session")
def realdata() -> Path:
    return shared_folder("RSCD_DATA", "data", "real image pairs")


@pytest.fixture(scope="session")
def write_tif() -> Callable[..., Path]:
    """``write_tif(path, pixels, **profile)``: a small GeoTIFF of (C,H,W) or (H,W) pixels.

    In UTM zone 33 at 10 m where nothing else is said. Also takes ``mask`` ((H,W) bool, stored in
    the file), ``alpha`` (the last band is one), ``gcps`` and ``rpcs``.
    """

    def write(
        path: Path,
        pixels: NDArray[Any],
        *,
        mask: NDArray[np.bool_] | None = None,
        alpha: bool = False,
        **profile: Any,
    ) -> Path:
        bands = pixels[None] if pixels.ndim == 2 else pixels
        count, height, width = bands.shape
        defaults = {"transform": Affine(10, 0, 500_000, 0, -10, 5_000_000), "crs": "EPSG:32633"}
        options = {"driver": "GTiff", "dtype": bands.dtype, **defaults, **profile}
        options = {name: value for name, value in options.items() if value is not None}
        with (
            warnings.catch_warnings(),
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        ):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", height=height, width=width, count=count, **options
            ) as dataset:
                if alpha:
                    kinds = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 2)
                    dataset.colorinterp = [*kinds, ColorInterp.alpha]
                dataset.write(bands)
                if mask is not None:
                    dataset.write_mask(mask)
        return path

    return write


@dataclass(frozen=True)
class Web:
    """A server on this machine and the folder it serves; see ``tests/web_server.py``."""

    folder: Path
    base: str

    def at(self, name: str, mode: str = "ok") -> str:
        """Address of a file, or of one to be."""
        return f"{self.base}/{mode}/{self.folder.name}/{name}"

    def asked(self, name: str = "") -> list[dict[str, Any]]:
        """What was asked for of files with this in their names, since this was last called."""
        keys = ("method", "path", "range", "status", "bytes", "authorization")
        with urllib.request.urlopen(f"{self.base}/log") as answer:
            lines = [dict(zip(keys, line, strict=True)) for line in json.load(answer)]
        return [line for line in lines if name in line["path"]]


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """In a process of its own: GDAL may wait for it while it keeps other threads from running."""
    folder = tmp_path_factory.mktemp("served")
    command = [sys.executable, str(Path(__file__).with_name("web_server.py")), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield Web(folder, f"http://127.0.0.1:{server.stdout.readline().strip()}")
        server.kill()


@pytest.fixture
def web(_server: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """`Web` with a folder of its own: GDAL remembers addresses for the life of the process."""
    folder = _server.folder / tmp_path.name
    folder.mkdir()
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
    _server.asked()
    return Web(folder, _server.base)


def pytest_configure(config: pytest.Config) -> None:
    # they multiply affines with `*`, of which affine 3.1 announces that it will go some day
    for package in ("odc", "rasterio", "rioxarray"):
        config.addinivalue_line(
            "filterwarnings", f"ignore:Use `@` matmul:PendingDeprecationWarning:{package}\\."
        )


def pytest_sessionstart() -> None:
    """What a file holds after a power cut is nothing that a test can see: none waits for the disk.

    Tests of the disk's own failures replace it again. Commands in this process leave its allocator
    as it is: the setting is meant for one run, and thousands of them would only fragment the heap.
    """
    os.fsync = lambda _: None  # type: ignore[assignment]
    vars(rscd.cli)["keep_freed_memory"] = lambda: False


def pytest_collection_finish() -> None:
    _freeze()


def _freeze() -> None:
    """What libraries hold stays for good: nothing of it has to be looked at for garbage."""
    gc.collect()
    gc.freeze()
    _modules["frozen"] = len(sys.modules)


_modules = {"frozen": 0, "seen": 0}
"""How many were loaded when objects were last frozen, and before the last test."""

PROBE = 320
"""Pixels on which networks are measured when they are saved; halos of tests are below the half."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of what a system lacks are skipped there."""
    here = {"posix": os.name == "posix", "linux": sys.platform == "linux"}
    for item in items:
        for name, there in here.items():
            if item.get_closest_marker(name) is not None and not there:
                item.add_marker(pytest.mark.skip(reason=f"needs a {name} system"))


def pytest_runtest_setup() -> None:
    """Networks that are built alike see equally far: measured once, not whenever one is saved."""
    if len(sys.modules) == _modules["seen"]:
        return
    _modules["seen"] = len(sys.modules)
    if len(sys.modules) > _modules["frozen"] + 200:
        _freeze()
    for name, module in list(sys.modules.items()):
        if name.startswith("rscd.inference."):
            for measured, more in (("receptive_radius", (PROBE,)), ("bytes_per_pixel", ())):
                measure = getattr(module, measured, None)
                if measure is not None and not hasattr(measure, "once"):
                    setattr(module, measured, _once(measure, more))


def _once(measure: Callable[..., int | None], more: tuple[int, ...]) -> Callable[..., int | None]:
    def once(network: Any, n_bands: int) -> int | None:
        key = measure.__name__, repr(network), n_bands
        if key not in _measured:
            _measured[key] = measure(network, n_bands, *more)
        return _measured[key]

    once.once = True  # type: ignore[attr-defined]
    return once


_measured: dict[Any, int | None] = {}


@pytest.fixture(scope="session")
def forked() -> Callable[..., multiprocessing.process.BaseProcess]:
    """``forked(function, *args)``: a process that runs it, to wait for or to kill.

    It is forked from a process that has nothing but imported what takes seconds to import.
    """
    quick = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
    context: Any = multiprocessing.get_context("forkserver" if quick else "spawn")
    if quick:
        context.set_forkserver_preload(["rscd.pipeline.maps", "rscd.training.run"])

    def start(function: Callable[..., Any], *args: Any) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=function, args=args)
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def pyqgis() -> str:
    """An interpreter that has PyQGIS; RSCD_QGIS_PYTHON names another one than Debian's."""
    python = os.environ.get("RSCD_QGIS_PYTHON", "/usr/bin/python3")
    probe = [python, "-c", "import qgis.core"]
    if (
        not Path(python).is_file()
        or subprocess.run(probe, check=False, capture_output=True).returncode
    ):
        pytest.skip(f"no PyQGIS for {python} (Debian: python3-qgis); set RSCD_QGIS_PYTHON")
    return python


@pytest.fixture
def in_qgis(pyqgis: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``in_qgis(script, *args)``: what a script prints after FACTS, run where PyQGIS is."""
    quiet = {"QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path), "PATH": ""}

    def run(script: str, *args: str) -> dict[str, Any]:
        done = subprocess.run(
            [pyqgis, "-c", script, *args],
            check=False, capture_output=True, text=True, env=quiet, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        facts: dict[str, Any] = json.loads(done.stdout.rpartition("FACTS")[2])
        return facts

    return run


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    """The command line sets the level of the package's logger for its process."""
    yield
    logger = logging.getLogger("rscd")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def buildings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights that ship with rscd, to be run with a small halo: ten times fewer pixels."""
    from rscd.inference.shipped import shipped_path
    from rscd.inference.weights import read_card, read_tensors, write_weights

    path: Path = tmp_path_factory.mktemp("weights") / shipped_path().name
    write_weights(path, read_tensors(shipped_path()), read_card(shipped_path()) | {"halo": 16})
    return path


# Vision-language models of a few thousand random parameters, saved as the published ones are.


def tiny_tokenizer(max_length: int) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=max_length)


def _text(tokenizer: Any, length: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def make_sam3(folder: Path, *, lite: bool = False, size: int = 112) -> Path:
    import torch
    import transformers as hf

    tokenizer, grid = tiny_tokenizer(32), size // 14
    head = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": size,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": size,
    }
    vision = {
        "backbone_config": backbone,
        "fpn_hidden_size": 32,
        "scale_factors": [4.0, 2.0, 1.0, 0.5],
        "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
    }
    text = _text(tokenizer, 32, projection_dim=32, model_type="clip_text_model")
    if lite:
        vision["model_type"] = "sam3_vision_model"
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
        text = {name: text[name] for name in names}
        text |= {"projection_dim": 32, "num_hidden_layers": 3, "max_position_embeddings": 32}
    config = (hf.Sam3LiteTextConfig if lite else hf.Sam3Config)(
        vision_config=vision,
        text_config=text,
        geometry_encoder_config={"num_layers": 1, **head},
        detr_encoder_config={"num_layers": 1, **head},
        detr_decoder_config={"num_layers": 2, "num_queries": 10, **head},
        mask_decoder_config={
            "hidden_size": 32,
            "num_upsampling_stages": 3,
            "num_attention_heads": 4,
        },
    )
    torch.manual_seed(0)
    (hf.Sam3LiteTextModel if lite else hf.Sam3Model)(config).save_pretrained(folder)
    images = hf.Sam3ImageProcessor(
        size={"height": size, "width": size}, mask_size={"height": 4 * grid, "width": 4 * grid}
    )
    hf.Sam3Processor(images, tokenizer).save_pretrained(folder)
    return folder


def make_clipseg(folder: Path, size: int = 64) -> Path:
    import torch
    import transformers as hf

    tokenizer = tiny_tokenizer(77)
    config = hf.CLIPSegConfig(
        text_config=_text(tokenizer, 77),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": size,
            "patch_size": 16,
        },
        projection_dim=32,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=32,
        conditional_layer=0,
        use_complex_transposed_convolution=True,
    )
    torch.manual_seed(0)
    hf.CLIPSegForImageSegmentation(config).save_pretrained(folder)
    images = hf.ViTImageProcessor(size={"height": size, "width": size})
    hf.CLIPSegProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sam3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return make_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="session")
def litetext_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return make_sam3(tmp_path_factory.mktemp("litetext"), lite=True)


@pytest.fixture(scope="session")
def clipseg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return make_clipseg(tmp_path_factory.mktemp("clipseg"))
