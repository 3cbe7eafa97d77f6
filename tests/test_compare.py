"""Runs in one table: what is one row, what a row is called, and which runs may not share a table."""

import json
import statistics
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from clead_jax import compare, config
from clead_jax.reporting import compare_page, compare_runs

COUNT = 400
PGD = {"steps": 20, "eps": 0.1, "step_size": 0.025}
EPS = [0.0, 0.05, 0.1, 0.2]


def run(
    folder,
    pgd=0.6,
    *,
    baseline=0.2,
    seed=0,
    name="quickstart",
    images=COUNT,
    eps=0.1,
    curve="pgd",
    which="latest",
    **fields,
):
    """A finished run as its files say it. `pgd`: accuracy of the defended model; `fields`: settings, __ for the dot."""
    cfg = config.base()
    cfg.data.name, cfg.seed = "digits", seed
    for field, value in fields.items():
        section, _, last = field.rpartition("__")
        (cfg[section] if section else cfg).update({last: value})
    folder.mkdir(parents=True, exist_ok=True)
    config.save(cfg, str(folder), name, f"python -m clead_jax.main --config=configs/{name}.py")
    shares = {"baseline": baseline, "defended": pgd}
    fingerprint = {"baseline": f"baseline{seed}", "defended": str(folder)}
    models = {
        label: {
            "checkpoint": {
                "stage": cfg.defended if label == "defended" else label,
                "which": which,
                "epoch": 100,
                "fingerprint": fingerprint[label],
            },
            "settings": {"pgd": PGD},
            "accuracy": {"clean": 0.9, "pgd": share, "worst_case": share},
        }
        for label, share in shares.items()
    }
    falling = {label: [0.9, (0.9 + share) / 2, share, share / 4] for label, share in shares.items()}
    results = {
        "schema": 1,
        "dataset": {"name": "digits", "split": "test", "num_examples": images, "num_classes": 10},
        "threat_model": {"norm": "linf", "eps": eps},
        "models": models,
        "seen_attacks": ["pgd"],
        "unseen_attacks": [],
        "attacks": {"pgd": PGD},
        "label_use": {"baseline": ["training"], "defended": ["probe"]},
        "curves": {"attack": curve, "eps": EPS, "num_examples": 200, "accuracy": falling},
        "training_cost": {
            stage: {"forward_backward_passes": passes, "seconds": 1.0}
            for stage, passes in (("baseline", 1000), ("pretrain", 20000), ("probe", 300), ("supervised", 7000))
        },
        "checks": [{"name": "inside_ball", "status": "ok", "value": 0.1, "hint": ""}],
        "environment": {"command": "", "seed": seed},
    }
    save(folder, results, np.arange(images))
    return folder


def save(folder, results, index, tag=""):
    evaluation = folder / "evaluation" / tag
    evaluation.mkdir(parents=True, exist_ok=True)
    (evaluation / "results.json").write_text(json.dumps(results))
    np.savez(evaluation / "per_example.npz", index=index)


def changed(folder, tag="", **changes):
    """Rewrites the results of a run, or adds a side evaluation under `tag`."""
    results = json.loads((folder / "evaluation/results.json").read_text())
    save(folder, results | changes, np.arange(COUNT), tag)


def rows(*folders):
    """{name: {title: score}} of the first table."""
    found = compare_runs.read(folders)[0]
    return {row.name: {t: compare_runs.score(row.models, a) for t, a in found.columns.items()} for row in found.rows}


def lines(*folders):
    return compare_page.text(compare_runs.read(folders)).splitlines()


def test_control_and_method_stand_in_one_table_with_one_baseline(tmp_path):
    method = run(tmp_path / "clead", 0.6)
    control = run(tmp_path / "control", 0.7, defended="supervised")
    found = compare_runs.read([method, control])[0]
    assert [row.name for row in found.rows] == ["Without C-LEAD", "With C-LEAD", "With adversarial training"]
    assert [len(row.models) for row in found.rows] == [1, 1, 1]
    assert [row.forward_backward_passes for row in found.rows] == [1000, 21300, 7000]
    assert list(found.columns) == ["Clean images", "PGD-20", "Worst case"]
    table = lines(method, control)
    assert "60.0 [55.1, 64.7]" in table[5] and "21,300" in table[5] and "probe" in table[5]
    assert "70.0 [65.3, 74.3]" in table[6] and "7,000" in table[6]


