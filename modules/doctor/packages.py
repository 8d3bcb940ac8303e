"""Whether the installed packages are those of requirements.txt; none is imported to find out."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from modules.doctor.findings import Finding
from modules.files import read_bytes
from modules.pretrained.find import CODE_ROOT
from modules.text import listing, quote

SECTION = "environment"
PYTHONS = ((3, 10), (3, 14))  # oldest and newest for which every pin of requirements.txt has wheels
INSTALL = "python -m pip install"
_LINE = re.compile(
    r"(?P<name>[\w.-]+) *(==(?P<version>[\w.+!-]+))? *"
    r"(; *python_version *(?P<relation>[<>=]=|[<>]) *[\"'](?P<major>\d+)\.(?P<minor>\d+)[\"'])?"
)


class Requirement(NamedTuple):
    """A line of requirements.txt that counts for this Python."""

    name: str
    version: str | None  # None is any

    @property
    def installed(self) -> str | None:
        """The version that is there, without what follows its `+`; None where there is none."""
        try:
            return version(self.name).partition("+")[0]
        except PackageNotFoundError:
            return None


def read_requirements(text: str, python: tuple[int, int]) -> list[Requirement]:
    """The lines for a version of Python; a ValueError names one that is not NAME, NAME==VERSION or one of these with a
    `; python_version` behind it."""
    found = []
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise ValueError(f"the line {line!r} is not understood")
        if match["relation"] is None or _holds(python, match["relation"], (int(match["major"]), int(match["minor"]))):
            found.append(Requirement(match["name"], match["version"]))
    return found


def _holds(ours: tuple[int, int], relation: str, theirs: tuple[int, int]) -> bool:
    """Whether `python_version RELATION "X.Y"` is true of ours."""
    is_equal, is_below = ours == theirs, ours < theirs
    return (is_equal and "=" in relation) or (is_below and "<" in relation) or (ours > theirs and ">" in relation)


def check_python() -> Iterator[Finding]:
    """The version of Python, and whether the packages have wheels for it."""
    shown, ours = ".".join(map(str, sys.version_info[:3])), tuple(sys.version_info[:2])
    if PYTHONS[0] <= ours <= PYTHONS[1]:
        yield Finding(SECTION, "info", "python", "Python", f"{shown}, {sys.executable}")
        return
    text = f"is {shown}; the packages have wheels for 3.10 to 3.14"
    yield Finding(SECTION, "error", "python", "Python", text, "Start again with one of these: python quickstart.py")


def check_packages(path: Path = CODE_ROOT / "requirements.txt") -> Iterator[Finding]:
    """What is missing, and what has another version than the tested one, each in one finding with one command."""
    wanted = read_requirements(read_bytes(path).decode("utf-8-sig"), tuple(sys.version_info[:2]))
    missing = [each.name for each in wanted if each.installed is None]
    others = [each for each in wanted if each.version is not None and each.installed not in (None, each.version)]
    remedy = f"{INSTALL} -r {quote(path)}"
    if missing:
        text = f"{len(missing)} of {len(wanted)} are not installed: {listing(missing)}"
        yield Finding(SECTION, "error", "package", "packages", text, remedy)
    if others:
        shown = listing(f"{each.name} {each.installed} (for {each.version})" for each in others)
        yield Finding(
            SECTION, "warning", "version", "packages", f"other versions than the tested ones: {shown}", remedy
        )
    if not missing and not others:
        yield Finding(SECTION, "info", "package", "packages", f"all {len(wanted)} are there, in the tested versions")
    if Requirement("pyworld", None).installed and Requirement("pyworld-prebuilt", None).installed:
        text = "is installed beside pyworld-prebuilt, and each overwrites the other's files"
        pins = " ".join(f"{each.name}=={each.version}" for each in wanted if each.name == "pyworld-prebuilt")
        remedy = f"python -m pip uninstall -y pyworld pyworld-prebuilt, then {INSTALL} {pins}"
        yield Finding(SECTION, "warning", "version", "pyworld", text, remedy)
