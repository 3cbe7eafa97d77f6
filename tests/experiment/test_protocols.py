"""Paper, white-box and AutoAttack side by side, on a run of the smallest experiment."""

import json
import shutil

import jax
import numpy as np
import pytest
import speck

import clead_jax
from clead_jax import config, evaluate, main
from clead_jax.attacks import parse as arsenal
from clead_jax.evaluation.classifier import NamedAttack
from clead_jax.evaluation.verify import Evaluator
from clead_jax.experiment import builders as build
from clead_jax.experiment import evaluate as measure


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
    original = arsenal.autoattack
    steps = {
        "apgd_ce": "steps=3",
        "apgd_dlr": "steps=2",
        "apgd_t": "steps=2,targets=2",
        "fab_t": "steps=2,targets=2",
        "square": "queries=9",
    }

    def shortened(version, norm, eps, classes):
        attacks, notes = original(version, norm, eps, classes)
        fewer = [arsenal.named_attack(f"{a.name}({steps[a.name]})", {"norm": norm, "eps": eps}, {}) for a in attacks]
        return [f._replace(name=a.name, radius=eps) for f, a in zip(fewer, attacks, strict=True)], notes

    monkeypatch.setattr(arsenal, "autoattack", shortened)


def again(workdir, *flags):
    evaluate.main(["evaluate", f"--workdir={workdir}", "--curve=none", *flags])


def results(workdir):
    return json.loads((workdir / "evaluation" / "results.json").read_text())


def arrays(path):
    with np.load(path) as stored:
        return dict(stored)


def test_papers_protocol_shows_images_of_the_undefended_model_to_the_defended_one(run):
    again(run, "--save_images")
    cfg, _ = config.restore(run)
    test = build.splits(cfg, build.dataset(cfg)).test
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


def test_autoattack_stands_beside_the_white_box_results(run, short):
    before = results(run)["models"]["defended"]["accuracy"]
    again(run, "--attacks=autoattack", "--save_images")
    found = results(run)
    assert found["models"]["defended"]["accuracy"] == before
    own, records = found["protocols"]["autoattack"]["defended"], arrays(run / "evaluation/per_example.npz")
    assert own["attacks"] == ["apgd_ce", "apgd_t", "fab_t", "square"] and own["complete"]
    standing = records["defended/clean"]
    for name in own["attacks"]:
        assert (records[f"defended/{name}"] <= standing).all()
        standing = records[f"defended/{name}"]
        assert own["accuracy"][name] == pytest.approx(standing.mean())
    np.testing.assert_array_equal(records["defended/autoattack"], standing)
    assert own["passes"]["apgd_ce"]["forward"] > 0 == own["passes"]["square"]["backward"]

    forward, variables = clead_jax.load(str(run))
    kept = arrays(run / "evaluation/adversarial/defended/autoattack.npz")
    hits = np.asarray(forward(variables, kept["adversarial"]).argmax(-1)) == kept["label"]
    np.testing.assert_array_equal(hits, standing)
    assert not list((run / "evaluation").glob("autoattack-*.npz"))  # its progress is no longer needed


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
    assert not found["complete"] and (run / "evaluation/autoattack-defended.npz").exists()
    again(run, "--attacks=autoattack")
    assert results(run)["protocols"]["autoattack"]["defended"]["complete"]


def test_a_name_of_the_cascade_is_not_given_to_something_else(run, short):
    again(run, "--attacks=autoattack")
    with pytest.raises(ValueError, match=r"apgd_ce stands in .* as part of autoattack; write apgd_ce\(norm=linf\)"):
        again(run, "--attacks=apgd_ce(steps=2)", "--attacks=apgd_ce")


def test_an_attack_measured_by_itself_gives_way_to_the_cascade(run, short, monkeypatch):
    again(run, "--attacks=square(queries=5)")
    records = arrays(run / "evaluation/per_example.npz")
    assert "defended/square(queries=5)" in records
    again(run, "--attacks=autoattack")
    assert "defended/square(queries=5)" in arrays(run / "evaluation/per_example.npz")
    assert "square(queries=5)" in results(run)["models"]["defended"]["accuracy"]


def test_another_version_replaces_the_first_and_leaves_nothing_behind(run, short):
    before = results(run)["models"]["defended"]["accuracy"]
    for version in ("standard", "rand", "standard"):
        again(run, f"--attacks=autoattack(version={version})")
        names = {k.partition("/")[2] for k in arrays(run / "evaluation/per_example.npz") if k.startswith("defended/")}
        assert names - {"clean", "fgsm", "pgd", "paper/fgsm", "paper/pgd"} == {"autoattack", *arsenal.VERSIONS[version]}
        assert results(run)["models"]["defended"]["accuracy"] == before


