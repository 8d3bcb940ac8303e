"""Names to classes, found by folder: one new file adds one new thing.

A plug-in file imports only the standard library, numpy, torch and `modules.*` at its top, so listing names is cheap.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Generic, TypeVar

from modules.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of public names, filled by the files of one package; files starting with `_` are left out."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package  # "speech encoder", say; dotted name
        self._entries: dict[str, T] = {}
        self._searched = False

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator that stores a class or function under one or more public names."""

        def store(entry: T) -> T:
            for name in names:
                if name in self._entries:
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
                self._entries[name] = entry
            return entry

        return store

    def names(self) -> list[str]:
        """All public names, sorted."""
        self._search()
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """The entry of that name; a UsageError lists the known ones where there is none."""
        self._search()
        if name not in self._entries:
            raise UsageError(unknown_name(self.kind, name, self.names()))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._search()
        return name in self._entries

    def _search(self) -> None:
        if self._searched:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")
        self._searched = True


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """The text for an unknown name: the nearest known one, and all of them."""
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."


def require_declared(kind: str, package: str, name: str) -> None:
    """The UsageError of `Registry.get` for an unknown name, before any of the package's files is imported."""
    known = declared_names(package)
    if known is not None and name not in known:
        raise UsageError(unknown_name(kind, name, known))


def declared_names(package: str) -> list[str] | None:
    """The names that the files of a package register, sorted, read from their text; None where that does not say.

    Understood are `register("a", "b")`, and `register(x)` in a loop over literals or over tuples that begin with one.
    """
    found: set[str] = set()
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        path = Path(module.module_finder.path, f"{module.name}.py")
        if module.name.startswith("_"):
            continue
        if not path.is_file():
            return None
        text = path.read_text("utf-8")
        if ".register(" not in text:
            continue
        nodes = list(ast.walk(ast.parse(text)))
        loops: dict[str, list[ast.expr]] = {}
        for node in nodes:
            if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
                loops[ast.unparse(node.target).strip("()").split(",")[0]] = [_first(item) for item in node.iter.elts]
        calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".register")]
        for argument in (argument for call in calls for argument in call.args):
            literals = loops.get(argument.id, []) if isinstance(argument, ast.Name) else [argument]
            if not literals or not all(isinstance(literal, ast.Constant) for literal in literals):
                return None
            found.update(literal.value for literal in literals)
    return sorted(found)


def _first(item: ast.expr) -> ast.expr:
    return item.elts[0] if isinstance(item, ast.Tuple) else item
