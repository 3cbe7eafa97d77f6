"""The one driver of attacks. A sequence of attacks is a cascade: each meets only the examples that the ones before it
have left correct. A single attack is a cascade of one.

Within an attack examples that are broken leave: when half of a batch has, the rest moves to a batch of half the size.
There are few such sizes, each compiled once. Every success is shown to the judging model before it counts. Nothing is
lost when attacks are stopped: see `resume`. Processes that share the work must take the same decisions, so `clock` has
to give all of them the same time.
"""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from clead_jax.core import numerics, stopping
from clead_jax.core.batches import example_keys, pixels, sizes
from clead_jax.core.types import Examples, Key, NamedAttack
from clead_jax.evaluation import resume
from clead_jax.evaluation.budget import UNLIMITED, Budget, Progress, weight
from clead_jax.evaluation.classifier import Compiled
from clead_jax.evaluation.resume import AttackProgress, Batch
from clead_jax.evaluation.verify import refuse, verdict

LOOK = 10  # steps of a gradient attack between two looks at which examples are broken; of others 100
SAVE = 60.0  # seconds between two saves


class Finding(NamedTuple):
    """What attacks have left. Rows are those of the examples given."""

    correct: np.ndarray  # bool [N], right on the clean image and after every attack
    records: dict[str, np.ndarray]  # attack -> bool [N], correct after it and those before
    forward: dict[str, np.ndarray]  # attack -> int [N], passes
    backward: dict[str, np.ndarray]
    images: np.ndarray  # float32 [keep, H, W, C]
    prediction: np.ndarray  # int [keep], the class the model gives those; -1 for NaN, and where it was not asked
    distance: np.ndarray  # float32 [keep], how far they are from the clean ones, in the attack's norm
    complete: bool  # False: the budget ended first
    seconds: float  # of all calls together


@stopping.deferred()
@numerics.defaults()
def run_attacks(
    model: Compiled,
    examples: Examples,
    attacks: Sequence[NamedAttack],
    *,
    key: Key,
    num_classes: int,
    clean: np.ndarray | None = None,
    keep: int = 0,
    early_stop: bool = True,
    strict: bool = False,
    budget: Budget = UNLIMITED,
    path: Path | None = None,
    heard: Callable[[Progress], None] = lambda progress: None,
    clock: Callable[[], float] = time.monotonic,
    writes: bool = True,
) -> Finding:
    """Attacks a model, and says which examples it still classifies correctly.

    Args:
      model: in batches of its batch size, rounded up to a multiple of 16 and of the devices.
      examples: their `index` decides the random starts, not the batch.
      attacks: run one after the other, each on what is still correct; `key` is of all their randomness.
      num_classes: of the model; only the count of passes depends on it.
      clean: bool [N], right on the clean image, if that is known.
      keep: how many of the first examples' images come back: the one that broke the model, or x where none did; of a
        model that draws noise the last one tried.
      early_stop: with False the first `keep` examples, right or wrong, run to the end, and come back as the attack
        leaves them: for pictures, for transfer, for the smallest distance.
      strict: raises FloatingPointError where the model or its gradient is not finite, RuntimeError for an attack that
        leaves its ball. Otherwise such an image counts as not broken.
      budget: when to stop. The same call with the same `path` goes on, and ends as an uninterrupted one does.
      path: where progress is saved, about once a minute, by the process that `writes`; removed by whoever has used it.
      heard: hears of progress.
    """
    key = numerics.threefry(key)
    driver = _Driver(model, examples, attacks, key, num_classes, keep * (not early_stop), strict, budget, heard, clock)
    identity = _identity(driver, keep) if path else ""
    progress = resume.load(path, identity) if path else None
    if progress is None:
        if clean is None:
            predicted = model.predict(examples.images, key)
            if strict and (predicted < 0).any():
                raise FloatingPointError("the model gives non-finite outputs")
            clean = predicted == examples.labels
        progress = resume.begin(identity, model.batch_size, clean, pixels(examples.images[:keep]))

    def save(inside: Batch | None) -> None:
        if path is None:
            return
        leaves = resume.to_host(inside.state, model.fetch) if inside else None  # fetched by all processes
        if writes:
            resume.save(path, driver.progress, leaves)

    complete = driver.run(progress, save)
    return Finding(**{f: getattr(progress, f) for f in Finding._fields if f != "complete"}, complete=complete)


