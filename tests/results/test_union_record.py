"""The union of evaluations in several norms, from their records."""

import numpy as np
import pytest

from clead_jax.results import union
from clead_jax.results.store import accuracies

CLEAN = np.array([True, True, True, True, False])
BROKEN = {"linf": [0, 4], "l2": [1, 4]}


def evaluation(norm, fingerprint="a", index=range(5), **more):
    hits = CLEAN & ~np.isin(np.arange(5), BROKEN[norm])
    records = {"index": np.array(index), "label": np.zeros(5, int), "net/clean": CLEAN, "net/pgd": hits}
    model = {"checkpoint": {"fingerprint": fingerprint}, **accuracies({"clean": CLEAN, "pgd": hits})}
    return {"threat_model": {"norm": norm, "eps": 0.1}, "models": {"net": model | more}}, records


def test_an_image_counts_only_if_it_is_right_in_all(tmp_path):
    found = {"": evaluation("linf"), "l2-0.1": evaluation("l2"), "other": evaluation("l2")}
    union.write(tmp_path, found, ["", "l2-0.1"])
    stored = union.stored(tmp_path, found)
    assert stored["models"]["net"]["accuracy"] == {"clean": 0.8, "linf": 0.6, "l2": 0.6, "union": 0.4}
    assert "incomplete" not in stored["models"]["net"]
    with np.load(tmp_path / "union.npz") as kept:
        assert set(kept) == {"net/linf", "net/l2", "net/union"}
        np.testing.assert_array_equal(kept["net/union"], [False, False, True, True, False])


def test_it_follows_the_records_and_marks_bounds(tmp_path):
    found = {"": evaluation("linf"), "l2-0.1": evaluation("l2")}
    union.write(tmp_path, found, ["", "l2-0.1"])
    found["l2-0.1"] = evaluation("l2", incomplete=["pgd"])
    found["l2-0.1"][1]["net/cw"] = np.zeros(5, bool)
    stored = union.stored(tmp_path, found)["models"]["net"]
    assert stored["accuracy"]["union"] == 0 and stored["incomplete"] == ["l2", "union"]


def test_what_is_not_of_one_model_or_of_the_same_images(tmp_path):
    assert union.stored(tmp_path, {"": evaluation("linf")}) is None
    found = {"": evaluation("linf"), "l2-0.1": evaluation("l2")}
    union.write(tmp_path, found, ["", "l2-0.1"])
    assert union.stored(tmp_path, {"": found[""]})["models"] == {}
    assert union.stored(tmp_path, found | {"": evaluation("linf", "b")})["models"] == {}
    with pytest.raises(ValueError, match=r"no union of evaluation, l2-0\.1"):
        union.write(tmp_path, found | {"": evaluation("linf", index=range(1, 6))}, ["", "l2-0.1"])
