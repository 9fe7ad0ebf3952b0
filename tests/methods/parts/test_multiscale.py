"""Inference over scales and flips: reference arrays, and the properties of kdmsi.md section 10."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rscd.methods.parts.multiscale import (
    FLIPS,
    MAPS,
    PRESETS,
    Views,
    cam,
    grid_of,
    mi,
    msi,
    resize_image,
    scaled_size,
    single_scale,
    tta_logits,
)
from tests.conftest import Golden


def normalised(image: Tensor) -> Tensor:
    return (image / 255 - 0.5) / 0.5


def files(golden: Golden, group: str) -> list[tuple[str, Any]]:
    found = golden.files(f"kdmsi/{group}_*.npz")
    assert found
    return [(path.name, np.load(path)) for path in found]


def pair_of(case: Any) -> Tensor:
    both = np.stack([case["image_pre"], case["image_post"]])
    return torch.from_numpy(both).permute(0, 3, 1, 2)[None].float()


def stub_of(case: Any) -> Callable[..., Any]:
    """conv(post) - conv(pre) + bias."""
    weight, bias = torch.from_numpy(case["stub_weight"]), torch.from_numpy(case["stub_bias"])
    stride, padding = int(case["stub_stride"]), int(case["stub_padding"])

    def network(image: Tensor) -> Tensor:
        x = normalised(image)
        t1, t2 = (F.conv2d(x[:, i], weight, stride=stride, padding=padding) for i in (0, 1))
        return t2 - t1 + bias.view(1, -1, 1, 1)

    return network


def size_of(image: Tensor) -> tuple[int, int]:
    height, width = image.shape[-2:]
    return height, width


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["msi", "mi"])
def test_maps_match_the_reference_arrays(golden: Golden, kind: str) -> None:
    for name, case in files(golden, kind):
        image, network = pair_of(case), stub_of(case)
        scales = tuple(case["scales"].tolist())
        for i, scale in enumerate(scales):
            resized = resize_image(image, scaled_size(size_of(image), scale), eight_bit=True)
            dates = resized[0].permute(0, 2, 3, 1).byte().numpy()
            np.testing.assert_array_equal(dates[0], case[f"resized_pre_{i}"], name)
            np.testing.assert_array_equal(dates[1], case[f"resized_post_{i}"], name)
            logits = network(torch.cat([resized, resized.flip(-1)]))
            np.testing.assert_allclose(logits.numpy(), case[f"logits_{i}"], rtol=1e-4, atol=1e-5)
        found = MAPS[kind](network, image, Views(scales, geometry="reference"))
        np.testing.assert_allclose(found[0].numpy(), case["change_map"], atol=1e-5, err_msg=name)
        if all(side % 64 == 0 for side in image.shape[-2:]):
            assert torch.equal(found, MAPS[kind](network, image, Views(scales)))
        if "threshold" in case:
            threshold = float(case["threshold"])
            changed = case["change_map"][0] > np.float32(threshold)
            np.testing.assert_array_equal(255 * changed, case["pseudo_label_positive"], name)


@pytest.mark.golden
def test_tta_matches_the_reference_arrays(golden: Golden) -> None:
    for name, case in files(golden, "tta"):
        weight, bias = torch.from_numpy(case["stub_weight"]), torch.from_numpy(case["stub_bias"])

        def network(image: Tensor, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            x = normalised(image)
            found = F.conv2d(x[:, 0] - x[:, 1], weight, bias, stride=16, padding=8)
            return F.interpolate(found, x.shape[-2:], mode="bilinear", align_corners=True)

        image, scales = pair_of(case), tuple(case["scales"].tolist())
        first = resize_image(image, scaled_size(size_of(image), scales[0]), eight_bit=True)
        out = network(torch.cat([first, first.flip(-1)]))
        np.testing.assert_allclose(out.numpy(), case["model_output_scale0"], rtol=1e-4, atol=1e-5)
        summed = tta_logits(network, image, Views(scales, geometry="reference"))
        np.testing.assert_allclose(
            summed[0].permute(1, 2, 0).numpy(), case["summed_logits_hwc"], rtol=1e-4, atol=2e-5
        )
        prediction = summed.argmax(1)[0].numpy() * 255
        np.testing.assert_array_equal(prediction, case["prediction_png"], name)


@pytest.mark.golden
def test_sign_of_the_stub_is_the_reference_one(golden: Golden) -> None:
    """The order of dates matters: swapping them must not reproduce the arrays."""
    _, case = files(golden, "msi")[0]
    swapped = msi(stub_of(case), pair_of(case).flip(1), Views(tuple(case["scales"].tolist())))
    assert np.abs(swapped[0].numpy() - case["change_map"]).max() > 0.01


def noise(height: int = 64, width: int = 64, n: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 2, 3, height, width), generator=generator).float()


def stride_16(seed: int = 0, bias: float = 0.3) -> Callable[..., Any]:
    weight = 0.05 * torch.randn(1, 3, 17, 17, generator=torch.Generator().manual_seed(seed))

    def network(image: Tensor) -> Tensor:
        x = normalised(image)
        difference = F.conv2d(x[:, 1] - x[:, 0], weight, stride=16, padding=8)
        return difference + bias

    return network


def test_constant_logits_give_their_sigmoid() -> None:
    for size in ((64, 64), (50, 70)):
        for geometry in ("pad", "reference"):
            views = Views((0.5, 1.25), flip="both", geometry=geometry)
            found = msi(
                lambda image: image.new_full((len(image), 1, 3, 3), 0.7), noise(*size), views
            )
            assert found.shape == (1, 1, *size)
            torch.testing.assert_close(found, torch.full_like(found, 0.7).sigmoid())


def test_one_scale_without_flip_is_the_sigmoid() -> None:
    def network(image: Tensor) -> Tensor:
        return normalised(image)[:, 1:2, 0] - normalised(image)[:, 0:1, 0]

    image = noise(64, 128)
    once = network(image).sigmoid()
    torch.testing.assert_close(msi(network, image, Views((1.0,), flip="none")), once)
    torch.testing.assert_close(single_scale(network, image), once)
    both = (once + network(image.flip(-1)).sigmoid().flip(-1)) / 2
    torch.testing.assert_close(msi(network, image, Views((1.0,))), both)


def test_flipped_pair_gives_the_flipped_map() -> None:
    image = noise(64, 128)
    for flip, axis in (("width", -1), ("height", -2)):
        found = msi(stride_16(), image.flip(axis), Views(flip=flip)).flip(axis)
        torch.testing.assert_close(found, msi(stride_16(), image, Views(flip=flip)))


def test_order_and_duplicates_of_scales_do_not_matter() -> None:
    image, network = noise(), stride_16()
    found = msi(network, image, Views((0.5, 1.0, 2.0)))
    torch.testing.assert_close(msi(network, image, Views((2.0, 0.5, 1.0))), found)
    torch.testing.assert_close(msi(network, image, Views((0.5, 1.0, 2.0) * 2)), found)


def test_maps_are_between_the_scales_and_rise_with_the_logits() -> None:
    image = noise()
    found = msi(stride_16(), image)
    assert float(found.min()) > 0
    assert float(found.max()) < 1
    assert bool((msi(stride_16(bias=0.5), image) > found).all())


def test_sigmoid_comes_before_the_mean() -> None:
    by_side = {32: 4.0, 64: -2.0}
    network = lambda image: image.new_full((1, 1, 2, 2), by_side[image.shape[-1]])  # noqa: E731
    views = Views((0.5, 1.0), flip="none")
    assert float(msi(network, noise(), views).mean()) == pytest.approx(0.550608, abs=1e-6)
    raw = mi(network, noise(), views)
    assert float(raw.max()) == pytest.approx(4 / (4 + 1e-5))
    # the paper's order: 4 - 2 before the ReLU, then divided by itself all the same
    assert float(mi(network, noise(), views, relu_after_sum=True).max()) == pytest.approx(
        2 / (2 + 1e-5)
    )


def test_sigmoid_comes_before_the_resize() -> None:
    network = lambda image: image.new_tensor([[[[4.0, -2.0]]]])  # noqa: E731
    image = noise(16, 16)
    found = msi(network, image, Views((1.0,), flip="none", geometry="reference"))
    assert float(found[0, 0, 0, 4]) == pytest.approx(0.9820 * 0.9375 + 0.1192 * 0.0625, abs=1e-3)


def test_activation_maps_over_scales() -> None:
    image, network = noise(), stride_16(bias=0.0)
    found = mi(network, image)
    torch.testing.assert_close(mi(lambda x: 3 * network(x), image), found, atol=1e-4, rtol=0)
    assert not mi(lambda x: -network(x).abs(), image).any()
    assert float(found.max()) == pytest.approx(1, abs=1e-3)
    several = noise(n=3)
    alone = torch.cat([mi(network, pair[None]) for pair in several])
    torch.testing.assert_close(mi(network, several), alone)


def test_teacher_alone_is_its_activation_map() -> None:
    found = cam(stride_16(bias=0.0), noise())
    assert float(found.min()) >= 0
    assert float(found.max()) < 1


def test_swapped_dates_turn_the_map_of_a_signed_difference_round() -> None:
    image, network = noise(), stride_16(bias=0.0)
    torch.testing.assert_close(msi(network, image.flip(1)), 1 - msi(network, image))
    same = image[:, :1].expand(-1, 2, -1, -1, -1)
    assert torch.equal(msi(network, same), torch.full((1, 1, 64, 64), 0.5))


def test_small_steps_give_the_same() -> None:
    image, network = noise(n=3), stride_16()
    for limit in (1, 64 * 64, 2 * 64 * 64):
        torch.testing.assert_close(
            msi(network, image, Views(max_pixels=limit)), msi(network, image), atol=1e-6, rtol=0
        )


def test_steps_stay_within_their_pixels() -> None:
    seen = []

    def network(image: Tensor) -> Tensor:
        seen.append(len(image) * image.shape[-1] * image.shape[-2])
        return stride_16()(image)

    msi(network, noise(n=4), Views(max_pixels=4 * 64 * 64))
    assert max(seen) <= 4 * 64 * 64
    assert sum(seen) == 4 * 64 * 64 * 2 * sum(s**2 for s in PRESETS["paper"])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(list(FLIPS)))
def test_any_size_and_flip(height: int, width: int, flip: str) -> None:
    image = noise(height, width)
    found = msi(stride_16(), image, Views((0.5, 1.25), flip=flip))
    assert found.shape == (1, 1, height, width)
    assert bool(torch.isfinite(found).all())


def test_padding_keeps_what_lies_far_from_the_edges() -> None:
    whole, network = noise(192, 192), stride_16()
    cut = msi(network, whole[..., :150, :150])[..., :64, :64]
    torch.testing.assert_close(cut, msi(network, whole)[..., :64, :64], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("scales", "multiple", "side"),
    [((1.0,), 16, 16), ((0.5, 1.0, 1.5, 2.0), 16, 32), ((0.5, 1.0, 1.25, 2.0), 16, 64),
     ((0.5, 1.25), 32, 128), ((2.0,), 32, 16), ((1 / 65,), 1, 64)],  # fractions down to 64ths
)  # fmt: skip
def test_sides_at_which_all_scales_fit(scales: tuple[float, ...], multiple: int, side: int) -> None:
    assert grid_of(scales, multiple) == side
    assert all(round(side * s) % multiple == 0 for s in scales)


def test_other_values_than_8_bit_are_filtered_alike() -> None:
    smooth = F.interpolate(noise(8, 8)[0], (64, 64), mode="bilinear")[None].round()
    for size in ((32, 32), (96, 96)):
        exact = resize_image(smooth, size, eight_bit=True)
        found = resize_image(smooth, size, eight_bit=False)
        assert float((found - exact).abs().max()) < 1.5
    scaled = resize_image(smooth * 40, (32, 32), eight_bit=False)
    torch.testing.assert_close(scaled, 40 * resize_image(smooth, (32, 32), eight_bit=False))
