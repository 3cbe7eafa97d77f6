"""A whole run in small: what it leaves behind, what it does not do twice, and what an interruption costs (nothing)."""

import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import speck

import clead_jax
from clead_jax import config, evaluate, main
from clead_jax.evaluation import measuring
from clead_jax.experiment import builders, stages
from clead_jax.experiment import context as contexts
from clead_jax.experiment import train as training
from clead_jax.experiment.label_use import label_use
from clead_jax.reporting import page
from clead_jax.results import files
from clead_jax.training import callbacks, checkpoint
from clead_jax.training.loop import Diverged

TRAINED = ("baseline", "pretrain", "probe")
STEPS = 4  # in an epoch
TRAIN_ONLY = {"stages": ",".join(TRAINED)}


class Killed(BaseException):
    """The end of a process, as far as one process can play it."""


def start(workdir, **more):
    main.main(speck.command(workdir, **more))


def measure_again(workdir, *flags):
    evaluate.main(["evaluate", f"--workdir={workdir}", *flags])


def weights(workdir, stage, which="latest"):
    return checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), which)[0]


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def results(workdir):
    return json.loads((workdir / "evaluation" / "results.json").read_text())


def arrays(workdir, name):
    with np.load(workdir / "evaluation" / name) as stored:
        return dict(stored)


def dies_at(monkeypatch, owner, name, call, after=False):
    """The `call`-th call of owner.name ends the process, before or after its work. Undo with monkeypatch.undo()."""
    original, calls = getattr(owner, name), itertools.count(1)

    def dying(*args, **kwargs):
        last = next(calls) == call
        if not last or after:
            original(*args, **kwargs)
        if last:
            raise Killed

    monkeypatch.setattr(owner, name, dying)


@pytest.fixture
def attacked(monkeypatch):
    """The names of the attacks that are really run, in order."""
    names, original = [], measuring.run_attacks
    spy = lambda *a, **more: names.extend(named.name for named in a[2]) or original(*a, **more)
    monkeypatch.setattr(measuring, "run_attacks", spy)
    return names


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """An uninterrupted run. Read only."""
    workdir = tmp_path_factory.mktemp("experiment") / "straight"
    start(workdir)
    return workdir


