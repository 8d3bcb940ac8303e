"""Step 1 of the recipe: recordings of any kind become training clips.

Reads dataset_raw/SPEAKER/ (sub-folders too; wav, flac, mp3, m4a, ogg, films, ...; any rate and channel count).
Writes dataset/44k/SPEAKER/NAME.wav: mono, 16 bits, silence trimmed off the ends, at full level.
Recordings over 20 s are cut at their pauses into NAME_001.wav, NAME_002.wav, ... of 5 to 15 s, without long silences.
What cannot be used is named with the reason and skipped. A second run makes only what is new or changed.

Example: python resample.py --in_dir dataset_raw --out_dir2 dataset/44k --slice 5-15
"""

import argparse
import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import UsageError, reason_of
from modules.text import counted

if TYPE_CHECKING:
    from modules.data.manifest import Manifest
    from modules.data.recordings import Recording

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Makes the clips; returns 0, or 1 when some files had to be skipped."""
    arguments = make_arguments().parse_args(argv)
    if not 8000 <= arguments.sr2 <= 192000:
        raise UsageError(f"--sr2 {arguments.sr2}: expected 8000 to 192000 Hz")
    if arguments.num_processes < 0:
        raise UsageError(f"--num_processes {arguments.num_processes}: expected 0 or more")

    from modules.data.recordings import find_recordings
    from modules.data.takes import parse_lengths
    from modules.files import lock_folder, make_folder

    lengths = parse_lengths(arguments.slice)
    configure_logging()
    out_dir, normalise = arguments.out_dir2, not arguments.skip_loudnorm
    recordings, skipped = find_recordings(arguments.in_dir, out_dir, arguments.sr2, normalise, lengths)
    make_folder(out_dir)
    with lock_folder(out_dir):
        return _update(arguments, recordings, skipped)


def make_arguments() -> argparse.ArgumentParser:
    """The flags, as --help and the web page show them."""
    parser = make_parser(__file__, __doc__)
    parser.add_argument("--sr2", type=int, default=44100, help="rate of the clips in Hz")
    parser.add_argument("--in_dir", type=Path, default=Path("./dataset_raw"), help="folder with one folder per speaker")
    parser.add_argument("--out_dir2", type=Path, default=Path("./dataset/44k"), help="folder for the clips")
    parser.add_argument(
        "--skip_loudnorm", action="store_true", help="keep the level instead of raising it to full scale"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="make every clip again, and replace files made by others"
    )
    parser.add_argument(
        "--slice",
        default="5-15",
        metavar="MIN-MAX",
        help="seconds of the clips that recordings longer than 4/3 MAX are cut into; off keeps them whole",
    )
    parser.add_argument("--num_processes", type=int, default=0, help="worker processes; 0 = one for each core")
    return parser


def _update(arguments: argparse.Namespace, recordings: list["Recording"], skipped: dict[Path, str]) -> int:
    """Makes the clips that are new or changed and says what became of all; returns the exit code."""
    from modules.data.manifest import Manifest
    from modules.files import remove_leftovers

    out_dir = arguments.out_dir2
    remove_leftovers(out_dir)
    manifest = Manifest(out_dir)
    orphans = manifest.orphans(recordings)
    if orphans:
        text = "%d clips have no recording any more (%s); delete them if the model should not learn them"
        logger.warning(text, len(orphans), _first(orphans))
    states = {recording: manifest.state_of(recording) for recording in recordings}
    todo = [recording for recording in recordings if arguments.overwrite or not states[recording].is_done]
    done = [] if arguments.overwrite else [state for state in states.values() if state.is_done]
    result = _make_clips(manifest, todo, arguments)
    kept = [path for state in done for path in state.foreign] + result.stayed
    if kept:
        text = "%d clips in %s were not written by resample.py as they are now and stay (%s); --overwrite replaces them"
        logger.warning(text, len(kept), out_dir, _first([path.relative_to(out_dir) for path in kept]))
    if deleted := [path.relative_to(out_dir) for state in done for path in state.deleted]:
        text = "%s that you have deleted stay out (%s); --overwrite makes them"
        logger.info(text, counted(len(deleted), "clip"), _first(deleted))
    if result.removed:
        text = "%s of before removed: other ones are made of their recordings now (%s)"
        removed = [path.relative_to(out_dir) for path in result.removed]
        logger.info(text, counted(len(removed), "clip"), _first(removed))
    if result.n_audible:
        text = "%s without a silence within reach, made where it is quietest"
        logger.info(text, counted(result.n_audible, "cut"))

    skipped |= result.failed
    reasons = Counter(re.split(r" \(|: |[.;] ", reason)[0] for reason in skipped.values())  # without the details
    why = ": " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) if reasons else ""
    if n_made := len(todo) - len(result.failed):
        left_out = result.seconds - result.clip_seconds
        silence = f", {_clock(left_out)} of silence left out" if left_out >= 1 else ""
        print(f"{counted(n_made, 'recording')} ({_clock(result.seconds)}) → {counted(result.n_clips, 'clip')}{silence}")
    written, unchanged = result.n_clips - len(result.stayed), sum(state.n_unchanged for state in done)
    print(f"{written} written, {unchanged} unchanged, {len(kept)} kept, {len(skipped)} skipped{why}")
    if written + unchanged + len(kept):
        print(next_step("python preprocess_flist_config.py"))
    return 1 if skipped else 0


@dataclass
class _Result:
    """What became of the recordings that were to be made."""

    n_clips: int = 0
    seconds: float = 0.0  # of the recordings
    clip_seconds: float = 0.0
    n_audible: int = 0  # cuts that are not where it is silent
    stayed: list[Path] = field(default_factory=list)  # files of others in the places of clips
    removed: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)  # why a source gave no clip


def _make_clips(manifest: "Manifest", todo: list["Recording"], arguments: argparse.Namespace) -> _Result:
    """Writes the clips."""
    from modules.data.recordings import make_clip
    from modules.parallel import choose_workers, run_pool

    result = _Result()
    manifest.begin(todo)
    try:
        workers = choose_workers(arguments.num_processes, len(todo))
        for recording, made in run_pool(make_clip, todo, workers, description="resample"):
            try:
                if isinstance(made, Exception):
                    raise made
                stayed, removed = manifest.finish(recording, made, arguments.overwrite)
            except Exception as error:
                if made is not error and not isinstance(error, OSError):
                    raise
                reason = reason_of(error, recording.source).replace(f"{recording.target}: ", "the clip ")
                result.failed[recording.source] = reason
                logger.warning("%s: %s", recording.source, reason)
                continue
            result.n_clips += len(made.clips)
            result.seconds += made.seconds
            result.clip_seconds += made.clip_seconds(recording.rate)
            result.n_audible += made.n_audible
            result.stayed += stayed
            result.removed += removed
            for note in made.notes:
                logger.warning("%s: %s", recording.source, note)
    finally:
        if todo:
            manifest.flush()
    return result


def _clock(seconds: float) -> str:
    """`3:10`, `1:03:10`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _first(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")


if __name__ == "__main__":
    run(main)
