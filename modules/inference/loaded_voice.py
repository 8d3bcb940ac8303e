"""LoadedVoice: a voice for Python programs, which `assemble.load_voice` makes; docs/api.md explains it.

It does for one song what inference_main.py does for many; nothing is printed, and what is wrong is a UserError.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from modules.audio.mono import to_mono
from modules.contracts import Retriever
from modules.errors import UsageError
from modules.f0.histogram import PitchHistogram
from modules.files import make_folder
from modules.inference.arguments import AUTO, AUTO_OCTAVE
from modules.inference.auto_transpose import KeyChooser
from modules.inference.converter import Progress, VoiceConverter
from modules.inference.keyword_options import song_options
from modules.inference.melody import check_curves
from modules.inference.options import MIX_NAME, ConversionOptions, make_options
from modules.inference.report import ConversionReport
from modules.inference.requests import check_format, choose_mix, choose_retrieval, choose_speakers
from modules.inference.speaker_mix import SpeakerMix, constant_mix
from modules.inference.stream import Song

Source = str | os.PathLike[str] | np.ndarray
Speaker = str | dict[str, float] | None


class LoadedVoice:
    """A trained voice that converts songs, one at a time."""

    def __init__(
        self,
        converter: VoiceConverter,
        args: argparse.Namespace,
        model: Path,
        find_notes: Callable[[], dict[str, PitchHistogram]],
        load_retriever: Callable[[Path, bool, str], Retriever],
    ) -> None:
        """`args`: the flags it was loaded with. `find_notes` gives the notes that each speaker was trained on,
        `load_retriever` centres or an index (is it one?) for a speaker; both are called when they are needed."""
        self.converter, self.args, self.model = converter, args, model
        self._find_notes, self._load_retriever = find_notes, load_retriever
        self._retrievers: dict[tuple[Path, bool, str], Retriever] = {}
        self.speakers = list(converter.pipeline.speakers)  # their names
        self.rate: int = converter.audio.sampling_rate  # Hz, of all that it gives
        self.report: ConversionReport | None = None  # of the newest conversion; complete when that has ended
        self.request: ConversionOptions | None = None  # what that was asked for, its key chosen

    def convert(
        self,
        source: Source,
        rate: int | None = None,
        *,
        speaker: Speaker = None,
        transpose: float | str = 0,
        on_progress: Progress | None = None,
        **options: Any,
    ) -> tuple[np.ndarray, int]:
        """A song in this voice: (ceil(T * model rate / rate),) float32 in [-1, 1], as long as the source, and its rate.

        Args:
            source: a path, or an array (T,), (T, C) or (C, T) in [-1, 1].
            rate: of the array, in Hz.
            speaker: a name, or shares of several such as {"alto": 0.7, "tenor": 0.3}; not needed where there is one.
            transpose: semitones, "auto" or "auto-octave".
            on_progress: is called with the seconds that are done and with those of the whole song.
            options: flags of inference_main.py by their long names, those in `keyword_options.CONVERTED`.
        """
        request = {"speaker": speaker, "transpose": transpose, "on_progress": on_progress, **options}
        return np.concatenate(list(self.stream(source, rate, **request))), self.rate

    def stream(
        self,
        source: Source,
        rate: int | None = None,
        *,
        speaker: Speaker = None,
        transpose: float | str = 0,
        on_progress: Progress | None = None,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """What `convert` gives in (T,) float32 blocks, each as soon as it is made; of a file no more is held."""
        open_song = self._opener(source, rate)
        self.request = request = self._request(open_song, speaker, transpose, options, source)
        self.converter.check(request)
        self.report = ConversionReport()
        return self.converter.stream(open_song(), request, self.report, on_progress)

    def convert_file(
        self,
        source: str | os.PathLike[str],
        result: str | os.PathLike[str],
        *,
        speaker: Speaker = None,
        transpose: float | str = 0,
        on_progress: Progress | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> ConversionReport:
        """Writes a song in this voice to `result`, whose suffix says in which format, as inference_main.py does."""
        source, result = Path(source), Path(result)
        if result.exists() and (not overwrite or (source.exists() and result.samefile(source))):
            raise UsageError(f"{result}: already exists. Choose another name, or overwrite=True (never for the source)")
        open_song = partial(Song.from_file, source, self.rate)
        request = self._request(open_song, speaker, transpose, options, source)
        melody = replace(request.melody, overwrite=overwrite)
        request = replace(request, output_format=result.suffix.removeprefix("."), melody=melody)
        check_format(request.output_format, self.rate)
        make_folder(result.parent)
        self.report = None
        self.report = self.converter.convert(source, result, request, progress=False, on_progress=on_progress)
        return self.report

    def _opener(self, source: Source, rate: int | None) -> Callable[[], Song]:
        """What opens the source, each time from its start."""
        if isinstance(source, str | os.PathLike):
            if rate is not None:
                raise UsageError("rate is for arrays; a file says its own. Leave it out.")
            return partial(Song.from_file, Path(source), self.rate)
        if not (isinstance(rate, Real) and float(rate).is_integer()):
            raise UsageError(f"rate is {rate!r}; an array needs its sampling rate in Hz: convert(wav, 44100)")
        wav, notes = to_mono(np.asarray(source))
        return partial(Song.from_array, wav, int(rate), self.rate, notes)

    def check(
        self, *, speaker: Speaker = None, transpose: float | str = 0, output_format: str = "flac", **options: Any
    ) -> None:
        """Refuses a request (UserError) as `convert` does, without a song and without loading anything; from any
        thread, also while another one converts."""
        _, request = self._verified(speaker, transpose, options)
        # Centres and indices are read when a conversion begins.
        self.converter.check(replace(request, output_format=output_format, retrieval_ratio=0.0))
        check_format(output_format, self.rate)

    def _verified(
        self, speaker: Speaker, transpose: float | str, options: dict[str, Any]
    ) -> tuple[argparse.Namespace, ConversionOptions]:
        """All flags, and the request; a key that is to be chosen is still 0."""
        args = song_options(self.args, options)
        name, mix = self._choose_voice(args, speaker)
        is_auto = isinstance(transpose, str)
        if not (transpose in (AUTO, AUTO_OCTAVE) if is_auto else isinstance(transpose, Real)):
            raise UsageError(f"transpose is {transpose!r}; expected semitones, {AUTO!r} or {AUTO_OCTAVE!r}")
        if is_auto and mix is not None:
            raise UsageError("-t auto needs one target voice; with a mix of voices give a number")
        semitones = 0.0 if is_auto else float(transpose)
        # A whole number is written into metadata as the command line writes it.
        return args, make_options(args, name, int(semitones) if semitones.is_integer() else semitones, mix)

    def _request(
        self,
        open_song: Callable[[], Song],
        speaker: Speaker,
        transpose: float | str,
        options: dict[str, Any],
        source: Source,
    ) -> ConversionOptions:
        """The verified request; what it needs besides the voice is loaded."""
        args, request = self._verified(speaker, transpose, options)
        path = Path(source) if isinstance(source, str | os.PathLike) else Path("audio.wav")
        check_curves(request.melody, [(path.name, path)])
        request = replace(request, melody=request.melody.for_song(path.name, path))
        name, pipeline = request.speaker, self.converter.pipeline
        if request.mix is None and (path := choose_retrieval(args, self.model)) is not None:
            key = path, args.feature_retrieval, name
            if key not in self._retrievers:
                self._retrievers[key] = self._load_retriever(*key)
            pipeline.retriever = self._retrievers[key]
        if isinstance(transpose, str):
            self.converter.voices = voices = self._find_notes()
            chooser = KeyChooser(voices, [name], self.model, pipeline, request.slice_db)
            request = replace(request, transpose=chooser.choose_for(open_song(), name, transpose, request.melody.f0_in))
        return request

    def _choose_voice(self, args: argparse.Namespace, speaker: Speaker) -> tuple[str, SpeakerMix | None]:
        """The target voice's name, and the mix of voices where one is wanted."""
        known = self.converter.pipeline.speakers
        if isinstance(speaker, dict):
            return MIX_NAME, constant_mix([f"{name}={share}" for name, share in speaker.items()], known)
        if args.use_spk_mix or args.mix_path:
            if speaker is not None:
                raise UsageError("use_spk_mix and mix_path say who sings; leave speaker out")
            return MIX_NAME, choose_mix(args, known, [])
        (name,) = choose_speakers(None if speaker is None else [speaker], list(known))
        return name, None
