"""The only door to torchaudio and to the two packages that import it (torchcrepe, torchfcpe).

torchaudio 2.11.0's Linux wheel is built for CUDA 13.0. Beside a CPU torch, or a torch of another CUDA minor version,
its compiled part cannot load and `import torchaudio` raises OSError. Nothing we use needs that part, so when the import
fails an inert stand-in takes its place and the import is repeated.
It relies on a private module name: requirements.txt pins torchaudio exactly. Ends when torchaudio has a CPU wheel.
"""

import importlib
import sys
import types
from functools import cache


@cache
def import_torchaudio() -> types.ModuleType:
    """torchaudio, with its compiled extension replaced by nothing where that cannot load.

    `rnnt_loss` and `forced_align` do not work then; `transforms`, `functional.resample` and `models` do.
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        for name in [name for name in sys.modules if name == "torchaudio" or name.startswith("torchaudio.")]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = _inert_extension()
        return importlib.import_module("torchaudio")


def import_torchcrepe() -> types.ModuleType:
    """torchcrepe, which imports torchaudio at its top."""
    import_torchaudio()
    return importlib.import_module("torchcrepe")


def import_torchfcpe() -> types.ModuleType:
    """torchfcpe, which imports torchaudio at its top."""
    import_torchaudio()
    return importlib.import_module("torchfcpe")


def _inert_extension() -> types.ModuleType:
    module = types.ModuleType("torchaudio._extension")
    module.__path__ = []
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module._check_cuda_version = lambda: None
    module.fail_if_no_align = lambda function: function
    return module
