"""Speed of the decoder's convolutions and an encoder's linear layers on a CPU, in torch's order in memory and in ours.

Prints GFLOP/s of both and ours / torch's for each layer of the published sizes (see modules/nn/channels_last.py).
ONEDNN_MAX_CPU_ISA=AVX2 in the environment shows what a processor without AVX-512 gains.

Example: python benchmarks/layers.py --precision bf16
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import timing

FRAMES = 448  # a window of the decoder
STAGES = ((256, 8), (128, 64), (64, 128), (32, 256), (16, 512))  # channels, samples of a frame
KERNELS = ((3, 1), (7, 3), (11, 5))  # taps, dilation
LINEARS = ((768, 768), (768, 3072), (3072, 768))  # of contentvec


def main(argv: list[str] | None = None) -> int:
    """Prints the measurements."""
    parser = timing.cli.make_parser(__file__, __doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the layers")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each that count")
    args = parser.parse_args(argv)
    timing.print_machine(args.precision)

    import torch
    from torch import nn

    from modules.device import choose_dtype
    from modules.nn.channels_last import QuickLinear, channels_last, convolve

    dtype = choose_dtype(args.precision)
    with torch.no_grad():
        for channels, per_frame in STAGES:
            x = torch.randn(1, channels, FRAMES * per_frame, dtype=dtype)
            laid = channels_last(x)
            for taps, dilation in KERNELS:
                padding = dilation * (taps - 1) // 2
                conv = nn.Conv1d(channels, channels, taps, padding=padding, dilation=dilation).to(dtype)
                work = 2e-9 * channels**2 * taps * x.shape[2]
                name = f"convolution, {channels} channels, {taps} taps, dilation {dilation}"
                show(name, work, [partial(conv, x), partial(convolve, conv, laid)], args.rounds)
        for wide, width in LINEARS:
            rows = torch.randn(1, 400, wide, dtype=dtype)
            calls = [partial(kind(wide, width).to(dtype), rows) for kind in (nn.Linear, QuickLinear)]
            show(f"linear, {wide} to {width}", 2e-9 * 400 * wide * width, calls, args.rounds)
    return 0


def show(name: str, work: float, calls: list[Callable], rounds: int) -> None:
    """Prints how fast torch's way and ours do `work`, in GFLOP, called in turn after a first call of each."""
    seconds = []
    for _ in range(1 + rounds):
        seconds.append([])
        for call in calls:
            started = time.perf_counter()
            call()
            seconds[-1].append(time.perf_counter() - started)
    plain, ours = (work / statistics.median(column) for column in zip(*seconds[1:]))
    print(f"{name}: torch {plain:.0f} GFLOP/s, ours {ours:.0f}; ours / torch {ours / plain:.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
