"""The notebook: a copy runs, small, on a finished run; what is committed has its pictures."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.commands import ROOT

NOTEBOOK = ROOT / "notebooks" / "inspect_trajectories.ipynb"


@pytest.mark.slow
def test_every_cell_runs_on_a_finished_run(finished, monkeypatch):
    monkeypatch.setenv("DDJAX_WORKDIR", str(finished[0]))
    monkeypatch.setenv("DDJAX_TINY", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.get("outputs", []).clear()
    # A reply that the event loop has not noticed is found when the time is up.
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": ROOT}}).execute()
    printed = "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert "16 tokens in 16 groups, 16 codes of width 4" in printed
    assert "teacher: perceptual path length" in printed and "by squared" not in printed


def test_what_is_committed_has_its_outputs_and_is_small():
    """Pictures in every section, no errors, and no path of the machine that made it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8
    assert NOTEBOOK.stat().st_size < 2_000_000
    assert str(Path.home()) not in NOTEBOOK.read_text() and str(ROOT) not in NOTEBOOK.read_text()
