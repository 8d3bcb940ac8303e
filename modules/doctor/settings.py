"""The config, the file lists and what lies in the data set's folder: whether they agree, and are sensible."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modules.audio.io import AudioInfo, probe
from modules.data.clips import find_clips
from modules.data.filelist import LARGEST_SHARE, read_list, repeated_clips, shared_clips, speaker_of
from modules.doctor.findings import Finding
from modules.doctor.guard import from_text, guarded, listening
from modules.errors import FAILURES, DataError, reason_of
from modules.text import counted, listing, printable

if TYPE_CHECKING:
    from modules.config.schema import Config

SECTION = "config"
_REMAKE = "python preprocess_flist_config.py"
_BARE = re.compile(re.escape(_REMAKE) + r"(?! --)")  # without its flags, the command would make another network
_MOST_LOST = 0.5  # of a speaker's seconds in validation: more is lost to training than is left


def check_settings(config_path: Path, source_dir: Path, show: bool = True) -> list[Finding]:
    """config.json and diffusion.yaml, the lists that they name, and the clips in `source_dir`/SPEAKER/; `show` a bar
    where the clips take over 2 s."""
    from modules.config.edits import command_of
    from modules.config.io import load_config
    from modules.doctor import choices

    if not config_path.exists() and not config_path.is_symlink():
        text, remedy = "none yet", _REMAKE if source_dir.is_dir() else f"python resample.py, then: {_REMAKE}"
        return [Finding(SECTION, "info", "beginning", printable(config_path), text, remedy)]
    try:
        with listening() as said:
            config = load_config(config_path)
    except FAILURES as error:
        found = from_text(SECTION, "error", "config", str(config_path), error)
        return [found if found.remedy else replace(found, remedy=f"Restore it from a copy, or move it away: {_REMAKE}")]
    found = [from_text(SECTION, "info", "keys", str(config_path), text) for text in said]
    clips = _clips_in(source_dir)
    lists = _Lists(config)
    found += lists.problems
    infos, unreadable = _probe_all(sorted({*lists.train, *lists.validation}), show)
    found += guarded(SECTION, "lists", _check_lists, lists, config, clips)
    found += guarded(SECTION, "speakers", _check_speakers, config, config_path, clips, lists)
    found += guarded(SECTION, "clips", _check_clips, config, infos, unreadable)
    found += guarded(SECTION, "validation", _check_validation, lists, infos)
    found += guarded(SECTION, str(config_path), choices.check_training, config, config_path, len(lists.train))
    found += guarded(SECTION, str(config_path), choices.check_memory, config, lists.train, infos)
    found += guarded(SECTION, str(config_path), choices.check_encoder, config, config_path)
    found += guarded(SECTION, "diffusion.yaml", choices.check_diffusion, config, config_path)
    command = command_of(config)
    found = [replace(finding, remedy=_BARE.sub(lambda _: command, finding.remedy)) for finding in found]
    if all(finding.level == "info" for finding in found):
        names = listing((f"{name} (id {number})" for name, number in config.spk.items()), 6)
        text = f"{names}; {len(lists.train)} clips to train on, {len(lists.validation)} for validation"
        found.insert(0, Finding(SECTION, "info", "config", printable(config_path), text))
    return found


class _Lists:
    """The two lists of a config, as far as they can be read."""

    def __init__(self, config: "Config") -> None:
        self.paths = Path(config.data.training_files), Path(config.data.validation_files)
        self.problems: list[Finding] = []
        self.train, self.validation = map(self._read, self.paths)

    def _read(self, path: Path) -> list[Path]:
        try:
            return read_list(path)
        except FAILURES as error:
            self.problems.append(from_text(SECTION, "error", "list", str(path), error))
            return []


def _clips_in(source_dir: Path) -> dict[str, list[Path]]:
    """Speaker to clips of a data set's folder, empty where there is none."""
    found: dict[str, list[Path]] = {}
    try:
        with listening():  # the section clips names what cannot be listed
            for clip in find_clips(source_dir)[0]:
                found.setdefault(clip.parent.name, []).append(clip)
    except (DataError, OSError):
        pass
    return found


def _probe_all(clips: list[Path], show: bool) -> tuple[dict[Path, AudioInfo], dict[Path, str]]:
    """What each clip is, and why some cannot be read."""
    from tqdm import tqdm

    infos, unreadable = {}, {}
    for clip in tqdm(clips, "check lists", unit="file", leave=False, dynamic_ncols=True, delay=2, disable=not show):
        try:
            infos[clip] = probe(clip)
        except (*FAILURES, ValueError) as error:  # ValueError: a NUL in the name
            unreadable[clip] = reason_of(error, clip)
    return infos, unreadable


