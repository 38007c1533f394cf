"""The notebook runs from top to bottom, and is stored without outputs or traces of a machine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "inspect_graph.ipynb"
MISSING = [name for name in ("nbclient", "ipykernel", "matplotlib") if not importlib.util.find_spec(name)]

# In a process of its own: the client's event loop and sockets stay out of the tests' warnings.
RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def test_the_notebook_is_stored_without_outputs() -> None:
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    assert stored["metadata"]["language_info"] == {"name": "python"}
    assert stored["cells"][0]["cell_type"] == "markdown"
    for cell in stored["cells"]:
        assert cell["metadata"] == {}
        assert not cell.get("outputs"), "clear all outputs before storing the notebook"
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}, of the extra videoeff[notebook]")
def test_the_notebook_runs(tmp_path: Path) -> None:
    executed = tmp_path / "executed.ipynb"
    folders = {
        "IPYTHONDIR": "ipython",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_CONFIG_DIR": "config",
        "MPLCONFIGDIR": "plots",
    }
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, str(NOTEBOOK), str(executed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, **{k: str(tmp_path / v) for k, v in folders.items()}},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert not any(tmp_path.glob("*.html")), "the page it shows is not left behind"
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    shown = [o["data"] for o in outputs if "data" in o]
    assert sum("image/png" in data for data in shown) == 2
    html = ["".join(data["text/html"]) for data in shown if "text/html" in data]
    assert any("iframe" in text and "segmenter: before and after" in text for text in html)
    assert any("<table" in text and "stage1.0.project.0" in text for text in html), "the report"
    text = "".join("".join(o["text"]) for o in outputs if "text" in o)
    assert "- batch_norm_default" in text, "folding drops the batch norm"
    assert "- delta_cache_1" in text, "fusing drops a cache"
    assert "Traceback" not in text
