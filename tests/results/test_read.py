"""One reader for reports and comparisons: what is read, what may be missing, and what a stopped AutoAttack proves."""

import json
import pathlib

import numpy as np
import pytest

from clead_jax.results import read

OLD = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "workdir-v0.1"
HITS = {
    "defended/clean": [1, 1, 1, 1, 0],
    "defended/pgd": [0, 1, 1, 1, 0],
    "defended/apgd_ce": [1, 0, 1, 1, 0],
    "defended/autoattack": [1, 0, 1, 1, 0],
    "defended/paper/pgd": [1, 1, 0, 1, 0],
    "baseline/pgd": [0, 0, 0, 0, 0],
}


def results(complete=False):
    cascade = {"version": "standard", "attacks": ["apgd_ce"], "complete": complete}
    cascade |= {"accuracy": {"apgd_ce": 0.6, "autoattack": 0.6}, "interval95": {}}
    checkpoint = {"stage": "probe", "which": "latest", "fingerprint": "0"}
    model = {"checkpoint": checkpoint, "accuracy": {"clean": 0.8, "pgd": 0.6, "worst_case": 0.6}}
    broken = {"checkpoint": checkpoint, "accuracy": {"pgd": 0.0}}
    return {
        "schema": 1,
        "dataset": {"name": "digits", "split": "test", "num_examples": 5},
        "threat_model": {"norm": "linf", "eps": 0.1},
        "models": {"baseline": broken, "defended": model},
        "protocols": {
            "autoattack": {"defended": cascade},
            "paper": {"defended": {"accuracy": {"pgd": 0.6, "worst_case": 0.5}}},
        },
        **{key: [] for key in ("seen_attacks", "unseen_attacks", "checks")},
        "environment": {},
    }


def write(directory, content, **arrays):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(content))
    if arrays:
        np.savez(directory / "per_example.npz", **arrays)
    return directory


def autoattack(directory):
    found = read.evaluation(directory).results["protocols"]["autoattack"]["defended"]
    return found["accuracy"]["autoattack"], found["interval95"].get("autoattack")


def test_an_image_that_any_attack_broke_counts_against_a_stopped_cascade(tmp_path):
    records = {name: np.array(hits, bool) for name, hits in HITS.items()}
    share, interval = autoattack(write(tmp_path / "stopped", results(), **records))
    assert share == 0.2 and interval[0] < 0.2 < interval[1]
    assert autoattack(write(tmp_path / "finished", results(complete=True), **records)) == (0.6, None)
    del records["defended/autoattack"]
    assert autoattack(write(tmp_path / "no-record", results(), **records))[0] == 0.5  # the least of all accuracies
    assert autoattack(write(tmp_path / "no-file", results()))[0] == 0.5


def test_a_budget_that_stopped_an_attack_is_seen():
    assert read.stopped(results()) and not read.stopped(results(complete=True))
    single = results(complete=True)
    single["models"]["defended"]["incomplete"] = ["pgd"]
    assert read.stopped(single)


def test_evaluations_beside_the_main_one_come_after_it_if_they_are_finished(tmp_path):
    records = {name: np.array(hits, bool) for name, hits in HITS.items()}
    write(tmp_path / "evaluation", results(), index=np.arange(5), **records)
    write(tmp_path / "evaluation" / "linf-0.1", results(), index=np.arange(5, dtype=np.int32), **records)
    write(tmp_path / "evaluation" / "other", results(), index=np.arange(1, 6), **records)
    half = results()
    del half["checks"]
    write(tmp_path / "evaluation" / "half", half)
    found = read.evaluations(tmp_path)
    assert list(found) == ["", "linf-0.1", "other"]
    assert found[""].images == found["linf-0.1"].images != found["other"].images
    assert read.Evaluation({}, None).images == ""


def test_what_is_missing_is_none_and_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        read.read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"results.json does not exist: evaluate first"):
        read.read(tmp_path)
    write(tmp_path / "evaluation", results())
    found = read.read(tmp_path)
    assert (found.config, found.metrics, found.per_example, found.samples, found.embeddings) == (None, [], *3 * [None])
    assert found.workdir == "DIR" and found.others == {}
    (tmp_path / "evaluation" / "samples.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"samples\.npz"):
        read.read(tmp_path)


@pytest.mark.skipif(not OLD.exists(), reason="no work directory of an earlier version")
def test_a_work_directory_of_the_last_version_is_read():
    found = read.read(OLD)
    assert {"baseline", "defended"} <= found.results["models"].keys() and found.per_example and found.metrics
    assert found.config and read.evaluations(OLD)[""].images
