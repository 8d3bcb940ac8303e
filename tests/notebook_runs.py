"""Notebooks run as a person runs them: in a kernel of this Python, cell by cell, with the stop button."""

import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager, KernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from traitlets import default

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


class _ThisPython(KernelSpecManager):
    """Whatever kernels the machine has, this one is the Python that runs the tests."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


class _Manager(AsyncKernelManager):
    """Starts that kernel, and is asked to end it."""

    @default("kernel_spec_manager")
    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return _ThisPython()


def read(name: str, **parameters: Any) -> nbformat.NotebookNode:
    """A notebook with other parameters, put in as papermill does."""
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.id == "parameters")
    cell.source += "\n" + "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    return notebook


def run_all(notebook: nbformat.NotebookNode, folder: Path) -> dict[str, str]:
    """Runs all cells in `folder`; returns what each code cell showed, by its id. The outputs stay in the notebook."""
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_manager_class=_Manager, timeout=300, resources=place).execute()
    return {cell.id: "".join(map(shown, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"}


def shown(output: dict[str, Any]) -> str:
    """The text of one output of a cell."""
    return output.get("text") or output.get("data", {}).get("text/plain") or "\n".join(output.get("traceback", []))


class Kernel:
    """One that is asked to run code, and interrupted meanwhile."""

    def __init__(self, manager: KernelManager, client: Any) -> None:
        self._manager, self._client = manager, client

    def start(self, code: str) -> None:
        self._client.execute(code)

    def kill(self) -> None:
        """At once: `shutdown_kernel(now=True)` interrupts it first, which reaches the script too."""
        os.kill(self._manager.provisioner.pid, signal.SIGKILL)

    def run(self, code: str, ready=None) -> str:
        """What the code shows in the end, its error too; it is interrupted once `ready(what it has shown)` is true."""
        outputs, is_idle, was_stopped = [], False, False
        asked, deadline = self._client.execute(code), time.monotonic() + 300
        while not is_idle:
            assert time.monotonic() < deadline, outputs
            if ready and not was_stopped and ready("".join(map(shown, outputs))):
                self._manager.interrupt_kernel()
                was_stopped = True
            try:
                message = self._client.get_iopub_msg(timeout=0.2)
            except Exception as empty:  # queue.Empty
                assert type(empty).__name__ == "Empty", empty
                continue
            if message["parent_header"].get("msg_id") == asked:
                outputs.append(message["content"])
                is_idle = outputs[-1].get("execution_state") == "idle"
        return "".join(map(shown, outputs))


@contextmanager
def kernel(folder: Path):
    """A kernel that stands in `folder`."""
    manager = KernelManager(kernel_spec_manager=_ThisPython())
    manager.start_kernel(cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
