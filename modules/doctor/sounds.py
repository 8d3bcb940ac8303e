"""Every file of a data set measured, and what is wrong with it: the sections `recordings` and `clips`."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.mono import MonoFile
from modules.data.filelist import scan
from modules.data.recordings import find_recordings
from modules.doctor.bandwidth import Bandwidth, BandwidthMeter
from modules.doctor.bandwidth import judge as judge_bandwidth
from modules.doctor.duplicates import Fingerprint, FingerprintMeter, find_duplicates
from modules.doctor.findings import Finding, by_weight
from modules.doctor.guard import from_text
from modules.doctor.levels import LevelMeter, Levels
from modules.doctor.levels import judge as judge_levels
from modules.doctor.pitch import Pitch, PitchMeter
from modules.doctor.pitch import judge as judge_pitch
from modules.doctor.room import Room, RoomMeter
from modules.doctor.room import judge as judge_room
from modules.errors import reason_of
from modules.parallel import choose_workers, run_pool, watch
from modules.text import counted, listing

Speakers = dict[str, list[Path]]  # name -> files

# Minutes of one speaker: what users of so-vits-svc go by; nothing here has measured it.
LEAST_MINUTES, FEW_MINUTES, GOOD_MINUTES = 1, 2, (10, 60)
_LONG_CLIP = 30  # seconds
_RUINS = ("clipping", "noise", "bandwidth", "music", "reverb")
_SUMMED_UP_MINUTES = 30  # that are measured at most for one line
_POOL_MINUTES = 1  # what is shorter is measured before other processes have started
_BLOCK_SECONDS = 10.0
_MOST_PITCH_FILES = 150  # of a speaker, evenly spaced: 20 minutes of clips give the range


@dataclass(frozen=True)
class Sound:
    """What was measured of a file."""

    rate: int  # Hz
    channels: int
    seconds: float
    notes: tuple[str, ...]  # what was unusual in reading it
    levels: Levels
    bandwidth: Bandwidth
    fingerprint: Fingerprint
    room: Room
    pitch: Pitch | None = None  # None where it was not looked for


@dataclass
class Examination:
    """A data set: its files, and what was found."""

    section: str
    sounds: dict[str, dict[Path, Sound]] = field(default_factory=dict)  # by speaker
    findings: list[Finding] = field(default_factory=list)

    @property
    def ruined(self) -> set[Path]:
        """Files whose sound is changed more than another mouth would change it."""
        bad = (finding for finding in self.findings if finding.level != "info" and finding.kind in _RUINS)
        return {path for finding in bad for path in finding.files}


def recordings_in(in_dir: Path, out_dir: Path) -> Speakers:
    """The recordings that resample.py would take; what it would leave out is logged."""
    found: Speakers = {}
    for recording in find_recordings(in_dir, out_dir, 44100, True)[0]:
        found.setdefault(recording.target.parent.name, []).append(recording.source)
    return found


def clips_in(source_dir: Path) -> Speakers:
    """The clips that preprocess_flist_config.py would take; what it would leave out is logged."""
    return {speaker: list(clips) for speaker, clips in scan(source_dir)[0].items()}


def examine(
    section: str, speakers: Speakers, workers: int = 0, with_pitch: bool = True, show: bool = True
) -> Examination:
    """Measures all files, in processes, `show` a progress bar, and judges them; what cannot be read is a finding."""
    found = Examination(section, {speaker: {} for speaker in speakers})
    owners = {path: speaker for speaker, paths in speakers.items() for path in paths}
    pitched = {path for paths in speakers.values() for path in _evenly(paths, _MOST_PITCH_FILES)} if with_pitch else ()
    items = [(path, path in pitched) for path in owners]
    pool = run_pool(measure, items, choose_workers(workers, len(items)), description=section, show=show)
    results = {path: result for (path, _), result in pool}
    for path, speaker in owners.items():
        if isinstance(result := results[path], Exception):
            broken = from_text(section, "warning", "unreadable", str(path), reason_of(result, path), files=(path,))
            found.findings.append(broken if broken.remedy else replace(broken, remedy="Copy it again, or remove it"))
        else:
            found.sounds[speaker][path] = result
            notes = [Finding(section, "info", "reading", str(path), note, files=(path,)) for note in result.notes]
            found.findings += notes
    for speaker, sounds in found.sounds.items():
        amount = _judge_amount(section, speaker, {path: sound.seconds for path, sound in sounds.items()})
        found.findings += amount + _judge(section, speaker, sounds)
    ruined = found.ruined
    # Damage has levels and music has notes of its own: no finding besides.
    found.findings = [one for one in found.findings if one.kind != "level" or not ruined.issuperset(one.files)]
    for speaker, sounds in found.sounds.items() if with_pitch else ():
        clean = {path: sound for path, sound in sounds.items() if path not in ruined}
        notes = {path: sound.pitch or Pitch(seconds=sound.seconds) for path, sound in clean.items()}
        found.findings += judge_pitch(section, speaker, notes)
    fingerprints = {path: sound.fingerprint for sounds in found.sounds.values() for path, sound in sounds.items()}
    found.findings += find_duplicates(section, fingerprints, owners)
    return found


def sum_up(clips: dict[str, dict[Path, float]]) -> str:
    """One line on a data set, speaker to clip to seconds: its minutes and the worst that is found in it.

    Of a large one, half an hour is measured, evenly spaced, which is said.
    """
    minutes = sum(sum(seconds.values()) for seconds in clips.values()) / 60
    share = min(1.0, _SUMMED_UP_MINUTES / max(minutes, 1e-9))
    some = {speaker: _evenly(list(paths), math.ceil(share * len(paths))) for speaker, paths in clips.items()}
    workers = 0 if minutes > _POOL_MINUTES else 1
    measured = examine("clips", some, workers, with_pitch=False).findings
    found = [finding for finding in measured if finding.kind != "amount"]
    found += [one for speaker, seconds in clips.items() for one in _judge_amount("clips", speaker, seconds)]
    bad = [finding for finding in by_weight(found) if finding.level != "info"]
    parts = f" ({_SUMMED_UP_MINUTES} min of it were measured)" if share < 1 else ""
    verdict = f"the worst of {len(bad)} findings{parts}: {bad[0]}" if bad else f"nothing wrong was found in it{parts}"
    return f"data set: {minutes:.1f} min; {verdict}"


def measure(item: tuple[Path, bool]) -> Sound:
    """Reads a file once, whatever its length, and measures it, its pitch only where that is asked for."""
    path, with_pitch = item
    file, n_samples = MonoFile(path), 0
    kinds: list[Any] = [LevelMeter, BandwidthMeter, FingerprintMeter, RoomMeter] + [PitchMeter] * with_pitch
    meters = [kind(file.rate) for kind in kinds]
    seconds = file.n_samples and file.n_samples / file.rate
    for block in watch(file.blocks(_BLOCK_SECONDS), seconds, _BLOCK_SECONDS, path.name):
        n_samples += len(block)
        for meter in meters:
            meter.push(block)
    measures = [meter.finish() for meter in meters]
    return Sound(file.rate, file.channels, n_samples / file.rate, file.notes, *measures)


def _judge(section: str, speaker: str, sounds: dict[Path, Sound]) -> list[Finding]:
    findings = judge_levels(section, speaker, {path: sound.levels for path, sound in sounds.items()})
    noisy = {path for one in findings if one.kind == "noise" and one.level != "info" for path in one.files}
    findings += judge_bandwidth(section, speaker, {path: sound.bandwidth for path, sound in sounds.items()})
    return findings + judge_room(section, speaker, {path: sound.room for path, sound in sounds.items()}, noisy)


def _judge_amount(section: str, speaker: str, seconds: dict[Path, float]) -> list[Finding]:
    """How much there is of a speaker, and in what lengths."""
    if not seconds:
        return [Finding(section, "error", "amount", speaker, f"has no usable {section}", "Add recordings of the voice")]
    minutes, values = sum(seconds.values()) / 60, list(seconds.values())
    lengths = f"{min(values):.1f} to {max(values):.1f} s, median {np.median(values):.1f} s"
    text = f"{counted(len(values), section.removesuffix('s'))}, {minutes:.1f} min ({lengths})"
    level = "error" if minutes < LEAST_MINUTES else "warning" if minutes < FEW_MINUTES else "info"
    low, high = GOOD_MINUTES
    text += f"; {low} to {high} min make a good voice, {FEW_MINUTES} are the least" if minutes < low else ""
    remedy = "" if level == "info" else "Add recordings of the same voice"
    findings = [Finding(section, level, "amount", speaker, text, remedy)]
    long = sorted((path for path in seconds if seconds[path] > _LONG_CLIP), key=lambda path: -seconds[path])
    if section == "clips" and long:
        names = listing([path.name for path in long], 3)
        text = f"{len(long)} clips are longer than {_LONG_CLIP} s ({names}), and a training step takes less than 1 s"
        remedy = "Put the recordings in dataset_raw/ and cut them with: python resample.py"
        findings.append(Finding(section, "warning", "lengths", speaker, text, remedy, tuple(long)))
    return findings


def _evenly(paths: list[Path], most: int) -> list[Path]:
    """All, or `most` of them, evenly spaced."""
    if len(paths) <= most:
        return paths
    return [paths[index * len(paths) // most] for index in range(most)]
