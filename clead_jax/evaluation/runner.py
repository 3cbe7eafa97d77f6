"""A cascade: attacks one after the other, each on the examples still standing after the ones before.

Within an attack too, rows that have fallen are dropped: when half of a batch has, the rest moves to a batch of half the
size. There are few such sizes, each compiled once. Every success is shown to the judging model before it counts.

Nothing is lost when a cascade is stopped: see `ledger`. Where many processes share the work, all of them must take the
same decisions, so `clock` has to give all of them the same time.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from clead_jax.core.types import Key, PyTree
from clead_jax.evaluation import resume as ledgers
from clead_jax.evaluation.classifier import NamedAttack
from clead_jax.evaluation.resume import Batch, Ledger
from clead_jax.evaluation.verify import Evaluator, example_keys, pixels, verdict

SMALLEST = 16  # rows in a batch
LOOK = 10  # steps of a gradient attack between two looks at who has fallen; of others 100
SAVE = 60.0  # seconds between two saves


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a cascade is run on."""

    evaluator: Evaluator
    variables: PyTree
    images: np.ndarray  # [N, H, W, C], uint8 or floats in [0, 1]
    labels: np.ndarray  # int [N]
    index: np.ndarray  # int [N], places in the data set
    num_classes: int
    key: Key
    multiple: int = 1  # what batch sizes have to be multiples of: the number of devices


class Budget(NamedTuple):
    """When to stop: after so many seconds of this call, or so many passes per example in all."""

    seconds: float = math.inf
    passes: float = math.inf


UNLIMITED = Budget()


class Progress(NamedTuple):
    """What a listener hears."""

    attack: str
    standing: int
    total: int
    seconds_left: float  # at most, if nothing more falls; inf while that is not known


