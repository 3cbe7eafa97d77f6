"""Three protocols for one question, from the most lenient to the strictest.

paper       adversarial images made once on the undefended model, then shown to every model: says how well attacks
            transfer, not what a model withstands
whitebox    the attacks of `evaluation.attacks` on the model itself
autoattack  a cascade of attacks without settings to choose
"""

import jax
import numpy as np

from clead_jax.attacks import parse as arsenal
from clead_jax.core import sharding, spec
from clead_jax.evaluation import autoattack, bare
from clead_jax.evaluation import runner as cascade
from clead_jax.evaluation.verify import Evaluator, NamedAttack
from clead_jax.experiment import builders as build
from clead_jax.results.store import Model, Session, accuracies, as_settings, say

SOURCE = "baseline"  # the undefended model, on which the paper's protocol makes its images


def paper(session: Session, models: list[Model], attack: NamedAttack, images: np.ndarray | None) -> None:
    """Shows all models what an attack makes of the undefended one; `images` are those if they were just made."""
    source = next((m for m in models if m.label == SOURCE), None)
    found = session.protocol("paper")
    plan = {"settings": as_settings(attack), "fingerprint": source.identity if source else None}
    name = f"paper/{attack.name}"
    lacking = [m for m in models if found.get(m.label, {}).get("made_by", {}).get(attack.name) != plan]
    if source is None or not lacking:
        return
    if images is None:
        images = session.attacked(source, attack, session.examples, len(session.examples.labels), name).adversarial
    for model in lacking:
        predicted = session.run.evaluator.predict(model.variables, images)
        session.records[f"{model.label}/{name}"] = predicted == session.examples.labels
        own = found.setdefault(model.label, {"source": SOURCE, "made_by": {}})
        own["made_by"][attack.name] = plan
        prefix = f"{model.label}/paper/"
        records = {k.removeprefix(prefix): v for k, v in session.records.items() if k.startswith(prefix)}
        worst = np.logical_and.reduce([session.records[f"{model.label}/clean"], *records.values()])
        own |= accuracies(records | {"worst_case": worst})
        session.anew(model.label)
    session.save()


def cascade_of(session: Session, model: Model, version: str) -> bool:
    """AutoAttack on a model, unless the same was run before. False if the budget ended first.

    Its progress lies beside the results; the same command goes on from it.
    """
    cfg, label = session.run.cfg.evaluation, model.label
    eps, classes = spec.number(cfg.eps), session.run.dataset.num_classes
    attacks, notes = arsenal.autoattack(version, cfg.norm, eps, classes)
    plan = {"version": version, "precision": cfg.precision, "settings": {a.name: as_settings(a) for a in attacks}}
    found = session.protocol("autoattack")
    before = found.get(label, {})
    same = {k: before.get(k) for k in plan} == plan
    if before.get("complete") and same and not session.lacks_images(f"{label}/autoattack"):
        say(f"evaluate: {label}/autoattack is measured already: {before['accuracy']['autoattack']:.2%}")
        return True
    session.forget_cascade(label, {a.name for a in attacks}, with_images=not same)
    problem = _problem(session, model)
    path = session.directory / f"autoattack-{label}.npz"
    finding = autoattack.run(
        problem,
        attacks,
        path=path,
        keep_images=cfg.save_images,
        batch_size=_batch_size(session, problem),
        budget=cascade.Budget(*spec.budget(cfg.budget)),
        heard=autoattack.lines(say, f"evaluate: {label}/"),
        clock=sharding.shared_clock(),
        writes=sharding.is_main(),
    )
    session.records |= {f"{label}/{name}": record for name, record in finding.records.items()}
    clean = session.records[f"{label}/clean"]
    found[label] = plan | {
        "attacks": [attack.name for attack in attacks],
        "notes": notes,
        "passes": {
            name: {"forward": float(finding.forward[name].mean()), "backward": float(finding.backward[name].mean())}
            for name in finding.forward
        },
        "seconds": finding.seconds,
        "complete": finding.complete,
        **accuracies({"clean": clean, **finding.records}),
    }
    if finding.adversarial is not None:
        session.keep_images(f"{label}/autoattack", finding.adversarial)
    session.anew(label)
    session.save()
    if finding.complete and sharding.is_main():
        path.unlink(missing_ok=True)
    return finding.complete


def _problem(session: Session, model: Model) -> cascade.Problem:
    run, examples = session.run, session.examples
    evaluator = run.evaluator
    if run.cfg.evaluation.precision == "bfloat16":
        half = build.network(run.network_fields | {"dtype": "bfloat16"})
        evaluator = Evaluator(
            build.forward(run.network),
            evaluator.batch_size,
            evaluator.place,
            evaluator.fetch,
            inside=build.forward(half),
        )
    return cascade.Problem(
        evaluator=evaluator,
        variables=model.variables,
        images=examples.images,
        labels=examples.labels,
        index=examples.index,
        num_classes=run.dataset.num_classes,
        key=jax.random.key(run.cfg.seed),
        multiple=run.mesh.size,
    )


def _batch_size(session: Session, on: cascade.Problem) -> int:
    """The config's, or where that is 0 the fastest. Several processes could not agree on what is fastest."""
    if session.run.cfg.evaluation.batch_size or jax.process_count() > 1:
        return session.run.evaluator.batch_size
    found = bare.fastest_batch(on)
    say(f"evaluate: batches of {found} images are the fastest")
    return found
