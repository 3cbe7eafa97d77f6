"""The cascade on a linear model, whose robust accuracy is known exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax import attacks
from clead_jax.core.registry import ATTACKS
from clead_jax.evaluation import resume as ledger
from clead_jax.evaluation import runner as cascade
from clead_jax.evaluation.classifier import NamedAttack
from clead_jax.evaluation.verify import Evaluator

N, EPS = 70, 0.05


def forward(v, x):
    score = (x.reshape(len(x), -1) - 0.5) @ v
    return score[:, None] * jnp.array([-0.5, 0.5])


def problem(batch_size=32, model=forward, **options):
    rng = np.random.default_rng(0)
    images = rng.uniform(0.3, 0.7, (N, 4, 4, 1)).astype(np.float32)
    w = rng.normal(size=16).astype(np.float32)
    score = (images.reshape(N, -1) - 0.5) @ w
    labels = (score > 0).astype(np.int32)
    labels[:3] = 1 - labels[:3]
    robust = (np.abs(score) > EPS * np.abs(w).sum()) & (np.arange(N) >= 3)
    evaluator = Evaluator(model, batch_size, strict=False, **options)
    on = cascade.Problem(evaluator, jnp.asarray(w), images, labels, np.arange(N), 2, jax.random.key(0))
    return on, robust


def named(name, **settings):
    entry = ATTACKS[name]
    return NamedAttack(name, entry.value, entry.info["objective"], entry.config(eps=EPS, **settings), EPS)


# A weak attack first, so that something is left for the next.
ATTACK_LIST = (named("pgd", step_size=EPS / 40, steps=30), named("square", queries=250), named("apgd_ce", steps=25))


def start(on, batch_size=32, keep=True):
    correct = on.evaluator.predict(on.variables, on.images) == on.labels
    return ledger.begin("me", batch_size, correct, on.images if keep else None)


def test_leaves_exactly_what_cannot_be_broken():
    on, robust = problem()
    book = start(on)
    assert cascade.run(on, ATTACK_LIST, book)
    np.testing.assert_array_equal(book.standing, robust)
    assert 0 < robust.sum() < N - 3
    pgd, square, apgd = (book.records[a.name] for a in ATTACK_LIST)
    assert pgd.sum() > square.sum() > apgd.sum() or pgd.sum() > apgd.sum()
    assert (square <= pgd).all() and (apgd <= square).all()
    np.testing.assert_array_equal(apgd, robust)


def test_keeps_the_images_that_broke_it():
    on, robust = problem()
    book = start(on)
    cascade.run(on, ATTACK_LIST, book)
    np.testing.assert_array_equal(on.evaluator.predict(on.variables, book.adversarial) == on.labels, book.standing)
    moved = np.abs(book.adversarial - on.images).reshape(N, -1).max(1)
    assert (moved <= EPS + 1e-6).all() and (moved[robust] == 0).all() and (moved[3:][~robust[3:]] > 0).all()


def test_only_those_still_standing_pay():
    on, robust = problem()
    book = start(on)
    cascade.run(on, ATTACK_LIST, book)
    for before, after in itertools.pairwise(ATTACK_LIST):
        fallen = ~book.records[before.name]
        assert (book.forward[after.name][fallen] == 0).all()
    assert (book.forward["pgd"][:3] == 0).all()
    assert (book.backward["square"] == 0).all()
    steps = ATTACK_LIST[2].attack.num_steps(ATTACK_LIST[2].cfg)
    assert (book.forward["apgd_ce"][robust] == steps).all()
    assert book.forward["square"][book.records["square"]].min() == 250


@pytest.mark.parametrize("every", [1, 3])
def test_stopped_again_and_again_it_ends_the_same(every, tmp_path):
    on, _ = problem()
    whole = start(on)
    cascade.run(on, ATTACK_LIST, whole)

    path, stops = tmp_path / "ledger.npz", 0
    while True:
        on, _ = problem()
        book = ledger.load(path, "me", True) or start(on)
        clock = itertools.count().__next__
        budget = cascade.Budget(seconds=4 * every)  # the clock ticks when it is asked
        save = lambda book, leaves: ledger.save(path, book, leaves)
        if cascade.run(on, ATTACK_LIST, book, save=save, budget=budget, clock=clock):
            break
        stops += 1
    assert stops >= 3
    np.testing.assert_array_equal(book.standing, whole.standing)
    np.testing.assert_array_equal(book.adversarial, whole.adversarial)
    for name in whole.forward:
        np.testing.assert_array_equal(book.forward[name], whole.forward[name])
        np.testing.assert_array_equal(book.records[name], whole.records[name])


def test_a_ledger_of_something_else_is_not_gone_on_with(tmp_path):
    on, _ = problem()
    ledger.save(tmp_path / "a.npz", start(on, keep=False), None)
    assert ledger.load(tmp_path / "a.npz", "me", False)
    assert ledger.load(tmp_path / "a.npz", "another", False) is None
    assert ledger.load(tmp_path / "a.npz", "me", True) is None  # it has no images
    assert ledger.load(tmp_path / "b.npz", "me", False) is None


def test_a_spent_budget_leaves_the_rest_standing():
    on, robust = problem()
    book = start(on)
    assert not cascade.run(on, ATTACK_LIST, book, budget=cascade.Budget(passes=5))
    assert book.standing.sum() > robust.sum() and 5 <= book.passes < 100
    assert cascade.run(on, ATTACK_LIST, book)
    np.testing.assert_array_equal(book.standing, robust)


def test_nothing_is_compiled_for_more_than_a_few_batch_sizes():
    shapes = []

    def counting(v, x):
        shapes.append(len(x))
        return forward(v, x)

    on, _ = problem(model=counting)
    cascade.run(on, ATTACK_LIST, start(on))
    assert set(shapes) <= set(cascade.sizes(32, 1)) == {16, 32}
    assert len(shapes) < 60
    before = len(shapes)
    cascade.run(on, ATTACK_LIST, start(on))
    assert len(shapes) == before


@pytest.mark.parametrize(
    "batch_size, multiple, expected", [(256, 1, [16, 32, 64, 128, 256]), (100, 8, [16, 32, 64, 112]), (5, 24, [48])]
)
def test_batch_sizes(batch_size, multiple, expected):
    assert cascade.sizes(batch_size, multiple) == expected


def test_success_on_a_cheap_copy_does_not_count():
    on, _ = problem(inside=lambda v, x: forward(-v, x))  # "fooled" everywhere, from the start
    book = start(on)
    cascade.run(on, (named("pgd", step_size=EPS / 4, steps=10),), book)
    assert book.standing.sum() == N - 3


def test_an_attack_that_leaves_the_ball_has_no_success():
    on, _ = problem()
    cheat = attacks.Iterative(*ATTACKS["pgd"].value)._replace(result=lambda state: state.x + 3 * EPS)
    book = start(on)
    cascade.run(on, (named("pgd", step_size=EPS / 4)._replace(attack=cheat),), book)
    assert book.standing.sum() == N - 3


def test_hears_of_progress():
    on, _ = problem()
    heard = []
    cascade.run(on, ATTACK_LIST, start(on), heard=heard.append)
    assert [h.attack for h in heard if h.total == N] and {h.attack for h in heard} == {a.name for a in ATTACK_LIST}
    standing = [h.standing for h in heard]
    assert standing == sorted(standing, reverse=True)
    assert heard[-1].seconds_left < np.inf
