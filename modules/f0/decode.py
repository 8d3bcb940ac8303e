"""From a network's scores over pitch bins to a pitch: the weighted mean around the highest bin, all frames at once."""

import numpy as np
import torch

HALF_WIDTH = 4  # bins to each side of the highest that take part
# The 360 bins of CREPE and RMVPE: 20 cents apart, counted from 10 Hz, so the first lies at 31.7 Hz.
FIRST_BIN_CENTS = 1997.3794084376191
CENTS_PER_BIN = 20
N_BINS = 360
BIN_CENTS = FIRST_BIN_CENTS + CENTS_PER_BIN * np.arange(N_BINS)


def local_average(salience: torch.Tensor, cents: torch.Tensor, threshold: float, repeat_edge: bool) -> torch.Tensor:
    """Pitch of each frame, (n,) in cents above 10 Hz, -inf where no score is above the threshold.

    Of scores (n, 360), 0 to 1, and the pitch of each bin, (360,). At either end of the scale the last bin stands in for
    those beyond with `repeat_edge` (FCPE), else nothing does (RMVPE).
    """
    peak = salience.argmax(dim=1, keepdim=True)
    window = peak + torch.arange(-HALF_WIDTH, HALF_WIDTH + 1, device=salience.device)
    bins = window.clamp(0, salience.shape[1] - 1)
    weights = salience.gather(1, bins)
    confidence = weights.amax(dim=1)
    if not repeat_edge:
        weights = weights * (window == bins)
    # Averaging distances from the peak instead of cents keeps float32 exact to a thousandth of a cent.
    centre = cents[peak]
    offset = ((cents[bins] - centre) * weights).sum(dim=1) / weights.sum(dim=1)
    return torch.where(confidence > threshold, centre[:, 0] + offset, -torch.inf)


def cents_to_hz(cents: torch.Tensor) -> torch.Tensor:
    """Hz of cents above 10 Hz; -inf gives 0."""
    return 10 * torch.exp2(cents / 1200)
