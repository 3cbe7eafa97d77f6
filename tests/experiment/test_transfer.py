"""Transfer attacks: images made on any model, by any attack, at any radius, shown to the models of a run."""

import json
import shutil

import numpy as np
import pytest
import speck

import clead_jax
from clead_jax import compare, config, evaluate, main
from clead_jax.evaluation import measuring
from clead_jax.experiment import planning

RUN = {"seed": 3, "model__projection_layers": 1}
ATTACKS = "--transfer.attacks=fgsm,pgd(steps=3,step_size=0.04),cw_l2(c=1,steps=9,rounds=1)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs: "run", and "wide", whose undefended network is another one. Read only."""
    folder = tmp_path_factory.mktemp("transfer")
    main.main(speck.command(folder / "run", **RUN, stages="baseline,pretrain,probe,evaluate"))
    main.main(speck.command(folder / "wide", stages="baseline", model__width=6))
    return folder


@pytest.fixture
def run(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "runs")
    return tmp_path / "runs/run"


def again(workdir, *flags):
    evaluate.main(["evaluate", f"--workdir={workdir}", "--curve=none", "--plugins=speck", *flags])


def results(workdir):
    return json.loads((workdir / "evaluation/results.json").read_text())


def records(workdir):
    with np.load(workdir / "evaluation/per_example.npz") as stored:
        return dict(stored)


def test_images_come_from_the_named_model_by_the_named_attacks_at_the_named_radii(run, monkeypatch):
    made, original = {}, measuring.run_attacks

    def spy(model, examples, attacks, **more):
        finding = original(model, examples, attacks, **more)
        made[attacks[0].name] = model, finding.images, attacks[0]
        return finding

    monkeypatch.setattr(measuring, "run_attacks", spy)
    again(run, f"--transfer.source={run.parent}/wide:baseline", ATTACKS, "--transfer.eps=0.2,0.05")
    named = {"fgsm(eps=0.2)", "fgsm(eps=0.05)", "cw_l2(c=1,steps=9,rounds=1)"}
    named |= {f"pgd(steps=3,step_size=0.04,eps={eps})" for eps in (0.2, 0.05)}
    assert made.keys() == named
    source = clead_jax.load(str(run.parent / "wide"), "baseline", plugins="speck")
    found, kept = results(run), records(run)
    assert found["models"].keys() == {"baseline", "defended"}  # the source itself is not measured
    labels = kept["label"]
    for name, (model, images, attack) in made.items():
        assert model.classifier.fingerprint == source.fingerprint
        assert getattr(attack.cfg, "eps", 0) in (0.2, 0.05, 0)
        for label, stage in (("baseline", "baseline"), ("defended", "probe")):
            hits = np.asarray(clead_jax.load(str(run), stage, plugins="speck")(images).argmax(-1)) == labels
            np.testing.assert_array_equal(kept[f"{label}/paper/{name}"], hits)
    own = found["protocols"]["paper"]["defended"]
    assert own["source"] == "wide:baseline"
    assert own["made_by"]["fgsm(eps=0.2)"]["fingerprint"]["fingerprint"] == source.fingerprint


def test_what_was_made_on_another_model_does_not_stay(run):
    assert "defended/paper/pgd" in records(run)
    again(run, f"--transfer.source={run.parent}/wide", "--transfer.attacks=fgsm")  # its baseline
    own = results(run)["protocols"]["paper"]["defended"]
    assert set(own["accuracy"]) == {"fgsm", "worst_case"} and own["source"] == "wide:baseline"
    assert "defended/paper/pgd" not in records(run)
    before = records(run)["defended/paper/fgsm"]
    again(run, "--transfer.source=probe", "--transfer.attacks=fgsm")
    assert results(run)["protocols"]["paper"]["baseline"]["source"] == "probe"
    np.testing.assert_array_equal(records(run)["defended/paper/fgsm"], records(run)["defended/fgsm"])
    assert len(before) == len(records(run)["label"])