def test_afresh_means_without_the_progress_of_a_cascade_too(run, short):
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


def test_the_worst_case_of_a_model_is_none_of_the_others_concern(run, short):
    before = results(run)["models"]
    again(run, "--models=probe", "--attacks=autoattack")
    again(run, "--models=probe", "--attacks=fgsm")
    found = results(run)["models"]
    for label in ("baseline", "defended"):
        assert found[label]["accuracy"] == before[label]["accuracy"]
        assert found[label]["worst_case_over"] == ["clean", "fgsm", "pgd"]
    assert found["probe"]["worst_case_over"] == ["clean", "fgsm"]


@pytest.fixture
def few_doubts(monkeypatch):
    from clead_jax.evaluation.checks import run as doubts

    few = [question for question in doubts.CHECKS if question.__name__ in ("sample_size", "images_range")]
    monkeypatch.setattr(doubts, "CHECKS", tuple(few))


def doubted(workdir):
    return [check["name"] for check in results(workdir)["checks"]]


def test_the_doubts_are_in_the_results(run, few_doubts):
    again(run, "--checks", "--attacks=fgsm(eps=0.05)")
    assert doubted(run) == ["images_range/defended", "sample_size/defended"]
    again(run, "--checks", "--models=probe", "--attacks=fgsm")
    both = [f"{name}/{model}" for model in ("defended", "probe") for name in ("images_range", "sample_size")]
    assert doubted(run) == both
    again(run, "--nochecks", "--models=probe", "--attacks=fgsm(eps=0.04)")
    assert doubted(run) == both  # a doubt is not taken back by not asking


def test_doubts_are_made_where_they_lack_and_once(run, few_doubts, monkeypatch):
    again(run, "--nochecks", "--attacks=fgsm")
    assert doubted(run) == []
    again(run, "--checks", "--attacks=fgsm")  # nothing to measure, all to doubt
    assert doubted(run) == ["images_range/defended", "sample_size/defended"]
    monkeypatch.setattr(measure, "examine", lambda subject: pytest.fail("doubted again"))
    again(run, "--checks", "--attacks=fgsm")
    monkeypatch.setattr(measure, "examine", died)
    with pytest.raises(KeyboardInterrupt):
        again(run, "--checks", "--attacks=fgsm(eps=0.05)")
    monkeypatch.undo()
    again(run, "--checks", "--attacks=fgsm(eps=0.05)")
    assert "sample_size/defended" in doubted(run)


def died(subject):
    raise KeyboardInterrupt


def test_a_curve_can_be_of_fgsm(run):
    evaluate.main(["evaluate", f"--workdir={run}", "--curve=0,0.05,0.5", "--curve_attack=fgsm"])
    curve = results(run)["curves"]
    assert curve["attack"] == "fgsm" and len(curve["accuracy"]["defended"]) == 3


def test_bfloat16_climbs_a_copy_and_float32_judges(run, short, monkeypatch):
    seen, original = [], Evaluator.__init__
    spy = lambda self, *a, inside=None, **more: seen.append(inside) or original(self, *a, inside=inside, **more)
    monkeypatch.setattr(Evaluator, "__init__", spy)
    again(run, "--attacks=autoattack", "--precision=bfloat16", "--num_examples=16")
    assert any(seen)
    tag = next((run / "evaluation").glob("linf-*-16"))
    assert (
        json.loads((tag / "results.json").read_text())["protocols"]["autoattack"]["defended"]["precision"] == "bfloat16"
    )


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


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 200])
@pytest.mark.parametrize("version", arsenal.VERSIONS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_attacks_of_every_version(version, norm, classes):
    attacks, notes = arsenal.autoattack(version, norm, 0.1, classes)
    assert [a.name for a in attacks] == list(arsenal.VERSIONS[version])
    for attack in attacks:
        assert isinstance(attack, NamedAttack) and attack.cfg.norm == norm and attack.cfg.eps == attack.radius == 0.1
        if attack.name in ("apgd_t", "fab_t"):
            assert attack.cfg.targets == min(5 if (attack.name, norm) == ("apgd_t", "l1") else 9, classes - 1)
        logits = jax.ShapeDtypeStruct((4, classes), np.float32)
        target = jax.ShapeDtypeStruct((4,), np.int32)
        jax.eval_shape(attack.objective, logits, target)  # DLR refuses too few classes
    assert bool(notes) == (classes < 3 or (classes < 10 and version != "rand"))
