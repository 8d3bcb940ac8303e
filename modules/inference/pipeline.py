"""From a chunk of the source to its sound in the target voice: every network has its turn here.

    hear     resample -> pitch                                       one chunk, ahead of the rest
    sing     units -> retrieval -> voice model                       chunks of like length together where it pays
    finish   diffusion (chunks of a song together) -> enhancer -> loudness

Nothing here knows about files, silences or joins; that is the converter's part.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from modules.audio.loudness import frame_volume, match_envelope
from modules.audio.resampling import SincResampler
from modules.config.audio import AudioSpec
from modules.contracts import (
    F0,
    Enhancer,
    F0Predictor,
    MelRefiner,
    Retriever,
    SpeechEncoder,
    Stretch,
    Synthesis,
    Synthesizer,
    VoiceInput,
)
from modules.encoders.align import align_units
from modules.inference.options import ConversionOptions
from modules.inference.speaker_mix import SpeakerMix

# Frames that go through prior and flow together on a GPU: about 45 s, after which the kernels are full.
GPU_BATCH_FRAMES = 4096
# The longest chunk of a batch is at most this many times the shortest: padding is work for nothing.
LIKE_LENGTH = 1.3


@dataclass(frozen=True)
class ConverterParts:
    """What a converter is made of; `assemble.py` builds them.

    Args:
        synthesizer: the trained voice; None converts by diffusion alone.
        encoder: what hears the words.
        predictor: what hears the melody.
        audio: rate and hop of the voice.
        speakers: name to id.
        device: where the networks run.
        unit_interpolate_mode: how units are brought to N frames, the voice's `data.unit_interpolate_mode`.
        with_volume: whether the voice takes a loudness curve (`model.vol_embedding`).
        can_predict_f0: whether it has a pitch decoder (`model.use_automatic_f0_prediction`).
        refiner_speakers: name to the refiner's id, where that is another than the voice's.
        refiner: diffusion over the mel of what the voice sang, or from noise where there is no voice model.
        enhancer: builds the one for an adaptive key in semitones.
        retriever: pulls units towards the training voice.
        predictor_on_cpu: the predictor leaves the device alone, so that it may work beside the networks.
        batch_frames: most frames of chunks that the voice model sings together; 0 sings them one by one.
        identity: what else a result depends on (files, precision, ...); equal for equal parts.
        card: what the voice says about itself, for the metadata of results.
    """

    synthesizer: Synthesizer | None
    encoder: SpeechEncoder
    predictor: F0Predictor
    audio: AudioSpec
    speakers: dict[str, int]
    device: torch.device
    unit_interpolate_mode: str = "left"
    with_volume: bool = False
    can_predict_f0: bool = True
    refiner_speakers: dict[str, int] | None = None
    refiner: MelRefiner | None = None
    enhancer: Callable[[float], Enhancer] | None = None
    retriever: Retriever | None = None
    predictor_on_cpu: bool = True
    batch_frames: int = 0
    identity: str = ""
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Heard:
    """A chunk at the model's rate, with its melody.

    Args:
        wav: (T,) on the device.
        curve: its pitch, N frames, not transposed.
        start_seconds: where in the song it starts.
        song_seconds: length of the song.
    """

    wav: torch.Tensor
    curve: F0
    start_seconds: float
    song_seconds: float

    @property
    def n_frames(self) -> int:
        """Its length."""
        return len(self.curve.f0)


@dataclass(frozen=True)
class Sung:
    """A chunk on its way.

    Args:
        stretch: what the voice model made of it, and from what.
        source: (T,) the chunk at the model's rate, on the CPU where its loudness is wanted later; else None.
    """

    stretch: Stretch
    source: np.ndarray | None


class Renderer:
    """Sings chunks in a trained voice.

    Args:
        parts: finished networks and what must be known about them.
    """

    def __init__(self, parts: ConverterParts) -> None:
        self.parts = parts
        self._resample = SincResampler(parts.device)
        self._enhancers: dict[float, Enhancer] = {}

    @property
    def batch_frames(self) -> int:
        """Frames worth collecting; 0 where chunks gain nothing from company."""
        refiner = self.parts.refiner
        return max(self.parts.batch_frames, 0 if refiner is None else refiner.batch_frames)

    @torch.inference_mode()
    def hear(self, chunk: np.ndarray, rate: int, start_seconds: float, song_seconds: float) -> Heard:
        """A chunk (T,) at `rate`, brought to the model's rate, and its melody."""
        wav = self._resample(torch.from_numpy(chunk), rate, self.parts.audio.sampling_rate)
        return Heard(wav, self.parts.predictor.predict(wav.cpu().numpy()), start_seconds, song_seconds)

    @torch.inference_mode()
    def sing(self, heard: list[Heard], options: ConversionOptions) -> list[Sung]:
        """Chunks in the target voice, as the voice model sings them; those of like length together."""
        sung: dict[int, Sung] = {}
        for batch in self._batches([chunk.n_frames for chunk in heard]):
            sung.update(zip(batch, self._sing_together([heard[index] for index in batch], options)))
        return [sung[index] for index in range(len(heard))]

    @torch.inference_mode()
    def finish(self, sung: list[Sung], options: ConversionOptions) -> list[np.ndarray]:
        """The sound of chunks, n_frames * hop_length samples each at the model's rate."""
        parts = self.parts
        wavs = [chunk.stretch.wav for chunk in sung]
        if parts.refiner is not None:
            wavs = parts.refiner.refine([chunk.stretch for chunk in sung])
        elif options.enhance:
            enhancer = self._enhancer(options.enhancer_key)
            wavs = [enhancer.enhance(wav, chunk.stretch.f0) for wav, chunk in zip(wavs, sung)]
        results = [wav.float().cpu().numpy() for wav in wavs]
        if options.loudness_ratio != 1:
            rate = parts.audio.sampling_rate
            results = [
                match_envelope(wav, rate, chunk.source, rate, options.loudness_ratio)
                for wav, chunk in zip(results, sung)
            ]
        return results

    def _sing_together(self, heard: list[Heard], options: ConversionOptions) -> list[Sung]:
        parts, audio = self.parts, self.parts.audio
        all_units = self._units([chunk.wav for chunk in heard], [chunk.n_frames for chunk in heard], options)
        inputs = []
        for chunk, units in zip(heard, all_units):
            f0 = torch.from_numpy(chunk.curve.f0).to(parts.device) * 2.0 ** (options.transpose / 12)
            uv = torch.from_numpy(chunk.curve.uv).to(parts.device)
            with_volume = parts.with_volume or parts.synthesizer is None
            volume = frame_volume(chunk.wav, audio.hop_length) if with_volume else None
            inputs.append(VoiceInput(units, f0, uv, self._speaker(chunk, options, parts.speakers), volume))
        return [
            self._as_sung(chunk, given, made, options)
            for chunk, given, made in zip(heard, inputs, self._infer(inputs, options))
        ]

    def _infer(self, inputs: list[VoiceInput], options: ConversionOptions) -> list[Synthesis | None]:
        """What the voice model sings; None where there is none."""
        voice = self.parts.synthesizer
        if voice is None:
            return [None] * len(inputs)
        if len(inputs) > 1 and not options.predict_f0:
            return voice.infer_batch(inputs, options.noise_scale)
        return [
            voice.infer(
                given.units, given.f0, given.uv, given.speaker, given.volume, options.noise_scale, options.predict_f0
            )
            for given in inputs
        ]

    def _as_sung(self, chunk: Heard, given: VoiceInput, made: Synthesis | None, options: ConversionOptions) -> Sung:
        """A chunk with all that diffusion, enhancer and loudness want to know of it."""
        parts = self.parts
        source = chunk.wav.cpu().numpy() if options.loudness_ratio != 1 else None
        units, volume, speaker = given.units, given.volume, given.speaker
        wav, f0 = (None, given.f0) if made is None else (made.wav.float(), made.f0)
        if parts.refiner is not None:
            if volume is None:
                volume = frame_volume(wav, parts.audio.hop_length)
            if wav is not None and options.second_encoding:
                units = self._units([wav], [chunk.n_frames])[0]
            if parts.refiner_speakers is not None:
                speaker = self._speaker(chunk, options, parts.refiner_speakers)
        return Sung(Stretch(wav, units, f0, volume, speaker), source)

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Positions of neighbours in length."""
        batches: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
            length = lengths[index]
            last = batches[-1] if batches else None
            fits = last and (len(last) + 1) * length <= self.parts.batch_frames
            if fits and length <= LIKE_LENGTH * lengths[last[0]]:
                last.append(index)
            else:
                batches.append([index])
        return batches

    def _units(
        self, wavs: list[torch.Tensor], n_frames: list[int], options: ConversionOptions | None = None
    ) -> list[torch.Tensor]:
        """Units (D, n_frames) of each of `wavs` (T,) at the model's rate; with `options`, after retrieval."""
        parts = self.parts
        heard = [self._resample(wav, parts.audio.sampling_rate, parts.encoder.sampling_rate) for wav in wavs]
        heard = [wav.cpu().numpy() for wav in heard]
        found = [parts.encoder.encode(heard[0])] if len(heard) == 1 else parts.encoder.encode_batch(heard)
        units = [align_units(rows, n, parts.unit_interpolate_mode) for rows, n in zip(found, n_frames)]
        if options is not None and options.retrieves:
            units = [parts.retriever.blend(rows, options.speaker, options.retrieval_ratio) for rows in units]
        return units

    def _speaker(self, chunk: Heard, options: ConversionOptions, ids: dict[str, int]) -> int | torch.Tensor:
        """The id of the speaker among `ids`, or the weights (S, N) of a mix at the chunk's place in the song."""
        if options.mix is None:
            return ids[options.speaker]
        audio = self.parts.audio
        times = chunk.start_seconds + (np.arange(chunk.n_frames) + 0.5) * audio.hop_length / audio.sampling_rate
        weights = options.mix.weights(times, chunk.song_seconds)
        if ids is not self.parts.speakers:
            weights = reordered(weights, self.parts.speakers, ids)
        return torch.from_numpy(weights).to(self.parts.device)

    def _enhancer(self, key: float) -> Enhancer:
        if key not in self._enhancers:
            self._enhancers[key] = self.parts.enhancer(key)
        return self._enhancers[key]


def reordered(weights: np.ndarray, ids: dict[str, int], other_ids: dict[str, int]) -> np.ndarray:
    """Weights (S, N) by `ids` as weights by another model's ids, for the names that both have."""
    result = np.zeros((max(other_ids.values()) + 1, weights.shape[1]), weights.dtype)
    for name, number in ids.items():
        if name in other_ids and number < len(weights):
            result[other_ids[name]] += weights[number]
    return result


def mixed_speakers(mix: SpeakerMix, speakers: dict[str, int]) -> list[str]:
    """Names of the speakers that a mix uses."""
    used = {track.speaker for track in mix.tracks}
    return [name for name, number in speakers.items() if number in used]
