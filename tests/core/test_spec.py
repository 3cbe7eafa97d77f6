"""How durations are written, and what is read of a file that a run was killed on."""

import pytest

from clead_jax.core import spec
from clead_jax.results import jsonl


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4.23, "4.2 s"), (9.97, "10 s"), (42, "42 s"), (59.8, "1 min 00 s"), (75.3, "1 min 15 s"), (3723, "1 h 02 min")],
)
def test_durations(seconds, said):
    assert spec.duration(seconds) == said


def test_a_torn_last_line_is_left_out_other_damage_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert jsonl.read(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert jsonl.read(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1, is not valid JSON"):
        jsonl.read(path)


def test_items_are_split_outside_parentheses():
    assert spec.items("noise(ensemble(a+b),std=0.1), c") == ("noise(ensemble(a+b),std=0.1)", "c")
    assert spec.split("ensemble(a+b)+c", "+") == ["ensemble(a+b)", "c"] and spec.items(" , ") == ()
