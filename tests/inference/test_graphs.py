"""Networks as files for other programs: the same numbers, and prediction without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.base.types import CARD_KEY
from rscd.cli import main
from rscd.inference import graphs
from rscd.inference.dask import pack
from rscd.inference.graphs import OPSET, export_graph
from rscd.inference.models import load_model
from rscd.inference.network import save_weights
from rscd.inference.onnx_network import OnnxNetwork, load_onnx
from rscd.models.inputs import check_image
from rscd.models.networks import NETWORKS

CARD = {
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
def files(tmp_path_factory):
    """Weights of `TwoHeads`, and what they are exported to."""
    folder = tmp_path_factory.mktemp("graphs")
    torch.manual_seed(0)
    network = TwoHeads()
    network.maps[1].running_mean.uniform_(-1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "two-heads", TwoHeads)
        weights = folder / "net.safetensors"
        save_weights(weights, network, "two-heads", {}, CARD)
        for suffix in (".onnx", ".pt2"):
            assert main(["model", "export", str(weights), "-o", str(folder / f"net{suffix}")]) == 0
        yield folder


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 3, 64, 64), (3, 2, 3, 20, 132)])
def test_any_batch_and_size_gives_what_the_network_gives(files, shape):
    image, valid = images(*shape), np.ones((shape[0], *shape[3:]), bool)
    ours, theirs = (load_model(str(files / name)) for name in ("net.safetensors", "net.onnx"))
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


def test_a_file_describes_itself(files):
    ours, theirs = (load_model(str(files / name)) for name in ("net.safetensors", "net.onnx"))
    assert theirs.tiling == ours.tiling
    assert theirs.card() == ours.card() | {"sha256": theirs.sha256}
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
    assert json.loads(extra[CARD_KEY]) | {"sha256": ours.sha256} == ours.card()


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
def test_the_same_polygons_without_torch(files, tmp_path, write_tif, monkeypatch, gsd):
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


def test_it_travels_to_workers_as_weights_do(files):
    model = load_onnx(files / "net.onnx", "cpu")
    packed, weights = pack(model)
    assert weights == {f"{model.sha256}.onnx": files / "net.onnx"}
    assert str(files).encode() not in packed


class TestErrors:
    def test_what_is_no_model(self, files, tmp_path):
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

    def test_a_card_is_not_trusted(self, files, tmp_path):
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

    def test_a_file_replaced_after_it_was_opened(self, files, tmp_path):
        path = Path(shutil.copy(files / "net.onnx", tmp_path))
        model = load_onnx(path, "cpu", threads=2)
        path.write_bytes(b"other")
        fresh = OnnxNetwork(**vars(model) | {"threads": 3})  # of a process that has not read it
        with pytest.raises(ModelError, match="as it was when it was opened"):
            fresh(images(1, 2, 3, 8, 8), np.ones((1, 8, 8), bool))

    def test_other_bands_and_sizes(self, files):
        model = load_onnx(files / "net.onnx")
        with pytest.raises(ModelError, match="expected 3 bands for two heads, found 4"):
            model(images(1, 2, 4, 8, 8), np.ones((1, 8, 8), bool))

    def test_no_gpu(self, files):
        with pytest.raises(ModelError, match="expected an ONNX Runtime for CUDA"):
            load_onnx(files / "net.onnx", "cuda")

    def test_no_runtime(self, files, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ModelError, match=r"pip install 'rscd\[onnx\]'"):
            load_onnx(files / "net.onnx")
        with pytest.raises(ModelError, match=r"found no onnxruntime; pip install 'rscd\[export\]'"):
            export_graph(files / "net.safetensors", files / "again.onnx")

    def test_views_need_torch(self, files, capsys, tmp_path, write_tif):
        pair = [str(write_tif(tmp_path / f"{i}.tif", images(3, 16, 16))) for i in (1, 2)]
        args = ["-m", str(files / "net.onnx"), "--msi", "1,2", "-o", str(tmp_path / "c.tif")]
        assert main(["predict", *pair, *args]) == 1
        assert "found two heads; give -m FILE.safetensors or FILE.ckpt" in capsys.readouterr().err

    def test_another_suffix(self, files, capsys):
        out = str(files / "net.trt")
        assert main(["model", "export", str(files / "net.safetensors"), "-o", out]) == 2
        assert "expected -o ending in .safetensors, .onnx or .pt2" in capsys.readouterr().err

    def test_nothing_is_written_that_differs(self, files, monkeypatch):
        monkeypatch.setattr(graphs, "TOLERANCE", -1.0)
        with pytest.raises(ModelError, match=r"written as \.pt2, found two-heads: .*apart"):
            export_graph(files / "net.safetensors", files / "off.pt2")
        assert not (files / "off.pt2").exists()

    def test_a_network_that_cannot_be_traced(self, files, monkeypatch):
        class OneByOne(TwoHeads):
            def forward(self, image: Tensor) -> dict[str, Tensor]:
                parts = [super(OneByOne, self).forward(each[None]) for each in image]
                return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        monkeypatch.setitem(NETWORKS, "two-heads", OneByOne)
        with pytest.raises(ModelError, match=r"expected a network that can be written as \.onnx"):
            export_graph(files / "net.safetensors", files / "one.onnx")
        assert not (files / "one.onnx").exists()