@pytest.fixture
def again(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def with_baseline(finished, tmp_path):
    """A work directory in which the baseline alone is trained."""
    return shutil.copytree(finished / "checkpoints/baseline", tmp_path / "run/checkpoints/baseline").parents[1]


# --- what is left behind ----------------------------------------------------------------------------------------------


def test_the_promised_files_are_there(finished):
    for name in ("report.md", "index.html", "accuracy_over_eps.png", "training_curves.png", "perturbations.png"):
        assert (finished / "report" / name).stat().st_size > 100, name
    assert {path.name for path in (finished / "tensorboard").iterdir()} == set(TRAINED)
    for stage in TRAINED:
        assert checkpoint.steps(finished / "checkpoints" / stage) == [STEPS, 2 * STEPS]
    assert [p for p in finished.rglob("*") if p.suffix in (".part", ".half")] == []


def test_results_hold_what_was_measured(finished):
    found, records = results(finished), arrays(finished, "per_example.npz")
    assert found["schema"] == 1
    assert found["threat_model"] == {"norm": "linf", "eps": 0.1}
    told = {"name": "digits", "split": "test", "num_examples": 32, "num_classes": 10}
    assert found["dataset"].items() >= told.items()
    assert (found["seen_attacks"], found["unseen_attacks"]) == (["fgsm"], ["pgd"])
    assert found["label_use"] == {"baseline": ["training"], "defended": ["probe", "initial weights"]}
    assert found["environment"].items() >= {"config_name": "quickstart", "seed": 0, "devices": 8}.items()
    assert all({"name", "status", "value", "hint"} == check.keys() for check in found["checks"])
    assert found["training_cost"]["pretrain"]["forward_backward_passes"] == 2 * 64 * 3  # an attack step, two views
    assert list(found["models"]) == ["baseline", "defended"]
    for name, model in found["models"].items():
        assert list(model["accuracy"]) == list(model["interval95"]) == ["clean", "fgsm", "pgd", "worst_case"]
        for attack, share in model["accuracy"].items():
            low, high = model["interval95"][attack]
            assert 0 <= low <= share <= high <= 1
            if attack != "worst_case":
                assert share == records[f"{name}/{attack}"].mean()
        assert model["accuracy"]["worst_case"] == (records[f"{name}/fgsm"] & records[f"{name}/pgd"]).mean()
        assert len(found["curves"]["accuracy"][name]) == len(found["curves"]["eps"]) == 2


@pytest.mark.parametrize(
    ("loss", "uses"),
    [("info_nce", False), ("info_nce(positives=class)", True), ("supcon", True), ("margin_hinge", True)],
)
def test_labels_used_by_the_loss_of_phase_1_are_told(loss, uses):
    cfg = config.base()
    cfg.pretrain.loss = loss
    assert ("positives" in label_use(cfg, "probe")) == uses


def test_per_example_records(finished):
    records = arrays(finished, "per_example.npz")
    attacks = ("clean", "fgsm", "pgd", "paper/fgsm", "paper/pgd")
    measured = {f"{model}/{attack}" for model in ("baseline", "defended") for attack in attacks}
    assert records.keys() == measured | {"index", "label"}
    assert all(records[name].shape == (32,) and records[name].dtype == bool for name in measured)
    assert records["label"].shape == (32,) and set(records["label"]) <= set(range(10))
    assert len(set(records["index"])) == 32


def test_metrics_name_every_epoch_once(finished):
    found = lines(finished)
    expected = [(stage, epoch * STEPS, epoch) for stage in TRAINED for epoch in (1, 2)]
    assert [(line["stage"], line["step"], line["epoch"]) for line in found] == expected
    numbers = {"epochs", "loss", "val_clean", "val_robust", "images_per_s", "seconds", "passes"}
    assert all(numbers <= line.keys() and np.isfinite([line[n] for n in numbers]).all() for line in found)


def test_no_file_holds_a_path_of_this_machine(finished):
    texts = [path for path in finished.rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".html")]
    assert finished / "config.json" in texts
    for path in texts:
        assert str(finished.parent) not in path.read_text() and str(config.__file__)[:-20] not in path.read_text(), path
    kept = config.flatten(json.loads((finished / "config.json").read_text()))
    assert [name for name, value in kept.items() if str(value).startswith("/")] == []


def test_load_gives_the_model_that_was_evaluated(finished):
    records, samples = arrays(finished, "per_example.npz"), arrays(finished, "samples.npz")
    for stage, name in (("baseline", "baseline"), (None, "defended")):
        forward, variables = clead_jax.load(str(finished), stage)
        logits = jax.jit(forward)(variables, samples["clean"])
        assert logits.shape == (8, 10)
        assert np.array_equal(logits.argmax(-1), samples[f"{name}/clean/prediction"])
        assert np.array_equal(logits.argmax(-1) == samples["label"], records[f"{name}/clean"][:8])
        attacked = jax.jit(forward)(variables, samples[f"{name}/pgd"]).argmax(-1)
        assert np.array_equal(attacked, samples[f"{name}/pgd/prediction"])
        assert 0 < np.abs(samples[f"{name}/pgd"] - samples["clean"]).max() <= 0.1 + 1e-6


# --- nothing is done twice --------------------------------------------------------------------------------------------


