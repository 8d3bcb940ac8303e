"""Audio files in and out: mono float32 arrays, any format soundfile reads (not m4a and other AAC files)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import numpy as np
import soundfile
import soxr

from modules.audio.truncation import refuse_truncated
from modules.errors import AudioError, UsageError
from modules.files import atomic_path

AUDIO_SUFFIXES = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .snd .caf .w64 .rf64 .voc".split()
)
# Audio that people have but libsndfile cannot decode.
UNREADABLE_SUFFIXES = frozenset(".m4a .mp4 .aac .wma .amr .ape .ac3 .webm .mka".split())
_OUTPUT_FORMATS = {"opus": ("OGG", "OPUS"), "aif": ("AIFF", None), "oga": ("OGG", None), "wave": ("WAV", None)}
_LONGEST_WAV = 0x7FFFFF00  # samples of 16 bits
_RATES = range(1000, 1_000_001)  # a header that says anything else is damaged, and resampling from 1 Hz eats all memory


@dataclass(frozen=True)
class AudioInfo:
    """What a header announces."""

    rate: int  # Hz
    n_samples: int  # per channel
    channels: int
    seconds: float


def probe(path: Path | str) -> AudioInfo:
    """Rate, length and channels from the header, without decoding; an AudioError where it is no audio file."""
    with _open(Path(path)) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels, file.frames / file.samplerate)


def read(path: Path | str) -> tuple[np.ndarray, int]:
    """A whole file as mono: wav (T,) float32, channels averaged, and its rate in Hz; else an AudioError."""
    return np.concatenate(list(read_blocks(path))), probe(path).rate


def read_blocks(path: Path | str, block_seconds: float = 10.0) -> Iterator[np.ndarray]:
    """The file in mono float32 blocks, the last one shorter; an AudioError where the reading reaches damage."""
    path = Path(path)
    with _open(path) as file:
        refuse_truncated(path)
        announced, rate, done = file.frames, file.samplerate, 0
        if not announced:
            raise AudioError(f"{path}: holds no samples")
        while True:
            try:
                block = file.read(max(1, int(block_seconds * rate)), dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise AudioError(f"{path}: damaged or truncated after {done / rate:.1f} s ({error})") from None
            if not len(block):
                break
            mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
            if not np.isfinite(mono).all():
                at = (done + int(np.flatnonzero(~np.isfinite(mono))[0])) / rate
                raise AudioError(f"{path}: has samples that are not numbers (NaN or infinity), the first at {at:.2f} s")
            done += len(mono)
            yield np.ascontiguousarray(mono)
        # mp3 headers round to whole packets and may count the encoder's padding: allow for two packets and 1 %.
        if announced - done > max(2 * 1152, announced // 100):
            raise AudioError(f"{path}: truncated: {done / rate:.1f} s of the {announced / rate:.1f} s it announces")


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
            soundfile.write(temporary, to_int16(wav), rate, subtype="PCM_16", format="WAV")
    except (OSError, soundfile.SoundFileError) as error:
        raise AudioError(f"{path}: cannot be written ({error})") from None


class StreamWriter:
    """A context manager that writes a mono file block by block; an exception inside leaves an older result as it is.

    Formats are soundfile's containers in any case, and "opus"; tags have soundfile's names ("title", "artist", ...).
    """

    def __init__(self, path: Path | str, rate: int, format: str, tags: dict[str, str] | None = None) -> None:
        self.path, self._rate, self._tags = Path(path), rate, tags or {}
        self.n_samples = 0
        self._format, self._subtype = _OUTPUT_FORMATS.get(format.lower(), (format.upper(), None))
        known = soundfile.available_formats()
        if self._format not in known:
            names = ", ".join(sorted(name.lower() for name in known))
            raise UsageError(f"unknown output format {format!r}. Known: {names}, opus.")
        self._subtype = self._subtype or soundfile.default_subtype(self._format)
        if not soundfile.check_format(self._format, self._subtype):
            raise UsageError(f"output format {format!r} cannot be written here. Use wav, flac or ogg.")

    def __enter__(self) -> "StreamWriter":
        self._replacement = atomic_path(self.path)
        temporary = self._replacement.__enter__()
        try:
            self._file = soundfile.SoundFile(temporary, "w", self._rate, 1, self._subtype, format=self._format)
        except (OSError, soundfile.SoundFileError) as error:
            self._replacement.__exit__(type(error), error, error.__traceback__)
            problem = f"cannot be written as {self._format} at {self._rate} Hz ({error})"
            raise AudioError(f"{self.path}: {problem}. Try another format.") from None
        for name, text in self._tags.items():
            with contextlib.suppress(soundfile.SoundFileError):  # a container without room for it
                setattr(self._file, name, text)
        return self

    def write(self, wav: np.ndarray) -> None:
        """Appends (T,) float samples; beyond -1 to 1 they are clipped."""
        if self._format == "WAV" and self.n_samples + len(wav) > _LONGEST_WAV:
            raise AudioError(f"{self.path}: a wav file holds at most 4 GB. Choose flac.")
        # For 16 bits rounded as well: libsndfile itself rounds down, which shifts all by half a step.
        samples = to_int16(wav) if self._subtype == "PCM_16" else np.clip(wav, -1.0, 1.0)
        try:
            self._file.write(samples)
        except (OSError, RuntimeError, soundfile.SoundFileError) as error:
            raise AudioError(f"{self.path}: writing failed ({error}). Is the disk full?") from None
        self.n_samples += len(wav)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        self._file.close()
        return bool(self._replacement.__exit__(kind, error, trace))


def _open(path: Path) -> soundfile.SoundFile:
    try:
        if path.is_dir():
            raise AudioError(f"{path}: is a folder, expected an audio file")
        stat = path.stat()
        if not S_ISREG(stat.st_mode):  # reading a pipe would wait for ever
            raise AudioError(f"{path}: is not a regular file")
        if not stat.st_size:
            raise AudioError(f"{path}: is empty (0 bytes)")
        with path.open("rb"):
            pass
        file = soundfile.SoundFile(path)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except PermissionError:
        raise AudioError(f"{path}: may not be read (permission denied)") from None
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        if path.suffix.lower() in UNREADABLE_SUFFIXES:
            advice = f'soundfile cannot read this format. Convert it: ffmpeg -i "{path.name}" "{path.stem}.flac"'
            raise AudioError(f"{path}: {advice}") from None
        reason = str(error).split(": ", 1)[-1].strip().rstrip(".")
        if "does not exist" in reason:  # what libsndfile says when its mp3 decoder finds nothing
            reason = "no audio found in it"
        raise AudioError(f"{path}: not an audio file that can be read ({reason})") from None
    if file.format != "RAW" and file.samplerate in _RATES:
        return file
    file.close()
    if file.format == "RAW":  # libsndfile takes any .au or .snd file without a header for 8 kHz telephone sound
        raise AudioError(f"{path}: not an audio file that can be read (no header)")
    wanted = f"expected {_RATES[0]} to {_RATES[-1]} Hz; it may be damaged"
    raise AudioError(f"{path}: its header says {file.samplerate} Hz, {wanted}")
