"""Random numbers of the views: a CPU generator per stream, so every device draws the same."""

import numpy as np
import torch


def view_generator(seed: int, *keys: int) -> torch.Generator:
    """Random generator seeded by all arguments, so that views of (seed, step, rank, worker) differ.

    Args:
        seed: seed of the run, not negative.
        keys: numbers that distinguish streams: step, rank, worker, index.
    """
    state = np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """One number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def integer(generator: torch.Generator, count: int) -> int:
    """One of 0 .. count - 1."""
    return int(torch.randint(count, (), generator=generator))
