"""Training items of the voice model: aligned features of one clip, a window of long ones, volume augmentation, batches.

What is drawn for an item follows from the seed, the epoch and the item's number alone, so resuming changes nothing.
"""

import itertools
import math
import os
import signal
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from modules.audio.io import probe
from modules.config.schema import Config
from modules.data import features
from modules.data.feature_files import require_regular
from modules.data.filelist import read_list, speaker_of
from modules.encoders.align import align_units
from modules.errors import FAILURES, DataError, UserError, is_out_of_memory, reason_of
from modules.text import printable

# A clip that is longer than train.window_frames by no more than this is left whole, as so-vits-svc does it.
WINDOW_SLACK = 10
_REMAKE = "Make the list again with: python preprocess_flist_config.py"
_SPECTRUM_FLOOR = 1e-6  # what `modules.audio.mel.spectrogram` adds under its root


class Item(NamedTuple):
    """One clip."""

    units: torch.Tensor  # (D, N)
    f0: torch.Tensor  # (N,) Hz
    uv: torch.Tensor  # (N,), 1 = voiced
    spec: torch.Tensor  # (F, N)
    wav: torch.Tensor  # (N * hop_length,)
    speaker: int
    volume: torch.Tensor | None  # (N,)
    path: str


class Batch(NamedTuple):
    """Items padded with zeros to the longest, longest first."""

    units: torch.Tensor  # (B, D, N)
    f0: torch.Tensor  # (B, N)
    uv: torch.Tensor  # (B, N)
    spec: torch.Tensor  # (B, F, N)
    wav: torch.Tensor  # (B, 1, N * hop_length)
    speakers: torch.Tensor  # (B,)
    lengths: torch.Tensor  # (B,) frames
    volume: torch.Tensor | None  # (B, N)
    paths: list[str]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(*(x.to(device, non_blocking=True) if isinstance(x, torch.Tensor) else x for x in self))


class Draw(NamedTuple):
    """Which item, and the epoch that decides what is random about it."""

    index: int
    epoch: int


