"""Extracting the features of many clips: what runs side by side, and in what order.

    workers (a thread, or processes)   clip -> spec, volume, f0, mels -> a short queue
    this process                                                         the queue -> encoder, in batches -> units

On a CPU the second row works while the first prepares the next clip, or each of several processes does whole clips. On
a GPU the networks run here, on batches of clips of similar length. Each clip is written as it is made.

Memory does not depend on the number of clips, and little on their length: what is longer than a minute is computed in
windows, waits for nothing in memory, and goes through the networks alone.
"""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from modules.audio.io import probe, resample
from modules.audio.loudness import frame_volume
from modules.audio.mel import spectrogram, vocoder_mel
from modules.batching import group_by_length
from modules.config.audio import AudioSpec
from modules.contracts import F0Predictor, SpeechEncoder
from modules.data.augmentation import WHOLE_SECONDS, augment, in_windows
from modules.data.features import FeatureRecipe, missing, read_clip, read_pitch, store
from modules.errors import AudioError, UserError
from modules.f0.base import fill_gaps
from modules.files import sha256_of

Item = TypeVar("Item")

QUEUE_CLIPS = 32  # that may wait for the networks; one of ten seconds takes 2.4 MB
BATCH_SECONDS = 120.0  # most audio in a batch on a GPU, padding included
LONGEST_MINUTES = 10  # of a clip; a spectrum takes 21 MB a minute, and training reads it whole for one window of it
_F0_SECONDS, _F0_CONTEXT = 30.0, 4.0  # windows of a long clip, and seconds around each: predictors follow paths


@dataclass(frozen=True)
class Extracted:
    """What was done for one clip, and what is still to do."""

    names: list[str] = field(default_factory=list)  # features that were made
    unvoiced: bool = False  # F0 was looked for and not found anywhere
    left: list[str] = field(default_factory=list)  # features that are still to be made
    encoder_wav: np.ndarray | None = None  # (T',) float32 at the encoder's rate, where units of a short clip are left
    wav: np.ndarray | None = None  # (T,) float32, where F0 of a short clip is left


def extract(
    wav_path: Path,
    recipe: FeatureRecipe,
    encoder: SpeechEncoder | None,
    predictor: F0Predictor | None,
    later: Sequence[str] = (),
    encoder_rate: int = 16000,
) -> Extracted:
    """Makes the missing features of a clip, but those in `later`, which it leaves for `Networks.finish`.

    `encoder` and `predictor` may be None where they have nothing to make; `encoder_rate` is that of the audio left.
    """
    names = missing(wav_path, recipe)
    if not names:
        return Extracted()
    seconds = require_length(wav_path)
    array = read_clip(wav_path, recipe.audio)
    wav, rate, hop = torch.from_numpy(array), recipe.audio.sampling_rate, recipe.audio.hop_length
    left = [name for name in names if name in later]
    makers = {
        "units": lambda: encoder.encode(resample(array, rate, encoder.sampling_rate)),
        "f0": lambda: _predict_f0(array, predictor, recipe.audio),
        "spec": lambda: in_windows(lambda part: spectrogram(part, recipe.audio), wav, recipe.audio),
        "volume": lambda: in_windows(lambda part: frame_volume(part, hop), wav, recipe.audio).numpy(),
        "mel": lambda: in_windows(lambda part: vocoder_mel(part, recipe.mel), wav, recipe.mel),
        "augmented": lambda: augment(wav, recipe.mel, recipe.seed, sha256_of(wav_path)),
    }
    made = [name for name in names if name not in left]
    if made:
        store(wav_path, recipe, {name: makers[name] for name in made})
    unvoiced = "f0" in made and not read_pitch(wav_path)[1].any()
    if seconds > WHOLE_SECONDS:  # whoever makes the rest reads it again
        return Extracted(made, unvoiced, left)
    encoder_wav = resample(array, rate, encoder_rate) if "units" in left else None
    return Extracted(made, unvoiced, left, encoder_wav, array if "f0" in left else None)


def require_length(wav_path: Path) -> float:
    """Seconds of a clip; an AudioError where it is too long to be one."""
    seconds = probe(wav_path).seconds
    if seconds > 60 * LONGEST_MINUTES:
        raise AudioError(
            f"{wav_path}: lasts {seconds / 60:.0f} minutes, a clip may last {LONGEST_MINUTES} (in an epoch training "
            "hears a few seconds of it). Cut it into clips of 3 to 15 s and put those in its place"
        )
    return seconds