def test_a_second_start_runs_nothing_again(again, attacked, monkeypatch, capsys):
    before, table = {path: path.read_bytes() for path in again.rglob("*.json*")}, page.table(again / "evaluation")
    monkeypatch.setattr(training, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    start(again)
    said = capsys.readouterr().out
    assert all(f"{stage}: finished already (8 steps)" in said for stage in TRAINED)
    assert {path: path.read_bytes() for path in before} == before
    assert table == page.table(again / "evaluation") and table in said
    assert attacked == []


def test_evaluate_reuses_merges_and_starts_afresh(again, attacked, capsys):
    first = results(again)
    measure_again(again)
    assert attacked == [] and results(again) == first

    measure_again(again, "--attacks=fgsm,pgd(steps=3,restarts=2)", "--curve=none")
    assert attacked == ["pgd(steps=3,restarts=2)"] * 2
    merged = results(again)
    settings = merged["attacks"]["pgd(steps=3,restarts=2)"]
    assert (settings["steps"], settings["restarts"], merged["attacks"]["pgd"]["steps"]) == (3, 2, 2)
    assert (
        merged["models"]["defended"]["accuracy"].items()
        >= {name: first["models"]["defended"]["accuracy"][name] for name in ("clean", "fgsm", "pgd")}.items()
    )
    assert merged["seen_attacks"] == ["fgsm"] and merged["curves"] == first["curves"]
    assert page.build(again).exists()

    attacked.clear()
    measure_again(again, "--attacks=pgd", "--curve=none", "--fresh")
    assert attacked == ["pgd"] * 2
    assert list(results(again)["models"]["baseline"]["accuracy"]) == ["clean", "pgd", "worst_case"]


def test_another_threat_model_split_or_subset_gets_a_directory_of_its_own(again, attacked):
    before = (again / "evaluation/results.json").read_bytes()
    measure_again(again, "--attacks=fgsm", "--eps=0.05", "--curve=none")
    measure_again(again, "--attacks=fgsm", "--split=validation", "--num_examples=16", "--curve=none", "--models=probe")
    assert (again / "evaluation/results.json").read_bytes() == before
    other = files.load_json(again / "evaluation/linf-0.05-test-32/results.json")
    assert other["threat_model"]["eps"] == 0.05 and other["attacks"]["fgsm"]["eps"] == 0.05
    subset = files.load_json(again / "evaluation/linf-0.1-validation-16/results.json")
    assert list(subset["models"]) == ["probe"] and subset["dataset"]["num_examples"] == 16
    attacked.clear()
    measure_again(again, "--attacks=fgsm", "--eps=0.05", "--curve=none")
    assert attacked == []
    assert page.build(again).exists()


def test_any_saved_step_can_be_measured(again, capsys):
    before = results(again)
    measure_again(again, f"--which={STEPS}", "--attacks=fgsm", "--curve=none")
    assert f"checkpoint {STEPS}" in capsys.readouterr().out
    path = next((again / "evaluation").glob(f"*-{STEPS}/results.json"))
    assert [m["checkpoint"]["epoch"] for m in json.loads(path.read_text())["models"].values()] == [1, 1]
    assert results(again) == before  # those of the last checkpoint are not lost
    with pytest.raises(ValueError, match=rf"no checkpoint 7 in \S+ it holds \[{STEPS}, {2 * STEPS}\]"):
        measure_again(again, "--which=7")


# --- a config that changed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"pretrain.temperature": "0.2"},
        {"train_attack.eps": "0.05"},
        {"views": "clean,pgd"},
        {"seed": "1"},
        {"model.width": "8", "stages": "evaluate"},  # no stage to be run, but the weights would not fit
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_field_is_refused_by_name(finished, change):
    before = (finished / "config.json").read_bytes()
    field, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=rf"{field}: \S+ -> {value}") as caught:
        start(finished, **change)
    assert "\n" not in str(caught.value) and str(finished) in str(caught.value)
    assert (finished / "config.json").read_bytes() == before


def test_stages_evaluation_and_logging_are_free(again, capsys):
    free = {"evaluation.steps": 3, "evaluation.eps": "0.05", "log.every": 1, "checkpoint.every": 2}
    start(again, stages="baseline,probe", data__data_dir="/x", **free)
    assert capsys.readouterr().out.count("finished already") == 2
    assert json.loads((again / "config.json").read_text())["config"]["log"] == {"every": 1}


# --- what is told -----------------------------------------------------------------------------------------------------


def test_the_cost_of_the_whole_run_comes_first(finished, with_baseline, monkeypatch, capsys):
    dies_at(monkeypatch, training, "fit", 1)
    with pytest.raises(Killed):
        start(with_baseline)
    said, first, second, *_ = [line for line in capsys.readouterr().out.splitlines() if line]
    assert said.startswith("data: digits: ")
    # Pretraining: 2 epochs of 64 images, 2 views and a step of fgsm. Probe: one pass each. The baseline is finished.
    # Evaluation: 2 models, 32 images under fgsm (1) and pgd (2 + a last look), 2 radii of pgd on 16 images.
    costs = f"baseline 0, pretrain {2 * 64 * 3}, probe {2 * 64}, evaluate at most {2 * (32 * 4 + 2 * 16 * 3)}"
    assert first == f"cost: {costs}; {384 + 128 + 448} forward+backward passes in all"
    assert second == "baseline: finished already (8 steps)"


