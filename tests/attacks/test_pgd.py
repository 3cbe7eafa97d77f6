import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slowly
from sklearn.datasets import load_digits

from clead_jax.attacks import FGSMConfig, GradientConfig, fooled, repeat, run, worst_of
from clead_jax.attacks.objectives import cross_entropy, margin
from clead_jax.attacks.pgd import GRADIENT


def attack(problem, cfg, objective=cross_entropy):
    solve = lambda x, target, keys: run(GRADIENT, problem.forward, objective, x, target, keys, cfg)
    return jax.jit(solve)(problem.x, problem.labels, problem.keys)


@pytest.mark.parametrize("cfg", [FGSMConfig(), GradientConfig(), GradientConfig(keep="last", random_start=False)])
def test_on_a_linear_model_it_is_x_plus_eps_sign_w(cfg):
    problem = attack_problems.linear()
    w = (problem.weights @ jnp.array([-1.0, 1.0])).reshape(problem.x.shape[1:])
    away = jax.vmap(jnp.multiply)(1.0 - 2.0 * problem.labels, jnp.broadcast_to(jnp.sign(w), problem.x.shape))
    np.testing.assert_allclose(attack(problem, cfg), problem.x + cfg.eps * away, atol=1e-6)


def test_fgsm_is_one_step_of_pgd():
    problem = attack_problems.mlp()
    one_step = GradientConfig(step_size=None, steps=1, random_start=False, keep="last")
    np.testing.assert_array_equal(attack(problem, FGSMConfig()), attack(problem, one_step))


def test_of_a_limited_number_of_steps_the_first_count():
    problem, settings = attack_problems.mlp(), {"step_size": 0.01, "keep": "last"}
    solve = lambda limit: run(
        GRADIENT,
        *problem[:1],
        cross_entropy,
        problem.x,
        problem.labels,
        problem.keys,
        GradientConfig(steps=4, **settings),
        limit,
    )
    limited = jax.jit(solve)
    for count in (1, 3, 4):
        expected = attack(problem, GradientConfig(steps=count, **settings))
        np.testing.assert_allclose(limited(jnp.float32(count)), expected, atol=1e-6)
    assert limited._cache_size() == 1 and not np.allclose(limited(0.0), limited(4.0))


def test_the_best_point_seen_is_kept():
    """An objective with its top at 0.55: steps of 0.03 pass it and swing; the last point is not the best."""
    problem = attack_problems.linear()._replace(x=jnp.full((8, 6, 6, 3), 0.5), labels=jnp.zeros(8, jnp.int32))
    hill = lambda x: jnp.stack([jnp.ones(len(x)), -jnp.abs(x.mean((1, 2, 3)) - 0.55)], -1)
    problem = problem._replace(forward=hill)
    settings = {"eps": 0.2, "step_size": 0.03, "steps": 5, "random_start": False}
    best, last = (attack(problem, GradientConfig(keep=keep, **settings), margin) for keep in ("best", "last"))
    np.testing.assert_allclose(best.mean(), 0.56, atol=1e-5)  # 0.53, 0.56, 0.53, 0.56, 0.53
    np.testing.assert_allclose(last.mean(), 0.53, atol=1e-5)


def test_a_fooling_point_beats_a_higher_objective():
    x = jnp.array([[0.1], [0.9]])
    logits = lambda x: jnp.concatenate([jnp.ones_like(x), 2 * x], -1)  # class 1 above 0.5
    objective = lambda outputs, target: -outputs[:, 1]  # prefers small x
    worst = worst_of(logits, objective, [x, 1 - x, x + 0.05], jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(worst, [[0.9], [0.9]])


def test_restarts_help_and_never_hurt():
    problem = attack_problems.mlp(batch=64)
    value = lambda n: cross_entropy(
        problem.forward(attack(problem, GradientConfig(eps=0.3, step_size=0.1, steps=1, restarts=n))), problem.labels
    )
    one, five = value(1), value(5)
    assert (five >= one - 1e-6).mean() > 0.9  # a point that fools may replace one with a higher loss
    assert (five > one + 1e-6).sum() > 20


def test_the_number_of_gradients():
    assert GRADIENT.num_steps(FGSMConfig()) == 1
    assert GRADIENT.num_steps(GradientConfig(steps=5, keep="last")) == 5
    assert GRADIENT.num_steps(GradientConfig(steps=5, restarts=3)) == 18  # keeping the best looks at the last point too


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l3"}, "unknown norm 'l3': known: linf, l2, l1"),
        ({"keep": "first"}, "unknown keep 'first': known: best, last"),
        ({"eps": -0.1}, "eps must not be negative, got -0.1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 2, "keep": "last"}, "restarts=2 needs random_start=True and keep='best'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GradientConfig(**settings)


@pytest.fixture(scope="module")
def trained():
    """A small network trained on the digits, and 256 digits it was not trained on."""
    images, labels = load_digits(return_X_y=True)
    x, labels = jnp.asarray(images, jnp.float32).reshape(-1, 8, 8, 1) / 16, jnp.asarray(labels, jnp.int32)
    a, b = jax.random.split(jax.random.key(0))
    params = jax.random.normal(a, (64, 32)) / 8, jax.random.normal(b, (32, 10)) / 6
    apply = lambda params, x: jax.nn.relu((x - 0.5).reshape(len(x), -1) @ params[0]) @ params[1]
    optimizer = optax.adam(0.01)

    def fit(_, carry):
        params, state = carry
        loss = lambda params: cross_entropy(apply(params, x[:1500]), labels[:1500]).mean()
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, 200, fit, carry))((params, optimizer.init(params)))
    keys = jax.random.split(jax.random.key(1), 256)
    return attack_problems.Problem(lambda x: apply(params, x), x[1500:1756], labels[1500:1756], keys, params[0])


@pytest.mark.parametrize("eps", slowly([0.05, 0.1, 0.2], [0.1]))
def test_on_a_trained_net_pgd_is_never_weaker_than_fgsm(trained, eps):
    broken = lambda x: int(fooled(trained.forward(x), trained.labels).sum())
    fgsm = broken(attack(trained, FGSMConfig(eps=eps)))
    pgd = broken(attack(trained, GradientConfig(eps=eps, step_size=eps / 4)))
    cw = broken(attack(trained, GradientConfig(eps=eps, step_size=eps / 4), margin))
    assert broken(trained.x) + 10 < fgsm <= min(pgd, cw)


@pytest.mark.parametrize(("platform", "rolled"), [("cpu", False), ("", False), ("gpu", True), ("cuda", True)])
def test_loops_are_unrolled_on_the_cpu_only(platform, rolled):
    """Tests run on the CPU, so that is what no platform means."""
    body = lambda x: jnp.sin(x) + x
    program = jax.jit(lambda x: repeat(5, body, x, platform=platform)).lower(1.0)
    assert ("stablehlo.while" in program.as_text()) == rolled
    forward_only = jax.jit(lambda x: repeat(5, body, x, forward_only=True, platform=platform)).lower(1.0)
    assert "stablehlo.while" in forward_only.as_text()
