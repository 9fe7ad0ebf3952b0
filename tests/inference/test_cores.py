"""Threads and cores: no more than the process is given."""

import os

import pytest

from rscd.inference.cores import network_threads, usable_cores


@pytest.mark.parametrize(
    ("asked", "workers", "threads"),
    [("", 1, 8), ("", 3, 2), ("", 20, 1), ("1", 1, 1), ("4", 1, 4), ("4", 4, 2), ("all", 2, 4)],
)
def test_threads_share_the_cores_this_process_has(
    monkeypatch: pytest.MonkeyPatch, asked: str, workers: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usable_cores() == 8
    assert network_threads(workers) == threads
