"""What the levels of one speaker's sounds mean: clipping, noise, offset, loudness, silence."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from modules.doctor.findings import Finding
from modules.doctor.verdicts import grade, verdict

if TYPE_CHECKING:
    from modules.doctor.levels import Levels

# A clipped file. Six clean voices: 0.35 % of the loud peaks at most, but 2.7 % in the worst of ru_edwin's 33 files,
# which is hot: 0.5 % in all. x1.5: 0.4 to 18 % of a file, 2.9 to 15 % of a voice; x5: 19 % of a file at least.
_CLIPPED_ALWAYS = 0.03
_CLIPPED = 0.012  # where the speaker's other files have less than _HOT, or more than _CLIPPED_VOICE, of it
_HOT, _CLIPPED_VOICE = 0.002, 0.015
_STRONGLY_CLIPPED, _STRONGLY_FLAT = 0.15, 0.08
# Steady hiss in dB below the voice. From 5 to 8 kHz, clean: 58 at least; white noise at 30 dB: 34 to 40, pink: 41 to
# 44. From 2.5 to 5 kHz, clean: 50 at least; white: 35 to 41, pink: 40 to 42. At 15 dB: 19 to 28 and 20 to 26. Noise at
# 40 dB (44 to 53 and 45 to 51) is good for a room, and mostly passes.
_HISS_DB, _MID_HISS_DB, _STRONG_NOISE_DB = 44.5, 43.0, 30.0
_HUM_LIMIT_DB = 60.0  # weaker hum is not heard; the clean voices have none that is found
_OFFSET = 0.01  # of the peak; six clean voices: 0.0034 at most
_QUIET_PEAK = 0.016  # -36 dB: the voice, 20 dB below, is 45 dB above the noise of 16 bits (-101 dB)
_SPREAD_DB = 10.0  # from the speaker's median; six clean voices: 4.9 dB at most
_SILENT_PEAK = 1e-4  # where resample.py takes a recording for silent
_MOSTLY_SILENT = 0.6  # six clean voices: 0.15 at most
_LONG_GAP_SECONDS = 2.0

_Sounds = dict[Path, "Levels"]


def _heard(sounds: _Sounds) -> _Sounds:
    return {
        path: sound for path, sound in sounds.items() if sound.peak >= _SILENT_PEAK and sound.loudness_db is not None
    }


def _seconds(sounds: _Sounds) -> dict[Path, float]:
    return {path: sound.seconds for path, sound in sounds.items()}


def _is_strongly_clipped(sound: "Levels") -> bool:
    return sound.clipped >= _STRONGLY_CLIPPED or sound.flattened >= _STRONGLY_FLAT


def _worst_first(
    sounds: _Sounds, badness: Callable[["Levels"], float], detail: Callable[["Levels"], str]
) -> list[tuple[Path, str]]:
    """The sounds with a badness above zero, each with its number."""
    values = {path: badness(sound) for path, sound in sounds.items()}
    bad = sorted((path for path in values if values[path] > 0), key=lambda path: -values[path])
    return [(path, detail(sounds[path])) for path in bad]


def judge_clipping(section: str, speaker: str, sounds: _Sounds) -> list[Finding]:
    """Peaks cut off at one level."""
    sounds = _heard(sounds)
    cut, total = sum(s.clipped * s.seconds for s in sounds.values()), sum(s.seconds for s in sounds.values())

    def badness(sound: "Levels") -> float:
        others = (cut - sound.clipped * sound.seconds) / max(total - sound.seconds, 1e-9)
        limit = _CLIPPED_ALWAYS if _HOT < others < _CLIPPED_VOICE else _CLIPPED
        return max(sound.clipped if sound.clipped >= limit else 0.0, sound.flattened)

    def detail(sound: "Levels") -> str:
        if sound.clipped >= sound.flattened:
            return f"{100 * sound.clipped:.1f} % of its loud peaks"
        return f"flat at one level for {100 * sound.flattened:.1f} % of its loud time"

    place = (section, "clipping", speaker)
    if found := _worst_first(sounds, badness, detail):
        strong = [path for path, _ in found if _is_strongly_clipped(sounds[path])]
        remedy = "Record them again at a lower level, or leave them out: no later step brings the peaks back"
        return [verdict(place, grade(strong, _seconds(sounds)), found, len(sounds), "clipped", remedy)]
    found = _worst_first(sounds, lambda sound: sound.clipped, detail)
    return [verdict(place, "info", found, len(sounds), "hot, with a few peaks cut off")] if found else []


def judge_noise(section: str, speaker: str, sounds: _Sounds) -> list[Finding]:
    """Hiss and hum."""
    sounds, place = _heard(sounds), (section, "noise", speaker)

    def parts(sound: "Levels") -> list[tuple[float, float, bool, str]]:
        """(dB below the voice, limit, whether it is as steady as noise, name)"""
        found = []
        if sound.hiss:
            found.append((sound.hiss.below_db, _HISS_DB, sound.hiss.is_steady, "hiss of 5 to 8 kHz"))
        if sound.mid_hiss:
            found.append((sound.mid_hiss.below_db, _MID_HISS_DB, sound.mid_hiss.is_steady, "hiss of 2.5 to 5 kHz"))
        if sound.hum_db is not None:
            found.append((sound.hum_db, _HUM_LIMIT_DB, True, "mains hum"))
        return [part for part in found if part[0] < part[1]]

    def worst(sound: "Levels") -> tuple[float, float, bool, str] | None:
        # Cutting off its peaks brings a voice nearer to its pauses: that is no noise.
        is_comparable = not sound.flattened and sound.clipped < _STRONGLY_CLIPPED
        return min((part for part in parts(sound) if part[2] and is_comparable), default=None)

    def detail(sound: "Levels") -> str:
        level, _, _, name = worst(sound)
        return f"{name} {level:.0f} dB below the voice"

    findings = []
    if found := _worst_first(sounds, lambda sound: 100 - worst(sound)[0] if worst(sound) else 0.0, detail):
        strong = [path for path, _ in found if worst(sounds[path])[0] < _STRONG_NOISE_DB]
        remedy = "Record in a quieter room, closer to the microphone, or clean them with a noise remover before step 1"
        findings.append(verdict(place, grade(strong, _seconds(sounds)), found, len(sounds), "noisy", remedy))
    unknown = [
        (path, "without pauses, too short or too clipped for it")
        for path, sound in sounds.items()
        if not worst(sound) and (parts(sound) or not (sound.hiss or sound.mid_hiss))
    ]
    if unknown:
        findings.append(verdict(place, "info", unknown, len(sounds), "not measured for noise"))
    return findings


def judge_offset(section: str, speaker: str, sounds: _Sounds) -> list[Finding]:
    """A mean that is not zero."""
    sounds, level = _heard(sounds), "info" if section == "recordings" else "warning"
    found = _worst_first(
        sounds,
        lambda sound: abs(sound.offset) if abs(sound.offset) > _OFFSET else 0.0,
        lambda sound: f"{100 * sound.offset:+.1f} % of its peak",
    )
    remedy = "python resample.py takes it out" if section == "recordings" else "python resample.py --overwrite"
    place = (section, "offset", speaker)
    return [verdict(place, level, found, len(sounds), "off zero (DC)", remedy)] if found else []


def judge_loudness(section: str, speaker: str, sounds: _Sounds) -> list[Finding]:
    """What is so quiet that 16 bits are heard, and what is far louder or quieter than the speaker's other sounds."""
    sounds, place, findings = _heard(sounds), (section, "level", speaker), []
    quiet = _worst_first(
        sounds,
        lambda sound: 1 / sound.peak if sound.peak < _QUIET_PEAK else 0.0,
        lambda sound: f"peak {100 * sound.peak:.2f} % of full scale",
    )
    if quiet:
        remedy = "Record them again at a higher level: full level raises the noise with the voice"
        findings.append(verdict(place, "warning", quiet, len(sounds), "very quiet", remedy))
    middle = median(sound.loudness_db for sound in sounds.values()) if sounds else 0.0
    spread = _worst_first(
        sounds,
        lambda sound: max(0.0, abs(sound.loudness_db - middle) - _SPREAD_DB),
        lambda sound: f"{sound.loudness_db - middle:+.0f} dB",
    )
    spread = [entry for entry in spread if entry[0] not in dict(quiet)]
    if spread and section == "recordings":
        state = "far from the speaker's usual level; resample.py brings all to full level"
        findings.append(verdict(place, "info", spread, len(sounds), state))
    elif spread and not quiet:
        remedy = "Look for a click or a bump that is louder than the voice, cut it out, and python resample.py"
        findings.append(verdict(place, "warning", spread, len(sounds), "far from the speaker's usual level", remedy))
    return findings


