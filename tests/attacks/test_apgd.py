import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import APGDConfig, TargetedAPGDConfig, fooled, norms, run
from clead_jax.attacks.apgd import APGD, _stages
from clead_jax.attacks.apgd_steps import HALVING, SPARSE
from clead_jax.attacks.objectives import cross_entropy, margin
from clead_jax.core.types import Targeted


def states(problem, cfg, objective=cross_entropy, jit=True, target=None):
    """The state before the first step and after each."""
    target = problem.labels if target is None else target
    yield (state := APGD.init(problem.forward, objective, problem.x, target, problem.keys, cfg))
    step = lambda state: APGD.step(problem.forward, objective, state, cfg)
    step = jax.jit(step) if jit else step
    for _ in range(APGD.num_steps(cfg)):
        yield (state := step(state))


def hill(top=0.55, batch=4):
    """Class 1 is the nearer, the nearer the mean of the image is to `top`; nothing fools."""
    forward = lambda x: jnp.stack([jnp.ones(len(x)), -jnp.abs(x.mean((1, 2, 3)) - top)], -1)
    x, keys = jnp.full((batch, 4, 4, 3), 0.5), jax.random.split(jax.random.key(0), batch)
    return attack_problems.Problem(forward, x, jnp.zeros(batch, jnp.int32), keys, x)


def test_checkpoints_are_those_of_the_paper():
    """0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of the steps, and every 4 % in L1."""
    np.testing.assert_array_equal(np.cumsum(HALVING.checkpoints(100)), [22, 41, 57, 70, 80, 87, 93, 99])
    np.testing.assert_array_equal(np.cumsum(HALVING.checkpoints(1000)) / 10, [22, 41, 57, 70, 80, 87, 93, 99])
    assert HALVING.checkpoints(3) == [1, 1, 1]
    assert SPARSE.checkpoints(100) == [4] * 25


def test_the_step_size_begins_at_the_width_of_the_ball_and_is_halved_at_checkpoints_only():
    sizes = np.stack([state.memory.step_size for state in states(attack_problems.mlp(), APGDConfig(eps=0.25))][1:])
    np.testing.assert_array_equal(sizes[0], 0.5)
    ratio = sizes[1:] / sizes[:-1]
    assert set(np.unique(ratio)) == {0.5, 1.0}
    assert set(np.flatnonzero((ratio < 1).any(1)) + 1) <= {22, 41, 57, 70, 80, 87, 93, 99}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_shrinking_steps_reach_a_top_that_equal_steps_swing_around(norm):
    problem, eps = hill(), {"linf": 0.2, "l2": 0.2 * 48**0.5}[norm]
    cfg = APGDConfig(eps=eps, norm=norm)
    x_adv = run(APGD, problem.forward, margin, problem.x, problem.labels, problem.keys, cfg)
    assert jnp.abs(x_adv.mean((1, 2, 3)) - 0.55).max() < 0.001  # the first step is 0.4 long


def test_in_l1_steps_become_sparse():
    """A hundred steps find the pixel of largest weight and put everything there."""
    problem = attack_problems.linear()
    *_, last = states(problem, APGDConfig(eps=0.4, norm="l1"))
    changed = jnp.abs(last.best.x_adv - problem.x) > 1e-3
    assert (changed.reshape(8, -1).sum(-1) <= 2).all()
    assert (last.memory.step_size <= 0.4 / 9).all()


@pytest.mark.parametrize("norm", norms.NORMS)
def test_the_result_is_the_last_point_that_fooled_or_else_the_highest(norm):
    problem = attack_problems.mlp(batch=32)
    cfg = APGDConfig(eps={"linf": 0.02, "l2": 0.1, "l1": 0.4}[norm], norm=norm, steps=20)
    seen = list(states(problem, cfg))
    points = jnp.stack([state.x_adv for state in seen[:-1]])  # what the steps looked at
    outputs = jax.vmap(problem.forward)(points)
    fools = np.stack([fooled(o, problem.labels) for o in outputs])
    values = np.stack([cross_entropy(o, problem.labels) for o in outputs])
    assert 3 < fools.any(0).sum() < 29
    last = len(fools) - 1 - np.argmax(fools[::-1], axis=0)
    expected = np.where(fools.any(0), last, np.argmax(values, axis=0))
    np.testing.assert_array_equal(APGD.done(seen[-1]), fools.any(0))
    got = np.asarray(cross_entropy(problem.forward(APGD.result(seen[-1])), problem.labels))
    np.testing.assert_allclose(got, values[expected, np.arange(32)], rtol=1e-5)


def test_one_class_after_the_other_the_likeliest_first():
    problem, aims = attack_problems.linear(classes=5), []

    def objective(outputs, target):
        aims.append(target)
        return margin(outputs, target)

    cfg = TargetedAPGDConfig(targets=3, steps=2, restarts=2)
    list(states(problem, cfg, objective, jit=False))
    np.testing.assert_array_equal(aims[0].label, problem.labels)
    order = np.argsort(-problem.forward(problem.x), axis=-1)[:, 1:4]  # the first is the label
    goals = np.stack([aim.goal for aim in aims])
    np.testing.assert_array_equal(goals, np.repeat(np.tile(order.T, (2, 1)), 3, axis=0))