def run(
    problem: Problem,
    attacks: Sequence[NamedAttack],
    ledger: Ledger,
    *,
    save: Callable[[Ledger, list[np.ndarray] | None], None] = lambda ledger, leaves: None,
    budget: Budget = UNLIMITED,
    heard: Callable[[Progress], None] = lambda progress: None,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Goes on with `ledger` until every attack has a record. False if the budget ended first.

    Stopped by the budget, or killed, the same call with the saved ledger goes on where it was and ends with the same
    result as an uninterrupted one on the same machine.
    """
    return _Cascade(problem, attacks, ledger, save, budget, heard, clock).run()


def sizes(batch_size: int, multiple: int) -> list[int]:
    """The batch sizes of a cascade, ascending: halves of the largest, each a multiple of the number of devices."""
    least = math.lcm(SMALLEST, multiple)
    top = max(least, math.ceil(batch_size / least) * least)
    halves = {max(least, math.ceil(top / 2**n / least) * least) for n in range(20)}
    return sorted(halves)


class _Cascade:
    def __init__(
        self,
        problem: Problem,
        attacks: Sequence[NamedAttack],
        ledger: Ledger,
        save: Callable[[Ledger, list[np.ndarray] | None], None],
        budget: Budget,
        heard: Callable[[Progress], None],
        clock: Callable[[], float],
    ):
        self._on, self._attacks, self._ledger, self._write = problem, attacks, ledger, save
        self._budget, self._heard, self._clock = budget, heard, clock
        self._sizes = sizes(ledger.batch_size, problem.multiple)
        self._started = self._saved = self._last = clock()
        self._work, self._time = 0.0, 0.0  # done so far in programs that were compiled before, and how long that took
        self._warm: set[tuple[str, int]] = set()

    def run(self) -> bool:
        ledger = self._ledger
        for named in self._attacks:
            if named.name in ledger.records:
                continue
            for of in (ledger.forward, ledger.backward):
                of.setdefault(named.name, np.zeros(len(ledger.standing), np.int64))
            rows, top = np.flatnonzero(ledger.entered), self._sizes[-1]
            while ledger.batch * top < len(rows):
                if not self._finish(named, rows[ledger.batch * top : (ledger.batch + 1) * top]):
                    return False
                ledger.batch, ledger.inside = ledger.batch + 1, None
            ledger.finish(named.name)
            self._save()
        return True

    def _finish(self, named: NamedAttack, rows: np.ndarray) -> bool:
        """Takes one batch to the end of an attack. False if the budget ends first."""
        ledger, steps = self._ledger, named.attack.num_steps(named.cfg)
        batch = self._go_on(named) if ledger.inside else self._begin(named, rows)
        while batch.made < steps and (batch.rows >= 0).any():
            ledger.inside = batch
            if self._stop(named):
                return False
            batch = self._timed(named, batch, steps)
            self._tell(named, batch)
        return True

    def _begin(self, named: NamedAttack, rows: np.ndarray) -> Batch:
        rows = np.concatenate([rows, np.full(self._size(len(rows)) - len(rows), -1)])
        return Batch(rows, 0, self._on.evaluator.programs.init(*self._arguments(named, rows)))

    def _arguments(self, named: NamedAttack, rows: np.ndarray) -> tuple:
        """Those of `Programs.init`. A row that is nobody takes the place of the first that is somebody."""
        on, who = self._on, np.where(rows >= 0, rows, rows[rows >= 0][0])
        place = on.evaluator.place
        keys = place(example_keys(on.key, on.index[who]))
        x, labels = place(pixels(on.images[who])), place(on.labels[who].astype(np.int32))
        return named, on.variables, x, labels, keys, on.key

    def _go_on(self, named: NamedAttack) -> Batch:
        """The batch of a ledger that was just read has leaves and no tree."""
        ledger, evaluator = self._ledger, self._on.evaluator
        batch, leaves = ledger.inside, ledger.leaves
        assert batch is not None
        if leaves is None:
            return batch
        named, *arguments = self._arguments(named, batch.rows)
        like = jax.eval_shape(lambda *a: evaluator.programs.init(named, *a), *arguments)
        ledger.leaves = None
        return batch._replace(state=ledgers.to_devices(leaves, like, evaluator.place))

    def _timed(self, named: NamedAttack, batch: Batch, steps: int) -> Batch:
        """The batch some steps later. The first time a program runs it is compiled, which says nothing of its pace."""
        began, size = self._clock(), len(batch.rows)
        later = self._knock_out(named, self._advance(named, batch, steps), steps)
        if (named.name, size) in self._warm:
            self._time += self._clock() - began
            self._work += size * (later.made - batch.made) * _weight(named, self._on.num_classes)
        self._warm.add((named.name, size))
        return later

    def _advance(self, named: NamedAttack, batch: Batch, steps: int) -> Batch:
        on, live = self._on, batch.rows >= 0
        count = min(100 if named.attack.forward_only else LOOK, steps - batch.made)
        state = on.evaluator.programs.advance(named, on.variables, batch.state, batch.made, count, on.key)
        forward, backward = named.attack.passes(named.cfg, on.num_classes)
        self._ledger.forward[named.name][batch.rows[live]] += forward * count
        self._ledger.backward[named.name][batch.rows[live]] += backward * count
        return Batch(batch.rows, batch.made + count, state)

    def _knock_out(self, named: NamedAttack, batch: Batch, steps: int) -> Batch:
        """Without the rows that have fallen, and in a smaller batch if they fit."""
        on, fetch = self._on, self._on.evaluator.fetch
        x_adv, done = on.evaluator.programs.result(named, batch.state)
        live = batch.rows >= 0
        if not (fetch(done) & live).any() and batch.made < steps:
            return batch
        image, found = fetch((x_adv, on.evaluator.programs.predict(on.variables, x_adv, on.key)))
        who = batch.rows[live]
        broken, _ = verdict(named, pixels(on.images[who]), image[live], found[live] != on.labels[who])
        self._ledger.standing[who[broken]] = False
        if self._ledger.adversarial is not None:
            self._ledger.adversarial[who[broken]] = image[live][broken]
        rows = batch.rows.copy()
        rows[np.flatnonzero(live)[broken]] = -1
        return self._shrunk(batch._replace(rows=rows))

    def _shrunk(self, batch: Batch) -> Batch:
        live = np.flatnonzero(batch.rows >= 0)
        size = self._size(len(live))
        if not len(live) or size == len(batch.rows):
            return batch
        taken = np.concatenate([live, np.full(size - len(live), live[0])])
        rows = np.where(np.arange(size) < len(live), batch.rows[taken], -1)
        evaluator = self._on.evaluator
        leaves = [leaf[taken] for leaf in ledgers.to_host(batch.state, evaluator.fetch)]
        return Batch(rows, batch.made, ledgers.to_devices(leaves, batch.state, evaluator.place))

    def _size(self, count: int) -> int:
        return next(size for size in self._sizes if size >= count)

    def _stop(self, named: NamedAttack) -> bool:
        """Saves if it is time to; whether the budget is spent."""
        now = self._clock()
        spent = now - self._started >= self._budget.seconds or self._ledger.passes >= self._budget.passes
        if spent or now - self._saved >= SAVE:
            self._save()
        return spent

    def _save(self) -> None:
        now = self._clock()
        self._ledger.seconds, self._saved, self._last = self._ledger.seconds + now - self._last, now, now
        inside = self._ledger.inside
        self._write(self._ledger, ledgers.to_host(inside.state, self._on.evaluator.fetch) if inside else None)

    def _tell(self, named: NamedAttack, batch: Batch) -> None:
        ledger, top, classes = self._ledger, self._sizes[-1], self._on.num_classes
        waiting = max(0, int(ledger.entered.sum()) - (ledger.batch + 1) * top)
        live, steps = int((batch.rows >= 0).sum()), named.attack.num_steps(named.cfg)
        left = (live * (steps - batch.made) + waiting * steps) * _weight(named, classes)
        later = [a for a in self._attacks if a.name not in ledger.records and a.name != named.name]
        left += sum(ledger.standing.sum() * a.attack.num_steps(a.cfg) * _weight(a, classes) for a in later)
        pace = self._time / self._work if self._work else math.inf
        self._heard(
            Progress(named.name, int(ledger.standing.sum()), len(ledger.standing), left * pace if left else 0.0)
        )


def _weight(named: NamedAttack, classes: int) -> float:
    """What a step costs, in forward passes: a backward pass is about two."""
    forward, backward = named.attack.passes(named.cfg, classes)
    return forward + 2 * backward
