"""How each measurement is made: from models and examples to the store. `measurements` says which are, and when."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from clead_jax.attacks.parse import at_radius, attack_at
from clead_jax.core import numerics
from clead_jax.core.batches import pixels, sizes
from clead_jax.core.types import Examples, NamedAttack
from clead_jax.evaluation import corruptions
from clead_jax.evaluation.batch_size import fastest_batch
from clead_jax.evaluation.budget import UNLIMITED, Budget, lines
from clead_jax.evaluation.checks.context import CheckContext
from clead_jax.evaluation.checks.run import run_checks
from clead_jax.evaluation.draws import fresh_draws
from clead_jax.evaluation.features import clusters
from clead_jax.evaluation.plan import Plan, Subject
from clead_jax.evaluation.runner import Finding, run_attacks
from clead_jax.evaluation.verify import rounded_up
from clead_jax.results.store import Store, accuracies

SHOWN, EMBEDDED, CHECKED = 8, 512, 128  # images in the report's grid, in its projection, and under the checks


@dataclass
class Measuring:
    """Every method measures one thing of one model, and says whether it is complete."""

    plan: Plan
    known: dict[str, Subject]  # all models, by label
    examples: Examples
    store: Store
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.key, self.began = numerics.key(self.plan.seed), self.clock()
        self.transferred: dict[str, np.ndarray] = {}  # attack -> images made on the source, while they are at hand

    def clean(self, subject: Subject) -> bool:
        """Predictions on the images as they are."""
        predicted = subject.model.predict(self.examples.images, self.key)
        self.store.records[f"{subject.label}/clean"] = predicted == self.examples.labels
        self.store.samples[f"{subject.label}/clean/prediction"] = predicted[:SHOWN]
        self._draw(subject, "clean", self.examples.images)
        self.store.outdate_checks(subject.label, self.plan.checks)
        return True

    def direct(self, subject: Subject, named: NamedAttack) -> bool:
        """One attack on the model itself. Images of the picture attack, and of a transfer source, run to the end."""
        label, name, plan, store = subject.label, f"{subject.label}/{named.name}", self.plan, self.store
        if named.name in store.suite(label):
            instead = f"write {named.name}(norm={named.cfg.norm}) to have it by itself beside that"
            raise ValueError(f"{named.name} is there as part of autoattack; {instead}")
        for other, model in list(store.results["models"].items()):
            if model.get("settings", {}).get(named.name, named.settings) != named.settings:
                store.drop(other, named.name)  # one row of the table is one attack, with one set of settings
        store.drop(label, named.name)
        keep = self._wanted(subject, named)
        finding = self.attacked(subject, [named], self.examples, keep, early_stop=False, name=name, resumable=True)
        store.records[name] = finding.correct
        store.results["attacks"][named.name] = named.settings
        store.model(label).setdefault("settings", {})[named.name] = named.settings
        self._count_passes(label, finding)
        incomplete = store.model(label).pop("incomplete", []) + [named.name] * (not finding.complete)
        if incomplete:
            store.model(label)["incomplete"] = incomplete
        if not finding.complete:
            return False
        self._draw(subject, named.name, finding.images)
        if plan.pictures and named.name == plan.picture_attack and keep >= min(EMBEDDED, len(self.examples.labels)):
            store.samples[name] = finding.images[:SHOWN].copy()
            store.samples[f"{name}/prediction"] = finding.prediction[:SHOWN]
            if subject.features:
                store.embeddings[f"{label}/adversarial"] = subject.features_of(finding.images[:EMBEDDED])
        if plan.save_images:
            store.keep_images(name, finding.images)
        if label == plan.transfer_from and named in plan.transfer:
            self.transferred[named.name] = finding.images
        return True

    def _wanted(self, subject: Subject, named: NamedAttack) -> int:
        """How many images have to come back."""
        everything, label = len(self.examples.labels), subject.label
        made_here = label == self.plan.transfer_from and named in self.plan.transfer
        if self.plan.save_images or made_here or subject.model.randomized:
            return everything
        pictured = self.plan.pictures and named.name == self.plan.picture_attack
        there = f"{label}/adversarial" in self.store.embeddings and named.name != "pgd"
        return min(EMBEDDED, everything) if pictured and not there else 0

    def transfer(self, subject: Subject, named: NamedAttack) -> bool:
        """Shows a model what an attack makes of the transfer source."""
        source, store, label = self.known[self.plan.transfer_from], self.store, subject.label
        if named.name in store.results["models"].get(source.label, {}).get("incomplete", []):
            return False  # the budget ended first
        if named.name not in self.transferred:
            finding = self.attacked(source, [named], self.examples, len(self.examples.labels), early_stop=False)
            self.transferred[named.name] = finding.images
        predicted = subject.model.predict(self.transferred[named.name], self.key)
        own = self._made_on(source, label)
        store.records[f"{label}/paper/{named.name}"] = predicted == self.examples.labels
        own["made_by"][named.name] = {"settings": named.settings, "fingerprint": source.identity}
        records = store.transferred(label)
        worst = np.logical_and.reduce([store.records[f"{label}/clean"], *records.values()])
        own |= accuracies(records | {"worst_case": worst})
        store.outdate_checks(label, self.plan.checks)
        return True

    def _made_on(self, source: Subject, label: str) -> dict[str, Any]:
        """The entry of a model under transfer attacks, without what was made on another source before."""
        own = self.store.protocol("paper").setdefault(label, {"source": source.label, "made_by": {}})
        own["source"] = source.label
        own.setdefault("made_by", {})
        for attack in [name for name, made in own["made_by"].items() if made["fingerprint"] != source.identity]:
            del own["made_by"][attack]
            for known in (self.store.records, self.store.results["measured"]):
                known.pop(f"{label}/paper/{attack}", None)
        return own

    def curve_plan(self) -> dict[str, Any]:
        """What the curves are of."""
        named, few = self.plan.curve_attack, min(self.plan.curve_examples, len(self.examples.labels))
        assert named is not None
        return {"attack": named.name, "settings": named.settings, "eps": list(self.plan.curve), "num_examples": few}

    def curve(self, subject: Subject) -> bool:
        """Robust accuracy over eps: of an attack without a ball by one run, else by one for each radius, the step size
        scaled along.
        """
        named, few, radii = self.plan.curve_attack, self._few(self.plan.curve_examples), self.plan.curve
        assert named is not None
        if np.isinf(named.radius):
            far = self._nearest_error(subject, named, few)
            shares = [float((far > rounded_up(eps)).mean()) for eps in radii]
        else:
            shares = [float(self.attacked(subject, [at_radius(named, eps)], few).correct.mean()) for eps in radii]
        self.plan.say(f"{subject.label} over eps  " + "  ".join(f"{share:.1%}" for share in shares))
        plan, found = self.curve_plan(), self.store.results.get("curves", {})
        before = found.get("accuracy", {}) if {key: found.get(key) for key in plan} == plan else {}
        self.store.results["curves"] = plan | {"accuracy": before | {subject.label: shares}}
        return True

    def distance(self, subject: Subject, named: NamedAttack) -> bool:
        """How far the nearest error is, for attacks that look for it (0 where the clean image is wrong)."""
        few = self._few(self.plan.distance_examples)
        distance = self._nearest_error(subject, named, few)
        found = np.isfinite(distance)
        of_attack = self.store.results.setdefault("distances", {}).setdefault(named.name, {})
        far = distance[found]
        averages = dict.fromkeys(("median", "mean"))
        if found.any():
            averages = {"median": float(np.median(far)), "mean": float(np.mean(far))}
        known = {"settings": named.settings, "num_examples": len(few.labels), "norm": named.cfg.norm}
        of_attack[subject.label] = known | {"success": float(found.mean())} | averages
        return True

    def _nearest_error(self, subject: Subject, named: NamedAttack, examples: Examples) -> np.ndarray:
        """How far the nearest error is that the attack finds, float [N]: 0 for images that are wrong, inf for none."""
        count = len(examples.labels)
        finding = self.attacked(subject, [named], examples, count, early_stop=False, name=f"{subject.label}/")
        return np.where(finding.prediction != examples.labels, finding.distance, np.inf)

    def corruptions(self, subject: Subject) -> bool:
        """Accuracy under common corruptions."""
        few = self._few(self.plan.corruption_examples)
        self.plan.say(f"{subject.label} under {len(corruptions.NAMES)} corruptions of {len(few.labels)} images")
        found = corruptions.accuracies(subject.model, few, self.plan.seed, self.key)
        self.store.results.setdefault("corruptions", {})[subject.label] = found
        return True

    def features(self, subject: Subject) -> bool:
        """Features of clean images, those of attacked ones came with the attack; and how they fall into classes."""
        store, label = self.store, subject.label
        images, labels, index = self.examples.images, self.examples.labels, self.examples.index
        store.samples |= {"index": index[:SHOWN], "label": labels[:SHOWN], "clean": pixels(images[:SHOWN])}
        store.embeddings["label"] = labels[:EMBEDDED]
        if label not in store.embeddings:
            store.embeddings[label] = subject.features_of(images[:EMBEDDED])
        states = ("clean", store.embeddings[label]), ("attacked", store.embeddings.get(f"{label}/adversarial"))
        found = {state: clusters(of, store.embeddings["label"]) for state, of in states if of is not None}
        store.results.setdefault("clusters", {})[label] = found
        return True

    def autoattack(self, subject: Subject) -> bool:
        """AutoAttack on a model. Its progress lies beside the results; the same command goes on from it."""
        suite, label, store = self.plan.suite, subject.label, self.store
        assert suite is not None
        for name in {*store.suite(label), *(named.name for named in suite.attacks)}:
            store.drop(label, name)
        keep = len(self.examples.labels) * (self.plan.save_images or subject.model.randomized)
        model, name = subject._replace(model=subject.suite or subject.model), f"{label}/autoattack"
        finding = self.attacked(model, suite.attacks, self.examples, keep, name=name, resumable=True)
        store.records |= {f"{label}/{attack}": record for attack, record in finding.records.items()}
        store.records[name] = finding.correct
        passes = self._count_passes(label, finding)
        per_image = {attack: {way: float(n.mean()) for way, n in of.items()} for attack, of in passes.items()}
        records = {"clean": store.records[f"{label}/clean"], **finding.records, "autoattack": finding.correct}
        store.protocol("autoattack")[label] = suite.settings | {
            "attacks": [named.name for named in suite.attacks],
            "notes": suite.notes,
            "passes": per_image,
            "seconds": finding.seconds,
            "complete": finding.complete,
            **accuracies(records),
        }
        if self.plan.save_images:
            store.keep_images(name, finding.images)
        if finding.complete:
            self._draw(subject, "autoattack", finding.images)
        return finding.complete

    def records_of(self, label: str) -> dict[str, np.ndarray]:
        """All attacks on a model, bool [N] each, those of its AutoAttack too."""
        suite = {name: self.store.records.get(f"{label}/{name}") for name in self.store.suite(label)}
        return self.store.direct(label) | {name: record for name, record in suite.items() if record is not None}

    def checks(self, subject: Subject) -> bool:
        """Sanity checks, on at most `CHECKED` examples."""
        plan, few, undefended = self.plan, self._few(CHECKED), self.known.get(self.plan.undefended)
        self.plan.say(f"sanity checks of {subject.label} on {len(few.labels)} images")
        size = min(sizes(len(few.labels), subject.model.mesh.size)[-1], subject.model.batch_size)
        other = undefended if undefended and undefended.label != subject.label else None
        context = CheckContext(
            model=subject.model.in_batches_of(size),
            examples=few,
            num_classes=plan.num_classes,
            threat_model=plan.threat_model,
            key=self.key,
            named=lambda text, eps: attack_at(text, plan.threat_model.norm, eps, plan.check_steps, plan.check_step),
            records=self.records_of(subject.label),
            training_attacks=plan.training_attacks,
            undefended=other.model.in_batches_of(size) if other else None,
            published=plan.published,
            features=subject.features,
            transferred=self.store.transferred(subject.label),
        )
        self.store.model(subject.label)["checks"] = run_checks(context)
        return True

    def attacked(
        self,
        subject: Subject,
        attacks: list[NamedAttack],
        examples: Examples,
        keep: int = 0,
        *,
        early_stop: bool = True,
        name: str = "",
        resumable: bool = False,
    ) -> Finding:
        """Runs attacks on some examples; `name` it to hear of its progress."""
        label, plan, store, model = subject.label, self.plan, self.store, subject.model
        store.outdate_checks(label, plan.checks)
        path = store.progress_file(name) if resumable else None
        left = plan.budget.seconds - (self.clock() - self.began)
        if not plan.batch_size and jax.process_count() == 1:  # several could not agree on what is fastest
            model = model.in_batches_of(fastest_batch(model, self.examples))
        finding = run_attacks(
            model,
            examples,
            attacks,
            key=self.key,
            num_classes=plan.num_classes,
            clean=store.records.get(f"{label}/clean") if examples is self.examples else None,
            keep=keep,
            early_stop=early_stop,
            strict=plan.strict,
            budget=Budget(left, plan.budget.passes) if resumable else UNLIMITED,
            path=path,
            heard=lines(plan.say, f"{label}/", len(attacks) > 1) if name else lambda progress: None,
            clock=self.clock,
            writes=store.writes,
        )
        if name and resumable and finding.complete and len(attacks) == 1:
            plan.say(f"{name}  {finding.correct.mean():.2%} still correct")
        if path and finding.complete and store.writes and store.directory:
            path.unlink(missing_ok=True)
        return finding

    def _draw(self, subject: Subject, attack: str, images: np.ndarray) -> None:
        """Shows a model that draws noise what an attack has made, some more times."""
        if subject.model.randomized:
            found = fresh_draws(subject.model, images, self.examples.labels, self.key)
            self.store.model(subject.label).setdefault("draws", {})[attack] = found

    def _few(self, wanted: int) -> Examples:
        return self.plan.subset(self.examples, wanted) if wanted < len(self.examples.labels) else self.examples

    def _count_passes(self, label: str, finding: Finding) -> dict[str, dict[str, np.ndarray]]:
        passes = {a: {"forward": n, "backward": finding.backward[a]} for a, n in finding.forward.items()}
        self.store.passes.setdefault(label, {}).update(passes)
        return passes
