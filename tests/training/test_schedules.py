"""Values of schedules at known epochs, and what cannot be one."""

import jax
import numpy as np
import pytest

from clead_jax.training import schedules


def at(written, *epochs):
    """Values after so many epochs, of 8 with 5 steps each."""
    values = jax.jit(schedules.values(f"eps={written}", 8, 5))
    return [float(values(np.int32(5 * epoch))["eps"]) for epoch in epochs]


@pytest.mark.parametrize(
    ("written", "epochs", "expected"),
    [
        ("linear(start=0,end=8/255,epochs=4)", (0, 1, 4, 7), [0, 2 / 255, 8 / 255, 8 / 255]),
        ("linear(start=1,end=0)", (0, 2, 7.8, 8), [1, 0.75, 0.025, 0]),
        ("linear(start=2,end=4,epochs=2,begin=3)", (0, 3, 4, 6), [2, 2, 3, 4]),
        ("cosine(start=0,end=1,epochs=4)", (0, 1, 2, 4, 8), [0, (1 - 0.5**0.5) / 2, 0.5, 1, 1]),
        ("steps(values=2:4:8,epochs=1:3)", (0, 0.8, 1, 2.8, 3, 7), [2, 2, 4, 4, 8, 8]),
    ],
)
def test_values_at_known_epochs(written, epochs, expected):
    assert at(written, *epochs) == pytest.approx(expected, abs=1e-6)


def test_several_are_one_list():
    found = schedules.values("eps=linear(end=0.1),steps=steps(values=1:2,epochs=4)", 8, 5)(np.int32(20))
    assert {name: float(value) for name, value in found.items()} == pytest.approx({"eps": 0.05, "steps": 2})
    assert schedules.values("", 8, 5)(np.int32(20)) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linear(end=0.1)", r"schedules: 'linear\(end=0.1\)'; write each name once"),
        ("eps=linear(end=1),eps=linear(end=1)", "write each name once"),
        ("eps=sine(end=0.1)", "unknown schedule 'sine' of eps; known: linear, cosine, steps"),
        ("eps=linear(to=0.1)", "schedule 'linear' has no setting 'to'; it has start, end, epochs, begin"),
        ("eps=steps(values=1:2,epochs=3:4)", "write rising epochs and one value more"),
        ("eps=linear(end=0.1,epochs=-1)", "epochs must not be negative"),
    ],
)
def test_what_is_none_is_one_line(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        schedules.parse(text)
    assert "\n" not in str(caught.value)
