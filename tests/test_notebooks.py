"""Every notebook runs from top to bottom, is paired with a script, and is stored without outputs."""

from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = sorted({path.stem for suffix in ("py", "ipynb") for path in NOTEBOOKS.glob(f"*.{suffix}")})
SECONDS = 300  # a cell's; a whole notebook takes less than a minute on an idle machine


def notebook(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def outputs(executed: Any) -> list[Any]:
    return [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_are_notebooks():
    assert {"compare_algorithms", "explore_rollouts", "export_and_decode"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures go into the notebook, as they do for a reader
    # Elsewhere than in the repository: what it reads must come with the package, what it writes is temporary.
    elsewhere, written = tmp_path / "elsewhere", tmp_path / "written"
    elsewhere.mkdir()
    written.mkdir()
    monkeypatch.setenv("TMPDIR", str(written))
    executed, place = notebook(name), {"metadata": {"path": elsewhere}}
    NotebookClient(executed, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    assert list(elsewhere.iterdir()) == []
    said = [output.text for output in outputs(executed) if output.output_type == "stream" and output.name == "stderr"]
    assert [text for text in said if "Warning" in text] == []
    shown = [output for output in outputs(executed) if "image/png" in output.get("data", {})]
    assert len(shown) == sum(cell.source.count("plt.show()") for cell in executed.cells) > 0


@pytest.mark.parametrize("name", NAMES)
def test_script_and_notebook_are_the_same(name: str):
    script = jupytext.read(NOTEBOOKS / f"{name}.py")
    paired = notebook(name)
    assert script.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    hint = f"run: jupytext --to ipynb --update notebooks/{name}.py"
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in paired.cells], hint


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_and_stored_without_outputs(name: str):
    stored = notebook(name)
    nbformat.validate(stored)
    assert outputs(stored) == []
    assert [cell for cell in stored.cells if cell.cell_type == "code" and cell.execution_count is not None] == []