def judge_silence(section: str, speaker: str, sounds: _Sounds) -> list[Finding]:
    """Files without sound, mostly silent ones, and long digital silence between sounds."""
    heard = _heard(sounds)

    def badness(path: Path) -> float:
        sound = sounds[path]
        if path not in heard:
            return 3.0
        gap = sound.gap_seconds / sound.seconds if sound.gap_seconds > _LONG_GAP_SECONDS else 0.0
        return max(gap, 1 + sound.silent_share if sound.silent_share > _MOSTLY_SILENT else 0.0)

    def detail(path: Path) -> str:
        sound = sounds[path]
        if path not in heard:
            return "no sound at all"
        if sound.silent_share > _MOSTLY_SILENT:
            return f"silent for {100 * sound.silent_share:.0f} % of its {sound.seconds:.0f} s"
        return f"{sound.gap_seconds:.1f} s of digital silence"

    bad = sorted((path for path in sounds if badness(path) > 0), key=lambda path: -badness(path))
    if not bad:
        return []
    found = [(path, detail(path)) for path in bad]
    level = "info" if section == "recordings" and all(path in heard for path in bad) else "warning"
    remedy = "python resample.py cuts long takes at their silences; delete what has no sound"
    return [verdict((section, "silence", speaker), level, found, len(sounds), "silent or mostly silent", remedy)]


RULES = (judge_clipping, judge_noise, judge_offset, judge_loudness, judge_silence)