def test_a_source_elsewhere_is_kept_without_paths_of_this_machine(run, tmp_path):
    source = f"{run.parent}/wide:baseline"
    main.main(speck.command(run, **RUN, stages="evaluate", evaluation__transfer__source=source))
    text = (run / "config.json").read_text() + (run / "evaluation/results.json").read_text()
    assert str(tmp_path) not in text and "../wide:baseline" in text
    assert config.restore(str(run))[0].evaluation.transfer.source == source
    assert results(run)["protocols"]["paper"]["defended"]["source"] == "wide:baseline"
    own = f"{run}:baseline"  # as the first run of a sweep may name itself
    main.main(speck.command(run, **RUN, stages="evaluate", evaluation__transfer__source=own))
    assert results(run)["protocols"]["paper"]["defended"]["source"] == "baseline"


def test_the_fall_from_protocol_to_protocol_is_a_table_and_a_picture(run, capsys):
    again(run, f"--transfer.source={run.parent}/wide", "--transfer.attacks=fgsm,pgd", "--transfer.eps=0.1,0.05")
    capsys.readouterr()
    compare.main(["compare", f"--workdirs={run}", f"--output={run.parent}/compared"])
    said, found = capsys.readouterr().out, results(run)
    assert "Made on wide:baseline" in said and (run.parent / "compared/protocols.png").exists()
    line = next(line for line in said.splitlines() if "With C-LEAD (BN frozen) PGD, L∞, ε = 25.5/255" in line)
    share = lambda accuracy: f"{100 * accuracy['pgd']:.1f}"
    transferred = share(found["protocols"]["paper"]["defended"]["accuracy"])
    assert line.split("(0.1)")[1].split()[1] == transferred and share(found["models"]["defended"]["accuracy"]) in line
    assert "ε = 12.8/255 (0.05)" in said and "not measured" in said  # no white-box attack at that radius


@pytest.fixture(scope="module")
def of_three_classes(tmp_path_factory):
    """A run on images of another number of classes."""
    folder, rng = tmp_path_factory.mktemp("three"), np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (120, 8, 8, 1), np.uint8), np.arange(120, dtype=np.int32) % 3
    np.savez(folder / "three.npz", images=images, labels=labels)
    settings = {"data__name": f"npz:{folder}/three.npz", "data__train_size": 48, "data__test_size": 16}
    main.main(speck.command(folder / "run", stages="baseline", **settings))
    return folder / "run"


def test_a_source_that_does_not_fit_is_one_line(run, of_three_classes):
    before = results(run)
    with pytest.raises(ValueError, match=r"transfer.source: .*takes images 8x8x1 of 3 classes; digits has others") as e:
        again(run, f"--transfer.source={of_three_classes}")
    assert "\n" not in str(e.value) and results(run) == before
    settings = {"evaluation__transfer__source": of_three_classes}
    with pytest.raises(ValueError, match=r"of 3 classes; digits has others"):
        main.main(speck.command(run.parent / "new", **settings))
    assert not (run.parent / "new").exists()  # refused before anything is trained


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--transfer.source=natural", r"evaluation.transfer.source is 'natural'; it can be a stage \(baseline, "),
        ("--transfer.source=nowhere/run", r"evaluation.transfer.source: nowhere/run is no work directory"),
        ("--transfer.source=joint", r"evaluation.transfer.source: .* has no checkpoint of stage 'joint'"),
        ("--transfer.attacks=blur", "unknown attack 'blur'"),
        ("--transfer.attacks=pgd(objective=kl)", "kl is measured from clean logits, in training only"),
        ("--transfer.eps=2", "evaluation.transfer.eps is 2; under linf it lies in"),
    ],
)
def test_what_cannot_be_meant_is_one_line(folder, flag, said):
    with pytest.raises(ValueError, match=said) as caught:
        again(folder / "run", flag)
    assert "\n" not in str(caught.value)


def test_by_default_the_attacks_and_the_radius_are_those_of_the_evaluation():
    cfg = config.base()
    plain = planning.transfer_attacks(cfg, ["fgsm", "pgd"])
    assert [named.settings for named in plain] == [
        planning.evaluation_attack(cfg, text).settings for text in ("fgsm", "pgd")
    ]