@dataclass
class Networks:
    """The networks of this process, which finish the clips that workers have prepared."""

    recipe: FeatureRecipe
    encoder: SpeechEncoder | None  # None where no units are missing anywhere
    predictor: F0Predictor | None  # None where the workers predict F0
    batch_seconds: float = 0.0  # most audio in one batch, padding included; 0 takes clips one by one

    def finish(
        self, prepared: Iterable[tuple[Path, Extracted | Exception]]
    ) -> Iterator[tuple[Path, Extracted | Exception]]:
        """Makes what is left of clips as they come; a clip that fails is yielded with its error, the rest goes on."""
        waiting: list[tuple[Path, Extracted]] = []
        for path, clip in prepared:
            if isinstance(clip, Exception) or not clip.left:
                yield path, clip
                continue
            if clip.encoder_wav is None and clip.wav is None:
                yield path, self._finish_alone(path, clip)
                continue
            waiting.append((path, clip))
            if not self.batch_seconds or len(waiting) >= QUEUE_CLIPS:
                yield from self._run(waiting)
                waiting = []
        yield from self._run(waiting)

    def _run(self, clips: list[tuple[Path, Extracted]]) -> Iterator[tuple[Path, Extracted | Exception]]:
        """Clips in batches of similar length, each padded to its longest."""
        lengths = [0 if clip.encoder_wav is None else len(clip.encoder_wav) for _, clip in clips]
        budget = self.batch_seconds * (self.encoder.sampling_rate if self.encoder else 1)
        for group in group_by_length(lengths, budget):
            yield from self._run_batch([clips[index] for index in group])

    def _run_batch(self, batch: list[tuple[Path, Extracted]]) -> Iterator[tuple[Path, Extracted | Exception]]:
        with_units = [(path, clip) for path, clip in batch if "units" in clip.left]
        units: dict[Path, torch.Tensor] = {}
        failure: Exception | None = None
        try:
            if with_units:
                encoded = self.encoder.encode_batch([clip.encoder_wav for _, clip in with_units])
                units = {path: found for (path, _), found in zip(with_units, encoded)}
        except (UserError, RuntimeError, MemoryError) as error:
            failure = error
        if failure and len(batch) > 1:  # find out which clip it was, or whether one at a time fits
            for clip in batch:
                yield from self._run_batch([clip])
            return
        for path, clip in batch:
            yield path, failure or self._finish_clip(path, clip, units.get(path))

    def _finish_clip(self, path: Path, clip: Extracted, units: torch.Tensor | None) -> Extracted | Exception:
        made: dict[str, torch.Tensor | np.ndarray] = {} if units is None else {"units": units}
        try:
            if "f0" in clip.left:
                made["f0"] = _predict_f0(clip.wav, self.predictor, self.recipe.audio)
            store(path, self.recipe, made)
        except Exception as error:  # one clip's failure is that clip's result
            return error
        return Extracted([*clip.names, *clip.left], clip.unvoiced or ("f0" in made and not made["f0"][1].any()))

    def _finish_alone(self, path: Path, clip: Extracted) -> Extracted | Exception:
        """A long clip, which is read from its file again."""
        try:
            made = extract(path, self.recipe, self.encoder, self.predictor)
        except Exception as error:
            return error
        return Extracted([*clip.names, *made.names], clip.unvoiced or made.unvoiced)


def in_background(items: Iterable[Item], size: int) -> Iterator[Item]:
    """The items, produced by a thread that is up to `size` ahead; what it raises is raised here."""
    waiting: queue.Queue = queue.Queue(maxsize=size)
    stop, end = threading.Event(), object()

    def put(item: object, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                return waiting.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
            put(end)
        except BaseException as error:
            put(end, error)
        finally:
            if hasattr(items, "close"):  # a generator: its worker processes end now and not some time later
                items.close()

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()


def _predict_f0(wav: np.ndarray, predictor: F0Predictor, audio: AudioSpec) -> np.ndarray:
    """F0 and voicing, (2, N) float32; of a long clip in windows: most predictors take 0.2 GB a minute."""

    def voiced_pitch(part: torch.Tensor) -> torch.Tensor:
        found = predictor.predict(part.numpy())
        return torch.from_numpy(found.f0 * found.uv)

    if len(wav) <= WHOLE_SECONDS * audio.sampling_rate:
        found = predictor.predict(wav)
    else:  # gaps are filled at the end: one may go on from window to window
        found = fill_gaps(in_windows(voiced_pitch, torch.from_numpy(wav), audio, _F0_SECONDS, _F0_CONTEXT).numpy())
    return np.stack([found.f0, found.uv])
