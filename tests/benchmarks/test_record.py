"""benchmarks.record: what a file of results/ keeps of finished runs, and the table made from it."""

import json
from pathlib import Path

import pytest

from benchmarks import record


def run(config, seed, pgd, **more):
    accuracy = {"clean": 0.9, "pgd": pgd, "worst_case": pgd} | more
    return {
        "command": f"python -m clead_jax.main --config=configs/{config} --config.seed={seed}",
        "seed": seed,
        "models": {"defended": {"accuracy": accuracy}},
        "training_cost": {"a": {"forward_backward_passes": 1000}, "b": {"forward_backward_passes": 234}},
    }


def test_a_row_is_a_config_with_mean_and_spread_over_its_seeds():
    rows = record.table([run("mart.py:digits", 0, 0.5), run("fat.py", 0, 0.8), run("mart.py:digits", 1, 0.6)])
    assert rows.splitlines() == [
        "| config | Clean images | PGD | Worst case | training passes | seeds |",
        "|---|---|---|---|---|---|",
        "| `fat.py` | 90.0 | 80.0 | 80.0 | 1,234 | 1 |",
        "| `mart.py:digits` | 90.0 ± 0.0 | 55.0 ± 7.1 | 55.0 ± 7.1 | 1,234 | 2 |",
    ]


def test_rows_are_sorted_by_autoattack_where_there_is_one():
    runs = [run("a.py", 0, 0.9, autoattack_fast=0.1), run("b.py", 0, 0.5, autoattack_fast=0.4), run("c.py", 0, 0.9)]
    head, _, *rows = record.table(runs).splitlines()
    assert "| AutoAttack fast |" in head and [row[3:7] for row in rows] == ["b.py", "a.py", "c.py"]
    assert "| 90.0 | 90.0 |  | 1,234 |" in rows[-1]


def test_a_run_measured_again_replaces_the_earlier_one():
    kept = record.merged({"runs": [run("a.py", 0, 0.9), run("b.py", 0, 0.5)]}, [run("a.py", 0, 0.7)])
    assert [each["models"]["defended"]["accuracy"]["pgd"] for each in kept["runs"]] == [0.7, 0.5]


def test_a_record_holds_autoattack_by_version_transferred_images_and_no_path():
    results = {
        "models": {"defended": {"accuracy": {"clean": 0.91234567}, "interval95": {"clean": [0.123456, 0.5]}}},
        "protocols": {
            "autoattack": {
                "defended": {
                    "version": "fast",
                    "accuracy": {"pma": 0.6, "autoattack": 0.5},
                    "interval95": {"autoattack": [0.4, 0.6]},
                }
            },
            "paper": {"defended": {"accuracy": {"pgd": 0.8}, "interval95": {"pgd": [0.7, 0.9]}}},
        },
    }
    assert record.accuracies(results, "defended") == {
        "accuracy": {"clean": 0.9123, "autoattack_fast": 0.5, "transferred/pgd": 0.8},
        "interval95": {"clean": [0.1235, 0.5], "autoattack_fast": [0.4, 0.6], "transferred/pgd": [0.7, 0.9]},
    }


def test_a_finished_run_is_read(tmp_path):
    old = Path(__file__).resolve().parents[1] / "fixtures/workdir-v0.1"
    target = tmp_path / "found.json"
    record.main(["record", f"--workdirs={old}", f"--json={target}"])
    (found,) = json.loads(target.read_text())["runs"]
    assert "workdir" not in found["command"] and found["models"]["defended"]["accuracy"]["pgd"] == 0.0938
    assert (found["seed"], found["dataset"], found["num_examples"]) == (0, "digits", 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "write --workdirs"),
        (["--workdirs=runs/*"], "write --workdirs"),
        (["--workdirs=/nowhere/*", "--json=/nowhere/x.json"], "no finished run"),
    ],
)
def test_what_cannot_be_read_is_said(words, said):
    with pytest.raises(ValueError, match=said):
        record.main(["record", *words])
