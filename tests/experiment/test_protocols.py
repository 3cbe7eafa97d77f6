"""Transfer, white-box and AutoAttack side by side, on a run of the smallest experiment."""

import json
import shutil

import jax
import numpy as np
import pytest
import speck

import clead_jax
from clead_jax import config, evaluate, main, report
from clead_jax.attacks import autoattack
from clead_jax.attacks.parse import named_attack
from clead_jax.evaluation import measuring
from clead_jax.experiment import builders
from clead_jax.reporting import page


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("protocols") / "run"
    main.main(speck.command(workdir, seed=3))
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def short(monkeypatch):
    """AutoAttack with fewer steps and the same names."""
    original = autoattack.autoattack
    steps = {
        "apgd_ce": "steps=3",
        "apgd_dlr": "steps=2",
        "apgd_t": "steps=2,targets=2",
        "fab_t": "steps=2,targets=2",
        "square": "queries=9",
    }

    def shortened(version, norm, eps, classes):
        attacks, notes = original(version, norm, eps, classes)
        fewer = [named_attack(f"{a.name}({steps[a.name]})", {"norm": norm, "eps": eps}, {}) for a in attacks]
        return [f._replace(name=a.name, radius=eps) for f, a in zip(fewer, attacks, strict=True)], notes

    monkeypatch.setattr(autoattack, "autoattack", shortened)


def again(workdir, *flags):
    evaluate.main(["evaluate", f"--workdir={workdir}", "--curve=none", *flags])


def results(workdir):
    return json.loads((workdir / "evaluation" / "results.json").read_text())


def arrays(path):
    with np.load(path) as stored:
        return dict(stored)


def test_transfer_shows_images_of_the_undefended_model_to_the_defended_one(run):
    again(run, "--save_images")
    cfg, _ = config.restore(run)
    test = builders.splits(cfg, builders.dataset(cfg)).test
    kept = arrays(run / "evaluation/adversarial/baseline/pgd.npz")
    np.testing.assert_array_equal(kept["label"], test.labels)
    assert np.abs(kept["adversarial"] - test.images / 255).max() == pytest.approx(0.1, abs=1e-5)
    found = results(run)["protocols"]["paper"]
    for label, stage in (("baseline", "baseline"), ("defended", "probe")):
        forward, variables = clead_jax.load(str(run), stage)
        hits = np.asarray(forward(variables, kept["adversarial"]).argmax(-1)) == test.labels
        np.testing.assert_array_equal(arrays(run / "evaluation/per_example.npz")[f"{label}/paper/pgd"], hits)
        assert found[label]["accuracy"]["pgd"] == pytest.approx(hits.mean())
        assert found[label]["accuracy"]["worst_case"] <= found[label]["accuracy"]["pgd"]
    assert set(results(run)["models"]["defended"]["accuracy"]) == {"clean", "fgsm", "pgd", "worst_case"}


def test_autoattack_lies_beside_the_white_box_results(run, short):
    before = results(run)["models"]["defended"]["accuracy"]
    again(run, "--attacks=autoattack", "--save_images")
    found = results(run)
    assert found["models"]["defended"]["accuracy"] == before
    own, records = found["protocols"]["autoattack"]["defended"], arrays(run / "evaluation/per_example.npz")
    assert own["attacks"] == ["apgd_ce", "apgd_t", "fab_t", "square"] and own["complete"]
    correct = records["defended/clean"]
    for name in own["attacks"]:
        assert (records[f"defended/{name}"] <= correct).all()
        correct = records[f"defended/{name}"]
        assert own["accuracy"][name] == pytest.approx(correct.mean())
    np.testing.assert_array_equal(records["defended/autoattack"], correct)
    assert own["passes"]["apgd_ce"]["forward"] > 0 == own["passes"]["square"]["backward"]

    forward, variables = clead_jax.load(str(run))
    kept = arrays(run / "evaluation/adversarial/defended/autoattack.npz")
    hits = np.asarray(forward(variables, kept["adversarial"]).argmax(-1)) == kept["label"]
    np.testing.assert_array_equal(hits, correct)
    assert not list((run / "evaluation").glob("progress-*.npz"))  # its progress is no longer needed


