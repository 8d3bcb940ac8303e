"""Writing m4a (AAC), which libsndfile cannot, by PyAV."""

from pathlib import Path

import numpy as np

_BITS_PER_SECOND = 128_000  # of each channel
_LAYOUTS = {1: "mono", 2: "stereo"}


class M4aFile:
    """An m4a file that is written block by block: what `StreamWriter` calls of a SoundFile; errors are OSErrors.

    AAC comes in packets of 1024 samples: players that do not know where the last one ends play up to 23 ms more.
    """

    def __init__(self, path: Path, rate: int, channels: int, tags: dict[str, str]) -> None:
        import av

        self._av, self._rate, self._n_samples = av, rate, 0
        self._layout = _LAYOUTS.get(channels)
        if self._layout is None:
            raise OSError(f"it has {channels} channels, and one or two are written")
        self._container = av.open(str(path), "w", format="ipod")
        try:
            self._container.metadata.update(tags)
            self._stream = self._container.add_stream("aac", rate=rate, layout=self._layout)
            self._stream.bit_rate = _BITS_PER_SECOND * channels
            self._stream.codec_context.open()
        except (av.error.FFmpegError, ValueError) as error:
            self._container.close()
            raise OSError(f"the encoder says: {error}") from None

    def write(self, samples: np.ndarray) -> None:
        """Appends (n, channels) or, of one channel, (n,) float32 samples."""
        block = np.ascontiguousarray(samples.reshape(len(samples), -1).T, np.float32)
        frame = self._av.AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts = self._rate, self._n_samples
        self._n_samples += len(samples)
        self._encode(frame)

    def close(self) -> None:
        """Writes what is left, and the header."""
        if self._n_samples:
            self._encode(None)
        self._container.close()

    def _encode(self, frame: "object | None") -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except self._av.error.FFmpegError as error:
            raise error if isinstance(error, OSError) else OSError(str(error)) from None
