"""Every check on a model of which the answer is known: once it has to speak up, once to be quiet."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weak_defences
from check_subjects import EPS, blind, linear, linear_subject, subject_of

from clead_jax.evaluation.checks import attack_strength as doubts_attack
from clead_jax.evaluation.checks import inputs as doubts_images
from clead_jax.evaluation.checks import outputs as doubts_model
from clead_jax.evaluation.checks import plausibility as doubts_record
from clead_jax.evaluation.checks.run import CHECKS, examine

TIMID = {"steps": 2, "step_size": EPS / 50}
NOISY_SIZE = (0.02, 0.1)  # scores that random points of the ball reach now and then


def gated(v, x):
    """`linear` with a gradient, or without: the variables say."""
    return jnp.where(v["open"], linear(v["w"], x), blind(v["w"], x))


def gated_subject(mine, twins):
    w = linear_subject().variables
    variables = lambda opened: {"w": w, "open": np.array(opened)}
    return linear_subject(gated, variables=variables(mine), twin=variables(twins))


def recorded(robust, n=1000, **more):
    """As if `n` examples had been attacked, and this share stood."""
    records = {"clean": np.ones(n, bool), "autoattack": np.arange(n) < robust * n}
    return linear_subject(records=records, **more)


class Forgetful(doubts_record.Subject):
    """Its variables change as it is used."""

    def gradient(self, images, draw=0):
        self.variables[:] += 1
        return images


def forgetful():
    plain = linear_subject()
    return Forgetful(**{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)})


IMAGES = linear_subject().images
TO_NAN = lambda v, x: jnp.log(-1 - x.sum((1, 2, 3)))[:, None] + linear(v, x)


def half_hidden(forward):
    """Half of the score has no gradient, and another image half of it: what is left leads uphill."""
    return lambda v, x: 0.5 * forward(v, x) + forward(v[::-1], jax.lax.stop_gradient(x))


def dithered(forward):
    """A weak way for gradients beside a rounded one with random thresholds, declared as random."""

    def drawn(v, x, key):
        noise = jax.random.uniform(key, x.shape)
        return 0.2 * forward(v, x) + forward(v[::-1], jnp.floor(8 * x + noise) / 8)

    return drawn


def ten_directions():
    """A linear model of ten classes: which of them leads changes within a step, its gradient is exact all the same."""
    subject = linear_subject()
    v = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)
    forward = lambda v, x: (x.reshape(len(x), -1) - 0.5) @ v
    labels = np.asarray(forward(v, subject.images)).argmax(-1)
    return subject_of(forward, v, subject.images, labels)


def noisy(forward):
    """An honest model that draws noise."""
    return lambda v, x, key: forward(v, x + 0.1 * jax.random.normal(key, x.shape))


LOUD = [
    (doubts_images.images_range, lambda: linear_subject(images=IMAGES * 255), "fail"),
    (doubts_images.images_range, lambda: linear_subject(images=IMAGES / 255), "fail"),
    (doubts_images.looks_normalised, lambda: linear_subject(images=(IMAGES - 0.5) * 4), "fail"),
    (doubts_images.ball, lambda: linear_subject(images=IMAGES * 2 - 1), "fail"),
    (doubts_images.ball_uint8, lambda: linear_subject(images=IMAGES * 2 - 1), "fail"),
    (
        doubts_images.ball_uint8,
        lambda: linear_subject(lambda v, x: linear(v, x) * 1.0, eps=0.0005, reach=(0.001, 0.008)),
        "warn",
    ),
    (doubts_model.nan_outputs, lambda: linear_subject(TO_NAN), "fail"),
    (doubts_model.probabilities_output, lambda: linear_subject(weak_defences.probabilities(linear)), "fail"),
    (doubts_model.probabilities_output, lambda: linear_subject(lambda v, x: jax.nn.sigmoid(linear(v, x) + 1)), "warn"),
    (doubts_model.deterministic, lambda: linear_subject(weak_defences.noise_of_python(linear)), "fail"),
    (doubts_model.deterministic, lambda: linear_subject(weak_defences.noise_of_content(linear)), "fail"),
    (doubts_model.deterministic, lambda: linear_subject(lambda v, x, key: linear(v, x), randomized=True), "warn"),
    (doubts_model.batch_statistics, forgetful, "fail"),
    (doubts_model.batch_composition, lambda: linear_subject(weak_defences.batch_normalised(linear)), "fail"),
    (doubts_model.batch_composition, lambda: linear_subject(weak_defences.noise_by_place(linear)), "fail"),
    (doubts_model.gradient_zero_or_nan, lambda: linear_subject(blind), "fail"),
    (doubts_model.gradient_zero_or_nan, lambda: linear_subject(weak_defences.scaled(linear)), "fail"),
    (doubts_model.gradient_direction, lambda: linear_subject(blind), "fail"),
    (doubts_model.gradient_direction, lambda: linear_subject(weak_defences.rippled(linear)), "fail"),
    (doubts_model.gradient_foretells, lambda: linear_subject(blind), "fail"),
    (doubts_model.gradient_foretells, lambda: linear_subject(half_hidden(linear)), "fail"),
    (doubts_model.gradient_foretells, lambda: linear_subject(dithered(linear), randomized=True), "fail"),
    (doubts_attack.iterative_vs_one_step, lambda: linear_subject(settings=TIMID), "fail"),
    (doubts_attack.steps_enough, lambda: linear_subject(settings=TIMID | {"step_size": EPS / 4}), "fail"),
    (doubts_attack.restarts_enough, lambda: linear_subject(blind, reach=NOISY_SIZE), "fail"),
    (doubts_attack.loss_still_rising, lambda: linear_subject(settings=TIMID), "fail"),
    (doubts_attack.noise_vs_gradient, lambda: linear_subject(blind, reach=NOISY_SIZE), "fail"),
    (doubts_attack.blackbox_vs_whitebox, lambda: linear_subject(blind), "fail"),
    (doubts_attack.blackbox_vs_whitebox, lambda: gated_subject(False, True), "fail"),
    (doubts_attack.falls_to_chance, lambda: linear_subject(blind), "fail"),
    (doubts_attack.undefended_falls, lambda: gated_subject(True, False), "fail"),
    (
        doubts_attack.undefended_falls,
        lambda: linear_subject(eps=EPS / 50, twin=linear_subject().variables),
        "warn",
    ),
    (doubts_record.only_training_attacks, lambda: recorded(0.5, training_attacks=("autoattack",)), "warn"),
    (doubts_record.sample_size, lambda: recorded(0.5, n=999), "warn"),
    (doubts_record.extraordinary, lambda: recorded(0.9, published=("cifar10", "resnet18")), "warn"),
]
QUIET = [
    (doubts_model.gradient_foretells, ten_directions),
    (doubts_model.gradient_foretells, lambda: linear_subject(noisy(linear), randomized=True)),
    (doubts_attack.restarts_enough, lambda: linear_subject(noisy(linear), randomized=True, reach=(0.95, 1.3))),
    (doubts_attack.steps_enough, lambda: linear_subject(noisy(linear), randomized=True, reach=(0.95, 1.3))),
    (doubts_attack.undefended_falls, lambda: gated_subject(True, True)),
    (doubts_record.only_training_attacks, lambda: recorded(0.5, training_attacks=("pgd",))),
    (doubts_record.sample_size, lambda: recorded(0.5)),
    (doubts_record.extraordinary, lambda: recorded(0.5, published=("cifar10", "resnet18"), eps=8 / 255)),
    (doubts_model.deterministic, lambda: linear_subject(weak_defences.resized_and_padded(linear), randomized=True)),
]


@pytest.mark.parametrize(("question", "make", "status"), LOUD, ids=lambda v: getattr(v, "__name__", ""))
def test_speaks_up(question, make, status):
    found = question(make())
    assert found["status"] == status, found
    assert found["name"] == question.__name__ and found["hint"]


@pytest.mark.parametrize(("question", "make"), QUIET, ids=lambda v: getattr(v, "__name__", ""))
def test_is_quiet(question, make):
    assert question(make())["status"] == "ok"


def test_a_linear_model_passes_every_check_that_applies():
    status = {c["name"]: c["status"] for c in examine(linear_subject(records={"clean": np.ones(1000, bool)}))}
    skipped = {"undefended_falls", "extraordinary", "loss_still_rising"}  # no twin, no data set, nothing stands
    assert status.pop("only_training_attacks") == "warn"  # no attack was recorded
    assert {name for name, s in status.items() if s == "skipped"} == skipped
    assert {s for name, s in status.items() if name not in skipped} == {"ok"}


def test_names_are_those_of_the_functions_and_every_docstring_tells():
    assert [c["name"] for c in examine(recorded(0.5))] == [q.__name__ for q in CHECKS]
    assert all(len(q.__doc__.split("\n\n")) >= 2 for q in CHECKS)  # what is asked, and what it would have caught


def test_what_only_square_broke_counts_where_it_is_recorded():
    n = 1000
    stands = lambda k: np.arange(n) < k
    records = {"clean": stands(n), "apgd_ce": stands(600), "apgd_t": stands(580)}
    ask = lambda k: doubts_attack.blackbox_vs_whitebox(linear_subject(records={**records, "square": stands(k)}))
    assert ask(575)["status"] == "ok" and ask(500)["status"] == "fail"
    assert ask(500)["value"]["square"]["found"] == 80


def test_what_follows_square_in_a_cascade_does_not_hide_what_square_broke():
    stands = lambda k: np.arange(1000) < k
    records = {"clean": stands(900), "apgd_ce": stands(600), "square": stands(400), "apgd_t": stands(390)}
    assert doubts_attack.blackbox_vs_whitebox(linear_subject(records=records))["value"]["square"]["found"] == 200


def test_the_logits_of_a_single_image_are_no_probabilities():
    for outputs, status in (((3.0, 0.0, 1.0, 0.0), "ok"), ((0.7, 0.1, 0.1, 0.1), "fail")):
        model = lambda v, x, outputs=outputs: jnp.tile(jnp.array(outputs), (len(x), 1)) + 0 * x.sum()
        subject = linear_subject(model)
        one = dataclasses.replace(
            subject, images=subject.images[:1], labels=subject.labels[:1], index=subject.index[:1]
        )
        assert doubts_model.probabilities_output(one)["status"] == status


def test_a_model_that_cannot_be_asked_fails_and_the_rest_is_heard():
    def stubborn(v, x):
        return jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, 1.0 * c[1]), (0, linear(v, x)))[1]

    found = {c["name"]: c for c in examine(linear_subject(stubborn))}
    assert found["gradient_zero_or_nan"]["status"] == "fail" and "ValueError" in found["gradient_zero_or_nan"]["hint"]
    assert found["images_range"]["status"] == "ok"


def test_a_published_figure_at_a_larger_eps_is_no_comparison():
    tiny = doubts_record.extraordinary(recorded(0.9, published=("cifar10", "resnet18"), eps=1 / 255))
    other = doubts_record.extraordinary(recorded(0.9, published=("digits", "tiny")))
    assert (tiny["status"], other["status"]) == ("skipped", "skipped")


def test_the_architecture_counts_where_a_figure_of_it_is_known():
    ask = lambda name: doubts_record.extraordinary(recorded(0.67, published=("cifar10", name), eps=8 / 255))
    assert ask("resnet18")["status"] == "warn" and ask("some_other_net")["status"] == "ok"


def test_other_norms():
    for norm, eps in (("l2", 0.4), ("l1", 2.0)):
        found = examine(linear_subject(norm=norm, eps=eps))
        assert not [c for c in found if c["status"] == "fail"], norm
        masked = linear_subject(blind, norm=norm, eps=eps)
        assert doubts_model.gradient_direction(masked)["status"] == "fail"
        assert doubts_attack.blackbox_vs_whitebox(masked)["status"] == "fail"