def test_seeds_become_mean_and_spread(tmp_path):
    shares = (0.5, 0.6, 0.7)
    folders = [run(tmp_path / f"s{seed}", share, seed=seed) for seed, share in enumerate(shares)]
    before, after = rows(*reversed(folders)).values()
    assert after["PGD-20"].mean == pytest.approx(0.6) and after["PGD-20"].std == pytest.approx(statistics.stdev(shares))
    assert after["PGD-20"].single == list(shares)
    assert after["PGD-20"].interval95 == pytest.approx((0.551, 0.647), abs=1e-3)
    assert before["PGD-20"].std == 0
    assert "60.0 ± 10.0 [55.1, 64.7]" in lines(*folders)[5] and lines(*folders)[5].endswith("0, 1, 2")


def test_a_row_is_named_by_what_differs(tmp_path):
    fields = {"pretrain__temperature": 0.2, "augment__color_jitter": 0.4}
    folders = [run(tmp_path / "a"), run(tmp_path / "b", **fields), run(tmp_path / "c", seed=1, **fields)]
    assert list(rows(*folders)) == [
        "Without C-LEAD: augment.color_jitter=0.0",
        "Without C-LEAD: augment.color_jitter=0.4",
        "augment.color_jitter=0.0, pretrain.temperature=0.1",
        "augment.color_jitter=0.4, pretrain.temperature=0.2",
    ]


def test_configs_of_their_own_name_name_the_rows(tmp_path):
    folders = [run(tmp_path / name, name=name, model__backbone=name) for name in ("resnet18", "resnet50")]
    assert list(rows(*folders))[2:] == ["resnet18", "resnet50"]
    found = compare_page.plain(compare_runs.read(folders))["comparisons"][0]["rows"]
    assert found[3]["settings"] == {"model.backbone": "resnet50"}


def test_what_does_not_change_the_numbers_makes_no_row(tmp_path):
    folders = [run(tmp_path / "a"), run(tmp_path / "b", log__every=1, stages="evaluate", data__data_dir="x", seed=1)]
    assert list(rows(*folders)) == ["Without C-LEAD", "With C-LEAD"]


def test_another_checkpoint_of_a_run_is_another_row(tmp_path):
    folders = [run(tmp_path / which, seed=seed, which=which) for seed, which in enumerate(("latest", "best"))]
    assert len({entry.name for entry in compare_runs.read(folders)[0].rows}) == 4


