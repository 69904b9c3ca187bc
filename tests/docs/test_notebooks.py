"""The notebooks run from top to bottom, and show what their text says."""

from pathlib import Path

import nbformat
import pytest
from configs import one_in
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# What the text of each notebook says of its numbers, as a last cell.
SAID = {
    "first_hypergradient": """
assert set(table["verdict"]) == {"ok"}
errors = table.set_index("method")["exact_error"]
assert errors["identity"] > 0.1 > 1e-3 > errors["cg"]
assert losses[-1] < 0.8 * losses[0]
assert penalties[-1][:3].max() < penalties[0][0] < penalties[-1][3:].min()
""",
    "reweight_noisy_table": """
assert weights["flipped"].head(20).all()
assert weights["flipped"].head(57).mean() > 0.8
assert weights["flipped"].head(20).mean() > weights["flipped"].head(80).mean()
""",
    "compare_fairly": """
assert set(runs["status"]) == {"completed"} and len(runs) == 15
assert runs["inner_grads"].between(300, 300 * 1.1).all()
steps = runs.groupby("method")["step"].mean()
assert 1.8 < steps["reverse"] / steps["f2sa"] < 2.5
""",
}


@pytest.mark.parametrize(
    "path", [one_in(3, i, path) for i, path in enumerate(NOTEBOOKS, 2)], ids=lambda path: path.stem
)
def test_a_notebook_runs_and_shows_what_it_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other tests run beside it
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    # Outputs are made when the site is built: those that are stored would grow old.
    assert not any(cell.get("outputs") for cell in notebook.cells)
    last = nbformat.v4.new_code_cell(SAID[path.stem])  # type: ignore[no-untyped-call]
    notebook.cells.append(last)
    client = NotebookClient(notebook, timeout=600, startup_timeout=600, kernel_name="python3")
    client.execute(cwd=str(tmp_path))  # within ten minutes: only a kernel that hangs is stopped
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    # A reader would wonder about warnings.
    assert [output for output in outputs if output.get("name") == "stderr"] == []


def test_there_are_three_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SAID)
