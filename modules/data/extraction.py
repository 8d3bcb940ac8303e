"""Making the features of many clips: what runs side by side, and in what order.

    workers (a thread, or processes)   clip -> spec, volume, pitch, mels -> a short queue
    this process                                                            the queue -> encoder, in batches -> units

On a CPU the second row works while the first prepares the next clip, or each process does the whole clip where there
are several. On a GPU the networks run here, on batches of clips of similar length, and only the rest is prepared by
the workers. Each clip is written as it is made, so an interruption loses nothing that is finished.
"""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from modules.audio.io import resample
from modules.audio.mel import spectrogram, vocoder_mel
from modules.audio.volume import frame_volume
from modules.contracts import F0Predictor, SpeechEncoder
from modules.data.augmentation import Augmented, augment
from modules.data.features import FeatureRecipe, missing, read_clip, store
from modules.errors import UserError
from modules.files import sha256_of

Item = TypeVar("Item")

# Prepared clips that may wait for the networks. One clip of ten seconds takes 2.4 MB.
QUEUE_CLIPS = 32
# A batch on a GPU holds at most this much audio, silence at the ends of the shorter clips included.
BATCH_SECONDS = 120.0
_END = object()


@dataclass
class Made:
    """What happened to one clip.

    Args:
        names: features that were made.
        unvoiced: pitch was looked for and not found anywhere.
        left: features that are still to be made.
        heard: (T',) float32, the clip at the encoder's rate, where units are left.
        wav: (T,) float32, the clip, where a pitch is left.
    """

    names: list[str] = field(default_factory=list)
    unvoiced: bool = False
    left: list[str] = field(default_factory=list)
    heard: np.ndarray | None = None
    wav: np.ndarray | None = None


def extract(
    wav_path: Path,
    recipe: FeatureRecipe,
    encoder: SpeechEncoder | None,
    predictor: F0Predictor | None,
    later: Sequence[str] = (),
    encoder_rate: int = 16000,
) -> Made:
    """Makes the missing features of a clip, in this process.

    Args:
        wav_path: the clip.
        recipe: what is wanted.
        encoder: may be None where no units are missing, or where they are left for later.
        predictor: the same for f0.
        later: names to leave for `Networks.finish`.
        encoder_rate: rate of the audio for the encoder, in Hz.

    Raises:
        AudioError: the clip cannot be read, or is too short.
        DataError: it has another rate than the config.
    """
    names = missing(wav_path, recipe)
    if not names:
        return Made()
    wav = read_clip(wav_path, recipe.audio)
    done = Made([name for name in names if name not in later], left=[name for name in names if name in later])
    results: dict[str, torch.Tensor | np.ndarray | Augmented] = {}
    for name in done.names:
        if name == "units":
            results[name] = encoder.encode(resample(wav, recipe.audio.sampling_rate, encoder.sampling_rate))
        elif name == "f0":
            results[name] = _pitch(wav, predictor)
            done.unvoiced = not results[name][1].any()
        elif name == "spec":
            results[name] = spectrogram(torch.from_numpy(wav), recipe.audio)
        elif name == "volume":
            results[name] = frame_volume(torch.from_numpy(wav), recipe.audio.hop_length).numpy()
        elif name == "mel":
            results[name] = vocoder_mel(torch.from_numpy(wav), recipe.mel)
        elif name == "augmented":
            results[name] = augment(torch.from_numpy(wav), recipe.mel, recipe.seed, sha256_of(wav_path))
    if results:
        store(wav_path, recipe, results)
    if "units" in done.left:
        done.heard = resample(wav, recipe.audio.sampling_rate, encoder_rate)
    if "f0" in done.left:
        done.wav = wav
    return done


@dataclass
class Networks:
    """The networks of this process, and what they still have to do for prepared clips.

    Args:
        recipe: what is wanted.
        encoder: None where no units are missing anywhere.
        predictor: None where the workers find the pitch.
        batch_seconds: most audio in one batch, padding included; 0 takes clips one by one.
    """

    recipe: FeatureRecipe
    encoder: SpeechEncoder | None
    predictor: F0Predictor | None
    batch_seconds: float = 0.0

    def finish(self, prepared: Iterable[tuple[Path, Made | Exception]]) -> Iterator[tuple[Path, Made | Exception]]:
        """Makes what is left of clips as they come; a clip that fails is yielded with its error, the rest goes on.

        With batches, clips wait until the queue's worth of them is there, and go through sorted by length: each clip of
        a batch is padded to the longest.
        """
        waiting: list[tuple[Path, Made]] = []
        for path, made in prepared:
            if isinstance(made, Exception) or not made.left:
                yield path, made
                continue
            waiting.append((path, made))
            if not self.batch_seconds or len(waiting) >= QUEUE_CLIPS:
                yield from self._run(waiting)
                waiting = []
        yield from self._run(waiting)

    def _run(self, clips: list[tuple[Path, Made]]) -> Iterator[tuple[Path, Made | Exception]]:
        for batch in self._batches(clips):
            units: dict[Path, torch.Tensor] = {}
            failure: Exception | None = None
            with_units = [(path, made) for path, made in batch if "units" in made.left]
            try:
                encoded = self.encoder.encode_batch([made.heard for _, made in with_units]) if with_units else []
                units = {path: found for (path, _), found in zip(with_units, encoded)}
            except (UserError, RuntimeError, MemoryError) as error:
                failure = error
            if failure is not None and len(batch) > 1:  # find out which clip it was, or whether one at a time fits
                for clip in batch:
                    yield from self._run([clip])
                continue
            for path, made in batch:
                yield path, failure if failure is not None else self._finish_clip(path, made, units.get(path))

    def _finish_clip(self, path: Path, made: Made, units: torch.Tensor | None) -> Made | Exception:
        results: dict[str, torch.Tensor | np.ndarray] = {} if units is None else {"units": units}
        try:
            if "f0" in made.left:
                results["f0"] = _pitch(made.wav, self.predictor)
            store(path, self.recipe, results)
        except Exception as error:  # one clip's failure is that clip's result
            return error
        unvoiced = made.unvoiced or ("f0" in results and not results["f0"][1].any())
        return Made([*made.names, *made.left], unvoiced)

    def _batches(self, clips: list[tuple[Path, Made]]) -> Iterator[list[tuple[Path, Made]]]:
        """Neighbours in length, together at most `batch_seconds` when padded to the longest."""
        most = self.batch_seconds * (self.encoder.sampling_rate if self.encoder else 1)

        def length(clip: tuple[Path, Made]) -> int:
            return 0 if clip[1].heard is None else len(clip[1].heard)

        batch: list[tuple[Path, Made]] = []
        for clip in sorted(clips, key=length):
            if batch and (len(batch) + 1) * length(clip) > most:
                yield batch
                batch = []
            batch.append(clip)
        if batch:
            yield batch


def in_background(items: Iterable[Item], size: int) -> Iterator[Item]:
    """The items, produced by a thread that is up to `size` ahead; what it raises is raised here."""
    waiting: queue.Queue = queue.Queue(maxsize=size)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))
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
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()


def _pitch(wav: np.ndarray, predictor: F0Predictor) -> np.ndarray:
    found = predictor.predict(wav)
    return np.stack([found.f0, found.uv])
