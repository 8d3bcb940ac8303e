"""ONNX files: written from torch modules, opened with onnxruntime, compared. What they compute is not known here.

Writing goes through torch's TorchScript exporter, which needs the package `onnx` only (the one built on torch.export
needs onnxscript as well). It was the default up to torch 2.8 and is part of the pinned torch.
"""

import importlib.util
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from modules.errors import CheckpointError, UsageError
from modules.files import atomic_path
from modules.weights.checkpoint import first_line

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
INSTALL = "Install it with: pip install -r requirements-extras.txt"


@dataclass(frozen=True)
class Graph:
    """A module with all that is needed to write it down."""

    module: nn.Module  # in evaluation mode
    inputs: dict[str, torch.Tensor]  # name -> an example of usual size, in the order of `forward`
    outputs: tuple[str, ...]  # their names
    dynamic: dict[str, dict[int, str]]  # name of an input or output -> axis -> name of its length; others are fixed


def check_can_export(opset: int) -> None:
    """Refuses an unknown opset, or a missing package, which would end an export after minutes of work."""
    if not 17 <= opset <= 20:
        raise UsageError(f"--opset is {opset}; it must lie between 17 and 20")
    if not is_installed("onnx"):
        raise UsageError(f"writing ONNX files needs the package onnx. {INSTALL}")


def is_installed(package: str) -> bool:
    """Whether a package could be imported."""
    return importlib.util.find_spec(package) is not None


def export_graph(graph: Graph, path: Path, opset: int, metadata: dict[str, str] | None = None) -> None:
    """Writes a graph, whole or not at all, with texts by name that go with it."""
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in graph.module.state_dict().values())
    # One protobuf message, which is what a file without companions is, holds 2 GB.
    if n_bytes > 2**31 - 2**24:
        raise UsageError(f"{path}: the weights are {n_bytes / 2**30:.1f} GB, and one ONNX file holds 2 GB at most")
    with atomic_path(path) as temporary, warnings.catch_warnings(), torch.no_grad():
        # That the exporter is an old one, and that shapes of the example are followed: both are meant so.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            str(temporary),
            dynamo=False,
            opset_version=opset,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=graph.dynamic,
        )
        if metadata:
            import onnx

            model = onnx.load(temporary)
            onnx.helper.set_model_props(model, metadata)
            onnx.save(model, temporary)


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that go with a graph, by name."""
    session = open_session(path, torch.device("cpu"), f"reading {path}", optimise=False)
    return session.get_modelmeta().custom_metadata_map


def open_session(path: Path, device: torch.device, purpose: str, optimise: bool = True) -> Any:
    """An onnxruntime.InferenceSession of a file, on CUDA where the device is one and onnxruntime was built for it.
    `purpose` says in the message what needs onnxruntime; `optimise` makes runs quick and opening slow."""
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(f"{purpose} needs onnxruntime. {INSTALL}") from None
    onnxruntime.set_default_logger_severity(3)  # its warnings are about graph optimisation
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_mem_pattern = False  # plans memory for one length, and every chunk has another
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime raises a class of its own for each status code
        text = f"{path}: not a usable ONNX file ({first_line(error)}). Get it or make it again."
        raise CheckpointError(text) from None


def is_same(what: str, found: np.ndarray, wanted: torch.Tensor) -> bool:
    """Whether a graph's output is torch's within `TOLERANCE` of full scale; says by how much they differ.

    Full scale is 1, or the largest value where that is more: Whisper's units reach 20, and torch's own are only good
    to 2e-4 there.
    """
    if found.shape != tuple(wanted.shape):
        logger.error("%s: the graph gives %s, torch %s", what, list(found.shape), list(wanted.shape))
        return False
    expected = wanted.cpu().numpy()
    difference = float(np.abs(found - expected).max(initial=0.0))
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    within = difference <= TOLERANCE * scale  # not so for a NaN
    level, verdict = (logging.INFO, "good") if within else (logging.ERROR, "too much")
    logger.log(level, "%s: differs from torch by %.2g of %.3g, %s", what, difference, scale, verdict)
    return within
