"""Another speaker among the clips, by embeddings of a speaker encoder where its weights are installed.

The main process computes them: torch is imported where it is used.
"""

from collections.abc import Collection, Mapping, Sequence
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


def find_strangers(
    section: str, voices: Mapping[str, Sequence[Path]], ruined: Collection[Path] = (), show: bool = True
) -> list[Finding]:
    """Findings of kind `speaker` about the files of each speaker.

    Files in `ruined` are left out: noise, clipping, reverb and music change a voice more than another mouth does.
    """
    from modules.metrics.speaker import find_speaker_encoder, load_speaker_encoder

    voices = {speaker: paths for speaker, paths in voices.items() if len(paths) >= _LEAST_FILES}
    if not voices:
        return []
    weights = find_speaker_encoder()
    if weights is None:
        text = "no speaker encoder is installed: whether someone else is among the clips was not looked at"
        return [Finding(section, "info", "speaker", listing(voices, 3), text, _INSTALL)]
    try:
        encoder = load_speaker_encoder(weights, "cpu")
    except FAILURES as error:
        text = f"the speaker encoder cannot be used ({weights}: {reason_of(error, weights)})"
        return [Finding(section, "warning", "speaker", listing(voices, 3), text, _INSTALL + " --force-reinstall")]
    chosen = {speaker: _evenly(sorted(set(paths) - set(ruined))) for speaker, paths in voices.items()}
    findings, means = [], {}
    options = {"desc": "compare voices", "unit": "file", "leave": False, "dynamic_ncols": True, "disable": not show}
    with tqdm(total=sum(map(len, chosen.values())), **options) as bar:
        for speaker, paths in chosen.items():
            embedded = {}
            for path in paths:
                found = _embed(path, encoder)
                embedded |= {path: found} if found else {}
                bar.update()
            findings += _judge_voice(section, speaker, embedded, len(voices[speaker]))
            if embedded:
                means[speaker] = sum(vector for vector, _ in embedded.values())
    return findings + _judge_pairs(section, means)


def _evenly(paths: list[Path]) -> list[Path]:
    return paths if len(paths) <= MOST_FILES else [paths[i * len(paths) // MOST_FILES] for i in range(MOST_FILES)]


def _embed(path: Path, encoder: "SpeakerEncoder") -> tuple[np.ndarray, float] | None:
    """The embedding (256,) of a file's first sound and its seconds; None where there is too little or it is damaged."""
    try:
        file, parts = MonoFile(path), []
        for block in file.blocks():
            if np.abs(block).max() > 10 ** (_SILENT_DB / 20):
                parts.append(block)
            if sum(map(len, parts)) >= MOST_SECONDS * file.rate:
                break
        if not parts:
            return None
        wav = resample(np.concatenate(parts)[: MOST_SECONDS * file.rate], file.rate, _RATE)
        level = 10 * np.log10(hop_energies(wav, _HOP) / _HOP + 1e-12)
        seconds = float((level > max(level.max() + _QUIET_DB, _SILENT_DB)).sum() * _HOP / _RATE)
        return (encoder.embed(wav, _RATE).numpy(), seconds) if seconds >= _LEAST_SOUND else None
    except FAILURES:
        return None  # whoever measured its sound has named it


def _judge_voice(
    section: str, speaker: str, embedded: Mapping[Path, tuple[np.ndarray, float]], n_files: int
) -> list[Finding]:
    findings = []
    if len(embedded) < n_files:
        text = (
            f"{n_files - len(embedded)} of {n_files} {section} were not compared with the voice: they are too short, "
            f"named for something else, or more than {MOST_FILES}"
        )
        findings.append(Finding(section, "info", "speaker", speaker, text))
    if len(embedded) < _LEAST_FILES:
        return findings
    paths, vectors = list(embedded), np.stack([vector for vector, _ in embedded.values()])
    seconds = np.array([seconds for _, seconds in embedded.values()])
    similarity = vectors @ vectors.T
    is_own = _largest_group(similarity, seconds)
    nearest = similarity[:, is_own].max(axis=1)
    strangers = [index for index in np.argsort(nearest) if not is_own[index]]
    if strangers:
        spoils = len(strangers) >= _SEVERAL and len(strangers) > _SUBSTANTIAL * len(paths)
        worst = strangers[0]
        text = (
            f"{len(strangers)} of {len(paths)} {section} sound like someone else (worst: "
            f"{printable(paths[worst].name)}, similarity {nearest[worst]:.2f} to the nearest of the others, expected "
            f"{_LONG[1]} and more)"
        )
        remedy = "Listen to them, and move what is another voice into a folder of its own"
        files = tuple(paths[index] for index in strangers)
        findings.append(Finding(section, "error" if spoils else "warning", "speaker", speaker, text, remedy, files))
    return findings


def _largest_group(similarity: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Which of n clips belong to the largest group, (n,), where clips that are alike are joined: a chain of them may
    lead from a singer's low notes to the high ones. Short clips need not be as much alike."""
    from scipy.sparse.csgraph import connected_components

    shorter = np.minimum(seconds[:, None], seconds)
    needed = np.interp(shorter, *zip(_SHORT, _LONG))
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
