"""Pipeline: from chunks of a song to their sound in the target voice. Files, silences and joins are the converter's.

extract -> retrieve -> synthesize -> refine -> move back what was sung elsewhere -> keep consonants -> match loudness
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from modules.audio.consonants import keep_consonants
from modules.audio.formants import move_formants
from modules.audio.loudness import FULL_SCALE, frame_volume, keep_pauses, limit_peaks, match_envelope
from modules.audio.resampling import SincResampler
from modules.batching import group_by_length
from modules.config.audio import AudioSpec
from modules.contracts import (
    Enhancer,
    F0Predictor,
    MelRefiner,
    Retriever,
    SpeechEncoder,
    Synthesis,
    Synthesizer,
    VoiceInput,
)
from modules.encoders.align import align_units
from modules.inference.chunks import Chunk, kept_samples
from modules.inference.extension import Comfort, move_back, plan_extension
from modules.inference.options import ConversionOptions
from modules.inference.stream import Song
from modules.weights.card import volume_peak_of

# Frames that go through prior and flow together on a GPU: about 45 s, after which the kernels are full.
GPU_BATCH_FRAMES = 4096
# The longest chunk of a group is at most this many times the shortest: padding is work for nothing.
LENGTH_RATIO = 1.3
_SILENCE = 1e-4  # linear RMS, -80 dBFS: below it a chunk is not raised


@dataclass(eq=False)
class Pipeline:
    """The networks of a conversion, and what must be known about them; `assemble.py` builds it."""

    synthesizer: Synthesizer | None  # the trained voice; None converts by diffusion alone
    encoder: SpeechEncoder
    predictor: F0Predictor
    audio: AudioSpec  # rate and hop of the voice
    speakers: dict[str, int]  # name to id
    device: torch.device  # where the networks run
    unit_interpolate_mode: str = "left"  # how units are brought to N frames, the voice's data.unit_interpolate_mode
    with_volume: bool = False  # a loudness curve is wanted (model.vol_embedding, or diffusion alone)
    unvoiced_source: bool = False  # the decoder's source has no pitch in unvoiced frames (model.unvoiced_source)
    can_predict_f0: bool = True  # it has a pitch decoder (model.use_automatic_f0_prediction)
    refiner: MelRefiner | None = None  # diffusion
    refiner_speakers: dict[str, int] | None = None  # name to the refiner's id, where that is another than the voice's
    make_enhancer: Callable[[float], Enhancer] | None = None  # for an adaptive key in semitones
    retriever: Retriever | None = None
    predictor_on_cpu: bool = True  # it leaves the device alone, so that it may work beside the networks
    batch_frames: int = 0  # most frames of chunks in one call of the synthesizer; 0 takes them one by one
    identity: str = ""  # what else a result depends on (files, precision, ...); equal for equal networks
    card: dict[str, Any] = field(default_factory=dict)  # what the voice says about itself
    comfort: Comfort | None = None  # the notes of the speaker of a request that asks for range extension

    def __post_init__(self) -> None:
        self._resample = SincResampler(self.device)
        self._enhancers: dict[float, Enhancer] = {}
        self._volume_peak = volume_peak_of(self.card)

    def __call__(self, chunks: list[Chunk], song: Song, options: ConversionOptions) -> list[np.ndarray]:
        """The converted sound of chunks of a song, n_frames * hop_length samples each at the model's rate."""
        features: list[VoiceInput] = [None] * len(chunks)
        outputs: list[Synthesis | None] = [None] * len(chunks)
        budget = 0 if options.predict_f0 else self.batch_frames
        with torch.inference_mode():
            for chunk in chunks:
                self.predict_f0(chunk, song.rate)
                if options.extend_range:
                    how = options.voice_transpose, self.comfort, self.audio.frame_rate
                    chunk.extension = plan_extension(chunk.f0, *how)
            for group in group_by_length([len(chunk.f0.f0) for chunk in chunks], budget, LENGTH_RATIO):
                items = self.extract([chunks[index] for index in group], song, options)
                items = self.retrieve(items, options)
                gains = [1.0 if item.volume is None else self.training_gain(float(item.volume.max())) for item in items]
                given = [self._synthesizer_input(item, gain) for item, gain in zip(items, gains)]
                if self.synthesizer is None:
                    made = [None] * len(items)
                elif len(given) == 1:
                    x = given[0]
                    inputs = x.units, x.f0, x.uv, x.speaker, x.volume, options.noise_scale, options.predict_f0
                    made = [self.synthesizer.infer(*inputs, x.needed)]
                else:
                    made = self.synthesizer.infer_batch(given, options.noise_scale)
                made = [x if gain == 1 or x is None else replace(x, wav=x.wav / gain) for x, gain in zip(made, gains)]
                for index, item, output in zip(group, items, made):
                    features[index], outputs[index] = item, output
            wavs = self.refine(outputs, features, chunks, song, options)
        wavs = [wav.float().cpu().numpy() for wav in wavs]
        rate, hop = self.audio.sampling_rate, self.audio.hop_length
        for index, chunk in enumerate(chunks):
            if chunk.extension is not None:
                shifts = chunk.extension.shifts
                wavs[index] = move_back(wavs[index], rate, chunk.f0, hop, options.transpose, shifts)
        if options.kept_consonants:
            wavs = [self._keep_consonants(*item, options) for item in zip(wavs, chunks, features)]
        if options.loudness_ratio == 1:
            return wavs
        return [self._match_loudness(wav, chunk.wav.cpu().numpy(), options) for wav, chunk in zip(wavs, chunks)]

    def _keep_consonants(
        self, wav: np.ndarray, chunk: Chunk, given: VoiceInput, options: ConversionOptions
    ) -> np.ndarray:
        """A chunk's result with its source's consonants; pauses stay as they were made."""
        hop, n_frames, source = self.audio.hop_length, len(chunk.f0.uv), chunk.wav.cpu().numpy()
        is_loud = frame_volume(chunk.wav, hop).cpu().numpy() > 10 ** (options.slice_db / 20)
        first, last, _ = (given.needed or slice(None)).indices(n_frames)
        part, is_voiced = slice(first * hop, last * hop), chunk.f0.uv > 0
        kinds = [(is_loud & kind)[first:last] for kind in (~is_voiced, is_voiced)]
        rate, share = self.audio.sampling_rate, options.kept_consonants
        kept = keep_consonants(wav[part], source[part], rate, *kinds, hop, share)
        return np.concatenate([wav[: part.start], kept, wav[part.stop :]])

    def _match_loudness(self, wav: np.ndarray, source: np.ndarray, options: ConversionOptions) -> np.ndarray:
        """A chunk's result with its source's loudness, pauses too, and without clipping."""
        rate, ratio = self.audio.sampling_rate, options.loudness_ratio
        wav = match_envelope(wav, rate, source, rate, ratio)
        wav = keep_pauses(wav, rate, source, ratio, 10 ** (options.slice_db / 20))
        return limit_peaks(wav, rate, FULL_SCALE)

    def predict_f0(self, chunk: Chunk, rate: int) -> None:
        """Gives a chunk whose audio has that rate its `wav` at the model's rate and its `f0`, unless it has them."""
        with torch.inference_mode():
            if chunk.wav is None:
                chunk.wav = self._resample(torch.from_numpy(chunk.audio), rate, self.audio.sampling_rate)
            if chunk.f0 is None:
                chunk.f0 = self.predictor.predict(chunk.wav.cpu().numpy())

    def extract(self, chunks: list[Chunk], song: Song, options: ConversionOptions) -> list[VoiceInput]:
        """What the voice is given of each chunk: units, transposed pitch, speaker and volume."""
        features = []
        n_frames, formant = [len(chunk.f0.f0) for chunk in chunks], options.melody.formant
        encoded = self.encode([chunk.wav for chunk in chunks], n_frames, formant, [chunk.f0.f0 for chunk in chunks])
        for chunk, units in zip(chunks, encoded):
            f0 = torch.from_numpy(chunk.f0.f0).to(self.device) * 2.0 ** (options.voice_transpose / 12)
            if chunk.extension is not None:
                ratio = (2.0 ** (chunk.extension.shifts / 12)).astype(np.float32)
                f0 = f0 * torch.from_numpy(ratio).to(self.device)
            uv = torch.from_numpy(chunk.f0.uv).to(self.device)
            speaker = self._speaker(chunk, song, options, self.speakers)
            volume = frame_volume(chunk.wav, self.audio.hop_length) if self.with_volume else None
            needed = self._needed_frames(chunk, song, options)
            features.append(VoiceInput(units, f0, uv, speaker, volume, needed))
        return features

    def _needed_frames(self, chunk: Chunk, song: Song, options: ConversionOptions) -> slice | None:
        """The frames of a chunk whose sound is kept; None where its padding and context, too, are listened to."""
        if options.enhance or options.loudness_ratio != 1 or chunk.extension is not None:
            return None
        hop = self.audio.hop_length
        kept = kept_samples(len(chunk.f0.f0) * hop, chunk, song, options)
        return slice(kept.start // hop, -(-kept.stop // hop))

    def retrieve(self, features: list[VoiceInput], options: ConversionOptions) -> list[VoiceInput]:
        """The same with units pulled towards those of the training voice, where the options ask for it."""
        if not options.retrieves:
            return features
        blend, ratio = self.retriever.blend, options.retrieval_ratio
        return [replace(item, units=blend(item.units, options.speaker, ratio)) for item in features]

    def _synthesizer_input(self, given: VoiceInput, gain: float) -> VoiceInput:
        """The same with another volume; all of it is needed where diffusion goes on from what is made of it."""
        volume = given.volume if gain == 1 else given.volume * gain
        return replace(given, volume=volume, needed=given.needed if self.refiner is None else None)

    def training_gain(self, loudest: float) -> float:
        """What brings a volume whose largest value is `loudest` to the level of the training clips; 1 where that is not
        known, or for silence.

        Quiet chunks are not what a voice has learned from: its clips have their peaks near full scale. So it is given
        the volume that such a clip has, and its sound is brought back by as much.
        """
        is_known = self._volume_peak is not None and loudest > _SILENCE
        return self._volume_peak / loudest if is_known else 1.0

    def refine(
        self,
        outputs: list[Synthesis | None],
        features: list[VoiceInput],
        chunks: list[Chunk],
        song: Song,
        options: ConversionOptions,
    ) -> list[torch.Tensor]:
        """The sound of each chunk, after diffusion or the enhancer where there is one."""
        if self.refiner is not None:
            given = [self._refiner_input(*item, song, options) for item in zip(outputs, features, chunks)]
            return self.refiner.refine(outputs, given, options.formant_key)
        if options.enhance:
            key = options.enhancer_key
            if key not in self._enhancers:
                self._enhancers[key] = self.make_enhancer(key)
            ratio = 2.0 ** (options.formant_key / 12)
            return [self._enhancers[key].enhance(output.wav.float(), output.f0 * ratio) for output in outputs]
        return [output.wav for output in outputs]

    def _refiner_input(
        self, output: Synthesis | None, given: VoiceInput, chunk: Chunk, song: Song, options: ConversionOptions
    ) -> VoiceInput:
        """What the diffusion model is given of a chunk: it may number speakers otherwise, and it needs a volume."""
        if given.volume is None:
            given = replace(given, volume=frame_volume(output.wav.float(), self.audio.hop_length))
        if output is not None and options.second_encoding:
            given = replace(given, units=self.encode([output.wav.float()], [len(given.f0)])[0])
        if self.refiner_speakers is not None:
            given = replace(given, speaker=self._speaker(chunk, song, options, self.refiner_speakers))
        return given

    def encode(
        self, wavs: list[torch.Tensor], n_frames: list[int], formant: float = 0.0, curves: Sequence[np.ndarray] = ()
    ) -> list[torch.Tensor]:
        """Units (D, n_frames) of each of `wavs` (T,) at the model's rate; with their F0 (N,) in `curves`, and formants
        moved by `formant` semitones."""
        given = [self._resample(wav, self.audio.sampling_rate, self.encoder.sampling_rate) for wav in wavs]
        given = [wav.cpu().numpy() for wav in given]
        if formant:
            given = [move_formants(wav, self.encoder.sampling_rate, formant, f0) for wav, f0 in zip(given, curves)]
        found = [self.encoder.encode(given[0])] if len(given) == 1 else self.encoder.encode_batch(given)
        return [align_units(units, n, self.unit_interpolate_mode) for units, n in zip(found, n_frames)]

    def _speaker(self, chunk: Chunk, song: Song, options: ConversionOptions, ids: dict[str, int]) -> int | torch.Tensor:
        """The id of the speaker among `ids`, or the weights (S, N) of a mix at the chunk's place in the song."""
        if options.mix is None:
            return ids[options.speaker]
        frames = (np.arange(len(chunk.f0.f0)) + 0.5) * self.audio.hop_length / self.audio.sampling_rate
        weights = options.mix.weights((chunk.read_start - chunk.pad_left) / song.rate + frames, song.seconds)
        if ids is not self.speakers:  # from the voice's ids to the refiner's, for the names that both have
            voice_weights, weights = weights, np.zeros((max(ids.values()) + 1, len(frames)), weights.dtype)
            for name, number in self.speakers.items():
                if name in ids and number < len(voice_weights):
                    weights[ids[name]] += voice_weights[number]
        return torch.from_numpy(weights).to(self.device)
