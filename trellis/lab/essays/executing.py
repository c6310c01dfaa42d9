"""Run the notebooks as a reader would: each in a real kernel, with servers of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from trellis import stack
from trellis.config import Settings
from trellis.errors import TrellisError

OUTSIDE = ("DATABASE_URL", "TEMPORAL_ADDRESS", "TEMPORAL_TARGET", "TEMPORAL_PROFILE", "TEMPORAL_NAMESPACE")
"""Settings that name other servers. They are ignored, because a run of the notebooks starts hundreds of orders."""

FOLDER = Path(__file__).resolve().parents[3] / "notebooks"


def execute(path: Path, *, home: Path | None = None, timeout: float = 90) -> nbformat.NotebookNode:
    """Execute a notebook from top to bottom in a fresh kernel, in a fresh workspace or in `home`, and return it.

    Its servers are ended afterwards. `home` keeps its data. `timeout`: for each cell [s].
    Raises TrellisError with the cell's error.
    """
    given, home = home, home or Path(tempfile.mkdtemp(prefix="trellis-notebook-"))
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.setdefault("metadata", {}).pop("execution", None)
    # An empty setting counts as absent, and overrides the one in `.env`.
    environment = {**os.environ, **dict.fromkeys(OUTSIDE, ""), "TRELLIS_HOME": str(home)}
    try:
        client = NotebookClient(
            notebook,
            timeout=int(timeout),
            kernel_name="python3",
            # Widget state would make the file large, and GitHub would refuse to show it.
            store_widget_state=False,
            record_timing=False,
            # Otherwise each live chart would be stored beside its SVG, which doubles the file.
            extra_arguments=["--IPKernelApp.exec_lines=from trellis import insight; insight.static()"],
            resources={"metadata": {"path": str(path.parent)}},
        )
        asyncio.run(client.async_execute(env=environment))
    except CellExecutionError as error:
        raise TrellisError(f"{path.name} failed: {error.evalue}") from error
    except CellTimeoutError as error:
        raise TrellisError(f"{path.name}: a cell took longer than {timeout:.0f} s.") from error
    except DeadKernelError as error:
        raise TrellisError(f"{path.name}: the kernel died.") from error
    finally:
        # The environment's settings are not used: an address there that cannot be read must not leave servers behind.
        stack.down(Settings.model_validate({"TRELLIS_HOME": home}))
        if given is None:
            shutil.rmtree(home, ignore_errors=True)
    return notebook


def execute_all(*, write: bool = False, home: Path | None = None) -> list[tuple[str, float]]:
    """(name, seconds) of every notebook; with `write` its outputs are stored in it. `home` as for `execute`."""
    done = []
    for path in sorted(FOLDER.glob("[0-9]*.ipynb")):
        began = time.perf_counter()
        notebook = execute(path, home=home)
        if write:
            nbformat.write(notebook, path)
        done.append((path.name, round(time.perf_counter() - began, 1)))
    return done
