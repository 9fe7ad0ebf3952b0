"""Folders of outside data; tests that need them skip with a reason when they are absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _folder(variable: str, default: str, what: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{what} not found at {folder}; set {variable} to their folder")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    return _folder("RSCD_GOLDEN", "golden", "golden arrays")


@pytest.fixture(scope="session")
def realdata() -> Path:
    return _folder("RSCD_DATA", "data", "real image pairs")