def test_autoattack_is_not_run_twice(run, short, capsys):
    again(run, "--protocol=autoattack")
    capsys.readouterr()
    again(run, "--attacks=autoattack")
    assert capsys.readouterr().out.count("autoattack is measured already") == 2
    again(run, "--attacks=autoattack", "--fresh")
    assert "measured already" not in capsys.readouterr().out


def test_a_budget_can_be_added_to(run, short, capsys):
    again(run, "--attacks=autoattack", "--budget=4passes")
    assert "with more passes it goes on" in capsys.readouterr().out
    found = results(run)["protocols"]["autoattack"]["defended"]
    assert not found["complete"] and len(list((run / "evaluation").glob("progress-*.npz"))) == 2
    again(run, "--attacks=autoattack")
    assert results(run)["protocols"]["autoattack"]["defended"]["complete"]


def test_a_name_of_the_suite_is_not_given_to_something_else(run, short):
    again(run, "--attacks=autoattack")
    with pytest.raises(ValueError, match=r"apgd_ce is there as part of autoattack; write apgd_ce\(norm=linf\)"):
        again(run, "--attacks=apgd_ce(steps=2)", "--attacks=apgd_ce")


def test_an_attack_with_settings_lies_beside_the_suite(run, short, monkeypatch):
    again(run, "--attacks=square(queries=5)")
    records = arrays(run / "evaluation/per_example.npz")
    assert "defended/square(queries=5)" in records
    again(run, "--attacks=autoattack")
    assert "defended/square(queries=5)" in arrays(run / "evaluation/per_example.npz")
    assert "square(queries=5)" in results(run)["models"]["defended"]["accuracy"]


def test_another_version_or_precision_goes_to_a_folder_of_its_own(run, short):
    again(run, "--attacks=autoattack")
    before = results(run)
    for flag, tag in (("--version=rand", "rand"), ("--precision=bfloat16", "bfloat16")):
        again(run, "--attacks=autoattack", flag)
        assert results(run) == before  # the standard one is not replaced
        (other,) = (run / "evaluation").glob(f"linf-0.1-test-32-{tag}/results.json")
        own = json.loads(other.read_text())["protocols"]["autoattack"]["defended"]
        assert tag in (own["version"], own["precision"])
    names = {k.partition("/")[2] for k in arrays(run / "evaluation/per_example.npz") if k.startswith("defended/")}
    own = {"autoattack", *autoattack.VERSIONS["standard"]}
    assert names - {"clean", "fgsm", "pgd", "paper/fgsm", "paper/pgd"} == own


def test_a_single_attack_has_a_budget_and_goes_on_inside(run, capsys):
    long = "--attacks=pgd(steps=40,restarts=3)"
    again(run, long, "--protocol=whitebox", "--budget=15passes")
    found = results(run)["models"]["defended"]
    assert found["incomplete"] == ["pgd(steps=40,restarts=3)"]
    assert len(list((run / "evaluation").glob("progress-*.npz"))) == 2
    assert "with more passes it goes on" in capsys.readouterr().out
    again(run, long, "--protocol=whitebox")
    done = results(run)["models"]["defended"]
    assert "incomplete" not in done and not list((run / "evaluation").glob("progress-*.npz"))
    name = "pgd(steps=40,restarts=3)"
    assert done["accuracy"][name] <= found["accuracy"][name]
    kept = arrays(run / "evaluation/per_example.npz")[f"defended/{name}"]
    again(run, long, "--protocol=whitebox", "--fresh")
    np.testing.assert_array_equal(arrays(run / "evaluation/per_example.npz")[f"defended/{name}"], kept)


def test_the_bound_of_a_stopped_suite_is_not_above_a_direct_result(run, short):
    again(run, "--attacks=autoattack", "--budget=1passes")
    found = results(run)
    for label in ("baseline", "defended"):
        bound = found["protocols"]["autoattack"][label]["accuracy"]["autoattack"]
        assert bound <= min(found["models"][label]["accuracy"].values())


