import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORTER = {
    "03_train_and_evaluate": {"max_epochs=12": "max_epochs=3", "towns(96, 1)": "towns(16, 1)",
                              "towns(24, 2)": "towns(8, 2)"},
    "04_kdmsi": {"STEPS = 120": "STEPS = 3", "pairs(48)": "pairs(12)", "pairs(12, ": "pairs(6, "},
    "06_diffmatch": {"STEPS = 60": "STEPS = 3"},
    "07_street_scenes": {"range(60)": "range(4)"},
    "08_kdmsi_scenes": {"EPOCHS = 12": "EPOCHS = 1", '"0.5,1", ': '"0.5", ',
                        "shape_hw=(512, 512)": "shape_hw=(384, 384)"},
    "09_diffmatch_scenes": {"EPOCHS = 10": "EPOCHS = 1"},
    "10_review": {"STEPS = 30": "STEPS = 2"},
}  # fmt: skip
"""Trainings that readers see learn are a few steps here."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One kernel, which imports torch once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", os.fspath(tmp_path_factory.mktemp("ipython")))
        client = NotebookClient(new_notebook(), timeout=600)
        yield client
        client.nb = new_notebook()
        client.execute()  # ends the kernel


def shown_by(notebook: Any) -> list[set[str]]:
    """Kinds of outputs cell by cell, without warnings."""
    return [
        {out["output_type"] for out in cell.get("outputs", []) if out.get("name") != "stderr"}
        for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_it_was_committed_with(
    path: Path, tmp_path_factory: pytest.TempPathFactory, client: Any
) -> None:
    """A notebook is committed without outputs, or with all of them, at a modest size."""
    notebook = nbformat.read(path, as_version=4)
    kept = shown_by(notebook)
    assert path.stat().st_size < 500_000
    for long, short in SHORTER.get(path.stem, {}).items():
        (cell,) = (c for c in notebook.cells if c.cell_type == "code" and long in c.source)
        cell.source = cell.source.replace(long, short)
    # not tmp_path, which is gone before the kernel leaves it
    folder = tmp_path_factory.mktemp(path.stem) / "notebooks"
    folder.mkdir()
    (folder.parent / "docs").symlink_to(ROOT / "docs")
    begin = [new_code_cell("%reset -f"), new_code_cell(f"%cd -q {folder}")]
    client.nb = new_notebook(cells=[*begin, *notebook.cells])
    client.execute(cleanup_kc=False)
    assert not any(kept) or shown_by(notebook) == kept
    shown = [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", [])]
    pictures = {"image/png", "image/jpeg"}
    assert any(pictures & data.keys() for data in shown)
    # a figure that a reader is to see is a picture, not its name
    named = [data for data in shown if "<Figure" in data.get("text/plain", "")]
    assert not [data for data in named if not pictures & data.keys()]
