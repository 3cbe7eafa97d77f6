"""What a store keeps, what it drops, and what it makes of records."""

import json

import numpy as np
import pytest

from clead_jax.results.store import Store, choose_directory

N = 12
INDEX = np.arange(N)
IMAGES = np.zeros((N, 2, 2, 1), np.float32)
DATASET = {"name": "digits", "split": "test", "num_examples": N}
HEADER = {"threat_model": {"norm": "linf", "eps": 0.1}, "dataset": DATASET}
DEPENDS = {"model": "a", "settings": {"steps": 5}}


def make(directory=None, **more):
    found = Store(HEADER, np.arange(N), np.zeros(N, int), directory, **more)
    found.begin_model("m", {"stage": "m", "fingerprint": "a", "which": "latest"})
    return found


def first(count):
    """bool [N], true for so many."""
    return np.arange(N) < count


def filled(directory=None):
    store = make(directory)
    store.records |= {"m/clean": first(10), "m/pgd": first(6)}
    store.model("m")["settings"] = {"pgd": {"steps": 5}}
    store.measured("m/pgd", DEPENDS)
    store.keep_images("m/pgd", IMAGES)
    return store


def test_a_record_is_there_again_and_known_by_what_it_depends_on(tmp_path):
    filled(tmp_path).save()
    store = make(tmp_path)
    assert store.holds("m/pgd", DEPENDS) and store.has_images("m/pgd")
    assert not store.holds("m/pgd", DEPENDS | {"settings": {"steps": 6}}) and not store.holds("m/cw", DEPENDS)
    np.testing.assert_array_equal(store.records["m/pgd"], first(6))
    model = json.loads((tmp_path / "results.json").read_text())["models"]["m"]
    assert model["accuracy"] == {"clean": 10 / 12, "pgd": 0.5, "worst_case": 0.5}
    assert model["worst_case_over"] == ["clean", "pgd"]
    fresh = make(tmp_path, fresh=True)
    assert fresh.records.keys() == {"index", "label"} and not fresh.holds("m/pgd", DEPENDS)


def test_other_weights_are_another_model(tmp_path):
    filled(tmp_path).save()
    store = make(tmp_path)
    store.begin_model("m", {"fingerprint": "b"})
    assert store.direct("m") == {} and not store.holds("m/pgd", DEPENDS) and not store.has_images("m/pgd")


def test_a_dropped_attack_takes_its_images_and_settings_along(tmp_path):
    store = filled(tmp_path)
    store.drop("m", "pgd")
    assert not store.has_images("m/pgd") and not store.holds("m/pgd", DEPENDS)
    assert store.direct("m").keys() == {"clean"} and store.model("m")["settings"] == {}


def test_the_worst_case_of_the_two_compared_is_over_what_both_have_met():
    store = make()
    for label, met in (("baseline", {"pgd": 6}), ("defended", {"pgd": 6, "cw": 2})):
        store.begin_model(label, {"fingerprint": label})
        store.records |= {f"{label}/{attack}": first(count) for attack, count in {"clean": 10, **met}.items()}
    store.save()
    assert store.model("defended")["worst_case_over"] == ["clean", "pgd"]
    assert store.model("defended")["accuracy"]["worst_case"] == 0.5


@pytest.mark.parametrize(("complete", "published"), [(False, 5), (True, 9)])
def test_the_bound_of_a_stopped_suite_is_lowered_by_other_attacks(complete, published):
    store = filled()
    store.records |= {"m/pgd": first(5), "m/autoattack": first(9)}
    entry = {"attacks": [], "complete": complete, "accuracy": {"autoattack": 9 / N}, "interval95": {}}
    store.protocol("autoattack")["m"] = entry
    store.save()
    assert entry["accuracy"]["autoattack"] == published / N and "autoattack" not in store.direct("m")


def test_checks_are_out_of_date_when_something_is_measured():
    store = filled()
    store.model("m")["checks"], store.results["checks"] = [], []
    store.measured("m/checks", DEPENDS)
    store.outdate_checks("m", asked=False)
    assert "checks" not in store.results and "checks" in store.model("m") and not store.holds("m/checks", DEPENDS)
    store.outdate_checks("m", asked=True)
    assert "checks" not in store.model("m")


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = filled()
    store.save()
    assert store.images["m/pgd"] is IMAGES and store.progress_file("m/pgd") is None and not list(tmp_path.iterdir())


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    filled(tmp_path / "run").save()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    silent = make(tmp_path / "run", writes=False)
    silent.drop("m", "pgd")
    silent.save()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_results_of_something_else_get_a_folder_of_their_own(tmp_path):
    store = filled(tmp_path)
    store.protocol("autoattack")["m"] = {
        "version": "standard",
        "precision": "float32",
        "attacks": [],
        "accuracy": {},
        "complete": True,
    }
    store.save()

    def chosen(header=HEADER, index=INDEX, which="latest", suite=("standard", "float32"), fresh=False):
        return choose_directory(tmp_path, header, index, which, suite, fresh).name

    assert chosen() == chosen(suite=None) == tmp_path.name
    assert chosen(suite=("rand", "float32")) == "linf-0.1-test-12-rand"
    assert chosen(suite=("standard", "bfloat16")) == "linf-0.1-test-12-bfloat16"
    assert chosen(HEADER | {"threat_model": {"norm": "l2", "eps": 0.5}}) == "l2-0.5-test-12"
    assert chosen(which="best") == "linf-0.1-test-12-best"
    assert chosen(index=INDEX[::-1]) != tmp_path.name
