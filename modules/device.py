"""Where networks run and in which precision; what stays fp32 in mixed precision is said there with `fp32_region`."""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from modules.errors import UsageError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


def choose_device(name: str | None = None) -> torch.device:
    """The device "cpu", "cuda", "cuda:1" or "mps"; for None or "auto" CUDA, then Apple MPS, then the CPU."""
    available = available_devices()
    if name in (None, "", "auto"):
        return torch.device(available[0])
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in available:
        raise UsageError(f"device {name!r} is not available here. Available: {', '.join(available)}.")
    return torch.device(wanted)


def available_devices() -> list[str]:
    """Names of the usable devices, best first; "cpu" is always the last."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def choose_dtype(precision: str) -> torch.dtype:
    """The torch dtype of "fp32", "fp16" or "bf16"; a UsageError for anything else."""
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}. Known: {', '.join(PRECISIONS)}.")
    return PRECISIONS[precision]


def cpu_capabilities() -> dict[str, bool | int | str]:
    """The processor's name and instructions as torch names them; empty where torch does not tell, as older ones."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` is a CPU with instructions for bf16 (AVX-512 BF16, AMX), to which it is quicker than fp32."""
    return device.type == "cpu" and any(cpu_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Mixed precision on `device`, or nothing for fp32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def fp32_region(device: torch.device) -> contextlib.AbstractContextManager:
    """Full precision inside an `autocast` block, for phases, spectra and losses."""
    return torch.autocast(device.type, enabled=False)


def allow_tf32(allowed: bool) -> None:
    """Whether CUDA may shorten the factors of fp32 products to 10 bits, which is several times as quick."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed for whatever asks next, where it is glibc. Otherwise it gives the pages of
    large tensors back and takes new ones, empty, in every step of a training: a tenth of its time on two cores."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another library, or Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
        mallopt(_M_ARENA_MAX, 1)  # one heap for forward and backward passes, which torch runs in two threads


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has held at once: on CUDA those of its tensors, else all; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers on the CPU and `device` start at `seed`; afterwards both generators are restored."""
    if device.type == "mps":
        state = torch.mps.get_rng_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
    if device.type == "mps":
        torch.mps.set_rng_state(state)


class WithoutDrawing(TorchFunctionMode):
    """Networks built inside get no random start values: quick, for weights that a file is about to replace."""

    # The device "meta" would do it too, but its first use imports torch's compiler, which takes a second.
    _DRAWS = "normal_ uniform_ trunc_normal_ kaiming_normal_ kaiming_uniform_ xavier_normal_ xavier_uniform_".split()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Leaves the tensor of an in-place draw as it is; `torch.randn` gives whatever the memory holds."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)
