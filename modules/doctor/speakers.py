"""Another speaker among the clips, by embeddings of a speaker encoder where its weights are installed.

The main process computes them: torch is imported where it is used.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from modules.audio.io import resample
from modules.audio.loudness import hop_energies
from modules.audio.mono import MonoFile
from modules.doctor.findings import Finding
from modules.errors import FAILURES, reason_of
from modules.text import listing, printable

if TYPE_CHECKING:
    from modules.metrics.speaker import SpeakerEncoder

MOST_SECONDS = 20  # of a file that are embedded; 0.01 of that on one core
_INSTALL = "pip install --no-deps resemblyzer"
MOST_FILES = 2000  # of a speaker, evenly spaced
_LEAST_FILES, _LEAST_SOUND = 4, 1.5  # files that can be compared; seconds of sound in one
_RATE, _HOP = 16000, 320
_QUIET_DB, _SILENT_DB = -40.0, -60.0  # below a file's loudest 20 ms, and below full scale: no sound

# Similarity to the nearest other clip, on six clean voices:
#                  own clips                        another voice's
#     8 s      0.90 and more (repitched by up to an octave 0.87)      0.82 at most, but for one pair 0.72
#     2 s      0.78 and more                                          0.80 at most, but for one pair 0.71
_SHORT, _LONG = (2.0, 0.74), (8.0, 0.84)  # seconds of sound, similarity from which on two clips are one voice's
_SUBSTANTIAL, _SEVERAL = 0.1, 3  # share and number of files from which on strangers spoil a voice
# Means of two halves of a voice are alike to 0.97 and more, of two voices to 0.77 at most.
_SAME_VOICE = 0.9


@dataclass(frozen=True)
class _Clip:
    path: Path
    vector: np.ndarray  # (256,) of length 1
    seconds: float  # of sound


def find_strangers(
    section: str, voices: Mapping[str, Sequence[Path]], ruined: Collection[Path] = (), show: bool = True
) -> list[Finding]:
    """Findings of kind `speaker` about the files of each speaker.

    Files in `ruined` are left out: noise, clipping, reverb and music change a voice more than another mouth does.
    """
    from modules.metrics.speaker import find_speaker_encoder, load_speaker_encoder

    few = [speaker for speaker, paths in voices.items() if 0 < len(paths) < _LEAST_FILES]
    text = f"fewer than {_LEAST_FILES} {section}: whether they are one voice was not looked at"
    findings = [Finding(section, "info", "speaker", listing(few, 3), text)] if few else []
    voices = {speaker: paths for speaker, paths in voices.items() if len(paths) >= _LEAST_FILES}
    if not voices:
        return findings
    weights = find_speaker_encoder()
    if weights is None:
        text = "no speaker encoder is installed: whether someone else is among the clips was not looked at"
        return [*findings, Finding(section, "info", "speaker", listing(voices, 3), text, _INSTALL)]
    try:
        encoder = load_speaker_encoder(weights, "cpu")
    except FAILURES as error:
        text = f"the speaker encoder cannot be used ({weights}: {reason_of(error, weights)})"
        remedy = f"{_INSTALL} --force-reinstall"
        return [*findings, Finding(section, "warning", "speaker", listing(voices, 3), text, remedy)]
    chosen = {speaker: _evenly(sorted(set(paths) - set(ruined))) for speaker, paths in voices.items()}
    means = {}
    options = {"desc": "compare voices", "unit": "file", "leave": False, "dynamic_ncols": True, "disable": not show}
    with _one_thread(), tqdm(total=sum(map(len, chosen.values())), **options) as bar:
        for speaker, paths in chosen.items():
            clips = []
            for path in paths:
                clips += _embed(path, encoder)
                bar.update()
            is_own = _largest_group(clips)
            findings += _judge_voice(section, speaker, clips, is_own, len(voices[speaker]))
            means[speaker] = sum((clip.vector for clip, own in zip(clips, is_own) if own), np.zeros(1))
    return findings + _judge_pairs(section, means)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A recurrent network's steps are too small to share: on a busy machine, two threads took forty times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _evenly(paths: list[Path]) -> list[Path]:
    return paths if len(paths) <= MOST_FILES else [paths[i * len(paths) // MOST_FILES] for i in range(MOST_FILES)]


def _embed(path: Path, encoder: "SpeakerEncoder") -> list[_Clip]:
    """The clip of a file's first sound; none where there is too little or it is damaged."""
    try:
        file, parts = MonoFile(path), []
        for block in file.blocks():
            if np.abs(block).max() > 10 ** (_SILENT_DB / 20):
                parts.append(block)
            if sum(map(len, parts)) >= MOST_SECONDS * file.rate:
                break
        if not parts:
            return []
        wav = resample(np.concatenate(parts)[: MOST_SECONDS * file.rate], file.rate, _RATE)
        level = 10 * np.log10(hop_energies(wav, _HOP) / _HOP + 1e-12)
        seconds = float((level > max(level.max() + _QUIET_DB, _SILENT_DB)).sum() * _HOP / _RATE)
        return [_Clip(path, encoder.embed(wav, _RATE).numpy(), seconds)] if seconds >= _LEAST_SOUND else []
    except FAILURES:
        return []  # whoever measured its sound has named it


