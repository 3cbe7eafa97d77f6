"""Stage joint in a whole run: what it trains, tells and refuses; and losses with settings of their own."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import speck

from clead_jax import config, main
from clead_jax.experiment import builders, stages, terms
from clead_jax.losses import ContrastiveConfig, info_nce
from clead_jax.training import checkpoint

DIGITS = "configs/margin_supcon_digits.py"
QUICK = {"evaluation.attacks": "fgsm,pgd", "views": "clean,augmented"}


def start(workdir, config=DIGITS, **more):
    main.main(speck.command(workdir, config, **(QUICK | more)))
    return workdir


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def weights(workdir, stage="joint"):
    return checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), "latest")[0]


def moved(a, b, part):
    pairs = zip(jax.tree.leaves(a["params"][part]), jax.tree.leaves(b["params"][part]), strict=True)
    return max(np.abs(x - y).max() for x, y in pairs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All three terms, trained, evaluated and reported. Read only."""
    return start(tmp_path_factory.mktemp("joint") / "run")


def test_a_preset_trains_in_one_stage_and_reports(finished):
    results = json.loads((finished / "evaluation/results.json").read_text())
    defended = results["models"]["defended"]
    assert defended["checkpoint"]["stage"] == "joint" and {"clean", "fgsm", "pgd"} <= defended["accuracy"].keys()
    assert results["label_use"] == {"defended": ["training"]}
    assert results["curves"]["attack"] == "fgsm"
    assert results["training_cost"]["joint"]["forward_backward_passes"] == 2 * 64 * 2  # two views, two epochs
    assert results["clusters"]["defended"].keys() == {"clean", "attacked"}
    report = (finished / "report/report.md").read_text()
    assert "With joint training" in report and "Silhouette" in report


def test_the_curves_show_every_terms_share(finished):
    for line in lines(finished):
        terms = {name: value for name, value in line.items() if name.startswith("term_")}
        assert set(terms) == {"term_ce", "term_supcon", "term_margin"}
        assert sum(terms.values()) == pytest.approx(line["loss"], rel=1e-5)


def test_a_killed_stage_ends_with_the_same_weights(finished, tmp_path, monkeypatch):
    save, died = checkpoint.save, []

    def dying(*args):
        save(*args)
        if not died:
            died.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, stages="joint")
    assert len(lines(tmp_path)) == 1
    start(tmp_path, stages="joint")
    assert jax.tree.all(jax.tree.map(np.array_equal, weights(tmp_path), weights(finished)))


@pytest.mark.parametrize(("variant", "terms"), [("ce", {"term_ce"}), ("supcon-strong", {"term_ce", "term_supcon"})])
def test_variants_leave_terms_out(tmp_path, variant, terms):
    start(tmp_path, f"{DIGITS}:{variant}", stages="joint", joint__epochs=1)
    (line,) = lines(tmp_path)
    assert {name for name in line if name.startswith("term_")} == terms


@pytest.mark.parametrize("form", ["margin_cosine", "margin_hinge(margin=0.3)", "info_nce(positives=class)"])
def test_any_registered_loss_can_be_the_margin_loss(tmp_path, form):
    start(tmp_path, stages="joint", joint__epochs=1, joint__batch_size=64, joint__margin_form=form)
    assert np.isfinite(lines(tmp_path)[0]["term_margin"])


@pytest.mark.parametrize(
    "ascend", ["contrastive", *(pytest.param(other, marks=pytest.mark.slow) for other in ("online", "baseline"))]
)
def test_the_adversarial_twin(tmp_path, ascend):
    twin = {"views": "clean,fgsm", "joint.ascend": ascend, "joint.epochs": 1, "joint.batch_size": 64}
    origin = {"stages": "baseline,joint", "baseline.epochs": 1, "joint.start": "baseline", "joint.lr": 1e-6}
    start(tmp_path, "configs/adversarial_supcon.py:digits", **(twin | origin))
    assert lines(tmp_path)[-1]["passes"] == 64 * 3  # an attack step, two views
    before, after = weights(tmp_path, "baseline"), weights(tmp_path)
    assert all(0 < moved(before, after, part) < 1e-3 for part in ("backbone", "projector", "head"))