def test_transfer_without_a_baseline_says_so(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/baseline")
    again(tmp_path / "run", "--attacks=mi_fgsm")
    assert "no transfer attacks, for there is no model 'baseline'" in capsys.readouterr().out
    with pytest.raises(ValueError, match="protocol paper needs the stage baseline"):
        again(tmp_path / "run", "--protocol=paper")


def test_fresh_means_without_the_progress_too(run, short):
    again(run, "--attacks=autoattack", "--budget=4passes")
    begun = results(run)["protocols"]["autoattack"]["defended"]["passes"]["apgd_ce"]["forward"]
    again(run, "--attacks=autoattack", "--budget=4passes", "--fresh")
    assert results(run)["protocols"]["autoattack"]["defended"]["passes"]["apgd_ce"]["forward"] == begun


def test_images_are_those_of_the_attack_that_was_measured(run):
    kept = run / "evaluation/adversarial/defended/pgd.npz"
    again(run, "--attacks=pgd", "--protocol=whitebox", "--save_images")
    first = arrays(kept)["adversarial"]
    again(run, "--attacks=pgd", "--protocol=whitebox", "--steps=3")
    assert not kept.exists()
    again(run, "--attacks=pgd", "--protocol=whitebox", "--steps=3", "--save_images")
    assert arrays(kept)["adversarial"].shape == first.shape and np.abs(arrays(kept)["adversarial"] - first).max() > 0


def test_the_worst_case_of_a_model_does_not_depend_on_others(run, short):
    before = results(run)["models"]
    again(run, "--models=probe", "--attacks=autoattack")
    again(run, "--models=probe", "--attacks=fgsm")
    found = results(run)["models"]
    for label in ("baseline", "defended"):
        assert found[label]["accuracy"] == before[label]["accuracy"]
        assert found[label]["worst_case_over"] == ["clean", "fgsm", "pgd"]
    assert found["probe"]["worst_case_over"] == ["clean", "fgsm"]


@pytest.fixture
def few_checks(monkeypatch):
    from clead_jax.evaluation.checks import run

    few = [question for question in run.CHECKS if question.__name__ in ("sample_size", "images_range")]
    monkeypatch.setattr(run, "CHECKS", tuple(few))


def checked(workdir):
    return [check["name"] for check in results(workdir)["checks"]]


def test_the_checks_are_in_the_results(run, few_checks):
    again(run, "--checks", "--attacks=fgsm(eps=0.05)")
    assert checked(run) == ["images_range/defended", "sample_size/defended"]
    again(run, "--checks", "--models=probe", "--attacks=fgsm")
    both = [f"{name}/{model}" for model in ("defended", "probe") for name in ("images_range", "sample_size")]
    assert checked(run) == both
    again(run, "--nochecks", "--models=probe", "--attacks=fgsm(eps=0.04)")
    assert checked(run) == both  # not asking takes nothing back


@pytest.mark.slow
def test_checks_are_made_where_they_lack_and_once(run, few_checks, monkeypatch):
    again(run, "--nochecks", "--attacks=fgsm")
    assert checked(run) == []
    again(run, "--checks", "--attacks=fgsm")  # nothing to measure, all to check
    assert checked(run) == ["images_range/defended", "sample_size/defended"]
    monkeypatch.setattr(measuring, "run_checks", lambda context: pytest.fail("checked again"))
    again(run, "--checks", "--attacks=fgsm")
    monkeypatch.setattr(measuring, "run_checks", died)
    with pytest.raises(KeyboardInterrupt):
        again(run, "--checks", "--attacks=fgsm(eps=0.05)")
    monkeypatch.undo()
    again(run, "--checks", "--attacks=fgsm(eps=0.05)")
    assert "sample_size/defended" in checked(run)


def died(context):
    raise KeyboardInterrupt


def test_a_curve_can_be_of_fgsm(run):
    evaluate.main(["evaluate", f"--workdir={run}", "--curve=0,0.05,0.5", "--curve_attack=fgsm"])
    curve = results(run)["curves"]
    assert curve["attack"] == "fgsm" and len(curve["accuracy"]["defended"]) == 3


def test_bfloat16_is_differentiated_and_float32_judges(run, short, monkeypatch):
    seen, original = [], measuring.run_attacks
    spy = lambda model, *a, **more: seen.append(model.classifier.attack_forward) or original(model, *a, **more)
    monkeypatch.setattr(measuring, "run_attacks", spy)
    again(run, "--attacks=autoattack", "--precision=bfloat16", "--num_examples=16")
    assert any(seen)
    tag = next((run / "evaluation").glob("linf-*-16*"))
    found = json.loads((tag / "results.json").read_text())["protocols"]["autoattack"]["defended"]
    assert found["precision"] == "bfloat16"


# --- other models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    """A run of another architecture."""
    workdir = tmp_path_factory.mktemp("wider") / "run"
    settings = {"seed": 3, "model.width": 8, "baseline__average": "ema(decay=0.5)", "stages": "baseline"}
    main.main(speck.command(workdir, **settings))
    return workdir


@pytest.mark.slow
def test_models_of_other_architectures_wrappers_and_weights_in_one_evaluation(run, wider, short):
    models = f"probe,wide={wider}:baseline,both=ensemble(probe+{wider}:baseline),noisy=noise(probe,std=0.2)"
    again(run, f"--models={models}", "--attacks=pgd,autoattack(version=rand)", "--checks=false")
    tag = next((run / "evaluation").glob("linf-0.1-test-32-rand"), run / "evaluation")
    found = json.loads((tag / "results.json").read_text())
    assert {"probe", "wide", "both", "noisy"} <= set(found["models"])
    records = arrays(tag / "per_example.npz")
    cfg, _ = config.restore(run)
    test = builders.splits(cfg, builders.dataset(cfg)).test
    images = test.images / np.float32(255)
    logits = [jax.nn.log_softmax(clead_jax.load(str(w), s)(images)) for w, s in ((run, "probe"), (wider, "baseline"))]
    np.testing.assert_array_equal(records["wide/clean"], np.asarray(logits[1]).argmax(-1) == test.labels)
    mean = np.mean(np.exp(logits), 0)
    np.testing.assert_array_equal(records["both/clean"], mean.argmax(-1) == test.labels)
    assert found["label_use"]["both"] == sorted({*found["label_use"]["probe"], "training"})


@pytest.mark.slow
def test_labels_of_models(run, wider):
    nested = "noise(ensemble(baseline+probe),std=0.1)"
    naive = "bit_depth(baseline,bits=4,attacked=exact)"
    models = f"{wider}:baseline,defended=ensemble(baseline+probe),{nested},{naive}"
    again(run, f"--models={models}", "--attacks=fgsm", "--checks=false")
    records = arrays(run / "evaluation" / "per_example.npz")
    for label in (f"{wider.name}:baseline", "defended", nested, naive):
        assert {f"{label}/clean", f"{label}/fgsm"} <= set(records)
    np.testing.assert_array_equal(records[f"{naive}/clean"], records[f"{naive}/fgsm"])
    page.build(run)
    said = "bit_depth: attacks follow the derivative of the filter as it is."
    assert said in (run / "report" / "report.md").read_text().replace("\\", "")


def test_averaged_weights_are_chosen_by_name(wider):
    again(wider, "--models=baseline", "--attacks=fgsm", "--checks=false")
    last = results(wider)["models"]["baseline"]["checkpoint"]
    again(wider, "--models=ema=baseline", "--weights=ema", "--attacks=fgsm", "--checks=false")
    ema = results(wider)["models"]["ema"]["checkpoint"]
    assert ema["weights"] == "ema" and ema["fingerprint"] != last["fingerprint"]
    assert clead_jax.load(str(wider), "baseline", weights="ema").fingerprint == ema["fingerprint"]
    with pytest.raises(ValueError, match=r"no weights 'swa' in \S+: it holds ema"):
        again(wider, "--models=baseline", "--weights=swa")


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("finetune", r"has no checkpoint of stage 'finetune'; it has baseline, pretrain, probe"),
        ("nowhere:probe", "nowhere is no work directory"),
        ("mean(probe)", "unknown wrapper 'mean'"),
        ("noise(probe,sigma=1)", "wrapper 'noise' has no setting 'sigma'; it has std"),
        ("noise(probe+baseline)", "noise wraps one classifier, not 2"),
        ("bit_depth(probe,bits=0)", r"bit_depth\(bits=0\): bits must be at least 1, got 0"),
        ("median(probe,size=4)", "size must be odd, got 4"),
        ("median(probe,size=9)", "median: a window of 9 pixels is larger than the images, 8x8"),
        ("ensemble()", "'' names no model"),
        ("ensemble(baseline+)", "'' names no model"),
        ("ensemble(+baseline)", "'' names no model"),
        ("=probe", "the label '' is empty"),
        ("a=probe,a=baseline", "the label 'a' is"),
        ("a/b=probe", "the label 'a/b' is"),
    ],
)
def test_models_that_are_not_there(finished, models, said):
    with pytest.raises(ValueError, match=said) as caught:
        again(finished, f"--models={models}")
    assert "\n" not in str(caught.value)


