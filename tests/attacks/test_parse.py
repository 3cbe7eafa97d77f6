"""From the text of an attack to its settings and objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks.objectives import OBJECTIVES, cross_entropy, fooled, kl, margin
from clead_jax.attacks.parse import at_radius, attack_at, named_attack
from clead_jax.core.types import Classifier, Examples
from clead_jax.evaluation.classifier import compiled
from clead_jax.evaluation.runner import run_attacks

THREAT = {"norm": "linf", "eps": 0.1}


def test_an_objective_is_chosen_by_name():
    plain, chosen = attack_at("pgd", "linf", 0.1), attack_at("pgd(objective=margin,steps=7)", "linf", 0.1)
    assert plain.objective is cross_entropy and chosen.objective is margin
    assert chosen.cfg.steps == 7 and chosen.name == "pgd(objective=margin,steps=7)"
    assert chosen.settings["objective"] == "margin"


def test_pgd_on_the_margin_is_the_cw_attack():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(16, 4)).astype(np.float32)
    images = rng.random((20, 4, 4, 1)).astype(np.float32)
    model = compiled(Classifier(lambda v, x: jnp.tanh(x.reshape(len(x), -1) @ v), w), batch_size=32)
    examples = Examples(images, model.predict(images).astype(np.int32), np.arange(20))

    found = [
        run_attacks(model, examples, [attack_at(text, "linf", 0.05)], key=jax.random.key(0), num_classes=4, keep=20)
        for text in ("pgd(objective=margin)", "cw")
    ]
    np.testing.assert_array_equal(found[0].images, found[1].images)
    assert 0 < found[0].correct.sum() < 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pgd(objective=hinge)", "unknown objective 'hinge'; known: cross_entropy, margin, dlr, kl"),
        ("fab(objective=margin)", "does not maximise an objective that could be chosen"),
        ("cw_l2(objective=cross_entropy,steps=3)", "does not maximise an objective that could be chosen"),
        ("pgd(objective=kl)", "kl is measured from clean logits, which only training has"),
        ("pgd(objective=cosine_distance)", "its objective is one of embeddings, which only training has"),
        ("pgdd", "did you mean 'pgd'.*and autoattack"),
        ("pgd(step=2)", "attack 'pgd' has no setting 'step'; it has eps, step_size"),
        ("pgd(norm=l2)", "measures in l2, the threat model in linf"),
        ("pgd(eps=0.2)", "goes beyond the threat model's eps, 0.1"),
    ],
)
def test_what_is_no_attack(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        attack_at(text, "linf", 0.1)
    assert "\n" not in str(caught.value)


def test_kl_in_loops():
    rng = np.random.default_rng(0)
    clean, attacked = rng.normal(size=(2, 5, 4)).astype(np.float32)
    softmax = lambda z: np.exp(z) / np.exp(z).sum()
    expected = [
        sum(p * np.log(p / q) for p, q in zip(softmax(a), softmax(b), strict=True))
        for a, b in zip(clean, attacked, strict=True)
    ]
    np.testing.assert_allclose(kl(jnp.asarray(attacked), jnp.asarray(clean)), expected, rtol=1e-4)
    assert float(jnp.abs(kl(jnp.asarray(clean), jnp.asarray(clean))).max()) < 1e-6
    differs = attacked.argmax(-1) != clean.argmax(-1)
    np.testing.assert_array_equal(fooled(jnp.asarray(attacked), jnp.asarray(clean)), differs)
    assert OBJECTIVES["kl"] is kl


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.0])
def test_the_step_size_keeps_its_proportion_to_the_radius(eps):
    attack = named_attack("pgd", THREAT, {"step_size": 0.025})
    scaled = at_radius(attack, eps)
    assert scaled.cfg.eps == scaled.radius == eps and scaled.cfg.step_size == pytest.approx(eps / 4)
    assert at_radius(named_attack("fgsm", THREAT, {}), eps).cfg.step_size is None
    for text in ("mi_fgsm", "apgd_ce", "square"):  # these have no step size
        assert at_radius(named_attack(text, THREAT, {}), eps).cfg.eps == eps


def test_every_radius_of_a_curve_counts_what_it_finds():

    examples = Examples(np.full((4, 2, 2, 1), 0.5, np.float32), np.zeros(4, np.int32), np.arange(4))
    # class 0 wins by 0.15 at the image, and loses where the mean falls by more than 0.075
    forward = lambda v, x: jnp.stack([x.mean((1, 2, 3)) - 0.35, 0.5 - x.mean((1, 2, 3))], -1)
    model, attack = compiled(Classifier(forward)), named_attack("pgd", THREAT, {"step_size": 0.025})
    broken = {}
    for eps in (0.05, 0.2):
        found = run_attacks(model, examples, [at_radius(attack, eps)], key=jax.random.key(0), num_classes=2)
        broken[eps] = (~found.correct).sum()
    assert broken == {0.05: 0, 0.2: 4}
