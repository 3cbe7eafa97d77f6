"""95 % intervals for shares of examples. Both keep a width at 0 % and 100 %, where the textbook one has none."""

import math

import numpy as np

Z95 = 1.959964


def wilson(share: float, count: int) -> tuple[float, float]:
    """Interval of a share in [0, 1] measured on `count` examples (Wilson 1927)."""
    shrink = 1 / (1 + Z95**2 / count)
    centre = shrink * (share + Z95**2 / (2 * count))
    half = shrink * Z95 * math.sqrt(share * (1 - share) / count + (Z95 / (2 * count)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Interval of mean(after) - mean(before), bool [N] each, for the same examples (Agresti and Min 2005).

    Pairing matters: two accuracies measured on the same images differ by less chance than two independent ones.
    """
    count = len(before) + 2
    gained = np.sum(after & ~before) + 0.5
    lost = np.sum(before & ~after) + 0.5
    centre = (gained - lost) / count
    half = Z95 * math.sqrt(gained + lost - (gained - lost) ** 2 / count) / count
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))
