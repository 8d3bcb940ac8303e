"""The stages of a separation: vocals out of music, the lead out of the vocals, the lead without its echo."""

from dataclasses import dataclass

from modules.errors import UsageError
from modules.text import listing


@dataclass(frozen=True)
class Stage:
    """What one model takes out of a sound, and under which names models know it."""

    name: str  # of what is taken out, and of its file
    rest: str | None  # of everything else; None where it is not kept
    wanted: tuple[str, ...]  # stems that are it
    unwanted: tuple[str, ...]  # stems that are everything else, of models that give only that

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the stage makes."""
        return (self.name, self.rest) if self.rest else (self.name,)


VOCALS = Stage(
    "vocals",
    "music",
    ("vocals", "vocal", "voice", "voices", "singing", "speech"),
    ("instrumental", "instrument", "inst", "accompaniment", "music", "no vocals", "other"),
)
LEAD = Stage(
    "lead",
    "backing",
    # The first models of this kind call the leading voice after what it is taken out for.
    ("lead", "lead vocals", "lead vocal", "main vocals", "karaoke", "vocals", "vocal"),
    ("backing", "backing vocals", "back vocal", "instrumental", "other"),
)
DRY = Stage(
    "dry",
    None,
    ("dry", "noreverb", "no reverb", "noecho", "no echo", "dereverb"),
    ("reverb", "echo", "wet", "no dry", "other"),
)


@dataclass(frozen=True)
class Stem:
    """Which of a model's stems is wanted, or is what has to be taken away."""

    index: int
    is_rest: bool


def choose_stem(stems: tuple[str, ...], stage: Stage, label: str) -> Stem:
    """The stem of a model that a stage wants; a UsageError where it gives neither that nor the rest of it."""
    names = [" ".join(name.lower().replace("_", " ").replace("-", " ").split()) for name in stems]
    for known, is_rest in ((stage.wanted, False), (stage.unwanted, True)):
        # Of several stems, one alone is not all the rest.
        for name in () if is_rest and len(names) > 1 else known:
            if name in names:
                return Stem(names.index(name), is_rest)
    problem = f"{label}: gives {listing(stems, 8)}, and {stage.name} is to be taken out"
    raise UsageError(f"{problem}. Use a model that gives {listing(stage.wanted, 3)}.")