def _judge_voice(section: str, speaker: str, clips: list[_Clip], is_own: np.ndarray, n_files: int) -> list[Finding]:
    findings = []
    if len(clips) < n_files:
        text = (
            f"{n_files - len(clips)} of {n_files} {section} were not compared with the voice: they are too short, "
            f"named for something else, or more than {MOST_FILES}"
        )
        findings.append(Finding(section, "info", "speaker", speaker, text))
    if len(clips) < _LEAST_FILES or is_own.all():
        return findings
    vectors = np.stack([clip.vector for clip in clips])
    nearest = (vectors @ vectors[is_own].T).max(axis=1)
    strangers = [index for index in np.argsort(nearest) if not is_own[index]]
    spoils = len(strangers) >= _SEVERAL and len(strangers) > _SUBSTANTIAL * len(clips)
    worst = strangers[0]
    text = (
        f"{len(strangers)} of {len(clips)} {section} sound like someone else (worst: "
        f"{printable(clips[worst].path.name)}, similarity {nearest[worst]:.2f} to the nearest of the others, expected "
        f"{_LONG[1]} and more)"
    )
    remedy = "Listen to them, and move what is another voice into a folder of its own"
    files = tuple(clips[index].path for index in strangers)
    return [*findings, Finding(section, "error" if spoils else "warning", "speaker", speaker, text, remedy, files)]


def _largest_group(clips: list[_Clip]) -> np.ndarray:
    """Which of n clips belong to the largest group, (n,), where clips that are alike are joined: a chain of them may
    lead from a singer's low notes to the high ones. Short clips need not be as much alike."""
    from scipy.sparse.csgraph import connected_components

    if not clips:
        return np.zeros(0, bool)
    vectors = np.stack([clip.vector for clip in clips])
    seconds = np.array([clip.seconds for clip in clips])
    needed = np.interp(np.minimum(seconds[:, None], seconds), *zip(_SHORT, _LONG))
    similarity = vectors @ vectors.T
    groups = connected_components(similarity >= needed, directed=False)[1]
    return groups == np.bincount(groups).argmax()


def _judge_pairs(section: str, means: Mapping[str, np.ndarray]) -> list[Finding]:
    """Speakers that are one voice."""
    names, findings = list(means), []
    unit = {name: mean / max(np.linalg.norm(mean), 1e-9) for name, mean in means.items()}
    for index, name in enumerate(names):
        alike = [other for other in names[index + 1 :] if unit[name] @ unit[other] > _SAME_VOICE]
        if alike:
            text = f"sounds like the same voice as {listing(alike, 3)}"
            findings.append(Finding(section, "info", "speaker", name, text, "Merge the folders if it is one person"))
    return findings