def test_the_twins_views_are_the_seen_attacks(tmp_path):
    settings = {"views": "clean,fgsm", "joint.epochs": 1, "stages": "joint,evaluate"}
    start(tmp_path, "configs/adversarial_supcon.py:digits", **settings)
    results = json.loads((tmp_path / "evaluation/results.json").read_text())
    assert (results["seen_attacks"], results["unseen_attacks"]) == (["fgsm"], ["pgd"])


def test_other_stages_keep_their_seeds():
    """The key of a stage of the base config is its place in a list; that of any other follows from its name."""
    assert stages.FIRST == ("baseline", "supervised", "pretrain", "probe", "joint")
    keys = [jax.random.key_data(stages.key_of(0, name)).tolist() for name in (*stages.FIRST, "aff", "alf")]
    assert len(set(map(tuple, keys))) == 7
    assert keys[2] == jax.random.key_data(jax.random.fold_in(jax.random.key(0), 2)).tolist()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"views": "clean", "joint.batch_size": 8}, "joint.batch_size is 8 .* no positive pair, .* 10 classes"),
        ({"joint.weight_ce": 0, "joint.weight_supcon": 0, "joint.weight_margin": 0}, "are 0.0, 0.0, 0.0; the first"),
        (
            {"views": "clean", "joint.margin_form": "info_nce"},
            "views 'clean' with joint.margin_form 'info_nce': .*2 views",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said) as caught:
        start(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_one_view_will_do_where_a_batch_holds_a_pair_for_sure(tmp_path):
    start(tmp_path, stages="joint", views="clean", joint__epochs=1)  # 16 images of 10 classes
    assert np.isfinite(lines(tmp_path)[0]["term_supcon"])


def test_more_classes_than_the_head_has():
    cfg = config.base()
    with pytest.raises(ValueError, match=r"^joint: labels go up to 12, but the head has 10 classes$"):
        stages.check_batch(cfg, "joint", np.arange(1300) % 13, 10, 1)
    stages.check_batch(cfg, "joint", np.arange(1300) % 13, 13, 1)


def test_an_unknown_variant_or_data_set():
    for file, wrong in (("margin_supcon_digits.py", "focal"), ("margin_supcon_cifar100.py", "ce-weak")):
        with pytest.raises(ValueError, match="ce, supcon or margin"):
            config.preset("configs/", file, wrong)
    with pytest.raises(ValueError, match="cifar10, cifar100 or digits"):
        config.preset("configs/", "adversarial_supcon.py", "svhn")


# --- settings of a loss -----------------------------------------------------------------------------------------------


def test_pretraining_takes_any_settings_of_a_loss():
    cfg = config.base()
    z, labels = jax.random.normal(jax.random.key(0), (8, 3, 4)), jnp.arange(8) % 3
    cfg.pretrain.loss = "info_nce(margin=0.2,pairing=all,positives=class,temperature=1/2,weights=1:2:1)"
    expected = ContrastiveConfig(0.5, "cosine", "all", "class", (1, 2, 1), 0.2)
    loss = lambda: terms.terms(cfg, "pretrain")["loss"][1](z, None, labels)
    assert loss() == info_nce(z, labels, expected).sum() / 8
    cfg.pretrain.loss = "supcon"
    assert loss() > 0


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("supcon(margn=1)", "loss 'supcon' has no setting 'margn'; it has temperature, similarity, margin"),
        ("supcon(margin=wide)", r"supcon\(margin=wide\): margin: 'wide' is no number"),
        ("supcon(margin=-1)", r"margin must lie in \[0, 2\], not -1.0"),
        ("suppcon", "unknown loss 'suppcon': did you mean 'supcon'"),
    ],
)
def test_a_setting_a_loss_has_not(loss, said):
    cfg = config.base()
    cfg.pretrain.loss = loss
    with pytest.raises(ValueError, match=said):
        stages.check(cfg)