class ClipDataset(Dataset):
    """What data sets of clips share: an item is known by its clip's number and the epoch."""

    clips: list[Path]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: Draw) -> tuple | UserError:
        """One item; an error that a user can mend is returned, for the trainer to raise it outside of the worker."""
        try:
            return self.item(*draw)
        except Exception as error:
            if not isinstance(error, FAILURES) and not is_out_of_memory(error):
                raise
            path = self.clips[draw.index]
            return error if isinstance(error, UserError) else DataError(f"{path}: {reason_of(error, path)}")

    @abstractmethod
    def item(self, index: int, epoch: int = 0) -> tuple:
        """Clip number `index` as the model sees it in `epoch`."""

    def evenly_spaced(self, limit: int) -> list[tuple]:
        """At most that many items, from all over the list, which goes speaker by speaker."""
        wanted = min(limit, len(self))
        return [self.item(index * len(self) // wanted) for index in range(wanted)]


def require_listed(path: Path, list_path: Path, speakers: dict[str, int], where: object) -> None:
    """Refuses an entry of a list that is no clip, or whose speaker is not in the config `where`."""
    shown = f"{list_path}: lists {printable(path)}"
    if path.suffix.lower() != ".wav":
        raise DataError(f"{shown}, expected SPEAKER/clip.wav. Remove that line")
    if speaker_of(path) not in speakers:
        known = printable(", ".join(speakers)) or "none"
        raise DataError(
            f"{shown} by {printable(speaker_of(path))!r}, who is not in {where}. Known speakers: {known}. "
            "Make both again with: python preprocess_flist_config.py"
        )
    try:
        require_regular(path)
    except FileNotFoundError:
        raise DataError(f"{shown}, which does not exist. {_REMAKE}") from None
    except (OSError, ValueError, DataError) as error:  # ValueError: a name that no file can have
        raise DataError(f"{shown}, which cannot be used: {reason_of(error, path)}. {_REMAKE}") from None


class VoiceDataset(ClipDataset):
    """The clips of a file list; in training, random windows of long ones and, with `train.vol_aug`, changed volumes."""

    def __init__(self, list_path: Path | str, config: Config, training: bool = True) -> None:
        self.config, self.audio, self.training = config, config.audio, training
        self.augments_volume = training and config.train.vol_aug and config.model.vol_embedding
        self.n_seconds = 0.0
        self.too_short: list[Path] = []
        self.clips = self._check_clips(Path(list_path))
        self._cache = [self._load(path) for path in self.clips] if config.train.all_in_mem else None

    def item(self, index: int, epoch: int = 0) -> Item:
        """Clip number `index` as the model sees it in `epoch`."""
        item = self._cache[index] if self._cache is not None else self._load(self.clips[index])
        if not self.training:
            return item
        generator = place_generator(self.config.train.seed, epoch, index)
        gain = draw_gain(item, generator) if self.augments_volume and generator.random() < 0.5 else None
        n_frames, window = len(item.f0), self.config.train.window_frames
        if n_frames > window + WINDOW_SLACK:
            start = int(generator.integers(0, n_frames - window - WINDOW_SLACK + 1))
            curves = {name: getattr(item, name) for name in ("units", "f0", "uv", "spec", "volume")}
            cut = {name: curve[..., start : start + window] for name, curve in curves.items() if curve is not None}
            hop = self.audio.hop_length
            item = item._replace(**cut, wav=item.wav[start * hop : (start + window) * hop])
        return item if gain is None else change_volume(item, gain)

    def of_speaker(self, name: str, limit: int) -> Iterator[Item]:
        """At most `limit` whole clips of a speaker, from all over the list, as they were recorded."""
        clips = [path for path in self.clips if speaker_of(path) == name]
        for path in clips[:: max(1, -(-len(clips) // limit))]:
            yield self._load(path)

    def volume_peak(self, most_clips: int = 200) -> float:
        """Linear RMS of the loudest frame of a clip, in the median of at most that many clips from all over the list,
        as they were recorded."""
        clips = self.clips[:: max(1, len(self.clips) // most_clips)]
        return float(np.median([float(features.read_volume(path).max()) for path in clips]))

    def _load(self, path: Path) -> Item:
        model = self.config.model
        found = features.load(path, self.audio, model.speech_encoder, model.vol_embedding)
        if found.units.shape[0] != model.ssl_dim:
            raise DataError(
                f"{path}: its units are {found.units.shape[0]} wide but model.ssl_dim is {model.ssl_dim}. "
                f"Correct model.ssl_dim, or make them again with: {features.COMMAND}"
            )
        n_frames = len(found.f0)
        wav = torch.nn.functional.pad(found.wav, (0, n_frames * self.audio.hop_length - len(found.wav)))
        units = align_units(found.units, n_frames, self.config.data.unit_interpolate_mode)
        speaker = self.config.spk[speaker_of(path)]
        return Item(units, found.f0, found.uv, found.spec, wav, speaker, found.volume, path.as_posix())

    def _check_clips(self, list_path: Path) -> list[Path]:
        """The usable clips of a list, by what can be known without reading features: speakers, files, lengths."""
        names = [name for name in features.NAMES if name != "volume" or self.config.model.vol_embedding]
        kept = []
        for path in read_list(list_path):
            require_listed(path, list_path, self.config.spk, self.config.path or "the config")
            missing = [file for name in names if not os.path.lexists(file := features.path_of(path, name))]
            if missing:
                raise DataError(f"{missing[0]}: is missing. Make it with: {features.COMMAND}")
            info = probe(path)
            if self.training and info.n_samples < self.config.train.segment_size * info.rate / self.audio.sampling_rate:
                self.too_short.append(path)
                continue
            self.n_seconds += info.seconds
            kept.append(path)
        if not kept:
            seconds = self.config.train.segment_size / self.audio.sampling_rate
            raise DataError(f"{list_path}: no clip is as long as train.segment_size ({seconds:.2f} s). {_REMAKE}")
        return kept


def draw_gain(item: Item, generator: np.random.Generator) -> float:
    """A factor 10^g on the loudness of an item, g uniform from -1 to what full scale allows, but 1 at most."""
    peak = float(item.wav.abs().max()) + 1e-5
    return 10 ** generator.uniform(-1, min(1, math.log10(1 / peak)))


def change_volume(item: Item, gain: float) -> Item:
    """An item as if recorded `gain` times as loud: sqrt(|X|^2 + e) of its spectrum becomes sqrt(gain^2 |X|^2 + e)."""
    power = (item.spec.square() - _SPECTRUM_FLOOR).clamp_min(0)
    spec = (gain**2 * power + _SPECTRUM_FLOOR).sqrt()
    return item._replace(wav=item.wav * gain, volume=item.volume * gain, spec=spec)


def collate(items: list[Item | UserError]) -> Batch | UserError:
    """Joins items to a batch; the first error among them comes back in its place."""
    if errors := [item for item in items if isinstance(item, UserError)]:
        return errors[0]
    items = sorted(items, key=lambda item: -len(item.f0))

    def padded(name: str) -> torch.Tensor | None:  # (B, ..., longest), with zeros at the end of the last axis
        tensors = [getattr(item, name) for item in items]
        if any(tensor is None for tensor in tensors):
            return None
        return pad_sequence([tensor.movedim(-1, 0) for tensor in tensors], batch_first=True).movedim(1, -1).contiguous()

    return Batch(
        **{name: padded(name) for name in ("units", "f0", "uv", "spec", "volume")},
        wav=padded("wav").unsqueeze(1),
        speakers=torch.tensor([item.speaker for item in items]),
        lengths=torch.tensor([len(item.f0) for item in items]),
        paths=[item.path for item in items],
    )


class EpochBatches(Sampler):
    """Batches of `Draw`s in an order that follows from seed and epoch; call `set_epoch` before each pass.

    Several ranks share a batch of `world_size` times as many items, of which each gets every `world_size`-th. All get
    equally many batches and none an empty one; for that the last batch of an epoch may repeat items of its first.
    """

    def __init__(self, n_items: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_items, self.seed, self.rank, self.world_size = n_items, seed, rank, world_size
        self.items_per_batch = batch_size * world_size  # of all ranks
        self.set_epoch(1)

    def __len__(self) -> int:
        return math.ceil(self.n_items / self.items_per_batch)

    def set_epoch(self, epoch: int, skip: int = 0, last: int | None = None) -> None:
        """The next pass: from batch `skip` of `epoch` (from 1) to the end of `last`, without a pause between epochs."""
        self.epoch, self.skip, self.last = epoch, skip, epoch if last is None else last

    def __iter__(self) -> Iterator[list[Draw]]:
        skip = self.skip
        for epoch in range(self.epoch, self.last + 1):
            order = place_generator(self.seed, epoch).permutation(self.n_items).tolist()
            for first in range(skip * self.items_per_batch, self.n_items, self.items_per_batch):
                shared = order[first : first + self.items_per_batch]
                shared += itertools.islice(itertools.cycle(order), max(0, self.world_size - len(shared)))
                yield [Draw(index, epoch) for index in shared[self.rank :: self.world_size]]
            skip = 0


def make_loader(dataset: VoiceDataset, device: torch.device, rank: int = 0, world_size: int = 1) -> DataLoader:
    """A loader of training batches, of one rank of several; its `batch_sampler` is an `EpochBatches`."""
    train = dataset.config.train
    # On a CPU, workers would only take the cores from the networks.
    in_process = train.all_in_mem or device.type == "cpu"
    cores = max(1, (os.cpu_count() or 1) // world_size)
    workers = 0 if in_process else min(cores, 5, len(dataset))
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), train.batch_size, train.seed, rank, world_size),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=quiet_worker,
        generator=torch.Generator(),  # or every epoch would draw from the global one, whose state a checkpoint keeps
    )


def quiet_worker(_: int) -> None:
    """Leaves Ctrl-C, SIGTERM and SIGHUP, which may go to a whole group of processes, to the trainer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        # The trainer ends its workers when it has saved; one that hangs outlives that, but not for long.
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
    else:
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)  # Windows, where ranks are stopped with Ctrl-Break
    torch.set_num_threads(1)


def place_generator(seed: int, *place: int) -> np.random.Generator:
    """Random numbers of one place in the run; a negative seed, which torch takes, is folded to 32 bits."""
    return np.random.default_rng((seed & 0xFFFFFFFF, *place))