def test_nothing_left_to_run_costs_nothing_and_says_nothing(again, capsys):
    start(again, **TRAIN_ONLY)
    assert "cost:" not in capsys.readouterr().out


def test_the_first_steps_tell_the_time_however_rare_the_looks(tmp_path, capsys):
    start(tmp_path, stages="baseline", log__every=1000, baseline__epochs=1, baseline__batch_size=8)
    told = [line for line in capsys.readouterr().out.splitlines() if " s a step at first, ETA " in line]
    assert len(told) == 1


def test_seconds_are_those_of_training(tmp_path, monkeypatch):
    hours, validate = [0.0], contexts.Run.validate
    clock, now = callbacks.time, callbacks.time.monotonic

    def slow(*args):
        hours[0] += 3600
        return validate(*args)

    monkeypatch.setattr(clock, "monotonic", lambda: now() + hours[0])
    monkeypatch.setattr(contexts.Run, "validate", slow)
    start(tmp_path, stages="baseline")
    assert hours[0] == 7200 and all(line["seconds"] < 3600 for line in lines(tmp_path))


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_a_run_that_dies_in_every_stage_ends_with_the_same_weights(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    # Each stage saves twice. It dies after baseline's first, before pretrain's second, and after probe's second.
    for call, after in ((1, True), (3, False), (3, True)):
        dies_at(monkeypatch, checkpoint, "save", call, after)
        with pytest.raises(Killed):
            start(workdir, **TRAIN_ONLY)
        monkeypatch.undo()
    start(workdir, **TRAIN_ONLY)
    assert all(same(weights(workdir, stage), weights(finished, stage)) for stage in TRAINED)
    clock = ("images_per_s", "seconds")
    timeless = lambda found: [{k: v for k, v in line.items() if k not in clock} for line in found]
    assert timeless(lines(workdir)) == timeless(lines(finished))


def test_lost_and_damaged_checkpoints_are_trained_again(finished, again, capsys):
    shutil.rmtree(again / f"checkpoints/baseline/{2 * STEPS}")
    damaged = again / f"checkpoints/pretrain/{2 * STEPS}/model/manifest.ocdbt"
    damaged.write_bytes(damaged.read_bytes()[:10])
    shutil.rmtree(again / "checkpoints/probe")
    start(again, **TRAIN_ONLY)
    said = capsys.readouterr().out
    assert "checkpoint 8 in" in said and "is damaged, passing it over: model/manifest.ocdbt is changed" in said
    assert said.count("going on after step 4 of 8") == 2
    assert all(same(weights(again, stage), weights(finished, stage)) for stage in TRAINED)
    steps = [(line["stage"], line["step"]) for line in lines(again)]
    assert sorted(steps) == sorted(set(steps)) and len(steps) == 6


def test_an_evaluation_that_dies_ends_with_the_same_files(finished, again, monkeypatch):
    shutil.rmtree(again / "evaluation")
    for call in (3, 4, 4, 4, 7, 7, 8):  # before a file of every save, at least; a save writes three
        dies_at(monkeypatch, files, "save_arrays", call)
        with pytest.raises(Killed):
            start(again)
        monkeypatch.undo()
    start(again)
    assert results(again) == results(finished)
    for name in ("per_example.npz", "samples.npz", "embeddings.npz"):
        assert same(arrays(again, name), arrays(finished, name)), name


def test_a_remeasurement_that_dies_is_not_taken_for_the_first(finished, again, monkeypatch):
    dies_at(monkeypatch, files, "save_json", 2)  # the new record is written, the settings that explain it are not
    with pytest.raises(Killed):
        measure_again(again, "--steps=1", "--step_size=1e-6", "--attacks=pgd", "--curve=none")
    monkeypatch.undo()
    measure_again(again)
    for name in ("per_example.npz", "samples.npz", "embeddings.npz"):
        assert same(arrays(again, name), arrays(finished, name)), name
    assert results(again)["models"] == results(finished)["models"]


# --- every way to train -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "ascend"), [("scratch", "contrastive"), ("baseline", "online"), ("scratch", "baseline")]
)
def test_pretraining_starts_and_ascends_as_told(finished, with_baseline, origin, ascend):
    one_step = {"pretrain.epochs": 1, "pretrain.batch_size": 64, "pretrain.lr": 1e-6}
    choice = {"pretrain.start": origin, "pretrain.ascend": ascend}
    start(with_baseline, stages="pretrain", **one_step, **choice)
    (line,) = lines(with_baseline)
    assert line["step"] == 1 and np.isfinite(line["loss"])
    kernel = lambda stage: weights(with_baseline, stage)["params"]["backbone"]["Conv_0"]["kernel"]
    moved = np.abs(kernel("pretrain") - kernel("baseline")).max()
    assert 0 < moved < 1e-3 if origin == "baseline" else moved > 1e-2


