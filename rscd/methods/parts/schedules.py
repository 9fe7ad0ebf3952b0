"""Learning rate schedules: factor of the base rate at each optimiser step."""

import math
from collections.abc import Callable


def constant(step: int, total: int) -> float:
    """1."""
    return 1.0


def poly(step: int, total: int, power: float = 0.9) -> float:
    """(1 - step/total)^power; constant after the last step before `total`."""
    return float((1 - min(step, total - 1) / total) ** power)


def cosine(step: int, total: int, floor: float = 0.0) -> float:
    """Half a cosine from 1 at step 0 to `floor` at `total`."""
    share = min(step, total) / total
    return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2


def step_down(
    step: int, total: int, at: tuple[float, ...] = (0.6, 0.9), factor: float = 0.1
) -> float:
    """Multiply by `factor` at each of the fractions `at` of the run."""
    return float(factor ** sum(step >= share * total for share in at))


def poly_lagged(step: int, total: int, power: float = 0.9, warmup: int = 0) -> float:
    """`poly` as in DiffMatch's code, which sets the rate after each step: one step behind.

    The first step runs at the base rate even with a warm-up, which is part of this schedule
    (section 6).
    """
    if step == 0:
        return 1.0
    return warmed_up(poly(step - 1, total, power), step - 1, warmup)


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "poly": poly,
    "poly-lagged": poly_lagged,
    "step": step_down,
}


def warmed_up(factor: float, step: int, warmup: int, start: float = 1e-6) -> float:
    """Linear from `start` at step 0 to 1 at step `warmup`; afterwards `factor`."""
    if step >= warmup:
        return factor
    return 1 - (1 - step / warmup) * (1 - start)
