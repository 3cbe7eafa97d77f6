"""The audit of a function, on models whose robust accuracy is known."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clead_jax
from clead_jax.attacks import autoattack
from clead_jax.audit import audit as whole_audit

N, K, EPS = 40, 4, 0.05
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, (N, 4, 4, 1)).astype(np.float32)
W = RNG.normal(size=(16, K)).astype(np.float32)
SCORES = (IMAGES.reshape(N, -1) - 0.5) @ W
LABELS = SCORES.argmax(-1)
LABELS[:2] = (LABELS[:2] + 1) % K


def linear(v, x):
    return (x.reshape(len(x), -1) - 0.5) @ v


def plain(x):
    return linear(jnp.asarray(W), x)


def audit(*arguments, **settings):
    """An audit that compiles for one batch size only, and makes no checks unless told to."""
    return whole_audit(*arguments, **{"batch_size": 16, "checks": False} | settings)


def robust():
    """What no perturbation can break: the margin to every class is more than eps times the L1 norm of its weights."""
    own = SCORES[np.arange(N), LABELS][:, None] - SCORES
    reach = EPS * np.abs(W[:, LABELS].T[:, :, None] - W[None]).sum(1)
    wrong = np.arange(K) != LABELS[:, None]
    return ((own > reach) | ~wrong).all(1)


@pytest.fixture
def short(monkeypatch):
    original = autoattack.autoattack
    fewer = {"apgd_ce": {"steps": 20, "eot": 2}, "apgd_t": {"steps": 20}, "fab_t": {"steps": 10}}
    fewer |= {"square": {"queries": 50}, "apgd_dlr": {"steps": 5, "eot": 2}}

    def shortened(version, norm, eps, classes):
        attacks, notes = original(version, norm, eps, classes)
        change = lambda a: dataclasses.replace(
            a.cfg, **{k: min(v, getattr(a.cfg, k)) for k, v in fewer[a.name].items()}
        )
        return [a._replace(cfg=change(a)) for a in attacks], notes

    monkeypatch.setattr(autoattack, "autoattack", shortened)


def test_five_lines(short):
    result = whole_audit(plain, IMAGES, LABELS, norm="linf", eps=str(EPS), attacks=("autoattack",), checks=False)
    np.testing.assert_array_equal(result.correct["autoattack"], robust())
    assert 2 < robust().sum() < N - 2
    assert result.accuracy["autoattack"] == pytest.approx(robust().mean())
    low, high = result.interval95["autoattack"]
    assert low < robust().mean() < high
    assert list(result.correct) == ["clean", "apgd_ce", "apgd_t", "fab_t", "square", "autoattack"]
    assert result.passes["square"]["backward"].sum() == 0 < result.passes["apgd_ce"]["backward"].sum()
    assert "autoattack" in str(result) and result.complete and result.adversarial == {}


def test_single_attacks_beside_the_suite(short):
    result = audit(plain, IMAGES, LABELS, eps=EPS, attacks="fgsm,pgd(steps=5),autoattack")
    assert list(result.correct)[:3] == ["clean", "fgsm", "pgd(steps=5)"]
    np.testing.assert_array_equal(result.correct["fgsm"] & robust(), robust())
    spent = result.passes["pgd(steps=5)"]["forward"]
    assert (spent[result.correct["pgd(steps=5)"]] == 6).all() and (spent[~result.correct["clean"]] == 0).all()


def test_adversarial_images_on_request(short):
    result = audit(plain, IMAGES, LABELS, eps=EPS, attacks=("autoattack", "pgd"), keep_images=True)
    for name in ("autoattack", "pgd"):
        made = result.adversarial[name]
        assert made.shape == IMAGES.shape and np.abs(made - IMAGES).max() <= EPS + 1e-6
        np.testing.assert_array_equal(np.asarray(plain(made)).argmax(-1) == LABELS, result.correct[name])


def test_another_checkpoint_is_not_compiled_again(short):
    traced = []

    def counting(v, x):
        traced.append(len(x))
        return linear(v, x)

    settings = {"eps": EPS, "batch_size": 16}
    first = audit(counting, IMAGES, LABELS, variables=W, **settings)
    before = len(traced)
    other = audit(counting, IMAGES, LABELS, variables=-W, **settings)
    # It is only traced again, with its gradient, to see whether it still computes the same.
    assert len(traced) <= before + 2 and first.accuracy["clean"] != other.accuracy["clean"]


def test_a_model_that_holds_its_weights_may_have_changed(short):
    class Model:
        weights = W

        def __call__(self, x):
            return linear(jnp.asarray(self.weights), x)

    model = Model()
    before = audit(model, IMAGES, LABELS, eps=EPS, attacks="fgsm").accuracy["clean"]
    model.weights = -W
    assert audit(model, IMAGES, LABELS, eps=EPS, attacks="fgsm").accuracy["clean"] < before / 2


def test_uint8_images_are_the_same_as_floats(short):
    stored = (IMAGES * 255).round().astype(np.uint8)
    runs = [audit(plain, x, LABELS, eps=EPS) for x in (stored, stored.astype(np.float32) / 255)]
    np.testing.assert_array_equal(runs[0].correct["autoattack"], runs[1].correct["autoattack"])


def test_a_model_that_draws_noise_takes_a_key(short):
    noisy = lambda x, key: plain(x) + 0.01 * jax.random.normal(key, (len(x), K))
    result = audit(noisy, IMAGES, LABELS, eps=EPS, randomized=True)
    assert list(result.correct) == ["clean", "apgd_ce", "apgd_dlr", "autoattack"]
    assert abs(result.accuracy["autoattack"] - robust().mean()) < 0.15


def test_with_variables_and_a_key(short):
    noisy = lambda v, x, key: linear(v, x) + 0.01 * jax.random.normal(key, (len(x), K))
    assert audit(noisy, IMAGES, LABELS, eps=EPS, variables=W, randomized=True).accuracy["clean"] > 0.8


@pytest.mark.slow
def test_bfloat16_finds_the_same(short):
    result = audit(linear, IMAGES, LABELS, eps=EPS, variables=jnp.asarray(W), precision="bfloat16")
    assert (robust() <= result.correct["autoattack"]).all()  # what counts was confirmed in float32
    assert result.correct["autoattack"].sum() <= robust().sum() + 2


@pytest.mark.parametrize("norm, eps", [("l2", 0.2), ("l1", 0.5)])
@pytest.mark.slow
def test_other_norms(short, norm, eps):
    result = audit(plain, IMAGES, LABELS, norm=norm, eps=eps, keep_images=True)
    assert result.accuracy["autoattack"] < result.accuracy["clean"]
    order = {"l2": 2, "l1": 1}[norm]
    moved = np.linalg.norm((result.adversarial["autoattack"] - IMAGES).reshape(N, -1), order, 1)
    assert moved.max() <= eps * 1.001


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_noted(short, classes):
    labels = SCORES[:, :classes].argmax(-1)
    result = audit(lambda x: plain(x)[:, :classes], IMAGES, labels, eps=EPS)
    assert any("DLR needs" in note for note in result.notes) and "DLR needs" in str(result)
    assert result.accuracy["clean"] == 1 > result.accuracy["autoattack"]


def test_a_spent_budget_is_said_and_can_be_added_to(short, tmp_path):
    settings = {"eps": EPS, "path": tmp_path / "audit.npz"}
    part = audit(plain, IMAGES, LABELS, budget="3passes", **settings)
    assert not part.complete and "upper bounds" in str(part)
    whole = audit(plain, IMAGES, LABELS, **settings)
    assert whole.complete
    np.testing.assert_array_equal(whole.correct["autoattack"], robust())


def test_says_how_far_it_is(short):
    said = []
    audit(plain, IMAGES, LABELS, eps=EPS, say=said.append)
    assert {line.split()[0] for line in said} == {"apgd_ce", "apgd_t", "fab_t", "square"}
    assert all("still correct" in line for line in said)


@pytest.mark.parametrize("strange", ["nan", "range"])
def test_strange_models_and_images_are_findings_and_no_errors(short, strange):
    model, images = plain, IMAGES
    if strange == "nan":
        model = lambda x: plain(x) * jnp.nan
    if strange == "range":
        images = IMAGES * 4 - 2
    result = audit(model, images, LABELS, eps=EPS, attacks=("pgd",), checks=True)
    assert any(check["status"] == "fail" for check in result.checks)
    assert {check["status"] for check in result.checks} <= {"ok", "warn", "fail", "skipped"}
    assert all({"name", "status", "value", "hint"} == check.keys() for check in result.checks)
    json.dumps(result.checks)


@pytest.mark.slow
def test_a_model_without_a_derivative_is_attacked_without_gradients(short):
    def outside(x):
        shape = jax.ShapeDtypeStruct((len(x), K), np.float32)
        return jax.pure_callback(lambda x: ((x.reshape(len(x), -1) - 0.5) @ W).astype(np.float32), shape, x)

    result = audit(outside, IMAGES, LABELS, eps=EPS, attacks="pgd,autoattack", checks=True)
    assert list(result.correct) == ["clean", "square"] and "no derivative" in result.notes[0]
    assert result.accuracy["square"] < result.accuracy["clean"]
    assert any(check["status"] == "fail" for check in result.checks)


@pytest.mark.slow
def test_a_random_model_without_a_derivative_still_meets_an_attack(short):
    def outside(x, key):
        shape = jax.ShapeDtypeStruct((len(x), K), np.float32)
        return jax.pure_callback(lambda x: ((x.reshape(len(x), -1) - 0.5) @ W).astype(np.float32), shape, x)

    result = audit(outside, IMAGES, LABELS, eps=EPS, randomized=True)
    assert list(result.correct) == ["clean", "square"]
    assert result.accuracy["square"] < result.accuracy["clean"] and result.passes["square"]["forward"].sum() > 0


@pytest.mark.slow
def test_progress_is_not_taken_from_a_model_with_other_gradients(short, tmp_path):
    """Backward pass differentiable approximation: the same answers, but gradients that lead somewhere."""

    @jax.custom_vjp
    def straight_through(x):
        return jnp.round(x * 1e4) / 1e4

    straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (g,))
    masked, opened = (lambda x, f=f: plain(f(x)) for f in (lambda x: jnp.round(x * 1e4) / 1e4, straight_through))
    settings = {"eps": EPS, "path": tmp_path / "audit.npz"}
    before = audit(masked, IMAGES, LABELS, **settings).accuracy["apgd_ce"]
    after = audit(opened, IMAGES, LABELS, **settings).accuracy["apgd_ce"]
    assert after < before


def test_progress_in_another_precision_is_not_gone_on_from(short, tmp_path):
    settings = {"eps": EPS, "path": tmp_path / "audit.npz", "variables": W}
    half = audit(linear, IMAGES, LABELS, precision="bfloat16", budget="3passes", **settings)
    begun = audit(linear, IMAGES, LABELS, budget="3passes", **settings)
    assert half.passes["apgd_ce"]["forward"].sum() == begun.passes["apgd_ce"]["forward"].sum() > 0


@pytest.mark.slow
def test_a_model_in_16_bits_is_attacked_and_gone_on_with(short, tmp_path):
    half = lambda x: plain(x).astype(jnp.bfloat16)
    settings = {"eps": EPS, "path": tmp_path / "audit.npz"}
    for passes in (3, 6):
        assert not audit(half, IMAGES, LABELS, budget=f"{passes}passes", **settings).complete
    found = audit(half, IMAGES, LABELS, **settings)
    assert found.complete and found.accuracy["autoattack"] <= found.accuracy["apgd_ce"] < found.accuracy["clean"]


def test_a_model_that_cannot_run_in_16_bits_says_so():
    def mixed(v, x):
        mean = np.full((1, 1, 1, 1), 0.5, np.float32)
        kernel = v.reshape(4, 4, 1, K)
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x - mean, kernel, (1, 1), "VALID", dimension_numbers=dimensions)[:, 0, 0]

    assert audit(mixed, IMAGES, LABELS, eps=EPS, variables=W, attacks="pgd").accuracy["pgd"] < 0.9
    with pytest.raises(ValueError, match=r"forward cannot be run in bfloat16: TypeError"):
        audit(mixed, IMAGES, LABELS, eps=EPS, variables=W, attacks="pgd", precision="bfloat16")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"attacks": "pgd(eps=0.2)", "eps": 0.1}, "'pgd(eps=0.2)' goes beyond the threat model's eps, 0.1"),
        ({"attacks": "pgd(norm=l2)"}, "'pgd(norm=l2)' measures in l2, the threat model in linf"),
        ({"attacks": "cw_l2"}, "'cw_l2' measures in l2, the threat model in linf"),
        ({"attacks": "square,autoattack"}, "square is a part of autoattack"),
        ({"attacks": "autoattack,autoattack(version=plus)"}, "autoattack is asked for twice"),
        ({"images": IMAGES[..., 0]}, "images must be [N, H, W, C]"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "N >= 1"),
        ({"images": (IMAGES * 255).astype(np.int32)}, "uint8, or floats in [0, 1], not int32"),
        ({"labels": LABELS[:-1]}, "labels must be 40 integers, not int64 [39]"),
        ({"labels": LABELS.astype(np.float32)}, "not float32 [40]"),
        ({"labels": LABELS + 1}, "labels lie in [1, 4], but the model has 4 classes"),
        ({"forward": lambda x: x}, "forward must give logits [B, K]"),
        ({"forward": lambda x: plain(x)[:, :1]}, "forward must give logits [B, K]"),
        ({"forward": lambda x: (plain(x), x)}, "for 2 images it gives tuple"),
        ({"forward": lambda x: np.asarray(x)[:, 0, 0, :]}, "forward cannot be run, as a function that jax can trace"),
        ({"forward": lambda x: plain(x) if x.max() > 0 else x}, "TracerBoolConversionError"),
        ({"forward": lambda x: plain(x.reshape(3, -1))}, "forward cannot be run"),
        (
            {"attacks": ("pdg",)},
            "and autoattack, where several",
        ),
        ({"attacks": "pdg,autoattack"}, "unknown attack 'pdg'"),
        ({"attacks": ()}, "attacks is empty"),
        ({"norm": "linfinity"}, "linfinity"),
        ({"eps": "8/0"}, "eps: '8/0' is no number"),
        ({"eps": 8}, "eps is 8"),
        ({"precision": "bfloat16"}, "needs variables="),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"budget": "soon"}, "budget: 'soon' is none"),
    ],
)
def test_wrong_input_is_one_line(change, message):
    arguments = {"forward": plain, "images": IMAGES, "labels": LABELS} | change
    with pytest.raises(ValueError) as error:
        whole_audit(**arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


KILLED = """
import sys
sys.path.insert(0, "tests")
import numpy as np
import clead_jax.evaluation.runner as runner
from clead_jax.audit import audit as whole_audit
import test_audit as t
runner.SAVE = 0.1
result = t.audit(t.plain, t.IMAGES, t.LABELS, eps=t.EPS, path=sys.argv[1], keep_images=True)
np.savez(sys.argv[2], images=result.adversarial["autoattack"], **result.correct)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_an_attack_it_ends_the_same(tmp_path):
    start = lambda name: subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "progress.npz", tmp_path / name])
    for seconds in (6, 9, 12, 15):
        process = start("a.npz")
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / "progress.npz").exists()
    assert start("a.npz").wait() == 0
    (tmp_path / "progress.npz").unlink()
    assert start("b.npz").wait() == 0
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_classifier_has_its_own_variables_shape_and_noise(tmp_path):
    images, labels = np.zeros((4, 4, 4, 1), np.float32), np.zeros(4, int)
    model = clead_jax.Classifier(
        lambda v, x: x.reshape(len(x), -1) @ v, np.ones((16, 3), np.float32), image_shape=(4, 4, 1)
    )
    attacked = lambda images, **given: clead_jax.audit(model, images, labels, attacks="fgsm", checks=False, **given)
    assert attacked(images).accuracy["clean"] == 1
    for wrong in (
        {"variables": np.zeros((16, 3))},
        {"randomized": True},
        {"batch_size": -3},
        {"path": tmp_path / "no" / "q"},
    ):
        with pytest.raises(ValueError, match=r"Classifier|batch_size|no folder"):
            attacked(images, **wrong)
    with pytest.raises(ValueError, match="takes images"):
        attacked(images[:, :3])
