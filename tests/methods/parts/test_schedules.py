"""Learning rate schedules, against their formulas at points known by hand."""

import math

import pytest

from rscd.methods.parts.schedules import constant, cosine, poly, step_down


def test_a_cosine_falls_from_one_to_its_floor() -> None:
    assert [cosine(step, 8) for step in (0, 2, 4, 6, 8, 9)] == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0, 0]
    )
    assert [cosine(step, 4, 0.2) for step in (0, 2, 4)] == pytest.approx([1, 0.6, 0.2])


def test_a_power_of_what_is_left() -> None:
    found = [poly(step, 4, 0.5) for step in (0, 1, 3, 4, 9)]
    assert found == pytest.approx([1, math.sqrt(0.75), 0.5, 0.5, 0.5])


def test_steps_down_are_where_they_are_said_to_be() -> None:
    found = [step_down(step, 10, (0.2, 0.4), 0.5) for step in range(6)]
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert constant(3, 10) == 1