@dataclasses.dataclass
class _Driver:
    """What `run_attacks` was given; all that changes is `progress`, which `run` is given, and the times."""

    model: Compiled
    examples: Examples
    attacks: Sequence[NamedAttack]
    key: Key
    classes: int
    held: int
    strict: bool
    budget: Budget
    heard: Callable[[Progress], None]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.started = self.saved = self.last = self.clock()
        self.work, self.time = 0.0, 0.0  # done in programs that were compiled before, and how long that took
        self.warm: set[tuple[str, int]] = set()

    def run(self, progress: AttackProgress, save: Callable[[Batch | None], None]) -> bool:
        """Goes on until every attack has a record. False if the budget ended first."""
        self.progress, self._write = progress, save
        self.sizes = sizes(progress.batch_size, self.model.mesh.size)
        for named in self.attacks:
            if named.name in progress.records:
                continue
            for of in (progress.forward, progress.backward):
                of.setdefault(named.name, np.zeros(len(progress.correct), np.int64))
            rows, top = (
                np.flatnonzero(progress.entered | (np.arange(len(progress.entered)) < self.held)),
                self.sizes[-1],
            )
            while (first := progress.batch * top) < len(rows):
                if not self._finish(named, rows[first : first + top]):
                    return False
                progress.batch, progress.inside = progress.batch + 1, None
            progress.records[named.name], progress.entered = progress.correct.copy(), progress.correct.copy()
            progress.batch, progress.inside = 0, None
            self._save()
        return True

    def _finish(self, named: NamedAttack, rows: np.ndarray) -> bool:
        """Takes one batch to the end of an attack. False if the budget ends first."""
        steps = named.attack.num_steps(named.cfg)
        batch = self._resumed(named) if self.progress.inside else self._begin(named, rows)
        while batch.made < steps and (batch.rows >= 0).any():
            self.progress.inside = batch
            if self._out_of_budget():
                return False
            batch = self._timed(named, batch, steps)
            self._tell(named, batch)
        return True

    def _begin(self, named: NamedAttack, rows: np.ndarray) -> Batch:
        self._count(named, rows, named.attack.init_passes(named.cfg, self.classes))
        rows = np.concatenate([rows, np.full(self._size(len(rows)) - len(rows), -1)])
        return Batch(rows, 0, self.model.programs.init(*self._arguments(named, rows)))

    def _arguments(self, named: NamedAttack, rows: np.ndarray) -> tuple:
        """Those of `Programs.init`. Padding repeats the first example."""
        who, place = np.where(rows >= 0, rows, rows[rows >= 0][0]), self.model.place
        keys = place(example_keys(self.key, self.examples.index[who]))
        x, labels = place(pixels(self.examples.images[who])), place(self.examples.labels[who].astype(np.int32))
        return named, self.model.variables, x, labels, keys, self.key

    def _resumed(self, named: NamedAttack) -> Batch:
        """The batch of progress that was just read has leaves and no tree."""
        batch, leaves, self.progress.leaves = self.progress.inside, self.progress.leaves, None
        assert batch is not None
        if leaves is None:
            return batch
        like = jax.eval_shape(partial(self.model.programs.init, named), *self._arguments(named, batch.rows)[1:])
        if not resume.fits(leaves, like):
            raise ValueError(f"the saved progress of {named.name} is damaged; evaluate with --fresh")
        return batch._replace(state=resume.to_devices(leaves, like, self.model.place))

    def _timed(self, named: NamedAttack, batch: Batch, steps: int) -> Batch:
        """The batch some steps later. The first time a program runs it is compiled, which says nothing of its speed."""
        began, size = self.clock(), len(batch.rows)
        later = self._leave(named, self._advance(named, batch, steps), steps)
        if (named.name, size) in self.warm:
            self.time += self.clock() - began
            self.work += size * (later.made - batch.made) * weight(named, self.classes)
        self.warm.add((named.name, size))
        return later

    def _advance(self, named: NamedAttack, batch: Batch, steps: int) -> Batch:
        live, count = batch.rows[batch.rows >= 0], min(100 if named.attack.forward_only else LOOK, steps - batch.made)
        state = self.model.programs.advance(named, self.model.variables, batch.state, batch.made, count, self.key)
        self._count(named, live, named.attack.passes(named.cfg, self.classes), count)
        return Batch(batch.rows, batch.made + count, state)

    def _count(self, named: NamedAttack, rows: np.ndarray, passes: tuple[int, int], times: int = 1) -> None:
        for of, each in zip((self.progress.forward, self.progress.backward), passes, strict=True):
            of[named.name][rows] += each * times

    def _leave(self, named: NamedAttack, batch: Batch, steps: int) -> Batch:
        """Without the rows that are broken, and in a smaller batch if they fit; the last step judges all rows."""
        progress, model, last = self.progress, self.model, batch.made >= steps
        x_adv, done = model.programs.result(named, batch.state)
        may_leave = (batch.rows >= self.held) | (last & (batch.rows >= 0))
        if not (model.fetch(done) & may_leave).any() and not last:
            return batch
        image, found = model.fetch((x_adv, model.programs.predict(model.variables, x_adv, self.key)))
        image, found, who = image[may_leave], found[may_leave], batch.rows[may_leave]
        x = pixels(self.examples.images[who])
        if self.strict and last:
            refuse(named, x, image)
        broken, distance = verdict(named, x, image, found != self.examples.labels[who])
        progress.correct[who[broken]] = False
        tried = last and model.randomized  # may be misclassified yet, by another draw
        shown = (broken | (who < self.held) | tried) & (who < len(progress.images))
        for kept, now in ((progress.images, image), (progress.prediction, found), (progress.distance, distance)):
            kept[who[shown]] = now[shown]
        rows = batch.rows.copy()
        rows[np.flatnonzero(may_leave)[broken]] = -1
        return self._shrunk(batch._replace(rows=rows))

    def _shrunk(self, batch: Batch) -> Batch:
        live = np.flatnonzero(batch.rows >= 0)
        size = self._size(len(live))
        if not len(live) or size == len(batch.rows):
            return batch
        taken = np.concatenate([live, np.full(size - len(live), live[0])])
        rows = np.where(np.arange(size) < len(live), batch.rows[taken], -1)
        leaves = [leaf[taken] for leaf in resume.to_host(batch.state, self.model.fetch)]
        return Batch(rows, batch.made, resume.to_devices(leaves, batch.state, self.model.place))

    def _size(self, count: int) -> int:
        return next(size for size in self.sizes if size >= count)

    def _out_of_budget(self) -> bool:
        """Saves if it is time to; whether the budget is spent."""
        now, stop = self.clock(), stopping.due()
        spent = now - self.started >= self.budget.seconds or self.progress.passes >= self.budget.passes
        if stop or spent or now - self.saved >= SAVE:
            self._save()
        if stop:
            stopping.check()
        return spent

    def _save(self) -> None:
        now = self.clock()
        self.progress.seconds, self.saved, self.last = self.progress.seconds + now - self.last, now, now
        self._write(self.progress.inside)

    def _tell(self, named: NamedAttack, batch: Batch) -> None:
        progress, top = self.progress, self.sizes[-1]
        waiting = max(0, int(progress.entered.sum()) - (progress.batch + 1) * top)
        live, steps = int((batch.rows >= 0).sum()), named.attack.num_steps(named.cfg)
        left = (live * (steps - batch.made) + waiting * steps) * weight(named, self.classes)
        later = [a for a in self.attacks if a.name not in progress.records and a.name != named.name]
        left += sum(progress.correct.sum() * a.attack.num_steps(a.cfg) * weight(a, self.classes) for a in later)
        seconds = (left * self.time / self.work if self.work else math.inf) if left else 0.0
        self.heard(Progress(named.name, int(progress.correct.sum()), len(progress.correct), seconds))


def _identity(driver: _Driver, keep: int) -> str:
    """A fingerprint of everything the result depends on. Models are known by their logits and gradients."""
    model, examples = driver.model, driver.examples
    few = np.arange(sizes(1, model.mesh.size)[0]) % len(examples.images)
    few_images, small = examples.images[few], model.in_batches_of(len(few))
    told = [small.logits(few_images, driver.key)]
    for named in [a for a in driver.attacks if not a.attack.forward_only][:1]:
        told.append(small.gradient(named.objective, few_images, examples.labels[few], driver.key))
    settings = [[a.name, a.objective.__name__, dataclasses.asdict(a.cfg)] for a in driver.attacks]
    plain = [settings, model.classifier.attack_forward is not None, keep, driver.held]
    digest = hashlib.sha256(json.dumps(plain, default=str).encode())
    for array in (examples.images, examples.labels, examples.index, *told, jax.random.key_data(driver.key)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
