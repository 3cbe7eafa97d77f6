"""How sure a share of N images can be."""

from scipy.stats import binomtest


def interval95(hits: int, n: int) -> list[float]:
    """The 95 % Wilson interval [low, high] of hits / n (Wilson 1927). Raises ValueError if n is 0."""
    if n == 0:
        raise ValueError("an interval needs at least one example")
    low, high = binomtest(int(hits), int(n)).proportion_ci(0.95, method="wilson")
    return [float(low), float(high)]
