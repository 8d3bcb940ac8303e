"""Step 1 of the recipe: recordings of any kind become training clips.

Reads dataset_raw/SPEAKER/ (sub-folders too; wav, flac, mp3, m4a, ogg, films, ...; any rate and channel count).
Writes dataset/44k/SPEAKER/NAME.wav: mono, 16 bits, silence trimmed off the ends, at full level.
What cannot be used is named with the reason and skipped. A second run makes only what is new or changed.

Example: python resample.py --in_dir dataset_raw --out_dir2 dataset/44k
"""

import argparse
import logging
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import UsageError, reason_of

if TYPE_CHECKING:
    from modules.data.recordings import Recording

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Makes the clips; returns 0, or 1 when some files had to be skipped."""
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
    parser.add_argument("--num_processes", type=int, default=0, help="worker processes; 0 = one for each core")
    arguments = parser.parse_args(argv)
    if not 8000 <= arguments.sr2 <= 192000:
        raise UsageError(f"--sr2 {arguments.sr2}: expected 8000 to 192000 Hz")
    if arguments.num_processes < 0:
        raise UsageError(f"--num_processes {arguments.num_processes}: expected 0 or more")

    from modules.data.recordings import find_recordings
    from modules.files import lock_folder, make_folder

    configure_logging()
    out_dir = arguments.out_dir2
    recordings, skipped = find_recordings(arguments.in_dir, out_dir, arguments.sr2, not arguments.skip_loudnorm)
    make_folder(out_dir)
    with lock_folder(out_dir):
        return _update(arguments, recordings, skipped)


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
    todo = [recording for recording in recordings if arguments.overwrite or states[recording] == "new"]
    kept = [] if arguments.overwrite else [entry.target for entry in recordings if states[entry] == "foreign"]
    failed = _make_clips(manifest, todo, arguments.num_processes)
    if kept:
        text = "%d clips in %s were not written by resample.py as they are now and stay (%s); --overwrite replaces them"
        logger.warning(text, len(kept), out_dir, _first([target.relative_to(out_dir) for target in kept]))

    skipped |= failed
    reasons = Counter(re.split(r" \(|: |[.;] ", reason)[0] for reason in skipped.values())  # without the details
    why = ": " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) if reasons else ""
    written, unchanged = len(todo) - len(failed), len(recordings) - len(todo) - len(kept)
    print(f"{written} written, {unchanged} unchanged, {len(kept)} kept, {len(skipped)} skipped{why}")
    if written + unchanged + len(kept):
        print(next_step("python preprocess_flist_config.py"))
    return 1 if skipped else 0


def _make_clips(manifest, todo, wanted_workers) -> dict[Path, str]:
    """Writes the clips; the reason for every source that gave none."""
    from modules.data.recordings import make_clip
    from modules.parallel import choose_workers, run_pool

    failed = {}
    manifest.begin(todo)
    try:
        workers = choose_workers(wanted_workers, len(todo))
        for recording, result in run_pool(make_clip, todo, workers, description="resample"):
            if isinstance(result, Exception):
                reason = reason_of(result, recording.source).replace(f"{recording.target}: ", "the clip ")
                failed[recording.source] = reason
                logger.warning("%s: %s", recording.source, reason)
            else:
                output, notes = result
                manifest.finish(recording, output)
                for note in notes:
                    logger.warning("%s: %s", recording.source, note)
    finally:
        if todo:
            manifest.flush()
    return failed


def _first(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")


if __name__ == "__main__":
    run(main)
