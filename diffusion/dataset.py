"""Training items of the diffusion model: segments of clips with units, F0, volume and mel, cached in memory.

What is random about an item follows from the seed, the epoch and its number, as in `modules/data/dataset.py`.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from modules.audio.io import probe
from modules.config.audio import AudioSpec
from modules.config.diffusion import DiffusionConfig
from modules.data.dataset import ClipDataset, EpochBatches, place_generator, quiet_worker, require_listed
from modules.data.features import ClipFeatures, load_diffusion
from modules.data.filelist import read_list, speaker_of
from modules.encoders.align import align_units
from modules.errors import DataError, UserError

AUGMENTED_SHARE = 0.5  # of the training items
_MARGIN_SECONDS = 0.1  # by which a clip must be longer than a training segment


class Item(NamedTuple):
    """A segment of a clip: units (D, N), f0 and volume (N,), mel (M, N) natural log, and `aug_shift` in semitones."""

    units: torch.Tensor
    f0: torch.Tensor
    volume: torch.Tensor
    mel: torch.Tensor
    aug_shift: float
    speaker: int
    path: str


class Batch(NamedTuple):
    """Items of one length: as in `Item` with B in front; `speakers` (B,), `aug_shift` (B,), `paths` of the clips."""

    units: torch.Tensor
    f0: torch.Tensor
    volume: torch.Tensor
    mel: torch.Tensor
    aug_shift: torch.Tensor
    speakers: torch.Tensor
    paths: list[str]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device, in fp32."""
        moved = (x.to(device, non_blocking=True) if isinstance(x, torch.Tensor) else x for x in self)
        return Batch(*(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in moved))


class DiffusionDataset(ClipDataset):
    """The clips of a file list: for training random segments of them, every other one augmented; else whole ones."""

    def __init__(
        self,
        list_path: Path | str,
        config: DiffusionConfig,
        audio: AudioSpec,  # rate and hop of the clips
        mel: AudioSpec,  # of the vocoder
        training: bool = True,
        device: torch.device | str = "cpu",  # where the cache lies
    ) -> None:
        self.config, self.audio, self.mel_spec, self.training = config, audio, mel, training
        self.device = torch.device(device)
        self.n_frames = int(config.data.duration * audio.frame_rate)
        self.clips: list[Path] = []
        self.too_short: list[Path] = []
        self.n_seconds = 0.0
        self._find_clips(Path(list_path))
        self._cache: list[ClipFeatures] | None = None

    def fill_cache(self, show_progress: bool = True) -> None:
        """Reads all clips into the memory of the cache's device, half as large with `train.cache_fp16`."""
        from tqdm import tqdm

        hidden = not show_progress
        bar = tqdm(self.clips, "cache", unit="clip", leave=False, dynamic_ncols=True, delay=1, disable=hidden)
        self._cache = [self._compact(self._load(path)) for path in bar]

    def item(self, index: int, epoch: int = 0) -> Item:
        """Clip number `index` as the model sees it in `epoch`."""
        path = self.clips[index]
        clip = self._cache[index] if self._cache is not None else self._load(path)
        whose = self.config.spk[speaker_of(path)], path.as_posix()
        f0, volume, mel, shift = clip.f0, clip.volume, clip.mel, 0.0
        if not self.training:
            return Item(clip.units, f0, volume, mel, shift, *whose)
        generator = place_generator(self.config.train.seed, epoch, index)
        start = int(generator.integers(0, clip.mel.shape[1] - self.n_frames + 1))
        if generator.random() < AUGMENTED_SHARE:
            volume, mel, shift = clip.aug_volume, clip.aug_mel, clip.aug_shift
            f0 = f0 * 2 ** (shift / 12)
        frames = slice(start, start + self.n_frames)
        return Item(clip.units[:, frames], f0[frames], volume[frames], mel[:, frames], shift, *whose)

    def _load(self, path: Path) -> ClipFeatures:
        """All of one clip, its units aligned."""
        data = self.config.data
        found = load_diffusion(path, self.audio, self.mel_spec, data.encoder, self.training)
        if found.units.shape[0] != data.encoder_out_channels:
            raise DataError(
                f"{path}: its units are {found.units.shape[0]} wide but data.encoder_out_channels is "
                f"{data.encoder_out_channels}. Make both again with: python preprocess_flist_config.py and "
                "python preprocess_hubert_f0.py --use_diff"
            )
        units = align_units(found.units, found.mel.shape[1], data.unit_interpolate_mode)
        if self.training and found.mel.shape[1] < self.n_frames:
            raise DataError(f"{path}: has {found.mel.shape[1]} frames, data.duration needs {self.n_frames}")
        return replace(found, units=units, aug_shift=float(found.aug_shift))

    def _compact(self, clip: ClipFeatures) -> ClipFeatures:
        """A clip as the cache holds it. F0 stays fp32: half precision has steps of 0.5 Hz at 600 Hz."""
        half = torch.float16 if self.config.train.cache_fp16 else torch.float32
        tensors = {name: x for name, x in vars(clip).items() if isinstance(x, torch.Tensor)}
        moved = {name: x.to(self.device, torch.float32 if name == "f0" else half) for name, x in tensors.items()}
        return replace(clip, **moved)

    def _find_clips(self, list_path: Path) -> None:
        """Checks what can be known without reading the features: speakers, files, lengths."""
        for path in read_list(list_path):
            require_listed(path, list_path, self.config.spk, "the diffusion config")
            seconds = probe(path).seconds
            if self.training and seconds < self.config.data.duration + _MARGIN_SECONDS:
                self.too_short.append(path)
                continue
            self.n_seconds += seconds
            self.clips.append(path)
        if not self.clips:
            raise DataError(
                f"{list_path}: no clip is as long as data.duration ({self.config.data.duration:g} s, and "
                f"{_MARGIN_SECONDS} s more). Lower data.duration in the diffusion config, or record longer clips."
            )


def collate(items: list[Item | UserError]) -> Batch | UserError:
    """Joins items of one length to a batch; the first error among them comes back in its place."""
    errors = [item for item in items if isinstance(item, UserError)]
    if errors:
        return errors[0]
    units, f0, volume, mel = (torch.stack([item[column] for item in items]) for column in range(4))
    shifts = torch.tensor([item.aug_shift for item in items])
    speakers = torch.tensor([item.speaker for item in items])
    return Batch(units, f0, volume, mel, shifts, speakers, [item.path for item in items])


def make_loader(dataset: DiffusionDataset, device: torch.device, rank: int = 0, world_size: int = 1) -> DataLoader:
    """A loader of training batches of one rank; its `batch_sampler` is an `EpochBatches`."""
    train = dataset.config.train
    # A filled cache needs no workers, and on a CPU they would only take the cores from the network.
    workers = 0 if train.cache_all_data or device.type == "cpu" else min(train.num_workers, len(dataset))
    return DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), train.batch_size, train.seed, rank, world_size),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda" and dataset.device.type == "cpu",
        persistent_workers=workers > 0,
        worker_init_fn=quiet_worker,
        generator=torch.Generator(),  # or every epoch would draw from the global one, whose state a checkpoint keeps
    )