def test_a_label_that_is_not_the_likeliest_class_is_no_goal_either():
    problem = attack_problems.linear(classes=5)
    problem = problem._replace(labels=jnp.argsort(problem.forward(problem.x))[:, 1])
    first = next(states(problem, TargetedAPGDConfig(targets=4)))
    for goals, label in zip(first.goals.tolist(), problem.labels.tolist(), strict=True):
        assert set(goals) == set(range(5)) - {label}


def test_a_class_further_down_may_be_the_one_within_reach():
    """The likeliest wrong class never gains on the label; the next one does."""
    forward = lambda x: jnp.outer(x.mean((1, 2, 3)), jnp.array([0.0, 0.0, 10.0])) - jnp.array([0.0, 0.1, 5.5])
    problem = hill()._replace(forward=forward)

    def broken(targets):
        *_, last = states(problem, TargetedAPGDConfig(eps=0.1, targets=targets, steps=5), margin)
        return int(APGD.done(last).sum())

    assert (broken(1), broken(2)) == (0, 4)


def test_a_given_goal_is_the_only_one():
    problem = attack_problems.linear(classes=5)
    goal = (problem.labels + 2) % 5
    *_, last = states(problem, TargetedAPGDConfig(targets=2), target=Targeted(problem.labels, goal))
    assert (problem.forward(APGD.result(last)).argmax(-1) == goal).all()


def test_restarts_begin_elsewhere_and_repeat_nothing():
    problem, cfg = attack_problems.mlp(), APGDConfig(eps=0.02, steps=4, restarts=3)
    starts = [state.x_adv for made, state in enumerate(states(problem, cfg)) if made % 5 == 0][:3]
    expected = norms.start(jax.vmap(lambda key: jax.random.fold_in(key, 2))(problem.keys), problem.x, 0.02, "linf")
    np.testing.assert_allclose(starts[2], expected, atol=1e-6)
    assert all((jnp.abs(starts[i] - starts[j]).max((1, 2, 3)) > 0.001).all() for i, j in ((0, 1), (1, 2)))
    best = [cross_entropy(problem.forward(APGD.result(state)), problem.labels) for state in states(problem, cfg)]
    once, thrice = best[5], best[15]
    robust = ~APGD.done([*states(problem, cfg)][-1])
    assert robust.any() and (thrice >= once)[robust].all()


@pytest.mark.parametrize("norm", norms.NORMS)
def test_widened_it_begins_in_larger_balls_and_ends_in_its_own(norm):
    problem, eps = attack_problems.mlp(batch=32), {"linf": 0.02, "l2": 0.1, "l1": 1.0}[norm]
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    far = lambda x_adv: np.linalg.norm(np.asarray(x_adv - problem.x).reshape(32, -1), ord=order, axis=1) / eps
    seen = list(states(problem, APGDConfig(eps=eps, norm=norm, steps=10, widen=True)))
    looked_at = np.stack([far(state.x_adv) for state in seen[:-1]])
    assert len(looked_at) == 13  # three starts and ten steps
    for stage, radius in ((slice(0, 4), 3), (slice(4, 8), 2), (slice(8, 13), 1)):
        assert looked_at[stage].max() <= radius + 1e-4
        assert looked_at[stage].max() > radius - 0.5
    assert far(APGD.result(seen[-1])).max() <= 1 + 1e-4
    assert not any(APGD.done(state).any() for state in seen[:9])


def test_of_few_steps_one_is_left_for_the_ball_itself():
    for steps in range(1, 12):
        stages = _stages(APGDConfig(steps=steps, widen=True))
        assert stages[-1][0] == 1 and sum(n for _, n in stages) == steps


def test_gradients_are_averaged_over_noise():
    """Every second call of this model has the slope reversed and three times as steep: one gradient is misled."""
    problem, calls = attack_problems.linear(), []

    def forward(x):
        calls.append(1)
        return problem.forward(x) * (-1.0 if len(calls) % 2 else 3.0)

    def gain(eot):
        calls.clear()
        cfg = APGDConfig(eps=0.01, steps=1, random_start=False, eot=eot)
        first = [*states(problem._replace(forward=forward), cfg, margin, jit=False)][1]
        return margin(problem.forward(first.x_adv), problem.labels) - margin(problem.forward(problem.x), problem.labels)

    assert (gain(1) < 0).all() and (gain(2) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l3"}, "unknown norm 'l3': known: linf, l2, l1"),
        ({"eps": -0.1}, "eps must not be negative, got -0.1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"eot": 0}, "eot must be at least 1, got 0"),
        ({"targets": -1}, "targets must not be negative, got -1"),
        ({"restarts": 2, "random_start": False}, "restarts=2 needs random_start=True"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        APGDConfig(**settings)


def test_too_few_classes():
    with pytest.raises(ValueError, match="9 targets need 10 classes, the model has 5"):
        next(states(attack_problems.linear(classes=5), TargetedAPGDConfig()))
