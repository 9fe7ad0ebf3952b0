import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from rscd.base.errors import ModelError, UsageError
from rscd.segmenters.prompts import parse_prompts
from rscd.segmenters.segmenter import View, load_segmenter

pytest.importorskip("transformers")
import torch
from safetensors.torch import load_file, save_file

from rscd.segmenters import hub
from rscd.segmenters.sam3 import Options, Sam3

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
PROMPTS = parse_prompts("house,building", "road=road|street,tree")


def picture(height: int = 70, width: int = 90, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def copied(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(params=["sam3_folder", "litetext_folder", "clipseg_folder"])
def any_model(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return (
        "clipseg" if "clipseg" in request.param else "sam3",
        request.getfixturevalue(request.param),
    )


class TestAnyModel:
    @pytest.mark.slow
    def test_a_folder_becomes_scores(self, any_model: tuple[str, Path]) -> None:
        name, folder = any_model
        segmenter = load_segmenter(name, {"model": str(folder)}, device="cpu")
        views = [View(picture()), View(picture(33, 41, 1))]
        found = segmenter.predict(views, PROMPTS)
        for view, one in zip(views, found, strict=True):
            assert one.prob.shape == (4, *view.rgb.shape[:2])
            assert one.prob.dtype == np.float32
            assert one.prob.min() >= 0
            assert one.prob.max() <= 1
            assert one.classes == ("house", "building", "road", "tree")
        again = load_segmenter(name, {"model": str(folder)}, device="cpu").predict(views, PROMPTS)
        assert (again[0].prob == found[0].prob).all()
        assert (found[0].instances is None) == (name == "clipseg")
        assert segmenter.seconds_per_view(PROMPTS) is None

    @pytest.mark.slow
    def test_prompts_one_by_one_and_views_alone_are_the_same(
        self, any_model: tuple[str, Path]
    ) -> None:
        name, folder = any_model
        both = [View(picture()), View(picture(33, 41, 1))]
        options = {"model": str(folder), "prompt_batch": "2"}
        by_two = load_segmenter(name, options, device="cpu").predict(both, PROMPTS)
        alone = load_segmenter(name, {"model": str(folder)}, device="cpu")
        for view, found in zip(both, by_two, strict=True):
            one = alone.predict([view], PROMPTS)[0]
            np.testing.assert_allclose(one.prob, found.prob, atol=1e-4)
        words = parse_prompts("building", "tree")
        two = alone.predict(both[:1], words)[0].prob
        np.testing.assert_allclose(two, by_two[0].prob[[1, 3]], atol=1e-4)

    def test_a_class_is_the_best_of_its_phrases(self, any_model: tuple[str, Path]) -> None:
        name, folder = any_model
        segmenter = load_segmenter(name, {"model": str(folder)}, device="cpu")
        view = View(picture())
        apart = segmenter.predict([view], parse_prompts("house", "road,street,tree"))[0].prob
        joint = segmenter.predict([view], PROMPTS)[0].prob
        np.testing.assert_allclose(joint[2], apart[1:3].max(axis=0), atol=1e-4)

    def test_a_phrase_too_long_is_refused(self, any_model: tuple[str, Path]) -> None:
        name, folder = any_model
        segmenter = load_segmenter(name, {"model": str(folder)}, device="cpu")
        words = parse_prompts("a" * 90, "tree")
        with pytest.raises(UsageError, match=r"prompts of at most \d\d tokens, found 92 in 'aaa"):
            segmenter.predict([View(picture())], words)

    def test_missing_parameters_are_refused(
        self, any_model: tuple[str, Path], tmp_path: Path
    ) -> None:
        name, folder = copied_model(any_model, tmp_path)
        tensors = load_file(folder / "model.safetensors")
        wrong = {k.replace("text_", "txet_"): v for k, v in tensors.items()}
        assert wrong.keys() != tensors.keys()
        save_file(wrong, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"found \d+ missing .*text_.* would be random"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")

    def test_parameters_of_another_shape_are_refused(
        self, any_model: tuple[str, Path], tmp_path: Path
    ) -> None:
        name, folder = copied_model(any_model, tmp_path)
        tensors = load_file(folder / "model.safetensors")
        key = next(k for k in tensors if "token_embedding" in k)
        tensors[key] = tensors[key][:-1].clone()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"cannot be loaded|another shape"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")

    @pytest.mark.parametrize(
        "content", [b"version https://git-lfs.github.com/spec/v1\n", b"{}" * 9]
    )
    def test_damaged_weights(
        self, any_model: tuple[str, Path], tmp_path: Path, content: bytes
    ) -> None:
        name, folder = copied_model(any_model, tmp_path)
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="damaged or a Git LFS pointer"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")

    def test_a_config_alone(self, any_model: tuple[str, Path], tmp_path: Path) -> None:
        name, folder = copied_model(any_model, tmp_path)
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="found only a config"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")

    def test_no_tokenizer(self, any_model: tuple[str, Path], tmp_path: Path) -> None:
        name, folder = copied_model(any_model, tmp_path)
        for path in folder.glob("*"):
            if path.name not in ("config.json", "model.safetensors"):
                path.unlink()
        with pytest.raises(ModelError, match=r"expected a tokenizer \(tokenizer.json, or"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")

    def test_no_words_alone(self, any_model: tuple[str, Path], tmp_path: Path) -> None:
        name, folder = copied_model(any_model, tmp_path)
        (folder / "tokenizer.json").unlink()  # the library makes an empty one, and finds nothing
        with pytest.raises(ModelError, match=r"expected a tokenizer .* found none"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")

    def test_no_image_processor(self, any_model: tuple[str, Path], tmp_path: Path) -> None:
        name, folder = copied_model(any_model, tmp_path)
        for path in folder.glob("*processor*"):
            path.unlink()
        with pytest.raises(ModelError, match="expected tokenizer and image processor"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")

    def test_the_wrong_folder(self, any_model: tuple[str, Path], tmp_path: Path) -> None:
        name, folder = copied_model(any_model, tmp_path)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
        with pytest.raises(ModelError, match=r"model in .*, found 'bert'"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")
        (folder / "config.json").unlink()
        with pytest.raises(ModelError, match=r"expected a folder with config\.json"):
            load_segmenter(name, {"model": str(folder)}, device="cpu")

    def test_neither_folder_nor_name(self, any_model: tuple[str, Path]) -> None:
        for wrong in ("./models/sam3", "/no/such/folder", "sam3"):
            with pytest.raises(UsageError, match="expected a folder or a name on the hub"):
                load_segmenter(any_model[0], {"model": wrong}, device="cpu")

    def test_the_fingerprint_follows_the_weights(
        self, any_model: tuple[str, Path], tmp_path: Path
    ) -> None:
        name, folder = copied_model(any_model, tmp_path)
        first = load_segmenter(name, {"model": str(folder)}, device="cpu").fingerprint()
        tensors = load_file(folder / "model.safetensors")
        key = next(iter(tensors))
        tensors[key] = tensors[key] + 1
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        second = load_segmenter(name, {"model": str(folder)}, device="cpu").fingerprint()
        assert first != second
        assert json.loads(json.dumps(first)) == first


def copied_model(any_model: tuple[str, Path], tmp_path: Path) -> tuple[str, Path]:
    name, folder = any_model
    return name, copied(folder, tmp_path)


def test_the_published_layout_with_a_tracker_loads(sam3_folder: Path, tmp_path: Path) -> None:
    folder = copied(sam3_folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    wrapped = {f"detector_model.{k}": v for k, v in tensors.items()}
    wrapped["tracker_model.x"] = torch.zeros(3)
    save_file(wrapped, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config = {"model_type": "sam3_video", "detector_config": config}
    (folder / "config.json").write_text(json.dumps(config))
    view = View(picture())
    one, other = (
        load_segmenter("sam3", {"model": str(path)}, device="cpu").predict([view], PROMPTS)[0]
        for path in (sam3_folder, folder)
    )
    assert (one.prob == other.prob).all()


def test_the_short_way_through_clipseg_is_the_long_one(clipseg_folder: Path) -> None:
    segmenter: Any = load_segmenter("clipseg", {"model": str(clipseg_folder)}, device="cpu")
    texts, rgb = ["house", "green tree"], picture(64, 64)
    inputs = segmenter.processor(text=texts, images=[rgb, rgb], padding=True, return_tensors="pt")
    with torch.inference_mode():
        long = segmenter.model(**inputs).logits.sigmoid()
        image = segmenter.processor(images=rgb, return_tensors="pt")["pixel_values"]
        short = segmenter._decode(segmenter._activations(image), texts)
    torch.testing.assert_close(short, long, atol=1e-4, rtol=1e-4)


class Planted:
    """Answers of a SAM 3 whose logits are known: one object on the left, semantics on the right."""

    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=32))

    def __init__(self, fails_above: int = 99) -> None:
        self.fails_above = fails_above
        self.asked: list[Any] = []

    def parameters(self) -> Any:
        return []

    def get_vision_features(self, image: Tensor) -> "Seen":
        return Seen((torch.zeros(1, 2, 4, 4),), (torch.zeros(1, 2, 4, 4),))

    def __call__(
        self, vision_embeds: "Seen", input_ids: Tensor, attention_mask: Tensor
    ) -> SimpleNamespace:
        k = len(input_ids)
        assert len(vision_embeds.fpn_hidden_states[0]) == k
        if k > self.fails_above:
            raise torch.OutOfMemoryError
        self.asked.append(k)
        masks = torch.full((k, 3, 4, 4), -20.0)
        masks[:, 0, :, :2] = 20.0
        logits = torch.full((k, 3), -20.0)
        logits[:, 0] = 4.0
        semantic = torch.full((k, 1, 4, 4), -20.0)
        semantic[:, 0, :, 2:] = -2.0
        return SimpleNamespace(
            pred_masks=masks,
            pred_logits=logits,
            presence_logits=torch.full((k, 1), 2.0),
            semantic_seg=semantic,
        )


class Seen(SimpleNamespace):
    def __init__(
        self, fpn_hidden_states: tuple[Tensor], fpn_position_encoding: tuple[Tensor]
    ) -> None:
        super().__init__(
            fpn_hidden_states=fpn_hidden_states, fpn_position_encoding=fpn_position_encoding
        )


def planted(sam3_folder: Path, model: Planted, **options: Any) -> Sam3:
    from transformers import Sam3Processor

    processor = Sam3Processor.from_pretrained(sam3_folder, local_files_only=True)
    return Sam3(Options(**options), model, processor)


def sigmoid(x: int) -> float:
    return 1 / (1 + np.exp(-x))


class TestFusion:
    def test_objects_and_semantics_are_weighed_by_presence(self, sam3_folder: Path) -> None:
        found = planted(sam3_folder, Planted()).predict([View(picture(4, 4))], PROMPTS)[0]
        assert found.prob[:, :, 0] == pytest.approx(sigmoid(4) * sigmoid(2), abs=1e-5)  # 0.86495
        assert found.prob[:, :, 3] == pytest.approx(sigmoid(-2) * sigmoid(2), abs=1e-5)  # 0.10499
        assert found.instances is not None
        assert [i.class_index for i in found.instances] == [0, 1]  # of the foreground alone
        assert found.instances[0].bbox == (0, 0, 2, 4)
        assert found.instances[0].score == pytest.approx(sigmoid(4) * sigmoid(2), abs=1e-5)

    def test_without_presence(self, sam3_folder: Path) -> None:
        segmenter = planted(sam3_folder, Planted(), use_presence=False)
        found = segmenter.predict([View(picture(4, 4))], PROMPTS)[0]
        assert found.prob[:, :, 0] == pytest.approx(sigmoid(4), abs=1e-5)

    def test_weak_objects_stay_out(self, sam3_folder: Path) -> None:
        segmenter = planted(sam3_folder, Planted(), fuse_threshold=0.9, instance_threshold=0.9)
        found = segmenter.predict([View(picture(4, 4))], PROMPTS)[0]
        assert found.prob[:, :, 0] == pytest.approx(0, abs=1e-5)
        assert found.instances == []

    def test_objects_take_the_size_of_the_view(self, sam3_folder: Path) -> None:
        found = planted(sam3_folder, Planted()).predict([View(picture(40, 80))], PROMPTS)[0]
        assert found.instances is not None
        assert found.instances[0].bbox == (0, 0, 40, 40)

    def test_short_memory_means_fewer_phrases(
        self, sam3_folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = Planted(fails_above=2)
        found = planted(sam3_folder, model).predict([View(picture(4, 4))], PROMPTS)[0]
        assert model.asked == [2, 2, 1]
        assert found.prob[:, :, 0] == pytest.approx(sigmoid(4) * sigmoid(2), abs=1e-5)
        assert "GPU memory is short: 2 phrases per batch" in caplog.text

    def test_no_memory_at_all(self, sam3_folder: Path) -> None:
        with pytest.raises(ModelError, match="expected more GPU memory for windows of 4 pixels"):
            planted(sam3_folder, Planted(fails_above=0)).predict([View(picture(4, 4))], PROMPTS)


class TestLibrary:
    def test_it_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match=r'pip install "rscd\[vlm\]"'):
            load_segmenter("sam3")

    @pytest.mark.parametrize("found", ["5.10.1", "4.57.0", "6.0.0"])
    def test_a_version_that_does_not_work(
        self, monkeypatch: pytest.MonkeyPatch, found: str
    ) -> None:
        monkeypatch.setattr(hub, "library_version", lambda name: found)
        with pytest.raises(ModelError, match=f"below 6, found {found} .5.10.1 leaves the text"):
            load_segmenter("sam3")

    def test_a_class_that_it_lacks(self) -> None:
        with pytest.raises(ModelError, match="expected transformers with Sam9Model"):
            hub.require_transformers("sam3", ("Sam9Model",))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sam3", {"mask_threshold": "2"}, "expected mask_threshold from 0 to 1"),
        ("sam3", {"prompt_batch": "0"}, "expected prompt_batch of 1 or more"),
        ("clipseg", {"template": "no place"}, "expected template= with {} once"),
        ("clipseg", {"device": "tpu"}, "expected device auto, cpu or cuda, found 'tpu'"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_segmenter(name, options)


def test_an_unknown_dtype(clipseg_folder: Path) -> None:
    with pytest.raises(UsageError, match="expected dtype auto or float32"):
        load_segmenter("clipseg", {"model": str(clipseg_folder), "dtype": "int8"}, device="cpu")