def test_an_upstream_stage_must_be_finished(with_baseline):
    shutil.rmtree(with_baseline / f"checkpoints/baseline/{2 * STEPS}")
    with pytest.raises(ValueError, match="'baseline' is at epoch 1 of 2"):
        start(with_baseline, stages="pretrain")
    with pytest.raises(ValueError, match="'pretrain' has no checkpoint"):
        start(with_baseline, stages="probe")


@pytest.mark.parametrize(("origin", "step"), [("latest", 2 * STEPS), ("best", STEPS)])
def test_the_probe_starts_from_the_chosen_checkpoint(again, origin, step):
    for saved, score in ((STEPS, 0.9), (2 * STEPS, 0.1)):
        path = again / f"checkpoints/pretrain/{saved}/step.json"
        known = json.loads(path.read_text())
        del known["digest"]  # as an earlier version wrote it
        path.write_text(json.dumps(known | {"score": score}))
    shutil.rmtree(again / "checkpoints/probe")
    start(again, stages="probe", probe__epochs=1, probe__start=origin)
    chosen, probed = weights(again, "pretrain", step), weights(again, "probe")
    assert same(probed["params"]["backbone"], chosen["params"]["backbone"])
    assert same(probed["batch_stats"], chosen["batch_stats"])
    assert not same(probed["params"]["head"], chosen["params"]["head"])


def test_adversarial_training_is_a_config_of_its_own(tmp_path):
    start(tmp_path, config="configs/pgd_at.py:digits", stages="supervised,evaluate", evaluation__curve="")
    found = results(tmp_path)
    assert list(found["models"]) == ["defended"]
    assert found["models"]["defended"]["checkpoint"]["stage"] == "supervised"
    assert found["label_use"] == {"defended": ["training"]}
    assert (found["seen_attacks"], found["unseen_attacks"]) == (["pgd"], ["fgsm"])
    assert found["training_cost"]["supervised"]["forward_backward_passes"] == 2 * 64 * 2  # an attack step, and the own


# --- numbers that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "batch", "said"),
    [
        (1e30, 16, r"the loss is \S+ at step \d"),
        (1e38, 64, "(the model gives non-finite outputs|attack fgsm met a non-finite gradient), after step 1"),
    ],
)
def test_an_absurd_rate_stops_the_run(tmp_path, lr, batch, said):
    with pytest.raises(Diverged, match=rf"^baseline: {said}; last good checkpoint: none$"):
        start(tmp_path, stages="baseline", baseline__lr=lr, baseline__batch_size=batch)
    assert checkpoint.steps(tmp_path / "checkpoints/baseline") == []


@pytest.mark.parametrize(
    ("poisoned", "said"),
    [
        ("loss 6", "the loss is nan at step 6; last good checkpoint: step 4"),
        ("loss 5", "the loss is nan at step 5; last good checkpoint: none"),  # step 4 saved the weights that led to it
        ("weights 8", "a weight is not finite after step 8; last good checkpoint: step 4"),
    ],
)
def test_the_last_good_checkpoint_is_named(tmp_path, monkeypatch, poisoned, said):
    what, when = poisoned.split()
    make = stages.build

    def make_poisoned(*args):
        stage = make(*args)

        def step(state, frozen, batch, key):
            new, metrics = stage.step(state, frozen, batch, key)
            poison = jnp.where(new.step == int(when), jnp.nan, 1)
            if what == "loss":
                return new, metrics | {"loss": (metrics["loss"][0] * poison, metrics["loss"][1])}
            return new.replace(params=jax.tree.map(lambda leaf: leaf * poison, new.params)), metrics

        return stage._replace(step=step)

    monkeypatch.setattr(stages, "build", make_poisoned)
    with pytest.raises(Diverged, match=said):
        start(tmp_path, stages="baseline")
    assert max(checkpoint.steps(tmp_path / "checkpoints/baseline")) < int(when)
