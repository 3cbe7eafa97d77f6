"""The driver of attacks on a linear model, whose robust accuracy is known exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax import attacks
from clead_jax.core.batches import sizes
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Classifier, Examples, NamedAttack
from clead_jax.evaluation import runner
from clead_jax.evaluation.budget import Budget
from clead_jax.evaluation.classifier import compiled
from clead_jax.results import files

N, EPS, KEY = 70, 0.05, jax.random.key(0)


def forward(v, x):
    score = (x.reshape(len(x), -1) - 0.5) @ v
    return score[:, None] * jnp.array([-0.5, 0.5])


def problem(batch_size=32, model=forward, **more):
    """(model, examples, which can not be broken); the first three are wrong from the start."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.3, 0.7, (N, 4, 4, 1)).astype(np.float32)
    w = rng.normal(size=16).astype(np.float32)
    score = (images.reshape(N, -1) - 0.5) @ w
    labels = (score > 0).astype(np.int32)
    labels[:3] = 1 - labels[:3]
    robust = (np.abs(score) > EPS * np.abs(w).sum()) & (np.arange(N) >= 3)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    built = compiled(Classifier(model, jnp.asarray(w), **more), mesh, batch_size)
    return built, Examples(images, labels, np.arange(N)), robust


def named(name, **settings):
    entry = ATTACKS[name]
    return NamedAttack(name, entry.value, entry.info["objective"], entry.config(eps=EPS, **settings), EPS)


# A weak attack first, so that something is left for the next.
ATTACK_LIST = (named("pgd", step_size=EPS / 40, steps=30), named("square", queries=250), named("apgd_ce", steps=25))


def run(attack_list=ATTACK_LIST, given=None, **more):
    model, examples, _ = given or problem()
    return runner.run_attacks(model, examples, attack_list, key=KEY, num_classes=2, **more)


def test_leaves_exactly_what_cannot_be_broken():
    robust, found = problem()[2], run()
    assert found.complete and 0 < robust.sum() < N - 3
    np.testing.assert_array_equal(found.correct, robust)
    pgd, square, apgd = (found.records[a.name] for a in ATTACK_LIST)
    assert pgd.sum() > apgd.sum() and (square <= pgd).all() and (apgd <= square).all()
    np.testing.assert_array_equal(apgd, robust)


