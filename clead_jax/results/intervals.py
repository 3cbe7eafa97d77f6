"""How sure a share of N images can be: 95 % intervals that keep a width at 0 % and 100 %, as the textbook's do not."""

import math
import statistics
from typing import NamedTuple

import numpy as np

PRELIMINARY = 1000  # with fewer examples the intervals are wider than most differences people publish

_Z95 = 1.959964


def interval95(hits: float, n: int) -> tuple[float, float]:
    """The interval (low, high) of the share hits / n, in [0, 1] (Wilson 1927). Raises ValueError if n is below 1."""
    if n < 1:
        raise ValueError(f"an interval needs at least one example, not {n}")
    share, shrink = hits / n, 1 / (1 + _Z95**2 / n)
    centre = shrink * (share + _Z95**2 / (2 * n))
    half = shrink * _Z95 * math.sqrt(share * (1 - share) / n + (_Z95 / (2 * n)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)


class Summary(NamedTuple):
    """The accuracies of several models, in [0, 1], and what they come to."""

    mean: float
    std: float | None  # over the models, with n - 1; None for one
    interval95: tuple[float, float]  # of the mean, for the number of images: the chance in choosing them
    single: list[float]


def summary(single: list[float], n: int) -> Summary:
    """Of one accuracy per model, each measured on the same n images."""
    mean, std = statistics.fmean(single), statistics.stdev(single) if len(single) > 1 else None
    return Summary(mean, std, interval95(mean * n, n), single)


def paired_difference(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Interval of mean(after) - mean(before), bool [N] each, for the same examples (Agresti and Min 2005).

    Pairing matters: two accuracies measured on the same images differ by less chance than two independent ones.
    """
    count = len(before) + 2
    gained = np.sum(after & ~before) + 0.5
    lost = np.sum(before & ~after) + 0.5
    centre = (gained - lost) / count
    half = _Z95 * math.sqrt(gained + lost - (gained - lost) ** 2 / count) / count
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))
