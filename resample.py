"""Step 1 of the recipe: recordings of any kind become training clips.

Reads dataset_raw/SPEAKER/ (sub-folders too; wav, flac, ogg, opus, mp3, aiff, any rate and channel count).
Writes dataset/44k/SPEAKER/NAME.wav: mono, 16 bits, silence trimmed off the ends, at full level.
Files that cannot be used are named with the reason and skipped. A second run makes only what is new or changed.

Example: python resample.py --in_dir dataset_raw --out_dir2 dataset/44k
"""

import logging
import re
from collections import Counter
from pathlib import Path

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import UsageError, UserError

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

    from modules.data.clips import Manifest
    from modules.data.recordings import ResampleSettings, find_recordings
    from modules.files import remove_leftovers

    configure_logging()
    settings = ResampleSettings(arguments.sr2, not arguments.skip_loudnorm)
    found = find_recordings(arguments.in_dir, arguments.out_dir2, settings)
    if arguments.out_dir2.is_dir():
        remove_leftovers(arguments.out_dir2)
    manifest = Manifest(arguments.out_dir2)
    states = {recording: manifest.state_of(recording) for recording in found.recordings}
    todo = [recording for recording in found.recordings if arguments.overwrite or states[recording] == "new"]
    kept = [] if arguments.overwrite else [entry for entry in found.recordings if states[entry] == "foreign"]
    _warn_about(found, manifest.orphans(found.recordings))
    written, skipped = _make_clips(manifest, todo, arguments.num_processes)
    skipped |= dict.fromkeys(found.misnamed, "its name is not valid Unicode or has a line break; rename it")
    return _report(arguments.out_dir2, written, len(found.recordings) - len(todo) - len(kept), kept, skipped)


def _make_clips(manifest, todo, wanted_workers) -> tuple[int, dict[Path, str]]:
    """Number of clips written, and the reason for every source that gave none."""
    from modules.data.clips import make_clip
    from modules.parallel import choose_workers, run_pool

    written, skipped = 0, {}
    manifest.begin(todo)
    try:
        workers = choose_workers(wanted_workers, len(todo))
        for recording, result in run_pool(make_clip, todo, workers, description="resample"):
            if isinstance(result, Exception):
                reason = str(result) if isinstance(result, UserError) else f"{type(result).__name__}: {result}"
                reason = reason.removeprefix(f"{recording.source}: ")
                skipped[recording.source] = reason.replace(f"{recording.target}: ", "the clip ")
                logger.warning("%s: %s", recording.source, skipped[recording.source])
            else:
                manifest.finish(recording, result)
                written += 1
    finally:
        if todo:
            manifest.flush()
    return written, skipped


def _warn_about(found, orphans: list[Path]) -> None:
    """Says what lies around and is neither clip nor usable recording."""
    for path in found.misnamed:
        logger.warning("%a: its name is not valid Unicode or has a line break, skipped. Rename it.", str(path))
    for path in found.loose:
        logger.warning("%s: lies outside any speaker folder, left out. Move it to %s/SPEAKER/", path, path.parent)
    for path in found.empty:
        logger.warning("%s: speaker folder without audio", path)
    if found.ignored:
        logger.info("%d files that are not audio were left out", len(found.ignored))
    if orphans:
        logger.warning(
            "%d clips have no recording any more (%s); delete them if they should not be learnt",
            len(orphans), _first(orphans),
        )  # fmt: skip


def _first(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")


def _report(out_dir: Path, written: int, unchanged: int, kept: list, skipped: dict[Path, str]) -> int:
    if kept:
        logger.warning(
            "%d clips in %s were not written by resample.py as they are now, and stay (%s); --overwrite replaces them",
            len(kept), out_dir, _first([entry.target.relative_to(out_dir) for entry in kept]),
        )  # fmt: skip
    reasons = Counter(re.split(r" \(|: |[.;] ", reason)[0] for reason in skipped.values())  # without the details
    why = ": " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) if reasons else ""
    print(f"{written} written, {unchanged} unchanged, {len(kept)} kept, {len(skipped)} skipped{why}")
    if written + unchanged + len(kept):
        print(next_step("python preprocess_flist_config.py"))
    return 1 if skipped else 0


if __name__ == "__main__":
    run(main)
