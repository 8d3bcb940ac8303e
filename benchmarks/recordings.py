"""What doctor.py finds in damaged recordings, and what it wrongly finds in clean ones.

Reads folders of clean takes, one for each voice. Each damaged take is judged as the only one of its speaker, the clean
ones together. The table shows for each damage and voice in how many takes its finding was an error or a warning, and
which other findings there were. Exit code 1: something was found in clean takes.

Example: python benchmarks/recordings.py samples/voices --files 4
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timing

sys.path.insert(0, str(timing.ROOT / "tests"))  # where the damages are made

SUFFIXES = (".wav", ".flac")


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = timing.cli.make_parser(__file__, __doc__)
    parser.add_argument("root", type=Path, help="folder with one folder of takes for each voice")
    parser.add_argument("--files", type=int, default=4, help="most takes of a voice that are damaged, evenly spaced")
    args = parser.parse_args(argv)
    found = {
        folder: sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES) for folder in folders(args.root)
    }
    voices = {folder.name: paths for folder, paths in found.items() if paths}
    if not voices:
        raise SystemExit(f"{args.root}: no VOICE/take.wav or .flac there")
    print(f"| damage | finding | {' | '.join(voices)} | other findings |")
    print("| --- " * (len(voices) + 3) + "|")
    clean = Counter(kind for paths in voices.values() for kind in kinds_in(paths))
    print(
        f"| none | | {' | '.join(f'{len(paths)} takes' for paths in voices.values())} | {listed(clean)} |", flush=True
    )
    for name, (kind, damage) in damages().items():
        cells, others = [], Counter()
        for paths in voices.values():
            chosen = [damaged(path, damage) for path in paths[:: -(-len(paths) // args.files)]]
            cells.append(f"{sum(kind in kinds for kinds in chosen)}/{len(chosen)}")
            others.update(other for kinds in chosen for other in kinds - {kind})
        print(f"| {name} | {kind} | {' | '.join(cells)} | {listed(others)} |", flush=True)
    return int(bool(clean))


def folders(root: Path) -> list[Path]:
    """Those in `root`, sorted."""
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def takes_in(folder: Path) -> list[Path]:
    """The recordings there, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)


def listed(found: Counter) -> str:
    """`2 noise, 1 clipping`, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in found.most_common()) or "none"


def damages() -> dict[str, tuple[str, Callable]]:
    """Name -> the kind of finding that belongs to it, and what makes it of a take (T,) and its rate."""
    import damaged_sounds as made
    from made_music import accompaniment, in_room, over_music, room

    def ringing(wav, rate, rt60, drr):
        return in_room(wav, room(rt60, drr, rate, 1))

    def accompanied(wav, rate, db):
        return over_music(wav, accompaniment(len(wav), rate, 2), db)

    def cut(wav, rate, factor):
        return made.clipped(wav, factor)

    found = {f"clipping x{factor}": ("clipping", partial(cut, factor=factor)) for factor in (1.5, 5, 30)}
    for kind in ("white", "pink", "hum50"):
        for snr in (30, 15, 0):
            found[f"{kind} noise {snr} dB"] = "noise", partial(made.noisy, snr_db=snr, kind=kind)
    found["mp3 32 kbit/s"] = "bandwidth", partial(made.through_codec, codec="mp3", kbit=32)
    found["through 8 kHz"] = "bandwidth", partial(made.through_rate, lowest=8000)
    found["telephone"] = "bandwidth", made.telephone
    for rt60, drr in ((0.3, 0), (0.8, 10), (0.8, 3), (2.0, 3)):
        found[f"reverb {rt60} s, direct {drr:+} dB"] = "reverb", partial(ringing, rt60=rt60, drr=drr)
    for db in (20, 10, 0):
        found[f"music {db} dB"] = "music", partial(accompanied, db=db)
    return found


def damaged(path: Path, damage: Callable) -> set[str]:
    """The kinds of findings in one take with that damage."""
    import soundfile

    from modules.audio.io import read

    wav, rate = read(path)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "take.wav")
        soundfile.write(file, damage(wav, rate), rate)
        return kinds_in([file])


def kinds_in(paths: list[Path]) -> set[str]:
    """The kinds of errors and warnings in the recordings of one speaker; how much there is of it is not meant."""
    from modules.doctor.sounds import examine

    found = examine("recordings", {"voice": paths}, workers=1, show=False).findings
    return {finding.kind for finding in found if finding.level != "info" and finding.kind != "amount"}


if __name__ == "__main__":
    timing.cli.run(main)