def test_a_copy_counts_once(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    results = json.loads((first / "evaluation/results.json").read_text())
    changed(second, models=results["models"])
    assert [score.std for scores in rows(first, second, first).values() for score in scores.values()] == [None] * 6


def test_attacks_with_other_settings_are_columns_of_their_own(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b", seed=1)
    models = json.loads((second / "evaluation/results.json").read_text())["models"]
    for model in models.values():
        model["settings"]["pgd"] = PGD | {"steps": 10}
    changed(second, models=models)
    titles = list(compare_runs.read([first, second])[0].columns)
    assert titles == ["Clean images", "PGD-20", "PGD-10", "Worst case (over PGD-20)", "Worst case (over PGD-10)"]
    assert "(1 of 2 runs)" in lines(first, second)[5]
    for model in models.values():
        model["settings"]["pgd"] = PGD | {"step_size": 0.05}
    changed(second, models=models)
    titles = list(compare_runs.read([first, second])[0].columns)
    assert titles[1:3] == ["PGD-20 (step_size 0.025)", "PGD-20 (step_size 0.05)"]
    for model in models.values():
        model["settings"] = {"pgd(steps=20)": PGD}
        model["accuracy"]["pgd(steps=20)"] = model["accuracy"].pop("pgd")
    changed(second, models=models)
    titles = list(compare_runs.read([first, second])[0].columns)
    assert titles[1:3] == ["PGD-20 [pgd]", "PGD-20 [pgd(steps=20)]"]


def test_autoattack_has_a_column(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b", defended="supervised")
    shares = {"clean": 0.9, "square": 0.5, "autoattack": 0.4}
    changed(first, protocols={"autoattack": {"defended": {"accuracy": shares}}})
    table = rows(first, second)
    assert list(table["With C-LEAD"]) == ["Clean images", "PGD-20", "Worst case", "AutoAttack"]
    assert table["With C-LEAD"]["AutoAttack"].mean == 0.4 and table["Without C-LEAD"]["AutoAttack"] is None
    assert "not measured" in lines(first, second)[4]


def test_another_autoattack_and_an_unfinished_one_are_other_columns(tmp_path):
    folders = [run(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]
    kinds = ({"version": "standard", "complete": True}, {"version": "rand", "complete": True}, {"complete": False})
    for folder, kind in zip(folders, kinds, strict=True):
        changed(folder, protocols={"autoattack": {"defended": kind | {"accuracy": {"autoattack": 0.4}}}})
    titles = list(compare_runs.read(folders)[0].columns)
    assert titles[3:] == ["AutoAttack", "AutoAttack rand", "AutoAttack, stopped early (upper bound)"]


def test_an_attack_that_a_budget_stopped_is_another_column(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b", seed=1)
    models = json.loads((second / "evaluation/results.json").read_text())["models"]
    models["defended"]["incomplete"] = ["pgd"]
    changed(second, models=models)
    titles = list(compare_runs.read([first, second])[0].columns)
    assert titles[1:3] == ["PGD-20", "PGD-20, stopped early (upper bound)"]
    assert titles[4] == "Worst case, stopped early (upper bound)"


def test_averaged_weights_are_a_row_of_their_own(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b", seed=1)
    models = json.loads((second / "evaluation/results.json").read_text())["models"]
    models["defended"]["checkpoint"]["weights"] = "ema"
    changed(second, models=models)
    assert list(rows(first, second))[1:] == ["evaluation.weights=none", "evaluation.weights=ema"]


def test_models_that_the_user_named_are_rows_of_their_own(tmp_path):
    folders = [run(tmp_path / "a"), run(tmp_path / "b", seed=1)]
    for folder in folders:
        models = json.loads((folder / "evaluation/results.json").read_text())["models"]
        other = models["defended"]["checkpoint"] | {"fingerprint": f"other-{folder}"}  # of another work directory
        models["wide"] = models["defended"] | {"checkpoint": other}
        models["both"] = models["defended"] | {"checkpoint": other | {"stage": "ensemble(baseline+probe)"}}
        changed(folder, models=models)
    (found,) = compare_runs.read(folders)
    assert [row.name for row in found.rows] == ["Without C-LEAD", "With C-LEAD", "wide", "both"]
    assert [len(row.models) for row in found.rows] == [2] * 4
    assert [row.forward_backward_passes for row in found.rows] == [1000, 21300, 21300, 21300]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"eps": 0.05}, "12.8/255"),
        ({"images": 300}, "300 test images"),
    ],
)
def test_runs_that_were_not_measured_alike_are_refused(tmp_path, other, said):
    with pytest.raises(ValueError, match="not measured alike") as caught:
        compare_runs.read([run(tmp_path / "x/a"), run(tmp_path / "x/b"), run(tmp_path / "y/c", **other)])
    assert said in str(caught.value) and "x/a, x/b" in str(caught.value) and "y/c" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_measurement_that_runs_share_is_found_wherever_it_lies(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b", 0.5, eps=0.05, seed=1)
    changed(first, "linf-0.05-test-400", threat_model={"norm": "linf", "eps": 0.05})
    (found,) = compare_runs.read([first, second])
    assert found.results["threat_model"]["eps"] == 0.05
    assert found.notes[0].startswith("Left out, because no other run was measured so: digits, 400 test images, L∞")
    changed(second, "linf-0.1-test-400", threat_model={"norm": "linf", "eps": 0.1})
    found = compare_runs.read([first, second])
    assert [each.results["threat_model"]["eps"] for each in found] == [0.1, 0.05] and found[0].notes == []
    compare_page.write(found, tmp_path / "out")
    assert (tmp_path / "out/compare-2.png").exists()


def test_two_pairs_are_two_tables_that_name_who_is_absent(tmp_path):
    folders = [run(tmp_path / f"{eps}-{seed}", eps=eps, seed=seed) for eps in (0.1, 0.05) for seed in (0, 1)]
    found = compare_runs.read(folders)
    assert [each.results["threat_model"]["eps"] for each in found] == [0.1, 0.05]
    assert found[1].notes == ["Not in this table, because not measured so: 0.1-0, 0.1-1."]
    assert [len(row.models) for each in found for row in each.rows] == [2, 2, 2, 2]


def test_other_images_of_one_seed_are_refused_and_of_other_seeds_noted(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b", pretrain__temperature=0.2)
    results = json.loads((second / "evaluation/results.json").read_text())
    save(second, results, np.arange(COUNT) + 1)
    with pytest.raises(ValueError, match=r"^a and b, both of seed 0, had different images of digits, 400 test images"):
        compare_runs.read([first, second])
    third = run(tmp_path / "c", seed=1)
    save(third, results, np.arange(COUNT) + 1)
    (note,) = compare_runs.read([first, third])[0].notes
    assert "test images of its own" in note and note in lines(first, third)
    (second / "evaluation/per_example.npz").unlink()
    assert "not recorded in b" in compare_runs.read([first, second])[0].notes[0]


def test_the_page(tmp_path, capsys):
    folders = [
        run(tmp_path / "runs" / f"{t}-{seed}", 0.4 + t + seed / 20, seed=seed, pretrain__temperature=t)
        for t in (0.1, 0.2)
        for seed in (0, 1)
    ]
    warning = {"name": "trained_to_the_end", "status": "warn", "value": 1, "hint": "this is not the finished model"}
    changed(folders[0], checks=[warning])
    output = tmp_path / "out"
    compare.main(["compare", f"--workdirs={tmp_path}/runs/0.1-*,{folders[2]},{folders[3]}", f"--output={output}"])
    said = capsys.readouterr().out
    assert "pretrain.temperature=0.2" in said and f"comparison: {output}/compare.html" in said
    markdown, page = (output / "compare.md").read_text(), (output / "compare.html").read_text()
    for text in (markdown, page):
        assert "62.5 ± 3.5" in text and "0.1-0" in text and "this is not the finished model" in text
        assert str(tmp_path) not in text
    found = json.loads((output / "compare.json").read_text())["comparisons"][0]
    row = found["rows"][2]
    assert (row["name"], row["seeds"], row["runs"]) == ("pretrain.temperature=0.2", [0, 1], ["0.2-0", "0.2-1"])
    assert row["accuracy"]["PGD-20"]["mean"] == pytest.approx(0.625)
    assert row["accuracy"]["PGD-20"]["single"] == pytest.approx([0.6, 0.65])
    assert found["curves"]["accuracy"][row["name"]] == pytest.approx([0.9, 0.7625, 0.625, 0.15625])


def test_the_picture_has_curves_only_where_they_are_the_same_attack(tmp_path):
    first, second = run(tmp_path / "a", curve="fgsm"), run(tmp_path / "b", curve="fgsm", pretrain__temperature=0.2)
    compare_page.write(compare_runs.read([first, second]), tmp_path / "with")
    other = {"baseline": [0.9] * 3, "defended": [0.9] * 3}
    changed(second, curves={"attack": "fgsm", "eps": EPS[1:], "num_examples": 200, "accuracy": other})
    found = compare_runs.read([first, second])
    assert found[0].curves is None
    compare_page.write(found, tmp_path / "without")
    tall, short = (matplotlib.image.imread(tmp_path / name / "compare.png").shape[0] for name in ("with", "without"))
    assert tall > short + 400
    assert "No curves" in (tmp_path / "without/compare.md").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "which runs"),
        (["--workdirs={}/nowhere"], "nowhere is no work directory"),
        (["--workdirs={}/none*"], "no work directory matches"),
    ],
)
def test_bad_input(tmp_path, flags, said):
    with pytest.raises(ValueError, match=said) as caught:
        compare.main(["compare", *(flag.format(tmp_path) for flag in flags)])
    assert "\n" not in str(caught.value)


def test_a_run_without_results_is_named(tmp_path):
    (run(tmp_path / "a") / "evaluation/results.json").unlink()
    with pytest.raises(ValueError, match=r"a/evaluation/results.json does not exist"):
        compare_runs.read([tmp_path / "a"])


def test_starts_without_jax():
    code = "import sys, clead_jax.compare, clead_jax.sweep; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_papers_figure_transfer_and_the_model_itself_stand_side_by_side(tmp_path):
    folder, settings = run(tmp_path / "clead", 0.3, model__backbone="resnet50"), PGD | {"eps": 0.05}
    assert not any("Made on" in line for line in lines(folder))  # nothing was transferred
    made_by = {"pgd": {"settings": PGD, "fingerprint": {}}, "pgd(eps=0.05)": {"settings": settings, "fingerprint": {}}}
    made = {"source": "r34:baseline", "made_by": made_by}
    shares = {"accuracy": {"pgd": 0.7, "pgd(eps=0.05)": 0.8, "worst_case": 0.7}}
    suite = {"accuracy": {"clean": 0.9, "autoattack": 0.25}, "version": "fast"}
    results = json.loads((folder / "evaluation/results.json").read_text())
    protocols = {"paper": {"defended": made | shares}, "autoattack": {"defended": suite}}
    changed(folder, dataset=results["dataset"] | {"name": "cifar10"}, protocols=protocols)
    found = [line for line in lines(folder) if line.startswith("With C-LEAD PGD")]
    assert len(found) == 2 and any("Made on r34:baseline" in line for line in lines(folder))
    assert all(word in found[0] for word in ("68.7 / 57.6", " 70.0 [", " 30.0 [", " 25.0 ["))
    assert all(word in found[1] for word in ("(0.05)", "68.7 / 57.6", " 80.0 [", "not measured", "—"))
    row = compare_page.plain(compare_runs.read([folder]))["comparisons"][0]["rows"][1]
    assert row["transferred"]["pgd"]["mean"] == 0.7 and row["transferred"]["pgd"]["source"] == "r34:baseline"
