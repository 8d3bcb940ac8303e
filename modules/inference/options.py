"""ConversionOptions: what one conversion asks for, verified once. Nothing here loads a network or reads a file."""

import argparse
from dataclasses import dataclass, field

from modules.audio.io import StreamWriter
from modules.errors import UsageError
from modules.f0.limits import LOWEST, MOST, check_limits
from modules.inference.arguments import kind_of
from modules.inference.melody import MELODY_BOUNDS, MelodyOptions, melody_options
from modules.inference.speaker_mix import SpeakerMix

MIX_NAME = "spk_mix"  # stands in a result's name for the speaker
MOST_SEMITONES = 60

# What the numbers among the flags may be, both ends included; the web page offers no more.
BOUNDS: dict[str, tuple[float, float]] = {
    "cluster_infer_ratio": (0, 1),
    "trans": (-MOST_SEMITONES, MOST_SEMITONES),
    "noise_scale": (0, 10),
    "keep_consonants": (0, 1),
    "slice_db": (-200, 0),
    "pad_seconds": (0, 30),
    "clip": (0, 3600),
    "linear_gradient": (0, 3600),
    "linear_gradient_retain": (0, 1),  # 0 itself is refused
    "loudness_envelope_adjustment": (0, 1),
    "enhancer_adaptive_key": (-24, 24),
    "formant_key": (-24, 24),
    "max_segment": (2, 3600),
    "f0_filter_threshold": (0, 1),
    "f0_min": (LOWEST, 400),
    "f0_max": (400, MOST),
    "vocal_gain": (-40, 20),
    "k_step": (1, 1000),  # the most that a diffusion model learns; one may have learnt less
    **MELODY_BOUNDS,
}


@dataclass(frozen=True)
class ConversionOptions:
    """One request, apart from the file: frozen, and valid once it exists."""

    speaker: str  # name of the target voice; with a mix, `MIX_NAME`
    mix: SpeakerMix | None = None  # several voices at once, in place of one speaker
    retrieval_ratio: float = 0.0  # share of the units that comes from the training voice's own, 0 to 1
    transpose: float = 0.0  # semitones added to the source's pitch
    predict_f0: bool = False  # let the model use its own pitch (for speech, not for songs)
    noise_scale: float = 0.4  # spread of the latent noise, 0 for none; 0.4 is what upstream uses
    kept_consonants: float = 0.0  # share of voiceless consonants that comes from the source, 0 to 1
    slice_db: float = -40.0  # loudness in dB of full scale below which a segment counts as silent
    pad_seconds: float = 0.5  # silence put on both sides of every segment before it enters the networks
    clip_seconds: float = 0.0  # length of forced chunks; 0 cuts at silences only
    overlap_seconds: float = 0.0  # cross-fade between forced chunks
    overlap_retain: float = 0.75  # share of that cross-fade that is really mixed, above 0 up to 1
    loudness_ratio: float = 1.0  # 1 keeps the loudness that the model made, 0 takes the source's, between is between
    second_encoding: bool = False  # diffusion takes its units from what the voice model made, not from the source
    enhance: bool = False  # re-synthesise what the voice model made
    enhancer_key: float = 0.0  # semitones by which the enhancer reads the voice lower; for notes above its range
    formant_key: float = 0.0  # of `transpose`, the semitones that the vocoder makes from the mel of the rest
    extend_range: bool = False  # sing phrases outside the voice's comfortable notes inside them, and move them back
    output_format: str = "flac"  # container of the result, a name that soundfile writes
    max_segment_seconds: float = 30.0  # longer segments are cut at a quiet place, so that memory stays bounded
    context_seconds: float = 1.0  # real audio on both sides of such a cut
    with_metadata: bool = True  # let the result say from what and by which voice it was made
    melody: MelodyOptions = field(default_factory=MelodyOptions)  # a curve of its own, autotune, formants

    def __post_init__(self) -> None:
        problems = [
            outside("-cr", "cluster_infer_ratio", self.retrieval_ratio),
            outside("-t", "trans", self.transpose),
            outside("-ns", "noise_scale", self.noise_scale),
            outside("", "keep_consonants", self.kept_consonants),
            outside("-sd", "slice_db", self.slice_db),
            outside("-p", "pad_seconds", self.pad_seconds),
            outside("-cl", "clip", self.clip_seconds),
            outside("-lg", "linear_gradient", self.overlap_seconds),
            outside("-lea", "loudness_envelope_adjustment", self.loudness_ratio),
            outside("-eak", "enhancer_adaptive_key", self.enhancer_key),
            outside("", "formant_key", self.formant_key),
            outside("", "max_segment", self.max_segment_seconds),
        ]
        if not 0.1 <= self.context_seconds <= 10:
            problems.append(f"context_seconds is {self.context_seconds:g}; it must lie between 0.1 and 10")
        if not 0 < self.overlap_retain <= 1:
            problems.append(f"-lgr/--linear_gradient_retain is {self.overlap_retain:g}; it must be above 0, up to 1")
        if 0 < self.clip_seconds < 0.1:
            problems.append(f"-cl/--clip is {self.clip_seconds:g} s; give at least 0.1 s, or 0 to cut at silences only")
        if 0 < self.clip_seconds <= self.overlap_seconds:
            problems.append(
                f"-lg/--linear_gradient is {self.overlap_seconds:g} s; it must be shorter than the chunks "
                f"(-cl/--clip is {self.clip_seconds:g} s)"
            )
        if self.extend_range and (self.predict_f0 or self.mix is not None):
            other = "-a, which leaves the pitch to the model" if self.predict_f0 else "a mix, which has no range"
            problems.append(f"--extend_range does not go with {other}; leave one of them out")
        try:
            StreamWriter("", 44100, self.output_format)  # opens nothing yet, but refuses what cannot be written
        except UsageError as error:
            problems.append(f"-wf/--wav_format: {error}")
        if any(problems):
            raise UsageError("; ".join(filter(None, problems)))

    @property
    def voice_transpose(self) -> float:
        """Semitones from the source's pitch to the one that the voice is given."""
        return self.transpose - self.formant_key

    @property
    def retrieves(self) -> bool:
        """Whether units are pulled towards the training voice; a mix of voices has no voice to pull to."""
        return self.retrieval_ratio > 0 and self.mix is None


