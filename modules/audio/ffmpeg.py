"""Everything that libsndfile does not read whole, decoded by ffmpeg: mp3, flac, AAC, films, and many more.

PyAV's wheels carry ffmpeg. It is told of no file but this one, and its own messages are not shown: what cannot be
decoded becomes a note, or an error of ours.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modules.audio.sound import FileRange, Sound, check_rate, compare_lengths
from modules.errors import AudioError, UsageError

if TYPE_CHECKING:
    import av

# What a file may be taken for: no playlists and scripts, which name other files, and no pictures and subtitles.
_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,loas,matroska,mlp,mov,mp3,mpc,"
    "mpc8,mpeg,mpegts,ogg,oma,qcp,rm,shn,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# Containers that know how long they are (others estimate it), and the seconds that they may round it up by.
_ROUNDING = {"mp3": 0.06, "mov": 0.1, "matroska": 0.3, "asf": 0.6, "flac": 0, "wv": 0, "tta": 0, "ape": 0, "caf": 0}
# Decoded samples before the first of the take, where the container has no place to say so.
_DELAYS = {"aac": 1024, "ac3": 256, "eac3": 256}
_DELAYED = ("aac", "loas", "mpegts", "flv", "ac3", "eac3")
_FEW_PACKETS = 4  # that are left out at the ends, where the encoder needed room
_LARGEST_LOSS = 0.1  # share of a file that may be undecodable


def open_ffmpeg(path: Path, start: int = 0, stop: int | None = None) -> Sound:
    """What a file, or a range of its bytes, holds; an AudioError where ffmpeg finds no sound that it can decode."""
    part = partial(FileRange, path, start, stop)
    with _opened(path, part) as (container, stream):
        announced = _announced(path, container, stream)
        frame = next((frame for _, frames in _decoded(container, stream) for frame in frames or ()), None)
        if frame is None:
            codec = f" ({stream.codec_context.name})" if stream.codec_context else ""
            advice = "It may be truncated, damaged or protected. Save it as wav or flac with the program that plays it"
            raise AudioError(f"{path}: its sound{codec} cannot be decoded. {advice}.")
        sound = Sound(check_rate(path, frame.sample_rate), frame.layout.nb_channels, None, lambda: iter(()))
        tracks = container.streams.audio
        if len(tracks) > 1:
            number = [track.index for track in tracks].index(stream.index) + 1
            sound.note(f"it has {len(tracks)} audio tracks; only number {number} was taken")
    sound.blocks = lambda: _blocks(path, part, sound, announced)
    return sound


@contextlib.contextmanager
def _opened(
    path: Path, part: Callable[[], FileRange]
) -> Iterator[tuple["av.container.InputContainer", "av.AudioStream"]]:
    """The file and its audio track: the one that is marked as the usual one, else the best, as players choose."""
    try:
        import av
    except ImportError as error:
        raise UsageError(f"{path}: reading it needs PyAV ({error}). Run: pip install -r requirements.txt") from None
    with part() as file:
        try:
            container = av.open(file, metadata_errors="ignore", options={"format_whitelist": _CONTAINERS})
        except (av.error.FFmpegError, ValueError):
            reason = "its content is of no known format, or damaged"
            raise AudioError(f"{path}: not an audio file that can be read ({reason})") from None
        with container:
            stream = container.streams.best("audio")
            if stream is None:
                raise AudioError(f"{path}: holds no sound")
            if stream.codec_context is not None:  # damage shows as an error, not as noise
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            yield container, stream


def _decoded(
    container: "av.container.InputContainer", stream: "av.AudioStream"
) -> Iterator[tuple["av.Packet", list["av.AudioFrame"] | None]]:
    """Each packet with the frames that come of it, or None where it cannot be decoded."""
    import av

    for packet in container.demux(stream):
        try:
            yield packet, packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            yield packet, None


def _blocks(path: Path, part: Callable[[], FileRange], sound: Sound, announced: float | None) -> Iterator[np.ndarray]:
    """(n, channels) float32 to the end; notes and errors say what is not as it should be."""
    import av

    rate, done, lost, gap, first_lost, n_packets, n_mute = sound.rate, 0, 0, 0, None, 0, 0
    with _opened(path, part) as (container, stream):
        kind = container.format.name.split(",")[0]
        skip = _DELAYS.get(stream.codec_context.name, 0) if kind in _DELAYED else 0
        n_listed = stream.frames
        try:
            for packet, frames in _decoded(container, stream):
                n_packets += packet.size > 0
                n_mute += packet.size > 0 and frames == []
                if frames is None:
                    first_lost = done / rate if first_lost is None else first_lost
                    gap += min(round((packet.duration or 0) * (packet.time_base or 0) * rate), 10 * rate)
                for frame in frames or ():
                    if gap:  # silence, so that what follows stays where it was
                        yield np.zeros((gap, sound.channels), np.float32)
                        lost, done, gap = lost + gap, done + gap, 0
                    block = _samples(path, sound, frame, done)[skip:]
                    skip = max(0, skip - frame.samples)
                    done += len(block)
                    yield block
        except av.error.FFmpegError as error:
            raise AudioError(f"{path}: damaged or truncated after {done / rate:.1f} s ({error.strerror})") from None
    if lost > _LARGEST_LOSS * done:
        raise AudioError(f"{path}: damaged: {lost / rate:.1f} of its {done / rate:.1f} s cannot be decoded")
    if announced is not None:
        compare_lengths(path, sound, announced, done / rate, _ROUNDING[kind])
    if kind == "mov" and n_packets + _FEW_PACKETS < n_listed < path.stat().st_size:
        sound.note(f"it was cut by a list of edits; {n_packets} of its {n_listed} packets were taken, as players do")
    if n_mute > max(_FEW_PACKETS, n_packets // 20):
        sound.note(f"{n_mute} of its {n_packets} packets gave no sound; it may be damaged")
    if first_lost is not None:
        told = f"{(lost + gap) / rate:.2f} s cannot be decoded" + (" and were taken as silence" if lost else "")
        sound.note(f"it is damaged at {first_lost:.1f} s; {told}")


def _samples(path: Path, sound: Sound, frame: "av.AudioFrame", done: int) -> np.ndarray:
    """A frame as (n, channels) float32, full scale at 1."""
    found = frame.sample_rate, frame.layout.nb_channels
    if found != (sound.rate, sound.channels):
        told = f"{found[0]} Hz with {found[1]} channels instead of {sound.rate} Hz with {sound.channels}"
        raise AudioError(f"{path}: from {done / sound.rate:.1f} s on it has {told}. Cut it in two there.")
    block = frame.to_ndarray()  # (channels, n), or (1, n * channels) with the channels by turns
    block = block.T if frame.format.is_planar else block.reshape(-1, sound.channels)
    if block.dtype == np.uint8:
        return (block.astype(np.float32) - 128) / 128
    if block.dtype.kind == "i":
        return block.astype(np.float32) / np.float32(-int(np.iinfo(block.dtype).min))
    return block.astype(np.float32, copy=False)


def _announced(path: Path, container: "av.container.InputContainer", stream: "av.AudioStream") -> float | None:
    """Seconds that the header promises; None where it says nothing, or what it says is an estimate."""
    kind = container.format.name.split(",")[0]
    if kind not in _ROUNDING or (kind == "mp3" and not _has_length_frame(path, container, stream)):
        return None
    if stream.duration:
        return float(stream.duration * stream.time_base)
    is_alone = len(container.streams) == 1  # else it is the length of a film
    return container.duration / 1e6 if container.duration and is_alone else None


def _has_length_frame(path: Path, container: "av.container.InputContainer", stream: "av.AudioStream") -> bool:
    """Whether an mp3 begins with a frame that tells how many follow; ffmpeg takes the first packet from behind it."""
    first = next((packet.pos for packet in container.demux(stream) if packet.pos is not None), 0)
    container.seek(0)
    with path.open("rb") as file:
        file.seek(max(0, first - 1500))
        head = file.read(min(first, 1500))
    match = re.search(rb"(?:Xing|Info)\0\0\0(.)(....)|VBRI", head, re.DOTALL)
    return bool(match and (match[1] is None or (match[1][0] & 1 and any(match[2]))))
