"""AudioSpec: the only audio parameters that signal processing accepts."""

from dataclasses import dataclass

from modules.errors import ConfigError


@dataclass(frozen=True)
class AudioSpec:
    """Sampling rate and parameters of a short-time spectrum; a ConfigError where they contradict each other."""

    sampling_rate: int  # Hz
    n_fft: int  # samples
    hop_length: int  # samples from one frame to the next
    win_length: int  # samples, at most n_fft
    n_mels: int
    fmin: float  # Hz, lowest mel edge
    fmax: float  # Hz, highest mel edge, at most half the sampling rate

    def __post_init__(self) -> None:
        for name in ("sampling_rate", "n_fft", "hop_length", "win_length", "n_mels"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"audio parameter {name} is {getattr(self, name)}; it must be positive")
        if self.win_length > self.n_fft:
            raise ConfigError(f"win_length {self.win_length} is longer than the FFT size {self.n_fft}")
        if not 0 <= self.fmin < self.fmax:
            raise ConfigError(f"mel_fmin {self.fmin} must lie below mel_fmax {self.fmax}")
        if self.fmax > self.sampling_rate / 2:
            raise ConfigError(f"mel_fmax {self.fmax} lies above half the sampling rate {self.sampling_rate}")

    @property
    def n_freqs(self) -> int:
        """Bins of the linear spectrum, F."""
        return self.n_fft // 2 + 1

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.hop_length

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of `n_samples` samples: N = T // hop_length, everywhere."""
        return n_samples // self.hop_length
