"""MelodyOptions: the F0 curve, autotune and formants that a conversion asks for, and their flags."""

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from modules.errors import UsageError
from modules.f0.autotune import CHROMATIC, CONCERT_PITCH, SLIDE, scale_notes
from modules.f0.curve_files import read_curve
from modules.files import check_place, sha256_of
from modules.text import listing, printable

logger = logging.getLogger(__name__)

CURVE = ".csv"
_OTHER_TABLES = (".txt", ".tsv", ".xlsx", ".ods", ".json", ".wav", ".flac")  # which --f0_out does not write
# What the numbers among these flags may be, both ends included.
MELODY_BOUNDS = {"autotune": (0, 1), "tuning": (390, 490), "formant": (-12, 12)}


@dataclass(frozen=True)
class MelodyOptions:
    """What is wanted of the melody beside its transposition."""

    f0_in: Path | None = None  # a curve that is sung in place of the predicted one
    f0_out: Path | None = None  # where the curve is written, before it is transposed
    overwrite: bool = False  # `f0_out` may replace another curve
    autotune: float = 0.0  # share of the way to the nearest note of the scale, 0 to 1
    scale: str = CHROMATIC  # of the result
    tuning: float = CONCERT_PITCH  # Hz of the A above middle C
    formant: float = 0.0  # semitones by which the formants that the content encoder hears are moved

    @property
    def needs_whole_song(self) -> bool:
        """Whether the pitch of the whole song must be known before any of it is sung."""
        return bool(self.f0_in or self.f0_out or self.autotune)

    @property
    def changes_f0(self) -> bool:
        """Whether another pitch than the predictor's may be sung."""
        return bool(self.f0_in or self.autotune)

    def identity(self) -> dict[str, Any]:
        """What a result depends on, in plain values; of the curve its content."""
        found = self.description()
        return found if self.f0_in is None else {**found, "f0_in": sha256_of(self.f0_in)}

    def description(self) -> dict[str, Any]:
        """What is not as usual, in plain values, for a result's metadata."""
        found: dict[str, Any] = {} if self.f0_in is None else {"f0_in": printable(self.f0_in.name)}
        if self.autotune:
            found |= {"autotune": self.autotune, "scale": self.scale, "tuning": self.tuning}
        return {**found, "formant": self.formant} if self.formant else found

    def for_song(self, label: str, path: Path) -> "MelodyOptions":
        """The same for the song `path`, typed as `label`: folders become its files there, `f0_in` None without one."""
        f0_in = self.f0_in
        if f0_in is not None and f0_in.is_dir():
            f0_in = f0_in / curve_name(label, path)
            f0_in = f0_in if f0_in.is_file() else None
        f0_out = self.f0_out
        if f0_out is not None and (f0_out.is_dir() or f0_out.suffix.lower() != CURVE):
            f0_out = f0_out / curve_name(label, path)
        return replace(self, f0_in=f0_in, f0_out=f0_out)


def curve_name(label: str, path: Path) -> PurePath:
    """The name of a song's curve in a folder of curves: `song.csv`, `album/song.csv`."""
    inside = PurePath(label)
    if inside.is_absolute() or ".." in inside.parts:
        inside = PurePath(inside.name)
    return inside.with_name(path.stem + CURVE)


def add_melody_flags(parser: argparse.ArgumentParser) -> None:
    """The flags, under a heading of their own."""
    add = parser.add_argument_group("Melody").add_argument
    given = "sing this F0 curve: what --f0_out wrote, mended in a spreadsheet, or columns time (s) and hz of any tool; "
    given += "for several songs a folder with NAME.csv"
    add("--f0_in", metavar="FILE", help=given)
    written = "write the song's F0 curve (time,hz,voiced) before it is transposed or tuned, to FILE.csv, or to "
    written += "NAME.csv in the folder FILE"
    add("--f0_out", metavar="FILE", help=written)
    share = "how far notes are pulled to the nearest one of --scale: 0 not at all, 1 onto it; vibrato and slides "
    share += f"(above {SLIDE:g} semitones a second) stay"
    add("--autotune", type=float, default=0.0, metavar="X", help=share)
    scale = "scale of the result: chromatic, 'C major', 'F# minor', 'Bb pentatonic', 'A harmonic minor', ..."
    add("--scale", default=CHROMATIC, metavar="NAME", help=scale)
    tuning = "frequency of the A above middle C that --autotune tunes to"
    add("--tuning", type=float, default=CONCERT_PITCH, metavar="HZ", help=tuning)
    formant = "move the formants that the content encoder hears by so many semitones (a man's song to a woman's voice: "
    formant += "2 to 4), the pitch stays; --formant_key is another thing: the vocoder's, at the end"
    add("--formant", type=float, default=0.0, metavar="N", help=formant)


def melody_options(args: argparse.Namespace) -> MelodyOptions:
    """What the flags ask for, verified; files are read by `check_curves`."""
    problems = []
    for name, (low, high) in MELODY_BOUNDS.items():
        if not low <= getattr(args, name) <= high:
            problems.append(f"--{name} is {getattr(args, name):g}; it must lie between {low:g} and {high:g}")
    try:
        scale_notes(args.scale)
    except UsageError as error:
        problems.append(str(error))
    if args.auto_predict_f0 and not args.only_diffusion and (args.f0_in or args.autotune):
        flag = "--f0_in" if args.f0_in else "--autotune"
        problems.append(f"{flag}: with -a the model predicts the pitch itself. Leave one of the two out")
    f0_in, f0_out = (Path(name) if name else None for name in (args.f0_in, args.f0_out))
    if f0_in and f0_out and f0_in.resolve() == f0_out.resolve():
        problems.append(f"--f0_out {f0_out}: is the curve of --f0_in too. Use another name")
    if f0_out and f0_out.suffix.lower() in _OTHER_TABLES and not f0_out.is_dir():
        problems.append(f"--f0_out {f0_out}: expected a name that ends in {CURVE}, or a folder")
    if problems:
        raise UsageError("; ".join(problems))
    return MelodyOptions(f0_in, f0_out, args.overwrite, args.autotune, args.scale, args.tuning, args.formant)


def check_curves(melody: MelodyOptions, songs: list[tuple[str, Path]]) -> None:
    """Reads the curves for songs (label, path) and refuses what is wrong with them, or with where they are written."""
    without, writers = [], {}
    paths = {path.resolve() for _, path in songs}
    for label, path in songs:
        own = melody.for_song(label, path)
        if own.f0_in is not None:
            read_curve(own.f0_in)
        elif melody.f0_in is not None:
            without.append(label)
        if own.f0_out is not None and writers.setdefault(own.f0_out.resolve(), path.resolve()) != path.resolve():
            remedy = "rename one of them" if own.f0_out != melody.f0_out else "name a folder, without .csv"
            raise UsageError(f"--f0_out {own.f0_out}: more than one song would be written there; {remedy}")
        if own.f0_out is not None:
            check_place(own.f0_out)
    if melody.f0_in is not None and not melody.f0_in.is_dir() and len(paths) > 1:
        raise UsageError(f"--f0_in {melody.f0_in}: is the curve of one song, and {len(paths)} are named; name a folder")
    if without and len(without) == len(songs):
        names = curve_name(*songs[0])
        raise UsageError(f"--f0_in {melody.f0_in}: holds no curve of these songs; expected {names}")
    if without:
        logger.info("--f0_in %s: has no curve of %s; there the pitch is predicted", melody.f0_in, listing(without))
