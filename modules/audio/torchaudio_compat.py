"""The only door to torchaudio and to the two packages that import it (torchcrepe, torchfcpe).

torchaudio 2.11.0's Linux wheel is built for CUDA 13.0: beside another torch its compiled part, which nothing here
needs, cannot load, and an inert stand-in takes its place. That relies on a private module name: requirements.txt pins
torchaudio exactly. Ends when torchaudio has a CPU wheel.
"""

import importlib
import sys
import types
from functools import cache


@cache
def import_torchaudio() -> types.ModuleType:
    """torchaudio; where its extension cannot load, all but `rnnt_loss` and `forced_align` works."""
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        for name in [name for name in sys.modules if name == "torchaudio" or name.startswith("torchaudio.")]:
            del sys.modules[name]
        extension = sys.modules["torchaudio._extension"] = types.ModuleType("torchaudio._extension")
        extension.__path__ = []
        extension._IS_TORCHAUDIO_EXT_AVAILABLE = extension._IS_ALIGN_AVAILABLE = False
        extension._check_cuda_version = lambda: None
        extension.fail_if_no_align = lambda function: function
        return importlib.import_module("torchaudio")


def import_torchcrepe() -> types.ModuleType:
    """torchcrepe, which imports torchaudio at its top."""
    import_torchaudio()
    return importlib.import_module("torchcrepe")


def import_torchfcpe() -> types.ModuleType:
    """torchfcpe, which imports torchaudio at its top."""
    import_torchaudio()
    return importlib.import_module("torchfcpe")
