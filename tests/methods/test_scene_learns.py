"""What the compact scene network learns, by the thresholds of its recipe."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rscd.base.types import Batch
from rscd.methods.scene import ScenePretrain
from rscd.models.flow import warp

SIDE, SHIFT, SQUARE = 96, 8, 28


def texture(n: int, side: int, random: torch.Generator) -> Tensor:
    """Noise of several scales, (n,3,side,side) in 0..255."""
    total = torch.zeros(n, 3, side, side)
    for cells, weight in ((8, 0.5), (24, 0.3), (64, 0.2)):
        noise = torch.rand(n, 3, cells, cells, generator=random)
        total += weight * F.interpolate(noise, (side, side), mode="bicubic")
    return (total * 255).clamp(0, 255)


def shifted_pairs(n: int = 8, seed: int = 0) -> Batch:
    """Textured pairs: t2 sees t1 moved by up to 8 whole pixels, and a square of another texture."""
    random = torch.Generator().manual_seed(seed)
    margin = SIDE // 2
    wide = texture(n, SIDE + 2 * margin, random)
    square = texture(n, SQUARE, random)
    t1, t2 = torch.empty(2, n, 3, SIDE, SIDE)
    flow = torch.empty(n, 2, SIDE, SIDE)
    mask = torch.zeros(n, 1, SIDE, SIDE, dtype=torch.long)
    for i in range(n):
        dx, dy = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=random).tolist()
        left, top = torch.randint(0, SIDE - SQUARE, (2,), generator=random).tolist()
        t1[i] = wide[i, :, margin : margin + SIDE, margin : margin + SIDE]
        t2[i] = wide[i, :, margin + dy : margin + dy + SIDE, margin + dx : margin + dx + SIDE]
        t2[i, :, top : top + SQUARE, left : left + SQUARE] = 255 - square[i]
        mask[i, :, top : top + SQUARE, left : left + SQUARE] = 1
        flow[i] = torch.tensor([dx, dy]).view(2, 1, 1)
    return {"image": torch.stack([t1, t2], 1), "mask": mask, "flow": flow}


def part(batch: Batch, rows: slice) -> Batch:
    return {"image": batch["image"][rows], "mask": batch["mask"][rows], "flow": batch["flow"][rows]}


def measured(method: ScenePretrain, batch: Batch) -> tuple[float, float]:
    """End-point error in pixels and F1 of change."""
    method.eval()
    with torch.inference_mode():
        error = (method.predict_flow(batch["image"]) - batch["flow"]).norm(dim=1).mean()
        found, true = method.predict(batch["image"]) >= 0.5, batch["mask"] == 1
    method.train()
    f1 = 2 * (found & true).sum() / (found.sum() + true.sum())
    return float(error), float(f1)


def fitted(batch: Batch, steps: int, until: tuple[float, float]) -> tuple[ScenePretrain, int]:
    """Train until the thresholds hold, `steps` at most."""
    torch.manual_seed(0)
    method = ScenePretrain("scene-compact", epe_reduction="mean", photometric={}).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for step in range(1, steps + 1):
        rows = slice(0, 4) if step % 2 else slice(4, 8)
        terms = method.losses({"train": part(batch, rows)}, step, steps)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        if step % 20 == 0 or step == steps:
            error, f1 = measured(method, batch)
            if error < until[0] and f1 > until[1]:
                break
    return method, step


@pytest.fixture(scope="module")
def trained() -> tuple[ScenePretrain, Batch]:
    batch = shifted_pairs()
    return fitted(batch, 360, (1.5, 0.85))[0], batch


@pytest.mark.slow
def test_the_thresholds_of_the_recipe(trained: tuple[ScenePretrain, Batch]) -> None:
    method, batch = trained
    error, f1 = measured(method, batch)
    assert float(batch["flow"].norm(dim=1).mean()) > 4, "so no flow at all would not do"
    assert error < 1.5
    assert f1 > 0.85


@pytest.mark.slow
def test_the_flow_aligns_t1_with_t2(trained: tuple[ScenePretrain, Batch]) -> None:
    method, batch = trained
    method.eval()
    t1, t2 = batch["image"].unbind(1)
    with torch.inference_mode():
        aligned = warp(t1, method.predict_flow(batch["image"]))
    inner = (batch["mask"][:, 0] == 0).float()
    inner[:, : 2 * SHIFT] = inner[:, -2 * SHIFT :] = 0
    inner[..., : 2 * SHIFT] = inner[..., -2 * SHIFT :] = 0

    def gap(image: Tensor) -> float:
        return float(((image - t2).abs().mean(1) * inner).sum() / inner.sum())

    assert gap(aligned) < 0.6 * gap(t1)
