"""Section of on_gpu.py about the decoder: what one launch for all of its kernels, and compiling them, would save."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gpu_conversion import load
from gpu_report import Bench, Value, Values, snr_db

if TYPE_CHECKING:
    import torch

FRAMES = (128, 2048)  # a window in real time, and the longest of a song on a GPU


def decoder(bench: Bench) -> None:
    """One window through the decoder as it is, as a CUDA graph, and compiled."""
    for name in ("fp32", "fp16") if bench.on_cuda else ("fp32",):
        for n_frames in FRAMES if not bench.plan.is_tiny else (16,):
            what, eager = f"{name}, {n_frames} frames", {}
            bench.measure(f"{what}, eager", _decoder, name, n_frames, _eager, eager)
            if not bench.on_cuda:
                bench.skip(f"{what}, CUDA graph", "needs a CUDA GPU")
                bench.skip(f"{what}, torch.compile", "minutes of the C++ compiler on a CPU")
                continue
            bench.measure(f"{what}, CUDA graph", _decoder, name, n_frames, _graph, eager)
            bench.measure(f"{what}, torch.compile", _decoder, name, n_frames, _compiled, eager)


def _decoder(bench: Bench, precision: str, n_frames: int, make: Callable, eager: dict) -> Values:
    """`make` gives a function without arguments from a decoder's `filter` and what that is given; `eager` is filled by
    `_eager`, and the others are compared with it."""
    import torch

    network = load(bench, "fcpe", precision=precision).pipeline.synthesizer.network
    net, weight = network.dec, network.dec.conv_pre.weight
    torch.manual_seed(0)
    options = {"device": bench.device, "dtype": weight.dtype}
    x, condition = torch.randn(1, net.conv_pre.in_channels, n_frames, **options), net.cond.in_channels
    g = torch.randn(1, condition, 1, **options)
    with torch.no_grad():
        excitation = net.m_source(torch.full((1, n_frames), 220.0, device=bench.device))
        started = time.perf_counter()
        function = make(net.filter, x, excitation, g)
        wav = function().float().clone()
        bench.synchronize()
        start = time.perf_counter() - started
        bench.reset_peak()
        seconds = statistics.median(bench.clock(function, 30, 3))
    wav = wav.cpu().numpy().ravel()
    found = {"time": Value(1000 * seconds, "ms"), "first call": Value(start, "s"), "memory": bench.memory()}
    if make is _eager:
        eager |= {"seconds": seconds, "wav": wav}
    elif eager:
        found["against eager"] = Value(eager["seconds"] / seconds, "times")
        found["SNR against eager"] = Value(snr_db(eager["wav"], wav), "dB")
    return found


def _eager(function: Callable, *given: "torch.Tensor") -> "Callable[[], torch.Tensor]":
    return lambda: function(*given)


def _graph(function: Callable, *given: "torch.Tensor") -> "Callable[[], torch.Tensor]":
    """All kernels of a call as one launch; its result is overwritten by the next."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # cuDNN plans and allocates, which a graph must not
            function(*given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*given)

    def replay() -> "torch.Tensor":
        graph.replay()
        return result

    return replay


def _compiled(function: Callable, *given: "torch.Tensor") -> "Callable[[], torch.Tensor]":
    import torch

    torch.compiler.reset()  # or each further length would be taken as one that varies
    compiled = torch.compile(function, dynamic=False)
    return lambda: compiled(*given)
