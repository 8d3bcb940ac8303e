"""VoiceConverter: one request from audio to audio, step by step. It is given finished parts and knows only contracts.

The ladder, each rung on top of the one before: pieces (a `Performer` renders them), a stream of blocks
(`_convert_blocks`), then `convert_wav` for arrays and `convert` for files.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from modules.audio.slicer import Segment, slice_silence
from modules.errors import UsageError, UserError
from modules.inference.chunks import Piece, Timeline, join_stretch, plan_pieces
from modules.inference.options import ConversionOptions
from modules.inference.performer import Findings, Performer, Song
from modules.inference.pipeline import ConverterParts, Renderer, mixed_speakers
from modules.inference.resume import PartialResult
from modules.inference.stream import Source, Window, array_source, file_source, survey
from modules.weights.card import song_metadata

logger = logging.getLogger(__name__)

SILENCE_BLOCK_SECONDS = 10.0  # long silences are written in blocks


@dataclass(frozen=True)
class ConversionReport:
    """What a finished conversion amounts to.

    Args:
        path: the file written.
        seconds: its duration.
        elapsed: seconds that it took.
        voiced_seconds: how much of it went through the networks.
        f0_range: lowest and highest note that was sung, in Hz; None where no pitch was heard.
        warnings: what the user should know.
        resumed_seconds: how much of it an earlier run had left.
    """

    path: Path
    seconds: float
    elapsed: float
    voiced_seconds: float
    f0_range: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    resumed_seconds: float = 0.0

    @property
    def realtime_factor(self) -> float:
        """Computing time over duration of what was computed: below 1 is faster than playing."""
        return self.elapsed / max(self.seconds - self.resumed_seconds, 1e-9)


class VoiceConverter:
    """Sings a source in a trained voice.

    Args:
        parts: finished networks and what must be known about them.
    """

    def __init__(self, parts: ConverterParts) -> None:
        self.parts = parts
        self.audio = parts.audio
        self.renderer = Renderer(parts)
        self.performer = Performer(self.renderer)

    def check(self, options: ConversionOptions) -> None:
        """Refuses a request that this voice cannot fulfil.

        Raises:
            UsageError: unknown speaker (those there are get listed), or pitch prediction without a pitch decoder.
        """
        parts = self.parts
        wanted = [options.speaker] if options.mix is None else mixed_speakers(options.mix, parts.speakers)
        for speaker in wanted:
            if speaker not in parts.speakers:
                known = ", ".join(parts.speakers)
                raise UsageError(f"-s/--spk_list: the model has no speaker {speaker!r}. It has: {known}.")
            if parts.refiner_speakers is not None and speaker not in parts.refiner_speakers:
                known = ", ".join(parts.refiner_speakers)
                raise UsageError(
                    f"-s/--spk_list: the diffusion model has no speaker {speaker!r}. It has: {known}. Leave out "
                    "-shd, or use a diffusion model of that voice."
                )
        if options.retrieves and parts.retriever is None:
            raise UsageError("-cr/--cluster_infer_ratio: no cluster centres or index are loaded; give -cm")
        if options.predict_f0 and not parts.can_predict_f0:
            raise UsageError(
                "-a/--auto_predict_f0: this voice comes without a pitch decoder (model.use_automatic_f0_prediction "
                "is false, or it is an .onnx file); leave -a out"
            )

    def key(self, path_in: Path, options: ConversionOptions) -> str:
        """Equal for requests that give the same result: the file as it is now, the options, the voice's files."""
        stat = path_in.stat()
        values = {field.name: getattr(options, field.name) for field in fields(options)}
        values["mix"] = None if options.mix is None else options.mix.description
        about = [str(path_in.resolve()), stat.st_size, stat.st_mtime_ns, values, self.parts.identity]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode("utf-8")).hexdigest()

    def convert(
        self, path_in: Path, path_out: Path, options: ConversionOptions, progress: bool = True, resume: bool = False
    ) -> ConversionReport:
        """Converts a file of any length, writing as it goes; the result takes its name when it is whole.

        Args:
            path_in: any format that soundfile reads.
            path_out: the result, mono at the model's rate; an older one is replaced.
            options: the request.
            progress: show a progress bar over seconds of audio.
            resume: go on where an interrupted run of the same request stopped.

        Raises:
            AudioError: the input cannot be used, or the output cannot be written. What was finished is kept.
            UsageError: see `check`.
        """
        started = time.perf_counter()
        self.check(options)
        source = file_source(path_in)
        rate, findings, n_voiced = self.audio.sampling_rate, Findings(), 0
        partial = PartialResult(path_out, self.key(path_in, options), resume)
        done_before = partial.n_samples
        if done_before:
            logger.info("%s: going on after %s", path_in, _clock(done_before / rate))
        bar = tqdm(
            total=round(source.seconds),
            unit="s",
            desc=path_in.name,
            disable=not progress,
            leave=False,
            dynamic_ncols=True,
        )
        with partial, bar:
            try:
                for wav, voiced in self._convert_blocks(source, options, findings, done_before):
                    partial.write(wav)
                    n_voiced += len(wav) * voiced
                    bar.update(partial.n_samples // rate - bar.n)
                partial.finish(rate, options.output_format, self._tags(path_in, options))
            except UserError as error:
                raise type(error)(f"{error}{_kept(partial.n_samples / rate)}") from error
            except KeyboardInterrupt:
                logger.warning("%s: stopped.%s", path_in, _kept(partial.n_samples / rate) or " Nothing was finished.")
                raise
        return ConversionReport(
            path_out,
            partial.n_samples / rate,
            time.perf_counter() - started,
            n_voiced / rate,
            (float(findings.lowest), float(findings.highest)) if findings.heard_pitch else None,
            tuple(findings.warnings),
            done_before / rate,
        )

    def _tags(self, path_in: Path, options: ConversionOptions) -> dict[str, str]:
        """What the result says about itself."""
        if not options.with_metadata:
            return {}
        settings = {
            "transpose": options.transpose,
            "predict_f0": options.predict_f0,
            "f0_predictor": getattr(self.parts.predictor, "name", None),
            "retrieval_ratio": options.retrieval_ratio if options.retrieves else 0.0,
            "mix": None if options.mix is None else options.mix.description,
            "diffusion": self.parts.refiner is not None,
        }
        return song_metadata(self.parts.card, path_in.name, options.speaker, settings)

    def convert_wav(self, wav: np.ndarray, rate: int, options: ConversionOptions) -> np.ndarray:
        """Converts a clip in memory.

        Args:
            wav: (T,) float32 at `rate`.
            rate: Hz.
            options: the request.

        Returns:
            (ceil(T * model rate / rate),) float32 at the model's rate.

        Raises:
            AudioError: empty, not mono, or not finite.
            UsageError: see `check`.
        """
        self.check(options)
        blocks = self._convert_blocks(array_source(wav, rate), options, Findings())
        return np.concatenate([block for block, _ in blocks])

    def _convert_blocks(
        self, source: Source, options: ConversionOptions, findings: Findings, done: int = 0
    ) -> Iterator[tuple[np.ndarray, bool]]:
        """The converted audio from sample `done` on, in blocks, each with whether it is voiced.

        With what was done before, they are together exactly as long as the input.
        """
        found = survey(source)
        if found.gain < 1:
            logger.info(
                "%s: the peak %.3g is above full scale; read at %.3g times the level",
                source.name,
                1 / found.gain,
                found.gain,
            )
        timeline = Timeline(source.rate, self.audio.sampling_rate)
        song = Song(Window(source, found.gain), found, timeline, options, findings)
        plan = [
            (segment, plan_pieces(segment, source.rate, options, found.rms, found.rms_hop) if segment.voiced else [])
            for segment in slice_silence(found.rms, found.n_samples, source.rate, options.slice_db)
        ]
        plan = _unfinished(plan, timeline, done)
        rendered = self.performer.perform(chain.from_iterable(pieces for _, pieces in plan), song)
        for segment, pieces in plan:
            position = timeline.at(pieces[0].start if pieces else segment.start)
            if segment.voiced:
                blocks = join_stretch(pieces, rendered, timeline, options.overlap_retain)
            else:
                blocks = self._silence(timeline.at(segment.end) - position)
            for wav in blocks:
                new = wav[max(0, done - position) :]
                position += len(wav)
                if len(new):
                    yield new, segment.voiced
        if any(segment.voiced for segment, _ in plan) and not findings.heard_pitch:
            findings.warn(
                f"{source.name}: no pitch was heard anywhere, so the result is toneless. Is it music without a voice, "
                "or very noisy? Try another -f0p, or a lower threshold (-ft)"
            )

    def _silence(self, length: int) -> Iterator[np.ndarray]:
        step = int(SILENCE_BLOCK_SECONDS * self.audio.sampling_rate)
        for start in range(0, length, step):
            yield np.zeros(min(step, length - start), np.float32)


def _unfinished(
    plan: list[tuple[Segment, list[Piece]]], timeline: Timeline, done: int
) -> list[tuple[Segment, list[Piece]]]:
    """What of a plan is left when `done` samples of output exist.

    Of a stretch that is partly done the last finished piece comes again, for its end is joined with the next one.
    """
    left = []
    for segment, pieces in plan:
        if timeline.at(segment.end) <= done:
            continue
        ends = [timeline.at(following.start) for following in pieces[1:]]
        n_done = sum(end <= done for end in ends)
        left.append((segment, pieces[max(0, n_done - 1) :]))
    return left


def _kept(seconds: float) -> str:
    """What to do about a conversion that ended early."""
    return (
        f" The first {_clock(seconds)} are kept: the same command with --resume goes on from there." if seconds else ""
    )


def _clock(seconds: float) -> str:
    """Seconds as `3:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