def _check_lists(lists: _Lists, config: "Config", clips: dict[str, list[Path]]) -> Iterator[Finding]:
    """Entries that training refuses, clips that it would not hear, and clips that are listed twice."""
    from modules.data.dataset import require_listed

    for path, listed in zip(lists.paths, (lists.train, lists.validation)):
        wrong = {}
        for clip in listed:
            try:
                require_listed(clip, path, config.spk, config.path)
            except DataError as error:
                wrong[clip] = error
        if wrong:
            first = from_text(SECTION, "error", "list", str(path), next(iter(wrong.values())))
            text = f"training refuses {len(wrong)} of its {len(listed)} lines; {first.text}"
            yield Finding(SECTION, "error", "list", str(path), text, first.remedy, tuple(wrong))
        if listed and (again := repeated_clips(path)):
            text = f"lists {counted(len(again), 'clip')} more than once ({listing([clip.name for clip in again], 3)})"
            yield Finding(SECTION, "warning", "repeated", str(path), text, _REMAKE, tuple(again))
    if not (lists.train and lists.validation):
        return
    if shared := shared_clips(*lists.paths):
        text = f"both {lists.paths[0]} and {lists.paths[1]} have {counted(len(shared), 'clip')} "
        text += f"({listing([clip.name for clip in shared], 3)}): validation would praise what is known by heart"
        yield Finding(SECTION, "warning", "shared", "lists", text, _REMAKE, tuple(shared))
    known = {clip.absolute() for clip in [*lists.train, *lists.validation]}
    new = [clip for paths in clips.values() for clip in paths if clip.absolute() not in known]
    if new:
        text = f"neither has {counted(len(new), 'clip')} of the data set ({listing([clip.name for clip in new], 3)}), "
        yield Finding(
            SECTION, "warning", "unlisted", "lists", f"{text}so training hears nothing of that", _REMAKE, tuple(new)
        )


def _check_speakers(
    config: "Config", config_path: Path, clips: dict[str, list[Path]], lists: _Lists
) -> Iterator[Finding]:
    """Speakers of the config without clips, and folders of clips without a speaker."""
    if not config.spk:
        yield Finding(SECTION, "error", "speakers", printable(config_path), "spk names no speaker", _REMAKE)
        return
    heard = {*clips, *map(speaker_of, lists.train)}
    if silent := [name for name in config.spk if name not in heard]:
        text = f"spk names {listing(silent, 3)}, of whom there are no clips: the voice would be noise"
        remedy = "Put recordings of them into dataset_raw/, and begin with python resample.py; or take them out of spk"
        yield Finding(SECTION, "warning", "speakers", printable(config_path), text, remedy)
    if unknown := [name for name in clips if name not in config.spk]:
        text = f"spk has no id for {listing(unknown, 3)}, of whom there are clips: training does not hear them"
        files = tuple(clip for name in unknown for clip in clips[name])
        yield Finding(SECTION, "warning", "speakers", printable(config_path), text, _REMAKE, files)


def _check_clips(config: "Config", infos: dict[Path, AudioInfo], unreadable: dict[Path, str]) -> Iterator[Finding]:
    """Listed clips that cannot be read, are of another rate, or shorter than what training takes of each."""
    there = {clip: reason for clip, reason in unreadable.items() if clip.is_file()}
    if there:
        first = next(iter(there))
        reason = from_text(SECTION, "error", "unreadable", str(first), there[first]).text
        text = f"{len(there)} of {len(infos) + len(there)} cannot be read (first: {printable(first)}: {reason})"
        remedy = f"Remove them, then: {_REMAKE}"
        yield Finding(SECTION, "error", "unreadable", "clips", text, remedy, tuple(there))
    rate = config.data.sampling_rate
    if others := [clip for clip, info in infos.items() if info.rate != rate]:
        text = f"{len(others)} of {len(infos)} have another rate than data.sampling_rate {rate} "
        text += f"(first: {printable(others[0])}, {infos[others[0]].rate} Hz): training refuses them"
        yield Finding(SECTION, "error", "rate", "clips", text, f"python resample.py --sr2 {rate}", tuple(others))
    shortest = config.train.segment_size / rate
    if short := [clip for clip, info in infos.items() if info.seconds < shortest]:
        level = "error" if len(short) == len(infos) else "warning"
        text = f"{len(short)} of {len(infos)} are shorter than train.segment_size ({shortest:.2f} s), and left out of "
        remedy = f"Remove them, then: {_REMAKE}; or lower train.segment_size"
        yield Finding(SECTION, level, "short", "clips", text + "training", remedy, tuple(short))


def _check_validation(lists: _Lists, infos: dict[Path, AudioInfo]) -> Iterator[Finding]:
    """How much of each speaker is kept from training, by seconds; and speakers of whom nothing is."""
    if not (lists.train and lists.validation):
        return
    seconds: dict[str, list[float]] = {}  # speaker -> of training, of validation
    for index, clips in enumerate((lists.train, lists.validation)):
        for clip in set(clips) & infos.keys():
            seconds.setdefault(speaker_of(clip), [0.0, 0.0])[index] += infos[clip].seconds
    for speaker, (train, validation) in sorted(seconds.items()):
        share = validation / (train + validation or 1.0)
        name = printable(speaker)
        if share > LARGEST_SHARE:
            level = "error" if share > _MOST_LOST else "warning"
            text = f"{validation:.1f} of {train + validation:.1f} s ({100 * share:.0f} %) are kept for validation, and "
            text += f"training never hears them; at most {100 * LARGEST_SHARE:.0f} % would do"
            remedy = f"{_REMAKE} (or, with few clips, add some or cut long ones)"
            yield Finding(SECTION, level, "validation", name, text, remedy)
        if not validation:
            text = "no clip is kept for validation, so this voice is never scored"
            yield Finding(SECTION, "warning", "validation", name, text, _REMAKE)
