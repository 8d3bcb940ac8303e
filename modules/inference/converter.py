"""VoiceConverter: a song from file to file, chunk by chunk, in memory that does not grow with its length.

main -> run_jobs -> VoiceConverter.convert -> _blocks -> _synthesize -> Pipeline -> Voice.infer
"""

import contextlib
import ctypes
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from modules.audio.loudness import limit_peaks
from modules.batching import halve_on_out_of_memory
from modules.errors import AudioError, DataError, UsageError, UserError
from modules.f0.histogram import PitchHistogram
from modules.inference.chunks import Chunk, join, plan_chunks, silence, split_chunk, trim, unfinished
from modules.inference.extension import comfort_of
from modules.inference.options import ConversionOptions
from modules.inference.pipeline import Pipeline
from modules.inference.report import ConversionReport
from modules.inference.resume import PartialResult
from modules.inference.song_pitch import SongPitch, pitch_of_part
from modules.inference.stream import Song
from modules.text import printable
from modules.weights.card import HISTOGRAMS, song_metadata

logger = logging.getLogger(__name__)

Progress = Callable[[float, float], None]  # is called with the seconds that are done and with all seconds
SHORTEST_SPLIT_SECONDS = 4.0  # a chunk shorter than this is not cut again when memory runs out


class VoiceConverter:
    """Converts songs to a trained voice."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.audio = pipeline, pipeline.audio
        refiner_frames = 0 if pipeline.refiner is None else pipeline.refiner.batch_frames
        self._batch_frames = max(pipeline.batch_frames, refiner_frames)  # worth collecting; less once memory runs out
        self._longest_seconds = float("inf")  # of a chunk; found when memory runs out, and kept
        self.voices = _notes_on(pipeline.card)  # the notes that each speaker was trained on, where they are known

    def check(self, options: ConversionOptions) -> None:
        """Refuses a request that this voice cannot fulfil."""
        pipeline, wanted = self.pipeline, [options.speaker]
        if options.mix is not None:
            used = {track.speaker for track in options.mix.tracks}
            wanted = [name for name, number in pipeline.speakers.items() if number in used]
        for speaker in wanted:
            if speaker not in pipeline.speakers:
                known = ", ".join(map(printable, pipeline.speakers))
                raise UsageError(f"-s/--spk_list: the model has no speaker {speaker!r}. It has: {known}.")
            if pipeline.refiner_speakers is not None and speaker not in pipeline.refiner_speakers:
                known = ", ".join(map(printable, pipeline.refiner_speakers))
                raise UsageError(
                    f"-s/--spk_list: the diffusion model has no speaker {speaker!r}. It has: {known}. Leave out "
                    "-shd, or use a diffusion model of that voice."
                )
        if options.retrieves and pipeline.retriever is None:
            raise UsageError("-cr/--cluster_infer_ratio: no cluster centres or index are loaded; give -cm")
        if options.predict_f0 and not pipeline.can_predict_f0:
            raise UsageError(
                "-a/--auto_predict_f0: this voice comes without a pitch decoder (model.use_automatic_f0_prediction "
                "is false, or it is an .onnx file); leave -a out"
            )
        if options.extend_range:
            pipeline.comfort = comfort_of(pipeline.card, self.voices, options.speaker)

    def key(self, path_in: Path, options: ConversionOptions) -> str:
        """Equal for requests that give the same result: the file as it is now, the options, the voice's files."""
        return request_key(path_in, options, self.pipeline.identity)

    def convert(
        self,
        path_in: Path,
        path_out: Path,
        options: ConversionOptions,
        progress: bool = True,
        resume: bool = False,
        on_progress: Progress | None = None,
    ) -> ConversionReport:
        """Converts a file of any length, writing as it goes; the result takes its name when it is whole.

        The result is mono at the model's rate; an older one is replaced. With `resume` it goes on where an interrupted
        run of the same request stopped. After an `AudioError` what was finished is kept.
        """
        started = time.perf_counter()
        self.check(options)
        rate, report = self.audio.sampling_rate, ConversionReport()
        song = Song.from_file(path_in, rate)
        pitch = self._find_pitch(song, options, report, progress)
        partial_result = PartialResult(path_out, self.key(path_in, options), resume)
        report.resumed_seconds = partial_result.n_samples / rate
        if report.resumed_seconds:
            logger.info("%s: going on after %s", path_in, _clock(report.resumed_seconds))
        total, n_voiced = round(song.seconds), 0
        bar = tqdm(
            total=total,
            unit="s",
            desc=printable(path_in.name, 60),
            leave=False,
            dynamic_ncols=True,
            disable=not progress,
        )
        with partial_result as result, bar:
            try:
                for wav, is_voiced in self._blocks(song, options, report, result.n_samples, pitch):
                    result.write(wav)
                    n_voiced += len(wav) * is_voiced
                    bar.update(result.n_samples // rate - bar.n)
                    if on_progress is not None:
                        on_progress(min(result.n_samples / rate, song.seconds), song.seconds)
                result.finish(rate, options.output_format, self.metadata(path_in, options))
            except UserError as error:
                raise type(error)(f"{error}{_kept(result.n_samples / rate)}") from error
            except KeyboardInterrupt:
                if result.n_samples:
                    logger.warning("%s: its first %s are kept", path_in, _clock(result.n_samples / rate))
                raise
        self._conclude(report, song, options, result.n_samples, n_voiced)
        report.elapsed = time.perf_counter() - started
        return report

    def stream(
        self, song: Song, options: ConversionOptions, report: ConversionReport, on_progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """The converted audio in (T,) float32 blocks; the report is complete when they have come to their end."""
        self.check(options)
        started, n_samples, n_voiced = time.perf_counter(), 0, 0
        pitch = self._find_pitch(song, options, report)
        for wav, is_voiced in self._blocks(song, options, report, 0, pitch):
            n_samples += len(wav)
            n_voiced += len(wav) * is_voiced
            if on_progress is not None:
                on_progress(min(n_samples / song.out_rate, song.seconds), song.seconds)
            yield wav
        self._conclude(report, song, options, n_samples, n_voiced)
        report.elapsed = time.perf_counter() - started

    def write_f0(self, path_in: Path, options: ConversionOptions) -> None:
        """Writes the F0 curve of a song that is converted already, where one is wanted and not there."""
        if options.melody.f0_out is not None and not options.melody.f0_out.exists():
            song = Song.from_file(path_in, self.audio.sampling_rate)
            self._find_pitch(song, options, ConversionReport(), progress=True)

    def _find_pitch(
        self, song: Song, options: ConversionOptions, report: ConversionReport, progress: bool = False
    ) -> SongPitch | None:
        """The pitch of a whole song, where that must be known before any of it is sung."""
        if not options.melody.needs_whole_song:
            return None
        chunks, pitch = plan_chunks(song, options), SongPitch(song, self.audio)
        with _explained(song, chunks):
            pitch.predict(chunks, self.pipeline, progress)
        pitch.settle(options, self.pipeline.predictor.name)
        for text in pitch.warnings:
            report.warn(text)
        return pitch

    def _conclude(
        self, report: ConversionReport, song: Song, options: ConversionOptions, n_samples: int, n_voiced: int
    ) -> None:
        """Completes the report of a song of which all is converted."""
        report.warn_of_pitch(song.name, options.transpose, self.pipeline.predictor)
        if options.extend_range:
            report.tell_of_extension(song.name, self.pipeline.comfort)
        report.conclude(song, options, self.voices.get(options.speaker))
        report.seconds, report.voiced_seconds = n_samples / song.out_rate, n_voiced / song.out_rate

    def convert_wav(self, wav: np.ndarray, rate: int, options: ConversionOptions) -> np.ndarray:
        """A clip (T,) float32 in memory, converted: (ceil(T * model rate / rate),) float32 at the model's rate."""
        self.check(options)
        song, report = Song.from_array(wav, rate, self.audio.sampling_rate), ConversionReport()
        pitch = self._find_pitch(song, options, report)
        return np.concatenate([block for block, _ in self._blocks(song, options, report, 0, pitch)])

    def _blocks(
        self,
        song: Song,
        options: ConversionOptions,
        report: ConversionReport,
        n_done: int = 0,
        pitch: SongPitch | None = None,
    ) -> Iterator[tuple[np.ndarray, bool]]:
        """The converted audio from sample `n_done` on to the input's end, in blocks, each with whether it is voiced."""
        if song.gain < 1:
            text = "%s: the peak %.3g is above full scale; read at %.3g times the level"
            logger.info(text, song.name, 1 / song.gain, song.gain)
        chunks = unfinished(plan_chunks(song, options), song, n_done)
        tail = np.zeros(0, np.float32)
        with contextlib.closing(self._batches(chunks, song, pitch)) as batches:
            for batch in batches:
                wavs = iter(self._synthesize([chunk for chunk in batch if chunk.is_loud], song, options, report))
                for chunk in batch:
                    wav = next(wavs) if chunk.is_loud else silence(chunk, song)
                    wav, tail = join(tail, wav, chunk, song, options.overlap_retain)
                    wav = limit_peaks(wav, song.out_rate)  # two sounds that meet in a join
                    if chunk.is_loud:
                        origin = chunk.read_start - chunk.pad_left
                        report.add_sound(chunk.audio[chunk.start - origin : chunk.fade_start - origin], wav)
                    new = wav[max(0, n_done - song.at(chunk.start)) :]
                    if len(new):
                        yield new, chunk.voiced

    def _batches(self, chunks: list[Chunk], song: Song, pitch: SongPitch | None) -> Iterator[list[Chunk]]:
        """Chunks with their audio and, where the song's `pitch` is known, theirs; as many at once as are worth it."""
        # A predictor on the CPU works in a thread, on the newest chunk while those before it are synthesized.
        ahead = 1 if self.pipeline.predictor_on_cpu else 0
        waiting: list[tuple[Chunk, Future[None] | None]] = []
        with ThreadPoolExecutor(1, "f0") as thread:
            for chunk in chunks:
                job = None
                if chunk.voiced:
                    audio = song.read(chunk.read_start, chunk.read_stop)
                    chunk = replace(chunk, audio=np.pad(audio, (chunk.pad_left, chunk.pad_right)))
                    chunk.f0 = None if pitch is None else pitch.of_chunk(chunk)
                    if ahead and chunk.is_loud:
                        job = thread.submit(self.pipeline.predict_f0, chunk, song.rate)
                waiting.append((chunk, job))
                n_ready = len(waiting) - ahead
                n_frames = sum(self._n_frames(chunk, song) for chunk, _ in waiting[:n_ready])
                if (chunk.voiced or not ahead) and n_ready and n_frames >= self._batch_frames:
                    yield _with_pitch(waiting[:n_ready], song)
                    waiting = waiting[n_ready:]
            if waiting:
                yield _with_pitch(waiting, song)

    def _n_frames(self, chunk: Chunk, song: Song) -> float:
        return 0.0 if chunk.audio is None else len(chunk.audio) / song.rate * self.audio.frame_rate

    def _synthesize(
        self, chunks: list[Chunk], song: Song, options: ConversionOptions, report: ConversionReport
    ) -> list[np.ndarray]:
        """The output of each chunk, exactly as long as its place in the result, with whatever memory there is.

        Too many chunks for the memory are halved; a single one that is too long is cut at its quietest places.
        """
        wavs = None
        if len(chunks) != 1 or _seconds(chunks[0], song) <= self._longest_seconds:
            run = partial(self.pipeline, song=song, options=options)
            on_halve = partial(self._halve_batches, song=song, report=report)
            with contextlib.suppress(torch.OutOfMemoryError), _explained(song, chunks):
                wavs = halve_on_out_of_memory(run, chunks, on_halve)
        if wavs is not None:
            for wav, chunk in zip(wavs, chunks):
                report.add_pitch(chunk.f0, options.transpose)
                report.add_extension(chunk.extension, chunk.f0, self.audio.frame_rate)
                if not options.predict_f0:
                    self._note_doubt(chunk, song, options, report)
                if not np.isfinite(wav).all():
                    place = _place(song, [chunk])
                    raise AudioError(f"{place}: the model produced numbers that are not finite. Try --precision fp32.")
            trimmed = [trim(wav, chunk, song, options) for wav, chunk in zip(wavs, chunks)]
            return [limit_peaks(wav, song.out_rate) for wav in trimmed]
        if len(chunks) > 1:  # one of them is too long even alone
            return [self._synthesize([chunk], song, options, report)[0] for chunk in chunks]
        return [self._synthesize_parts(chunks[0], song, options, report)]

    def _note_doubt(self, chunk: Chunk, song: Song, options: ConversionOptions, report: ConversionReport) -> None:
        """Tells the report what is doubtful about the part of a chunk that is put out."""
        hop = self.audio.hop_length / self.audio.sampling_rate
        origin = (chunk.read_start - chunk.pad_left) / song.rate
        first, last = (round((place / song.rate - origin) / hop) for place in (chunk.start, chunk.fade_start))
        report.add_doubt(chunk.f0, options.transpose, hop, origin, slice(first, last))

    def _synthesize_parts(
        self, chunk: Chunk, song: Song, options: ConversionOptions, report: ConversionReport
    ) -> np.ndarray:
        """The output of a chunk that is too long for the memory, cut where it is quietest and joined again."""
        seconds = _seconds(chunk, song)
        if seconds <= self._longest_seconds:  # it was tried
            if seconds < SHORTEST_SPLIT_SECONDS:
                raise AudioError(f"{_place(song, [chunk])}: {_NO_MEMORY}")
            self._longest_seconds = seconds / 2
            report.warn(
                f"{_place(song, [chunk])}: {seconds:.0f} s at once are too much for this memory; longer chunks are cut "
                f"at a quiet place from here on, as --max_segment {max(2, int(seconds / 2))} does from the start"
            )
        longest = int(max(min(self._longest_seconds, seconds / 2), 1) * song.rate)
        tail, wavs = np.zeros(0, np.float32), []
        for part in split_chunk(chunk, longest, song, options):
            if options.melody.changes_f0:
                part.f0 = pitch_of_part(chunk, part, song, self.audio)
            wav = self._synthesize([part], song, options, report)[0] if part.is_loud else silence(part, song)
            wav, tail = join(tail, wav, part, song, options.overlap_retain)
            wavs.append(wav)
        return np.concatenate(wavs)

    def _halve_batches(self, chunks: list[Chunk], song: Song, report: ConversionReport) -> None:
        """Takes note that so many chunks at once are too many."""
        self._batch_frames = int(sum(self._n_frames(chunk, song) for chunk in chunks) / 2)
        report.warn(f"{_place(song, chunks)}: {len(chunks)} chunks at once are too much for this memory; halving that")

    def metadata(self, path_in: Path, options: ConversionOptions) -> dict[str, str]:
        """What a result says about itself."""
        if not options.with_metadata:
            return {}
        settings = {
            "transpose": options.transpose,
            "predict_f0": options.predict_f0,
            "f0_predictor": getattr(self.pipeline.predictor, "name", None),
            "retrieval_ratio": options.retrieval_ratio if options.retrieves else 0.0,
            "mix": None if options.mix is None else options.mix.description,
            "diffusion": self.pipeline.refiner is not None,
            **({"extend_range": True} if options.extend_range else {}),
            **({"keep_consonants": options.kept_consonants} if options.kept_consonants else {}),
        }
        settings |= options.melody.description()
        return song_metadata(self.pipeline.card, printable(path_in.name), options.speaker, settings)


def request_key(path_in: Path, options: ConversionOptions, identity: str) -> str:
    """`VoiceConverter.key` of a converter whose pipeline has that identity."""
    stat = path_in.stat()
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    values["mix"] = None if options.mix is None else options.mix.description
    values["melody"] = options.melody.identity()
    # They came later: a request without them has the key that it always had.
    for name in ("melody", "extend_range", "kept_consonants"):
        if not values[name]:
            del values[name]
    about = [str(path_in.resolve()), stat.st_size, stat.st_mtime_ns, values, identity]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode("utf-8")).hexdigest()


def _notes_on(card: dict[str, Any]) -> dict[str, PitchHistogram]:
    """The notes of the speakers on a voice's card; what is damaged there is left out."""
    known, found = card.get(HISTOGRAMS), {}
    for speaker, plain in known.items() if isinstance(known, dict) else ():
        with contextlib.suppress(DataError):
            found[speaker] = PitchHistogram.from_plain(plain, speaker)
    return found


def _with_pitch(waiting: list[tuple[Chunk, Future[None] | None]], song: Song) -> list[Chunk]:
    """The chunks, once their pitch is there."""
    for chunk, job in waiting:
        if job is not None:
            with _explained(song, [chunk]):
                job.result()
    return [chunk for chunk, _ in waiting]


@contextlib.contextmanager
def _explained(song: Song, chunks: list[Chunk]) -> Iterator[None]:
    """Turns whatever a network raises into one line that names the file, the time and, without memory, the remedy."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except UserError as error:
        raise type(error)(f"{_place(song, chunks)}: {error}") from error
    except (RuntimeError, ValueError, MemoryError) as error:
        text = (str(error).strip().splitlines() or [""])[0][:200]
        no_memory = isinstance(error, MemoryError) or "out of memory" in text.lower()
        no_memory = no_memory or "can't allocate memory" in text
        text = _NO_MEMORY if no_memory else f"the conversion failed ({type(error).__name__}: {text})"
        raise AudioError(f"{_place(song, chunks)}: {text}") from error
    finally:
        return_freed_memory()


_NO_MEMORY = "not enough memory. Use shorter chunks (-cl 15 -lg 1) or the CPU (-d cpu)."


def _place(song: Song, chunks: list[Chunk]) -> str:
    return f"{song.name}, {chunks[0].start / song.rate:.1f} to {chunks[-1].stop / song.rate:.1f} s"


def _seconds(chunk: Chunk, song: Song) -> float:
    return (chunk.stop - chunk.start) / song.rate


def _kept(seconds: float) -> str:
    """What to do about a conversion that ended early."""
    kept = f" The first {_clock(seconds)} are kept: the same command with --resume goes on from there."
    return kept if seconds else ""


def _clock(seconds: float) -> str:
    """Seconds as `3:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def return_freed_memory() -> None:
    """Makes the C library hand its free pages back, where it is glibc; does nothing elsewhere."""
    # Chunks differ in length, so glibc's heap fills with gaps that the next one does not fit in. Measured over five
    # hours of audio in 30 s chunks: 290 MB of growth without this call, 30 MB with it.
    if (malloc_trim := _find_malloc_trim()) is not None:
        malloc_trim(0)


@cache
def _find_malloc_trim() -> Callable[[int], int] | None:
    is_linux = sys.platform.startswith("linux")
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if is_linux else None  # musl has none
