"""Networks as files for other programs: the same numbers, and prediction without torch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rscd
from rscd.base.errors import ModelError
from rscd.base.types import CARD_KEY
from rscd.cli import main
from rscd.inference import deepness, graphs
from rscd.inference.card import identity
from rscd.inference.dask import pack
from rscd.inference.graphs import OPSET, export_graph, graph_of
from rscd.inference.models import load_model
from rscd.inference.network import Network, save_weights
from rscd.inference.onnx_network import OnnxNetwork, load_onnx
from rscd.inference.shipped import shipped_path
from rscd.models.inputs import check_image
from rscd.models.networks import NETWORKS

CARD: dict[str, Any] = {
    "halo": 4, "multiple": 4, "patch_size": 64, "threshold": 0.5, "gsd_m": 10.0,
    "kind_margin": 0.1, "name": "two heads",
}  # fmt: skip
MORE = ["-o", "change.geojson", "-o", "change.tif", "--tile-size", "40", "--overwrite"]


class TwoHeads(nn.Module):
    """Change and buildings, in hardly any time."""

    def __init__(self, n_bands: int = 3) -> None:
        super().__init__()
        self.n_bands, self.multiple = n_bands, 4
        self.maps = nn.Sequential(
            nn.Conv2d(n_bands, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.heads = nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        check_image(image, self.n_bands, self.multiple)
        quads = self.heads(self.maps(image.flatten(0, 1) / 64 - 2))
        both = nn.functional.pixel_shuffle(quads, 2).unflatten(0, (-1, 2))
        return {"logits": (both[:, 1] - both[:, 0]).abs() - 0.4, "buildings": both[:, :, 0]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights of `TwoHeads`, and what they are exported to."""
    folder = tmp_path_factory.mktemp("graphs")
    torch.manual_seed(0)
    network: Any = TwoHeads()
    network.maps[1].running_mean.uniform_(-1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "two-heads", TwoHeads)
        weights = folder / "net.safetensors"
        save_weights(weights, network, "two-heads", {}, CARD)
        for suffix in (".onnx", ".pt2"):
            assert main(["model", "export", str(weights), "-o", str(folder / f"net{suffix}")]) == 0
        more = ["--target", "deepness", "-o", str(folder / "deepness.onnx")]
        assert main(["model", "export", str(weights), *more]) == 0
        yield folder


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def both_of(files: Path) -> tuple[Network, OnnxNetwork]:
    """The network as torch and as ONNX Runtime carry it out."""
    ours, theirs = (load_model(str(files / name)) for name in ("net.safetensors", "net.onnx"))
    assert isinstance(ours, Network)
    assert isinstance(theirs, OnnxNetwork)
    return ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 3, 64, 64), (3, 2, 3, 20, 132)])
def test_any_batch_and_size_gives_what_the_network_gives(
    files: Path, shape: tuple[int, ...]
) -> None:
    image, valid = images(*shape), np.ones((shape[0], *shape[3:]), bool)
    ours, theirs = both_of(files)
    found, wanted = theirs.with_buildings(image, valid), ours.with_buildings(image, valid)
    program = torch.export.load(files / "net.pt2").module()
    for onnx_map, torch_map, program_map in zip(
        found, wanted, program(torch.from_numpy(image)), strict=True
    ):
        assert onnx_map.dtype == np.float32
        np.testing.assert_allclose(onnx_map, torch_map, atol=1e-6)
        np.testing.assert_allclose(program_map.detach().numpy(), torch_map, atol=1e-6)
    np.testing.assert_array_equal(theirs(image, valid), found[0])
    assert found[0].std() > 0.01


def test_a_file_says_nothing_of_the_machine_it_was_made_on(files: Path) -> None:
    """The exporter notes of every node which lines of which files made it."""
    for path in (files / "net.onnx", files / "deepness.onnx", shipped_path(".onnx")):
        content = path.read_bytes()
        assert b".py" not in content
        assert str(Path(rscd.__file__).parent).encode() not in content


