"""Audio files in and out: float32 arrays, mono unless said otherwise, any format that libsndfile or ffmpeg read."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from modules.audio.decoding import open_sound
from modules.audio.m4a import M4aFile
from modules.audio.mono import MonoFile
from modules.audio.sound import system_name
from modules.errors import AudioError, UsageError, reason_of
from modules.files import atomic_path

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .snd .caf .w64 .rf64 .bwf .voc "  # recorders, studios
    ".m4a .m4b .mp4 .m4v .mov .3gp .3g2 .aac .adts .amr .awb .mkv .mka .webm .avi .flv .ts .mpg .mpeg .mp2 .wma .wmv "
    ".asf .wv .ape .tta .tak .shn .mpc .ac3 .eac3 .dts .mlp .dsf .oma .qcp .ra .rm .spx .ogv .ogx .weba .mpga".split()
)
_OUTPUT_FORMATS = {"opus": ("OGG", "OPUS"), "aif": ("AIFF", None), "oga": ("OGG", None), "wave": ("WAV", None)}
_LONGEST_WAV = 0x7FFFFF00  # samples of 16 bits


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds."""

    rate: int  # Hz
    n_samples: int  # per channel
    channels: int
    seconds: float


def probe(path: Path | str) -> AudioInfo:
    """Rate, length and channels of what reading gives; an AudioError where it is no audio file.

    A file whose header cannot be trusted with its length is decoded for it.
    """
    sound = open_sound(Path(path))
    n_samples = sum(map(len, sound.blocks())) if sound.n_samples is None else sound.n_samples
    return AudioInfo(sound.rate, n_samples, sound.channels, n_samples / sound.rate)


def read(path: Path | str) -> tuple[np.ndarray, int]:
    """A whole file as mono: wav (T,) float32 and its rate in Hz; else an AudioError. What is unusual is logged."""
    file = MonoFile(Path(path))
    wav = np.concatenate(list(file.blocks()))
    for text in file.notes:
        logger.warning("%s: %s", path, text)
    return wav, file.rate


def read_blocks(path: Path | str, block_seconds: float = 10.0) -> Iterator[np.ndarray]:
    """The file in mono float32 blocks, the last one shorter; an AudioError where the reading reaches damage."""
    return MonoFile(Path(path)).blocks(block_seconds)


def load(path: Path | str, rate: int) -> np.ndarray:
    """A whole file as mono at `rate` Hz: wav (T,) float32."""
    wav, found = read(path)
    return resample(wav, found, rate)


def resample(wav: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Band-limited resampling by soxr at its high quality: (T,) to (about T * to_rate / from_rate,), float32."""
    if from_rate == to_rate:
        return wav
    return soxr.resample(wav, from_rate, to_rate, quality="HQ").astype(np.float32, copy=False)


def to_int16(wav: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as int16 with 1.0 = 32767: rounded (no bias towards zero) and clipped (no wrap)."""
    return np.clip(np.rint(wav * 32767.0), -32768, 32767).astype(np.int16)


def write(path: Path | str, wav: np.ndarray, rate: int) -> None:
    """Writes a mono 16-bit WAV, whole or not at all."""
    try:
        with atomic_path(path) as temporary:
            soundfile.write(system_name(temporary), to_int16(wav), rate, subtype="PCM_16", format="WAV")
    except (OSError, RuntimeError) as error:
        raise _unwritten(Path(path), error) from None


def _unwritten(path: Path, error: Exception) -> AudioError:
    """Why a file could not be written: libsndfile does not say, so the folder is asked."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refusal:
        error = refusal
    return AudioError(f"{path}: cannot be written ({reason_of(error, path)})")


class StreamWriter:
    """A context manager that writes a file block by block; an exception inside leaves an older result as it is.

    Formats are soundfile's containers in any case, "opus" and "m4a"; tags have soundfile's names ("title", ...).
    """

    def __init__(
        self,
        path: Path | str,
        rate: int,
        format: str,
        tags: dict[str, str] | None = None,
        channels: int = 1,
        subtype: str | None = None,  # of the samples, as soundfile names it; None for the format's usual one
    ) -> None:
        self.path, self._rate, self._channels, self._tags = Path(path), rate, channels, tags or {}
        self.n_samples = 0
        self._format, self._subtype = _OUTPUT_FORMATS.get(format.lower(), (format.upper(), None))
        if self._format == "M4A":
            return
        known = soundfile.available_formats()
        if self._format not in known:
            names = ", ".join(sorted(name.lower() for name in known))
            raise UsageError(f"unknown output format {format!r}. Known: {names}, m4a, opus.")
        self._subtype = subtype or self._subtype or soundfile.default_subtype(self._format)
        if not soundfile.check_format(self._format, self._subtype):
            raise UsageError(f"output format {format!r} cannot be written here. Use wav, flac or ogg.")

    def __enter__(self) -> "StreamWriter":
        self._replacement = atomic_path(self.path)
        temporary = self._replacement.__enter__()
        try:
            self._file = self._open(temporary)
        except (OSError, soundfile.SoundFileError) as error:
            self._replacement.__exit__(type(error), error, error.__traceback__)
            if "System error" in str(error):  # the format is not to blame
                raise _unwritten(self.path, error) from None
            problem = f"cannot be written as {self._format} at {self._rate} Hz ({error})"
            raise AudioError(f"{self.path}: {problem}. Try another format.") from None
        return self

    def _open(self, path: Path) -> soundfile.SoundFile | M4aFile:
        if self._format == "M4A":
            return M4aFile(path, self._rate, self._channels, self._tags)
        form = {"subtype": self._subtype, "format": self._format}
        file = soundfile.SoundFile(system_name(path), "w", self._rate, self._channels, **form)
        for name, text in self._tags.items():
            with contextlib.suppress(soundfile.SoundFileError):  # a container without room for it
                setattr(file, name, text)
        return file

    def write(self, wav: np.ndarray) -> None:
        """Appends (T,) or (T, C) samples: float ones, clipped beyond -1 to 1, or int32 ones as they are."""
        if self._format == "WAV" and (self.n_samples + len(wav)) * self._channels > _LONGEST_WAV:
            raise AudioError(f"{self.path}: a wav file holds at most 4 GB. Choose flac.")
        # For 16 bits rounded as well: libsndfile itself rounds down, which shifts all by half a step.
        if wav.dtype == np.int32:
            samples = wav
        else:
            samples = to_int16(wav) if self._subtype == "PCM_16" else np.clip(wav, -1.0, 1.0)
        try:
            self._file.write(samples)
        except (OSError, RuntimeError) as error:
            raise _unwritten(self.path, error) from None
        self.n_samples += len(wav)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        try:
            self._file.close()
        except (OSError, RuntimeError) as problem:  # the last samples and the header are written now
            failure = _unwritten(self.path, problem)
            self._replacement.__exit__(type(failure), failure, None)
            raise failure from None
        return bool(self._replacement.__exit__(kind, error, trace))
