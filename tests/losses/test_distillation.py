"""Answers known without an oracle, and what cannot be meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.losses.distillation import DistillationConfig, distillation

Z = jax.random.normal(jax.random.key(0), (6, 4, 5))  # clean, two attacked views, teacher
NO_LABELS = jnp.zeros(6, int)


def loss(z, **settings):
    return float(distillation(z, NO_LABELS, DistillationConfig(**settings)).sum() / 6)


def cosines(a, b):
    return float(((a * b).sum(-1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)).mean())


def test_a_student_like_its_teacher_under_attack_too_has_no_loss():
    same = jnp.repeat(Z[:, :1], 4, axis=1)
    for distance in ("cosine", "l2"):
        assert loss(same, distance=distance) == pytest.approx(0, abs=1e-6)
        assert loss(Z, distance=distance) > 0.1


def test_without_attacked_views_it_is_clean_distillation():
    assert loss(Z, attacked_weight=0) == pytest.approx(1 - cosines(Z[:, 0], Z[:, 3]), rel=1e-5)
    assert loss(Z[:, ::3], attacked_weight=0) == pytest.approx(1 - cosines(Z[:, 0], Z[:, 3]), rel=1e-5)


def test_deacl_holds_attacked_images_against_the_students_clean_ones_on_both_sides():
    attacked = sum(2 * (1 - cosines(Z[:, 0], Z[:, v])) for v in (1, 2)) / 2
    assert loss(Z) == pytest.approx(1 - cosines(Z[:, 0], Z[:, 3]) + attacked, rel=1e-5)
    of_second = jax.grad(lambda z: distillation(z, NO_LABELS, DistillationConfig(clean_weight=0)).sum())(Z)
    assert np.abs(of_second[:, :3]).min() > 0 and not np.asarray(of_second[:, 3]).any()


def test_fare_reads_attacked_views_and_the_teacher_alone():
    fare = {"distance": "l2", "clean_weight": 0.0, "attacked_weight": 1.0, "anchor": "teacher"}
    squares = ((Z[:, :3] - Z[:, 3:]) ** 2).sum(-1).mean()
    assert loss(Z, **fare) == pytest.approx(float(squares), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"distance": "l1"}, "unknown distance 'l1': known: cosine, l2"),
        ({"anchor": "clean"}, "unknown anchor 'clean': known: student, teacher"),
        ({"clean_weight": -1.0}, "clean_weight must not be negative"),
        ({"clean_weight": 0.0, "attacked_weight": 0.0}, "both 0"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        DistillationConfig(**settings)


def test_views_that_are_missing_are_named():
    with pytest.raises(ValueError, match="needs a clean view and an attacked one"):
        distillation(Z[:, ::3], NO_LABELS, DistillationConfig())
    with pytest.raises(ValueError, match="needs an attacked one"):
        distillation(Z[:, 3:], NO_LABELS, DistillationConfig("l2", 0, 1, "teacher"))
