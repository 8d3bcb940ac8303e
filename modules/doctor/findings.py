"""What doctor.py finds: one line each, with what to do about it."""

from dataclasses import dataclass
from pathlib import Path

from modules.text import printable

SECTIONS = ("environment", "recordings", "clips", "features", "config", "models")
LEVELS = ("error", "warning", "info")  # would spoil a training; makes it worse; a fact that asks for nothing


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    section: str  # of SECTIONS
    level: str  # of LEVELS
    kind: str  # one word for programs, as "clipping"
    subject: str  # whom it concerns: a speaker, a file, a package
    text: str  # one clause: what was found, in numbers with units, and what would be right; names at most three files
    remedy: str = ""  # a command, or an edit; empty only for facts
    files: tuple[Path, ...] = ()  # all that are meant, the worst first

    def __str__(self) -> str:
        subject = f"{printable(self.subject)}: " if self.subject else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{subject}{self.text}{remedy}"


def by_weight(findings: list[Finding]) -> list[Finding]:
    """The errors first, then the warnings, then the facts."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
