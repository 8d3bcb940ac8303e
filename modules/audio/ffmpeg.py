"""Everything that libsndfile does not read whole, decoded by ffmpeg: mp3, flac, AAC, films, and many more.

PyAV's wheels carry ffmpeg. It is told of no file but this one, and its own messages are not shown: what cannot be
decoded becomes a note, or an error of ours.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modules.audio.sound import ADVICE, FETCH, FileRange, Sound, check_rate, compare_lengths
from modules.errors import AudioError, UsageError

if TYPE_CHECKING:
    import av

# What a file may be taken for: no playlists and scripts, which name other files, and no pictures and subtitles.
_CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,ircam,loas,matroska,mlp,mov,mp3,"
    "mpc,mpc8,mpeg,mpegts,nistsphere,ogg,oma,paf,qcp,rm,sds,shn,tak,truehd,tta,voc,w64,wav,wv,xwma"
)
# Containers that know how long they are (others estimate it), and the seconds that they may round it up by.
_ROUNDING = {
    "mp3": 0.06,
    "mov": 0.3,
    "matroska": 0.3,
    "asf": 0.6,
    "flac": 0,
    "wv": 0,
    "tta": 0,
    "ape": 0,
    "caf": 0,
    "avi": 0.1,
    "nistsphere": 0,
}
# Decoded samples before the first of the take, where the container has no place to say so.
_DELAYS = {"aac": 1024, "ac3": 256, "eac3": 256, "mp2": 481, "mp2float": 481}
_DELAYED = ("aac", "loas", "mpegts", "flv", "ac3", "eac3", "mp3", "mpeg")
_FEW_PACKETS = 4  # that are left out at the ends, where the encoder needed room
_BARE = ("mp3", "aac", "ac3", "eac3", "loas", "amr", "dts", "gsm", "voc")  # nothing but packets, and tags at the ends
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
    # From version 19 on PyAV reads tags in other encodings by itself; the flag can go with Python 3.11.
    about_tags = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    with part() as file:
        try:
            container = av.open(file, options={"format_whitelist": _CONTAINERS}, **about_tags)
        except (av.error.FFmpegError, ValueError):
            reason = "its content is of no known format, or damaged"
            raise AudioError(f"{path}: not an audio file that can be read ({reason}). {ADVICE}.") from None
        with container:
            stream = container.streams.best("audio")
            if stream is None:
                raise AudioError(f"{path}: holds no sound")
            if stream.codec_context is not None:  # damage shows as an error, not as noise
                stream.codec_context.options = {"err_detect": "crccheck+explode"}
            try:
                yield container, stream
            except av.error.FFmpegError as error:
                raise AudioError(f"{path}: damaged or truncated ({error.strerror}). {FETCH}.") from None


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


@dataclass
class _Tally:
    """What was met on the way through a file."""

    kind: str  # of the container
    n_listed: int  # packets that it lists, 0 where it has no list, or one of samples
    n_packets: int = 0
    n_mute: int = 0  # packets that gave nothing
    n_bytes: int = 0  # in packets
    first: int | None = None  # where the first packet lies
    done: int = 0  # samples
    lost: int = 0  # of them silence in the place of what cannot be decoded
    gap: int = 0  # the same at the end, where nothing follows
    damaged_at: int | None = None  # samples before the first damage

    def add(self, packet: "av.Packet", frames: list["av.AudioFrame"] | None, rate: int) -> None:
        """Takes note of a packet and what came of it."""
        if packet.size:
            self.n_packets += 1
            self.n_mute += frames == []
            self.n_bytes += packet.size
            self.first = packet.pos if self.first is None else self.first
        if frames is None:
            self.damaged_at = self.done if self.damaged_at is None else self.damaged_at
            self.gap += min(round((packet.duration or 0) * (packet.time_base or 0) * rate), 10 * rate)


def _blocks(path: Path, part: Callable[[], FileRange], sound: Sound, announced: float | None) -> Iterator[np.ndarray]:
    """(n, channels) float32 to the end; notes and errors say what is not as it should be."""
    import av

    with _opened(path, part) as (container, stream):
        codec = stream.codec_context.name
        tally = _Tally(container.format.name.split(",")[0], 0 if codec.startswith("pcm_") else stream.frames)
        skip = _DELAYS.get(codec, 0) if tally.kind in _DELAYED else 0
        try:
            for packet, frames in _decoded(container, stream):
                tally.add(packet, frames, sound.rate)
                for frame in frames or ():
                    if tally.gap:  # silence, so that what follows stays where it was
                        yield np.zeros((tally.gap, sound.channels), np.float32)
                        tally.lost, tally.done, tally.gap = tally.lost + tally.gap, tally.done + tally.gap, 0
                    block = _samples(path, sound, frame, tally.done)[skip:]
                    skip = max(0, skip - frame.samples)
                    tally.done += len(block)
                    yield block
        except av.error.FFmpegError as error:
            seconds = tally.done / sound.rate
            raise AudioError(
                f"{path}: damaged or truncated after {seconds:.1f} s ({error.strerror}). {FETCH}."
            ) from None
    _judge(path, sound, announced, tally)


def _judge(path: Path, sound: Sound, announced: float | None, tally: _Tally) -> None:
    """Notes what is not there, or not as it should be; an AudioError where that is too much."""
    seconds, size = tally.done / sound.rate, path.stat().st_size
    if tally.lost > _LARGEST_LOSS * tally.done:
        raise AudioError(f"{path}: damaged: {tally.lost / sound.rate:.1f} of its {seconds:.1f} s cannot be decoded")
    if announced is not None:
        compare_lengths(path, sound, announced, seconds, _ROUNDING[tally.kind])
    if tally.kind == "mov" and tally.n_packets + _FEW_PACKETS < tally.n_listed < size:
        taken = f"{tally.n_packets} of its {tally.n_listed} packets were taken"
        sound.note(f"it was cut by a list of edits; {taken}, as players do")
    if tally.kind in _BARE and tally.n_bytes < (1 - _LARGEST_LOSS) * (size := size - (tally.first or 0)):
        sound.note(f"{1 - tally.n_bytes / size:.0%} of its bytes are no sound that can be decoded, and were left out")
    if tally.n_mute > max(_FEW_PACKETS, tally.n_packets // 20):
        sound.note(f"{tally.n_mute} of its {tally.n_packets} packets gave no sound; it may be damaged")
    if tally.damaged_at is not None:
        told = " and were taken as silence" if tally.lost else ""
        told = f"{(tally.lost + tally.gap) / sound.rate:.2f} s cannot be decoded{told}"
        sound.note(f"it is damaged at {tally.damaged_at / sound.rate:.1f} s; {told}")


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