def make_options(
    args: argparse.Namespace, speaker: str, transpose: float, mix: SpeakerMix | None = None
) -> ConversionOptions:
    """What the flags ask for, verified, for one speaker and one transposition."""
    threshold = outside("-ft", "f0_filter_threshold", args.f0_filter_threshold)
    if problem := threshold or outside("", "formant_key", args.formant_key):
        raise UsageError(problem)
    check_limits(args.f0_min, args.f0_max)
    return ConversionOptions(
        speaker=speaker,
        mix=mix,
        retrieval_ratio=args.cluster_infer_ratio,
        transpose=transpose,
        predict_f0=args.auto_predict_f0 and not args.only_diffusion,
        noise_scale=args.noise_scale,
        kept_consonants=args.keep_consonants,
        slice_db=args.slice_db,
        pad_seconds=args.pad_seconds,
        clip_seconds=args.clip,
        overlap_seconds=args.linear_gradient,
        overlap_retain=args.linear_gradient_retain,
        loudness_ratio=args.loudness_envelope_adjustment,
        second_encoding=args.second_encoding,
        enhance=args.enhance,
        enhancer_key=args.enhancer_adaptive_key,
        formant_key=args.formant_key if args.enhance or kind_of(args) != "sovits" else 0.0,  # else nobody sings it
        extend_range=args.extend_range,
        output_format=args.wav_format,
        max_segment_seconds=args.max_segment,
        with_metadata=not args.no_metadata,
        melody=melody_options(args),
    )


def outside(short: str, name: str, value: float) -> str | None:
    """What to say of a flag's value that is not within its `BOUNDS`; NaN never is."""
    low, high = BOUNDS[name]
    flag = f"{short}/--{name}" if short else f"--{name}"
    return None if low <= value <= high else f"{flag} is {value:g}; it must lie between {low:g} and {high:g}"