def test_load_names_the_stages_that_there_are(finished):
    with pytest.raises(ValueError, match="no checkpoint of stage 'foo'; it has baseline, pretrain, probe"):
        clead_jax.load(str(finished), stage="foo")
    model = clead_jax.load(str(finished))
    assert isinstance(model, clead_jax.Classifier) and (model.name, model.num_classes) == ("probe", 10)
    result = clead_jax.audit(model, np.zeros((4, 8, 8, 1), np.float32), np.zeros(4, int), attacks="fgsm", checks=False)
    assert set(result.correct) == {"clean", "fgsm"}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--protocol=papers"], "unknown protocol 'papers'; known: paper, whitebox, autoattack"),
        (["--attacks=autoattack(version=best)"], "unknown version 'best' of autoattack; known: standard, plus, rand"),
        (["--attacks=autoattack(steps=3)"], "autoattack has no setting 'steps'; it has version"),
        (["--version=x"], "evaluation.version is 'x'; it can be standard, plus, rand"),
        (["--precision=fp8"], "evaluation.precision is 'fp8'; it can be float32, bfloat16"),
        (["--budget=soon"], "budget: 'soon' is none; write 90s, 10m, 2h or 2000passes"),
        (["--attacks=pgd(eps=0.2)"], "'pgd(eps=0.2)' goes beyond the threat model's eps, 0.1"),
        (["--attacks=apgd_ce,autoattack"], "apgd_ce is a part of autoattack"),
        (["--curve_attack=square"], "'square' has no step size"),
    ],
)
def test_bad_input(finished, flags, message):
    with pytest.raises(ValueError) as error:
        evaluate.main(["evaluate", f"--workdir={finished}", *flags])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_several_norms_their_union_and_curves_from_distances(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    for flags, told in (
        (["--norm=linf,l2", "--eps=0.1"], "one radius for each norm"),
        (["--norm=linf,l2", "--eps=0.1,9"], r"\[0, 8\]"),
        (["--corruptions"], "no corruptions of images 8x8x1"),
        (["--curve=0,1", "--curve_attack=ddn"], "ddn.* measures in l2"),
        (["--curve=0,1", "--curve_attack=fmn(eps=0.1)"], "leave it out"),
        (["--curve=0,1", "--curve_attack=square"], "no step size; take fgsm, pgd or cw, or .*fmn"),
    ):
        with pytest.raises(ValueError, match=told):
            again(run, "--attacks=fgsm", *flags)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before

    words = ["--attacks=fgsm", "--protocol=whitebox", "--norm=linf,l2", "--eps=0.1,0.5", "--curve=0,0.1,0.3"]
    evaluate.main(["evaluate", f"--workdir={run}", *words, "--curve_attack=fmn(steps=5,targets=1)"])
    assert "All of these norms" in capsys.readouterr().out
    union = json.loads((run / "evaluation/union.json").read_text())
    assert union["of"] == ["", "l2-0.5-test-32"] and [t["norm"] for t in union["threat_models"]] == ["linf", "l2"]
    folders, kept = [run / "evaluation" / tag for tag in union["of"]], arrays(run / "evaluation/union.npz")
    for label in ("baseline", "defended"):
        records = [arrays(folder / "per_example.npz") for folder in folders]
        every = [np.logical_and.reduce([r[k] for k in r if k.startswith(f"{label}/")]) for r in records]
        np.testing.assert_array_equal(kept[f"{label}/union"], np.logical_and(*every))
        assert union["models"][label]["accuracy"]["union"] == np.logical_and(*every).mean()
    for folder in folders:
        curves = json.loads((folder / "results.json").read_text())["curves"]
        assert curves["attack"] == "fmn(steps=5,targets=1)"
        for label, shares in curves["accuracy"].items():
            assert shares[0] >= shares[1] >= shares[2], label
    report.main(["report", f"--workdir={run}"])
    page = (run / "report/report.md").read_text()
    assert "## All norms together" in page and "The attack: FMN (steps 5, targets 1)" in page
