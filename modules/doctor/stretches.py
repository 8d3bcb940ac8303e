"""A sound that streams by, in stretches of ten seconds, whatever the sizes of its blocks."""

import numpy as np

SECONDS = 10


class Stretches:
    """Holds back what does not fill a stretch yet."""

    def __init__(self, rate: int) -> None:
        self.rate, self.n_samples = rate, 0
        self._held: list[np.ndarray] = []
        self._n_held = 0

    def push(self, block: np.ndarray) -> list[np.ndarray]:
        """Takes the next (T,) samples; returns the stretches that they fill, each (10 s,) float32."""
        self.n_samples += len(block)
        self._held.append(np.array(block, np.float32))
        self._n_held += len(block)
        size = SECONDS * self.rate
        if self._n_held < size:
            return []
        joined = np.concatenate(self._held)
        whole = len(joined) // size * size
        self._held, self._n_held = [joined[whole:].copy()], len(joined) - whole
        return np.split(joined[:whole], whole // size)

    def rest(self, least_seconds: float) -> list[np.ndarray]:
        """The last, shorter stretch; nothing where it is shorter than that."""
        return [np.concatenate(self._held)] if self._n_held >= max(1, least_seconds * self.rate) else []
