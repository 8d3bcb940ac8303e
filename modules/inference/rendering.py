"""From a chunk of the source to its sound in the target voice: every network has its turn here.

    sing     resample -> pitch -> units -> voice model          one chunk at a time
    finish   diffusion (chunks of a song together) -> enhancer -> loudness

Nothing here knows about files, silences or joins; that is the converter's part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from modules.audio.loudness import match_envelope
from modules.audio.volume import frame_volume
from modules.config.audio import AudioSpec
from modules.contracts import Enhancer, F0Predictor, MelRefiner, SpeechEncoder, Stretch, Synthesizer
from modules.encoders.align import align_units
from modules.inference.options import ConversionOptions
from modules.inference.resampling import SincResampler


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


@dataclass(frozen=True)
class Sung:
    """A chunk on its way.

    Args:
        stretch: what the voice model made of it, and from what.
        source: (T,) the chunk at the model's rate, on the CPU where its loudness is wanted later; else None.
        voiced: a pitch was heard in it.
    """

    stretch: Stretch
    source: np.ndarray | None
    voiced: bool

    @property
    def n_frames(self) -> int:
        """Its length."""
        return len(self.stretch.f0)


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
        """Frames worth collecting before `finish`; 0 where chunks gain nothing from company."""
        return self.parts.refiner.batch_frames if self.parts.refiner is not None else 0

    @torch.inference_mode()
    def sing(self, chunk: np.ndarray, rate: int, options: ConversionOptions) -> Sung:
        """A chunk (T,) at `rate` in the target voice, as the voice model sings it."""
        parts, audio = self.parts, self.parts.audio
        wav = self._resample(torch.from_numpy(chunk), rate, audio.sampling_rate)
        n_frames = audio.n_frames(len(wav))
        curve = parts.predictor.predict(wav.cpu().numpy())
        f0 = torch.from_numpy(curve.f0).to(parts.device) * 2.0 ** (options.transpose / 12)
        uv = torch.from_numpy(curve.uv).to(parts.device)
        units = self._units(wav, n_frames)
        with_volume = parts.with_volume or parts.synthesizer is None
        volume = frame_volume(wav, audio.hop_length) if with_volume else None
        speaker = parts.speakers[options.speaker]
        refined_as = (parts.refiner_speakers or parts.speakers)[options.speaker]
        source = wav.cpu().numpy() if options.loudness_ratio != 1 else None
        voiced = bool(curve.uv.any())
        if parts.synthesizer is None:
            return Sung(Stretch(None, units, f0, volume, refined_as), source, voiced)
        out = parts.synthesizer.infer(units, f0, uv, speaker, volume, options.noise_scale, options.predict_f0)
        made = out.wav.float()
        if parts.refiner is not None:
            if volume is None:
                volume = frame_volume(made, audio.hop_length)
            if options.second_encoding:
                units = self._units(made, n_frames)
        return Sung(Stretch(made, units, out.f0, volume, refined_as), source, voiced)

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

    def _units(self, wav: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Units (D, n_frames) of `wav` (T,) at the model's rate."""
        parts = self.parts
        heard = self._resample(wav, parts.audio.sampling_rate, parts.encoder.sampling_rate)
        return align_units(parts.encoder.encode(heard.cpu().numpy()), n_frames, parts.unit_interpolate_mode)

    def _enhancer(self, key: float) -> Enhancer:
        if key not in self._enhancers:
            self._enhancers[key] = self.parts.enhancer(key)
        return self._enhancers[key]
