import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def shown_by(notebook):
    """Kinds of outputs cell by cell, without warnings."""
    return [
        {out["output_type"] for out in cell.get("outputs", []) if out.get("name") != "stderr"}
        for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_it_was_committed_with(path, tmp_path, monkeypatch):
    """A notebook is committed without outputs, or with all of them, at a modest size."""
    monkeypatch.setenv("IPYTHONDIR", os.fspath(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    kept = shown_by(notebook)
    assert path.stat().st_size < 500_000
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}})
    client.execute()
    assert not any(kept) or shown_by(notebook) == kept
    shown = [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", [])]
    pictures = {"image/png", "image/jpeg"}
    assert any(pictures & data.keys() for data in shown)
    # a figure that a reader is to see is a picture, not its name
    named = [data for data in shown if "<Figure" in data.get("text/plain", "")]
    assert not [data for data in named if not pictures & data.keys()]
