"""An encoder that knows land cover of single pictures, where no published weights can be had.

    python benchmarks/pretrain_encoder.py encoder.safetensors [--encoder tu-test_resnet]

The papers whose ladders stand here begin with encoders that learned ImageNet. Here the encoder
learns what covers the ground in single pictures of synthetic towns, of a country no ladder looks
at: on every map of the encoder one linear layer names the cover that most pixels of a cell have.
It never sees two dates, nor change. Prints how often the finest map is right on unseen towns.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from rscd.models.encoders import build_encoder
from rscd.synthetic.town_pairs import TownPairs
from rscd.synthetic.towns import LAND_COVER

MEAN, STD = (110.0, 110.0, 100.0), (50.0, 50.0, 50.0)
"""With which the encoder expects raw values to be normalised."""

CLASSES = len(LAND_COVER)
SEED = 70_001
LEVELS = slice(2, None)
"""Maps of stride 4 and coarser."""


def pictures(count: int, size: int, seed: int, cache: Path | None) -> tuple[Tensor, Tensor]:
    """Normalised pictures (N,3,H,W) and their land cover (N,H,W): both dates of each town."""
    towns = TownPairs(
        length=max(1, count // 2),
        seed=seed,
        patch_size=size,
        gsd_m=[0.5, 1.5],
        keys={"image", "land_cover"},
        cache=cache,
    )
    samples = [towns[index] for index in range(len(towns))]
    image = torch.cat([sample["image"] for sample in samples])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (image - mean) / std, torch.cat([sample["land_cover"] for sample in samples])


def cell_cover(cover: Tensor, size: torch.Size) -> Tensor:
    """(B,h,w): the land cover of most pixels of each cell."""
    shares = F.one_hot(cover, CLASSES).permute(0, 3, 1, 2).float()
    return F.adaptive_avg_pool2d(shares, size).argmax(1)


def turned(image: Tensor, cover: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch in one of eight positions, each picture with a light of its own."""
    turn = int(torch.randint(4, (1,), generator=random))
    image, cover = image.rot90(turn, (-2, -1)), cover.rot90(turn, (-2, -1))
    if torch.rand(1, generator=random) < 0.5:
        image, cover = image.flip(-1), cover.flip(-1)
    gain = 1 + 0.2 * torch.randn(len(image), 3, 1, 1, generator=random)
    shift = 0.2 * torch.randn(len(image), 3, 1, 1, generator=random)
    return image * gain + shift, cover


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", default="tu-test_resnet")
    parser.add_argument("--pictures", type=int, default=1600)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    started = time.process_time()
    image, cover = pictures(args.pictures, args.size, SEED, args.cache)
    backbone = build_encoder(args.encoder, n_bands=3)
    heads = nn.ModuleList(nn.Conv2d(width, CLASSES, 1) for width in backbone.channels[LEVELS])
    learnt = [*backbone.module.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learnt, args.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps)
    random = torch.Generator().manual_seed(0)
    for _ in range(args.steps):
        chosen = torch.randint(len(image), (args.batch,), generator=random)
        seen, truth = turned(image[chosen], cover[chosen], random)
        loss = torch.zeros(())
        for head, level in zip(heads, backbone.module(seen)[LEVELS], strict=True):
            loss = loss + F.cross_entropy(head(level), cell_cover(truth, level.shape[-2:]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in backbone.module.state_dict().items()}, args.out)
    backbone.module.eval()
    image, cover = pictures(200, args.size, SEED + 1, args.cache)
    with torch.inference_mode():
        level = backbone.module(image)[LEVELS][0]
        right = heads[0](level).argmax(1) == cell_cover(cover, level.shape[-2:])
    seconds = round(time.process_time() - started, 1)
    print(json.dumps({"right": round(float(right.float().mean()), 3), "cpu_seconds": seconds}))


if __name__ == "__main__":
    main()
