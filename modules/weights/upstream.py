"""Pickles for so-vits-svc 4.1, for those who go back to it. Nothing here reads one."""

import pickle
import re
from typing import Any, BinaryIO

# Packages have other modules here than in so-vits-svc's versions of them: numpy 2, and faiss by what the CPU can do.
_MODULES = ((r"faiss\.\w+", "faiss"), (r"numpy\._core", "numpy.core"))


class _Pickler(pickle._Pickler):  # the one in C has no save_global to replace
    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Writes a class or function by its name, in the module that every version has."""
        found = str(getattr(obj, "__module__", ""))
        module = found
        for pattern, known in _MODULES:
            module = re.sub(rf"^{pattern}(?=\.|$)", known, module)
        if module == found:
            return super().save_global(obj, name)
        self.write(pickle.GLOBAL + f"{module}\n{name or obj.__qualname__}\n".encode())
        self.memoize(obj)


def dump_for_upstream(content: Any, file: BinaryIO) -> None:
    """Pickles faiss indexes, arrays and plain values so that Python 3.8 with numpy 1.23 and any faiss reads them."""
    _Pickler(file, protocol=4).dump(content)