SINGLE = {
    "pgd": named("pgd", step_size=EPS / 4, steps=20),
    "pgd restarts": named("pgd", step_size=EPS / 8, steps=7, restarts=3),
    "cw": named("cw", step_size=EPS / 4, steps=20),
    "square": named("square", queries=250),
    "apgd_t": named("apgd_t", steps=40, targets=1)._replace(objective=ATTACKS["cw"].info["objective"]),
    "fab_t": named("fab_t", steps=40, targets=1),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_attack_gives_the_same_verdicts_in_fewer_passes(name):
    early = run([SINGLE[name]])
    whole = run([SINGLE[name]], keep=N, early_stop=False)
    np.testing.assert_array_equal(early.correct, whole.correct)
    each = SINGLE[name].passes(2)
    ((forward_early,), (forward_whole,)) = (found.forward.values() for found in (early, whole))
    ((backward_whole,),) = (whole.backward.values(),)
    assert (forward_whole == each[0]).all() and (backward_whole == each[1]).all()
    assert forward_early.sum() < 0.75 * forward_whole.sum() and (forward_early <= forward_whole).all()


def test_batches_change_nothing():
    attack = [named("pgd", step_size=EPS / 4, steps=2)]
    whole = run(attack, problem(64), keep=N, early_stop=False)
    model, examples, _ = problem(16)
    rest = Examples(examples.images[20:], examples.labels[20:], examples.index[20:])
    part = run(attack, (model, rest, None), keep=N - 20, early_stop=False)
    np.testing.assert_allclose(part.images, whole.images[20:], atol=1e-6)


def test_images_that_are_to_run_to_the_end_do_so_right_or_wrong():
    model, examples, _ = problem()
    found = run([SINGLE["pgd"]], keep=5, early_stop=False)
    assert found.images.shape == (5, 4, 4, 1) and (found.forward["pgd"][:5] == 21).all()
    np.testing.assert_array_equal(model.predict(found.images), found.prediction)
    moved = np.abs(found.images - examples.images[:5]).reshape(5, -1).max(1)
    np.testing.assert_allclose(moved, found.distance, atol=1e-6)
    assert (moved > 0.9 * EPS).all() and (moved <= EPS + 1e-6).all()
    assert (found.prediction[:3] != examples.labels[:3]).all() and not found.correct[:3].any()


def test_keeps_the_images_that_broke_it():
    model, examples, robust = problem()
    found = run(keep=N)
    np.testing.assert_array_equal(model.predict(found.images) == examples.labels, found.correct)
    moved = np.abs(found.images - examples.images).reshape(N, -1).max(1)
    assert (moved <= EPS + 1e-6).all() and (moved[robust] == 0).all() and (moved[3:][~robust[3:]] > 0).all()


def test_only_those_still_correct_are_attacked():
    robust, found = problem()[2], run()
    for before, after in itertools.pairwise(ATTACK_LIST):
        assert (found.forward[after.name][~found.records[before.name]] == 0).all()
    assert (found.forward["pgd"][:3] == 0).all() and (found.backward["square"] == 0).all()
    assert (found.forward["apgd_ce"][robust] == ATTACK_LIST[2].passes(2)[0]).all()
    assert found.forward["square"][found.records["square"]].min() == 250


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("attack_list", [ATTACK_LIST, (named("pgd", step_size=EPS / 40, steps=60, restarts=2),)])
def test_stopped_again_and_again_it_ends_the_same(every, attack_list, tmp_path):
    whole, path, stops = run(attack_list, keep=N), tmp_path / "progress.npz", 0
    while True:
        clock = itertools.count().__next__  # ticks when it is asked
        found = run(attack_list, keep=N, path=path, budget=Budget(seconds=4 * every), clock=clock)
        if found.complete:
            break
        stops += 1
    assert stops >= 2
    np.testing.assert_array_equal(found.correct, whole.correct)
    np.testing.assert_array_equal(found.images, whole.images)
    for name in whole.forward:
        np.testing.assert_array_equal(found.forward[name], whole.forward[name])
        np.testing.assert_array_equal(found.records[name], whole.records[name])


def test_progress_of_something_else_is_not_resumed(tmp_path):
    path, little = tmp_path / "progress.npz", Budget(passes=5)
    assert not run(path=path, budget=little).complete
    paid = lambda found: sum(int(n.sum()) for n in found.forward.values())
    again = run(path=path, budget=little)
    assert paid(again) == paid(run(budget=little))  # the budget of passes is that of all calls
    model, examples, _ = problem()
    others = {
        "weights": (model.with_variables(2 * model.variables), examples, None),
        "images": (model, Examples(examples.images * 0.99, examples.labels, examples.index), None),
        "labels": (model, Examples(examples.images, 1 - examples.labels, examples.index), None),
    }
    for what, given in others.items():
        fresh = run([SINGLE["pgd"]], given, path=path, budget=Budget(passes=1))
        assert set(fresh.forward) == {"pgd"}, what
    assert run([SINGLE["pgd"]], path=path, keep=3, budget=Budget(passes=1)).images.shape[0] == 3


@pytest.mark.slow
def test_damaged_progress_is_refused_in_one_line(tmp_path):
    path, little = tmp_path / "progress.npz", Budget(passes=5)
    assert not run(path=path, budget=little).complete
    whole = files.load_arrays(path)
    assert any(name.startswith("leaf/") for name in whole)
    changes = {
        "floats": lambda a: a.astype(np.float64) if a.dtype.kind in "bi" else a.astype(np.int8),
        "axis": lambda a: a[None],
        "twice": lambda a: np.concatenate([a, a]) if a.ndim else np.asarray([a, a]),
        "less": lambda a: a[:-1] if a.ndim else -1 - abs(a),
    }
    for name in whole.keys() - {"identity"}:
        for what, change in {**changes, "removed": None}.items():
            rest = {k: a for k, a in whole.items() if k != name}
            if whole[name].dtype.kind in "fu" and whole[name].ndim == 0:
                continue  # any number of seconds, or of a key
            changed = np.asarray(change(whole[name])) if change else None
            if changed is not None and changed.dtype == whole[name].dtype and np.array_equal(changed, whole[name]):
                continue  # no images are kept: twice none is none
            files.save_arrays(path, rest | ({} if changed is None else {name: changed}))
            with pytest.raises(ValueError, match="damaged") as error:
                run(path=path, budget=little)
            assert "\n" not in str(error.value), (name, what)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged"):
        run(path=path, budget=little)


def test_a_spent_budget_leaves_the_rest_correct():
    robust, found = problem()[2], run(budget=Budget(passes=5))
    assert not found.complete and found.correct.sum() > robust.sum()


def test_nothing_is_compiled_for_more_than_a_few_batch_sizes():
    shapes = []

    def counting(v, x):
        shapes.append(len(x))
        return forward(v, x)

    given = problem(model=counting)
    run(given=given)
    assert set(shapes) <= set(sizes(32, 1)) == {16, 32}
    before = len(shapes)
    assert before < 60
    run(given=given)
    assert len(shapes) == before


@pytest.mark.parametrize(
    "batch_size, multiple, expected", [(256, 1, [16, 32, 64, 128, 256]), (100, 8, [16, 32, 64, 112]), (5, 24, [48])]
)
def test_batch_sizes(batch_size, multiple, expected):
    assert sizes(batch_size, multiple) == expected


def test_success_on_a_cheap_copy_does_not_count():
    given = problem(attack_forward=lambda v, x: forward(-v, x))  # "fooled" everywhere, from the start
    assert run([SINGLE["pgd"]], given).correct.sum() == N - 3


def cheating():
    cheat = attacks.Iterative(*ATTACKS["pgd"].value)._replace(result=lambda state: state.x + 3 * EPS)
    return SINGLE["pgd"]._replace(attack=cheat)


def test_an_attack_that_leaves_the_ball_has_no_success():
    assert run([cheating()]).correct.sum() == N - 3
    with pytest.raises(RuntimeError, match="attack pgd left its ball"):
        run([cheating()], strict=True)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda v, x: forward(v, x) / 0 - jnp.inf, "non-finite outputs"),
        (lambda v, x: forward(v, x) + 0 * jnp.sqrt(0 * x).sum(), "attack pgd met a non-finite gradient"),
    ],
)
def test_numbers_that_are_not_finite(model, said):
    with pytest.raises(FloatingPointError, match=said):
        run([SINGLE["pgd"]], problem(model=model), strict=True)
    assert run([SINGLE["pgd"]], problem(model=model)).complete


def test_hears_of_progress():
    heard = []
    run(heard=heard.append)
    assert {h.attack for h in heard} == {a.name for a in ATTACK_LIST} and all(h.total == N for h in heard)
    correct = [h.correct for h in heard]
    assert correct == sorted(correct, reverse=True) and heard[-1].seconds_left < np.inf
