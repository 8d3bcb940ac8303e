"""How a judge puts what is wrong with some of a speaker's sounds into one finding."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.doctor.findings import Finding
from modules.text import listing, printable

ERROR_SHARE = 0.1  # of a speaker's seconds: from here on strong damage spoils the voice


def grade(strong: Sequence[Path], seconds: Mapping[Path, float]) -> str:
    """ "error" where strongly damaged sounds are a good part of the speaker's material, else "warning"."""
    total = sum(seconds.values())
    return "error" if strong and sum(seconds[path] for path in strong) >= ERROR_SHARE * total else "warning"


def verdict(
    place: tuple[str, str, str],
    level: str,
    found: Sequence[tuple[Path, str]],
    n_sounds: int,
    state: str,
    remedy: str = "",
) -> Finding:
    """`3 of 40 recordings are clipped (worst: a.wav, 12 % of its loud peaks; b.wav, c.wav)`.

    Args:
        place: section, kind, speaker.
        found: the sounds that are meant, the worst first, each with its number.
        state: what they are, as "clipped".
    """
    section, kind, speaker = place
    (worst, detail), others = found[0], [path.name for path, _ in found[1:]]
    more = f"; {listing(others, 2)}" if others else ""
    verb = "is" if len(found) == 1 else "are"
    first = "" if level == "info" else "worst: "
    text = f"{len(found)} of {n_sounds} {section} {verb} {state} ({first}{printable(worst.name)}, {detail}{more})"
    return Finding(section, level, kind, speaker, text, remedy, tuple(path for path, _ in found))
