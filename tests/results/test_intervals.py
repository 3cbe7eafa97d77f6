"""Intervals, against published values and by simulation."""

import numpy as np
import pytest

from clead_jax.results import intervals as statistics


def test_wilson_against_published_values():
    assert statistics.interval95(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert statistics.interval95(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert statistics.interval95(1000, 1000)[0] == pytest.approx(1000 / (1000 + 1.959964**2))


def test_no_example_has_no_interval():
    with pytest.raises(ValueError, match="at least one example, not 0"):
        statistics.interval95(0, 0)


def test_paired_interval_covers_the_truth_and_profits_from_pairing():
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(1000):
        difficulty = rng.random(200)
        low, high = statistics.paired_difference(difficulty < 0.3, difficulty + 0.1 * rng.random(200) < 0.6)
        covered += low <= 0.25 <= high  # P(difficulty + 0.1 u < 0.6) - 0.3 = 0.55 - 0.3
        widths.append(high - low)
    assert 0.93 <= covered / 1000 <= 0.98
    independent = 2 * 1.96 * np.sqrt((0.3 * 0.7 + 0.55 * 0.45) / 200)
    assert np.mean(widths) < 0.8 * independent
    same = np.ones(50, bool)
    low, high = statistics.paired_difference(same, same)
    assert low == -high < 0, "no change seen is not no change proven"