def test_an_exported_file_is_no_source(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("net.onnx", "net.pt2"):
        target = files / "back.safetensors"
        assert main(["model", "export", str(files / name), "-o", str(target)]) == 2
        assert "which is exported already; give the file" in capsys.readouterr().err
        assert not target.exists()


def test_a_file_describes_itself(files: Path) -> None:
    ours, theirs = both_of(files)
    assert theirs.tiling == ours.tiling
    own = {"sha256": theirs.sha256, "file_format": "onnx", "weights_sha256": ours.sha256}
    assert theirs.card() == ours.card() | own
    assert identity(theirs.card()) == identity(ours.card())
    assert identity(ours.card() | {"sha256": "0"}) != identity(ours.card())
    assert (theirs.n_bands, theirs.threshold) == (ours.n_bands, ours.threshold)
    model = onnx.load(files / "net.onnx")
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    [image] = model.graph.input
    sizes = [size.dim_value or size.dim_param for size in image.type.tensor_type.shape.dim]
    assert (image.name, sizes[1:3]) == ("image", [2, 3])
    assert all(isinstance(size, str) for size in (sizes[0], *sizes[3:]))
    assert [output.name for output in model.graph.output] == ["change", "buildings"]
    extra = {CARD_KEY: ""}
    torch.export.load(files / "net.pt2", extra_files=extra)
    of_file = {"sha256": ours.sha256, "file_format": "pt2"}
    assert identity(json.loads(extra[CARD_KEY]) | of_file) == identity(ours.card())


WITHOUT_TORCH = """
import sys
class Refused:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "kornia", "lightning", "timm"):
            raise ImportError(name)
sys.meta_path.insert(0, Refused())
sys.argv = ["rscd", *sys.argv[1:]]
from rscd.cli import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("gsd", ["10", "7.5"])
def test_the_same_polygons_without_torch(
    files: Path,
    tmp_path: Path,
    write_tif: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    gsd: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    dates = images(2, 3, 96, 120).astype(np.uint8) // 2
    dates[1, :, 30:60, 40:80] = 240
    profile = {"crs": None, "transform": None} if gsd != "10" else {}
    pair = [str(write_tif(tmp_path / f"t{i}.tif", date, **profile)) for i, date in enumerate(dates)]
    more = MORE if gsd == "10" else [*MORE, "--gsd", gsd, "--pixel-coordinates"]
    results = []
    for name in ("net.safetensors", "net.onnx"):
        args = ["predict", *pair, "-m", str(files / name), *more]
        if name == "net.onnx":
            code = [sys.executable, "-c", WITHOUT_TORCH, *args]
            done = subprocess.run(code, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        else:
            assert main(args) == 0
        results.append(Path("change.geojson").read_bytes())
        features = json.loads(results[-1])["features"]
        assert {each["properties"]["kind"] for each in features} <= {
            "appeared", "vanished", "changed"
        }  # fmt: skip
        assert features
    assert results[0] == results[1]


def run_as_deepness(path: Path, raster: Path) -> np.ndarray:
    """(H,W) uint8 mask of a raster, made as the documentation of the plugin says.

    Square tiles from the upper left corner, 0 beyond the raster, divided by 255 and standardised;
    of each the part without half the overlap, all of it at the borders; threshold.
    """
    session = onnxruntime.InferenceSession(path)
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    [stack], [_] = session.get_inputs(), session.get_outputs()
    side = about["tile_size"]
    overlap = int(side * about["tiles_overlap"] / 100 * 2) // 2
    half, stride = overlap // 2, side - overlap
    with rasterio.open(raster) as dataset:
        values = dataset.read()
    bands, height, width = values.shape
    assert stack.shape == [1, bands, side, side]
    rows, cols = (max(1, -(-(size - side) // stride) + 1) for size in (height, width))
    padded = np.zeros((bands, side + (rows - 1) * stride, side + (cols - 1) * stride), values.dtype)
    padded[:, :height, :width] = values
    found = np.zeros(padded.shape[1:], np.uint8)
    mean, std = (np.float32(about[f"standardization_{name}"]) for name in ("mean", "std"))
    for row in range(rows):
        for col in range(cols):
            y, x = row * stride, col * stride
            tile = padded[:, y : y + side, x : x + side].transpose(1, 2, 0)
            tile = ((tile * 1.0 / 255.0).astype(np.float32) - mean) / std
            prob = session.run(None, {stack.name: tile.transpose(2, 0, 1)[None]})[0][0, 0]
            top, left = (half if at else 0 for at in (row, col))
            bottom = side if row == rows - 1 else side - half
            right = side if col == cols - 1 else side - half
            mask = (prob >= about["seg_thresh"]).astype(np.uint8)
            found[y + top : y + bottom, x + left : x + right] = mask[top:bottom, left:right]
    return found[:height, :width]


def test_deepness_finds_in_the_stack_what_predict_finds_in_the_pair(
    files: Path, tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    dates = np.kron(images(2, 3, 15, 17).astype(np.uint8), np.ones((10, 10), np.uint8))
    moved = {"transform": Affine(10, 0, 500_020, 0, -10, 4_999_990)}
    pair = [
        str(write_tif(tmp_path / f"t{i}.tif", date, **(moved if i else {})))
        for i, date in enumerate(dates)
    ]
    stack, mask = tmp_path / "stack.vrt", tmp_path / "change.tif"
    assert main(["stack", "-q", *pair, "-o", str(stack)]) == 0
    assert main(["predict", "-q", *pair, "-m", str(files / "net.onnx"), "-o", str(mask)]) == 0
    with rasterio.open(mask) as dataset:
        wanted = dataset.read(1)
    found = run_as_deepness(files / "deepness.onnx", stack)
    assert 0.05 < wanted.mean() < 0.95
    # beyond the scene one continues by reflection, the other by zeros
    inner = np.s_[CARD["halo"] : -CARD["halo"], CARD["halo"] : -CARD["halo"]]
    np.testing.assert_array_equal(found[inner], wanted[inner])


def test_deepness_is_told_how_to_cut_and_read(files: Path) -> None:
    model = onnx.load(files / "deepness.onnx")
    texts = {each.key: json.loads(each.value) for each in model.metadata_props}
    card = texts.pop(CARD_KEY)
    assert card["name"] == "two heads"
    assert texts == {
        "model_type": "Segmentor",
        "class_names": {"0": "no change", "1": "change"},
        "resolution": 1000.0,
        "tile_size": 64,
        "tiles_size": 64,
        "tiles_overlap": 13,
        "standardization_mean": [0.0] * 6,
        "standardization_std": [1.0] * 6,
        "seg_thresh": 0.5,
        "seg_small_segment": 0,
    }


@given(st.integers(0, 300), st.integers(1, 64), st.integers(16, 2048))
def test_tiles_of_deepness_leave_every_pixel_its_context(
    halo: int, multiple: int, patch: int
) -> None:
    side = deepness.tile_side({"halo": halo, "multiple": multiple, "patch_size": patch})
    percent = deepness.overlap_percent(side, halo)
    overlap = int(side * percent / 100 * 2) // 2
    assert side % multiple == 0
    assert halo <= overlap // 2 < side / 2


def test_it_travels_to_workers_as_weights_do(files: Path) -> None:
    model = load_onnx(files / "net.onnx", "cpu")
    packed, weights = pack(model)
    assert weights == {f"{model.sha256}.onnx": files / "net.onnx"}
    assert str(files).encode() not in packed


class TestErrors:
    def test_what_is_no_model(self, files: Path, tmp_path: Path) -> None:
        text = tmp_path / "text.onnx"
        text.write_text("no model")
        with pytest.raises(ModelError, match=r"expected an ONNX model, .*text\.onnx"):
            load_onnx(text)
        with pytest.raises(ModelError, match="expected an ONNX model, "):
            load_onnx(tmp_path / "absent.onnx")
        model = onnx.load(files / "net.onnx")
        del model.metadata_props[:]
        onnx.save(model, text)
        with pytest.raises(ModelError, match="a file without its card"):
            load_onnx(text)

    def test_weights_in_other_files_are_not_read(
        self, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "net.onnx"
        onnx.save(
            onnx.load(shipped_path(".onnx")),
            path,
            save_as_external_data=True,
            location="other.bin",
            size_threshold=1024,  # shapes stay where they are read before weights
        )
        monkeypatch.chdir(tmp_path)  # where ONNX Runtime would look for them
        assert Path("other.bin").stat().st_size > 1e6
        with pytest.raises(ModelError, match="expected an ONNX model, found damage"):
            load_onnx(path)

    def test_no_runtime(self, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ModelError, match=r"found none that loads .*install it again"):
            load_onnx(files / "net.onnx")

    def test_a_card_is_not_trusted(self, files: Path, tmp_path: Path) -> None:
        model = onnx.load(files / "net.onnx")
        card = json.loads(model.metadata_props[0].value)
        for wrong, message in (
            ({"halo": -1}, "found halo -1"),
            ({"format": 9}, "expected weights of format 1, found 9"),
            ({"receptive_radius": None, "bytes_per_pixel": 0}, "found bytes_per_pixel 0"),
        ):
            onnx.helper.set_model_props(model, {CARD_KEY: json.dumps(card | wrong)})
            onnx.save(model, tmp_path / "wrong.onnx")
            with pytest.raises(ModelError, match=message):
                load_onnx(tmp_path / "wrong.onnx")

    def test_a_file_replaced_after_it_was_opened(self, files: Path, tmp_path: Path) -> None:
        path = Path(shutil.copy(files / "net.onnx", tmp_path))
        model = load_onnx(path, "cpu", threads=2)
        path.write_bytes(b"other")
        fresh = OnnxNetwork(**vars(model) | {"threads": 3})  # of a process that has not read it
        with pytest.raises(ModelError, match="as it was when it was opened"):
            fresh(images(1, 2, 3, 8, 8), np.ones((1, 8, 8), bool))

    def test_other_bands_and_sizes(self, files: Path) -> None:
        model = load_onnx(files / "net.onnx")
        with pytest.raises(ModelError, match="expected 3 bands for two heads, found 4"):
            model(images(1, 2, 4, 8, 8), np.ones((1, 8, 8), bool))

    def test_no_gpu(self, files: Path) -> None:
        with pytest.raises(ModelError, match="expected an ONNX Runtime for CUDA"):
            load_onnx(files / "net.onnx", "cuda")

    def test_no_exporter(self, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(ModelError, match=r"found no onnxscript; pip install 'rscd\[export\]'"):
            export_graph(files / "net.safetensors", files / "again.onnx")

    def test_views_need_torch(
        self,
        files: Path,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        write_tif: Callable[..., Path],
    ) -> None:
        pair = [str(write_tif(tmp_path / f"{i}.tif", images(3, 16, 16))) for i in (1, 2)]
        args = ["-m", str(files / "net.onnx"), "--msi", "1,2", "-o", str(tmp_path / "c.tif")]
        assert main(["predict", *pair, *args]) == 1
        assert "found two heads; give -m FILE.safetensors or FILE.ckpt" in capsys.readouterr().err

    def test_a_file_for_deepness_is_not_one_for_predict(self, files: Path) -> None:
        with pytest.raises(ModelError, match=r"found the inputs stack in .*deepness\.onnx"):
            load_onnx(files / "deepness.onnx")

    def test_deepness_takes_onnx_and_tiles(
        self, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights, out = str(files / "net.safetensors"), str(files / "d.onnx")
        args = ["model", "export", weights, "--target", "deepness", "-o"]
        assert main([*args, str(files / "d.pt2")]) == 2
        assert "expected -o ending in .onnx with --target" in capsys.readouterr().err

        monkeypatch.setattr(
            deepness,
            "graph_of",
            lambda *a, **k: (
                graph_of(*a, **k)[0] | {"whole_pictures": True},
                *graph_of(*a, **k)[1:],
            ),
        )
        assert main([*args, out]) == 1
        assert "expected a network that looks at parts of a scene" in capsys.readouterr().err
        assert not Path(out).exists()

    def test_another_suffix(self, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = str(files / "net.trt")
        assert main(["model", "export", str(files / "net.safetensors"), "-o", out]) == 2
        assert "expected -o ending in .safetensors, .onnx or .pt2" in capsys.readouterr().err

    def test_nothing_is_written_that_differs(
        self, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(graphs, "TOLERANCE", -1.0)
        with pytest.raises(ModelError, match=r"written as \.pt2, found two-heads: .*apart"):
            export_graph(files / "net.safetensors", files / "off.pt2")
        assert not (files / "off.pt2").exists()

    def test_a_network_that_cannot_be_traced(
        self, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class OneByOne(TwoHeads):
            def forward(self, image: Tensor) -> dict[str, Tensor]:
                parts = [super(OneByOne, self).forward(each[None]) for each in image]
                return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        monkeypatch.setitem(NETWORKS, "two-heads", OneByOne)
        with pytest.raises(ModelError, match=r"expected a network that can be written as \.onnx"):
            export_graph(files / "net.safetensors", files / "one.onnx")
        assert not (files / "one.onnx").exists()
