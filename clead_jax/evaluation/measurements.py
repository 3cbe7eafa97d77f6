"""An evaluation is a list of measurements. Each has a name, what it depends on, and a function that makes it; a store
keeps those that are still true. `audit` and the evaluation of a work directory run the same list, the first in memory.

    clean        what the model gets right
    direct       every attack by itself, on the model itself ("white-box")
    transfer     images made on another model, shown to this one (results key "paper": the paper seems to do this)
    autoattack   a suite of attacks, each on what the ones before have left correct
    curve        accuracy over eps
    distances    how far the nearest error is
    corruptions  accuracy under common corruptions
    features     of clean and attacked images, and how well they fall into classes
    checks       sanity checks of all these numbers
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from clead_jax.core.types import Examples
from clead_jax.evaluation.measuring import Measuring
from clead_jax.evaluation.plan import Plan, Subject
from clead_jax.results.store import Store


class Measurement(NamedTuple):
    """`make` puts the result into the store, and says whether it is complete."""

    name: str
    depends: Any  # plain values
    make: Callable[[], bool]
    lacking: bool  # its images are wanted and not there


def measure(
    plan: Plan,
    subjects: list[Subject],
    examples: Examples,
    store: Store,
    *,
    others: Sequence[Subject] = (),
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Makes every measurement that the store does not hold. False if the budget ended before all were complete.
    `others` are not measured themselves; checks compare with the undefended model among them or the subjects.
    """
    known = {subject.label: subject for subject in [*subjects, *others]}
    by = Measuring(plan, known, examples, store, clock)
    for subject in subjects:
        store.begin_model(subject.label, subject.identity)
    complete = True
    for each in measurements(by, subjects):
        if store.holds(each.name, each.depends) and not each.lacking:
            attack, record = each.name.partition("/")[2], store.records.get(each.name)
            if record is not None and attack != "clean" and not attack.startswith("paper/"):
                plan.say(f"{each.name} is measured already: {record.mean():.2%}")
            continue
        if finished := each.make():
            store.measured(each.name, each.depends)
        store.save()
        complete &= finished
    return complete


def measurements(by: Measuring, subjects: Sequence[Subject]) -> Iterator[Measurement]:
    """In their order; each is decided on when the ones before are made."""
    plan, source = by.plan, by.known.get(by.plan.transfer_from)
    for subject in subjects:
        yield _one(by, subject, "clean", by.clean)
    direct, shown = ({named.name: named for named in attacks} for attacks in (plan.direct, plan.transfer))
    for name, named in (direct | shown).items():
        for subject in subjects if name in direct else ():
            yield _one(by, subject, name, partial(by.direct, named=named), settings=named.settings)
        for subject in subjects if source and name in shown else ():
            make, made_on = partial(by.transfer, named=named), source.identity if source else None
            yield _one(by, subject, f"paper/{name}", make, source=made_on, settings=named.settings)
    for subject in subjects:
        if plan.curve and plan.curve_attack:
            yield _one(by, subject, "curve", by.curve, **by.curve_plan())
        for named in plan.distances:
            make, few = partial(by.distance, named=named), plan.distance_examples
            yield _one(by, subject, f"distance/{named.name}", make, settings=named.settings, n=few)
        if plan.corruptions:
            yield _one(by, subject, "corruptions", by.corruptions, n=plan.corruption_examples, seed=plan.seed)
        if subject.features and plan.pictures:
            both = f"{subject.label}/adversarial" in by.store.embeddings
            yield _one(by, subject, "features", by.features, attacked=both)
    for subject in subjects if plan.suite else ():
        yield _one(by, subject, "autoattack", by.autoattack, **(plan.suite.settings if plan.suite else {}))
    defended = [subject for subject in subjects if subject.label != plan.undefended]
    for subject in (defended or subjects) if plan.checks else ():
        yield _one(by, subject, "checks", by.checks, of=sorted(by.records_of(subject.label)))


def _one(by: Measuring, subject: Subject, name: str, make: Callable[..., bool], **depends: Any) -> Measurement:
    whole, kept = f"{subject.label}/{name}", {*(named.name for named in by.plan.direct), "autoattack"}
    lacking = by.plan.save_images and name in kept and not by.store.has_images(whole)
    return Measurement(whole, {"model": subject.identity, **depends}, partial(make, subject), lacking)
