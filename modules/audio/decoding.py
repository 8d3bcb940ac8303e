"""Audio files decoded: all that is there, or a word on what is not.

Uncompressed files and Ogg are read by libsndfile, which is exact and fast but believes headers: where header and file
disagree it gets the samples alone, and of joined files one after the other. The rest (mp3, flac, AAC, films, ...) is
for `modules/audio/ffmpeg.py`. How channels become one is for `modules/audio/mono.py`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

import numpy as np
import soundfile

from modules.audio.containers import OggPages, Part, find_flac, find_pages, find_parts
from modules.audio.ffmpeg import open_ffmpeg
from modules.audio.sound import ADVICE, FETCH, OPEN_END, FileRange, Sound, check_rate, compare_lengths, system_name
from modules.errors import AudioError, reason_of

_BLOCK = 1 << 16  # samples per channel that libsndfile reads at once
_WIDTHS = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_WIDTHS |= {"ULAW": 1, "ALAW": 1}  # bytes of a sample


def open_sound(path: Path) -> Sound:
    """What a file holds; an AudioError where it is no audio file, or so truncated that it should be fetched again."""
    try:
        if path.is_dir():
            raise AudioError(f"{path}: is a folder, expected an audio file")
        stat = path.stat()
        if not S_ISREG(stat.st_mode):  # reading a pipe would wait for ever
            raise AudioError(f"{path}: is not a regular file")
        if not stat.st_size:
            raise AudioError(f"{path}: is empty (0 bytes)")
        with path.open("rb") as file:
            magic = file.read(4)
            if magic == b"fLaC":
                starts = find_flac(file, stat.st_size)
                ends = [*starts[1:], stat.st_size]
                return _join(path, [open_ffmpeg(path, start, end) for start, end in zip(starts, ends)])
            if magic == b"OggS":
                return _open_ogg(path, find_pages(file, stat.st_size), stat.st_size)
            if parts := find_parts(file, stat.st_size):
                return _join(path, [_open_part(path, part) for part in parts])
        return open_ffmpeg(path)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except PermissionError:
        raise AudioError(f"{path}: may not be read (permission denied)") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({reason_of(error, path)})") from None


def _open_part(path: Path, part: Part) -> Sound:
    """The samples of one container, as many as there are whatever its header says."""
    with FileRange(path, part.start, part.end) as window:
        try:
            with _open_soundfile(path, window) as file:
                rate, channels, subtype = check_rate(path, file.samplerate), file.channels, file.subtype
                endian, n_samples, kind = file.endian, file.frames, file.format
        except AudioError as error:
            # Elsewhere ffmpeg would guess what the header means. "Not recognised" is BW64, which libsndfile lacks.
            if part.agrees and not re.search("unimplemented|unsupported|not recognised", str(error)):
                raise
            return _open_disagreeing(path, part)
    frame = _WIDTHS.get(subtype, 0) * channels
    if not frame and part.agrees and not subtype.startswith("MPEG"):  # coded in packets, as ADPCM is
        return Sound(rate, channels, n_samples, lambda: _read_soundfile(path, part.start, part.end))
    if not frame:
        return _open_disagreeing(path, part)
    there, announced = (part.stop - part.first) // frame, part.announced
    if part.agrees and n_samples == there:
        sound = Sound(rate, channels, there, lambda: _read_soundfile(path, part.start, part.end))
    else:
        endian = {"FILE": "BIG" if kind in ("AIFF", "AU", "CAF") else "LITTLE"}.get(endian, endian)
        raw = dict(samplerate=rate, channels=channels, subtype=subtype, endian=endian, format="RAW")
        sound = Sound(rate, channels, there, lambda: _read_soundfile(path, part.first, part.stop, raw))
    seconds = there / rate
    if announced is None:
        sound.note(OPEN_END)
    elif not part.agrees:
        compare_lengths(path, sound, announced / frame / rate, seconds)
    return sound


def _open_disagreeing(path: Path, part: Part) -> Sound:
    """A container that libsndfile does not read: ffmpeg reads to the end where the header leaves the size open."""
    if part.agrees and part.start == 0:
        return open_ffmpeg(path)
    if part.announced is None and part.start == 0:
        sound = open_ffmpeg(path)
        sound.note(OPEN_END)
        return sound
    there, problem = part.stop - part.first, f"its header announces {part.announced} bytes of samples"
    if part.announced and part.announced > there:
        raise AudioError(f"{path}: truncated: {problem}, but only {there} are there. {FETCH}.")
    problem += f", but {there} are there"
    raise AudioError(f"{path}: {problem}. Save it as plain wav or flac with the program that plays it.")


def _open_ogg(path: Path, pages: OggPages, size: int) -> Sound:
    """One Ogg stream, or several that are joined."""
    if not pages.is_whole:
        raise AudioError(f"{path}: truncated: the end of the stream is missing. {FETCH}.")
    sounds = []
    for start, stop in pages.links:
        try:
            with FileRange(path, start, stop) as window, _open_soundfile(path, window) as file:
                found = check_rate(path, file.samplerate), file.channels, file.frames
        except AudioError:  # Speex, or with a video: ffmpeg reads it
            return open_ffmpeg(path)
        sounds.append(Sound(*found, lambda start=start, stop=stop: _read_soundfile(path, start, stop)))
    if not sounds:
        raise AudioError(f"{path}: not an audio file that can be read (an Ogg file without a stream). {ADVICE}.")
    joined = _join(path, sounds)
    if pages.damage:
        told = f"{len(pages.damage)} damaged or missing pages, the first at {pages.damage[0] / size:.0%} of the file"
        joined.note(f"it has {told}; what they held is left out")
    if not pages.is_marked:
        joined.note("it stops without the mark of its end; if something is missing, copy or download it again")
    return joined


def _join(path: Path, sounds: list[Sound]) -> Sound:
    """Files that somebody joined byte by byte, one after the other."""
    kinds = [(sound.rate, sound.channels) for sound in sounds]
    if len(set(kinds)) > 1:
        told = ", then ".join(f"{rate} Hz, {channels} channels" for rate, channels in dict.fromkeys(kinds))
        raise AudioError(f"{path}: files of different form are joined in it ({told}). Cut it in two.")
    if len(sounds) == 1:
        return sounds[0]
    n_samples = sum(sound.n_samples for sound in sounds) if all(s.n_samples is not None for s in sounds) else None
    joined = Sound(*kinds[0], n_samples, lambda: (block for sound in sounds for block in sound.blocks()))
    for text in dict.fromkeys(text for sound in sounds for text in sound.notes):
        joined.note(text)
    joined.note(f"{len(sounds)} recordings are joined in it; all were taken, one after the other")
    return joined


def _open_soundfile(path: Path, source: "Path | FileRange", **raw: object) -> soundfile.SoundFile:
    try:
        file = soundfile.SoundFile(system_name(source) if isinstance(source, Path) else source, **raw)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        reason = str(error).split(": ", 1)[-1].strip().rstrip(".")
        raise AudioError(f"{path}: not an audio file that can be read ({reason}). {ADVICE}.") from None
    if file.format == "RAW" and not raw:  # libsndfile takes any .au or .snd file without a header for telephone sound
        file.close()
        raise AudioError(f"{path}: not an audio file that can be read (no header). {ADVICE}.")
    return file


def _read_soundfile(path: Path, start: int, stop: int | None, raw: dict | None = None) -> Iterator[np.ndarray]:
    """What libsndfile makes of the bytes from `start` to `stop`."""
    with FileRange(path, start, stop) as window:
        source = path if raw is None and window.is_whole else window  # a path is faster
        with _open_soundfile(path, source, **(raw or {})) as file:
            yield from _blocks_of(path, file)


def _blocks_of(path: Path, file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    rate, announced, done = file.samplerate, file.frames, 0
    while True:
        try:
            block = file.read(_BLOCK, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise AudioError(f"{path}: damaged or truncated after {done / rate:.1f} s ({error}). {FETCH}.") from None
        if not len(block):
            break
        done += len(block)
        yield block
    if done < announced:
        told = f"{done / rate:.1f} s of the {announced / rate:.1f} s it announces"
        raise AudioError(f"{path}: damaged or truncated: {told} can be read. {FETCH}.")
