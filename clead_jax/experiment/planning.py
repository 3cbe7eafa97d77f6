"""What an evaluation is to measure, by its section of the config: attacks, and the whole plan.

Raises ValueError, one line, for what cannot be measured.
"""

from clead_jax import data
from clead_jax.attacks import autoattack, parse
from clead_jax.attacks.objectives import kl
from clead_jax.config import Config
from clead_jax.core import spec
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import NamedAttack, ThreatModel
from clead_jax.evaluation.budget import Budget
from clead_jax.evaluation.plan import Plan, Suite
from clead_jax.experiment import builders


def validation_attack(cfg: Config) -> NamedAttack:
    """The attack behind "best by validation"."""
    return parse.named_attack(cfg.validation.attack, *builders.threat(cfg.train_attack, ("step_size",)))


def evaluation_attack(cfg: Config, text: str) -> NamedAttack:
    """An attack as `evaluation` wants it: the best iterate counts. ValueError for another norm or a larger radius."""
    named = parse.named_attack(text, *builders.threat(cfg.evaluation, ("steps", "step_size", "restarts")))
    return parse.within(named, cfg.evaluation.norm, cfg.evaluation.eps)


def curve_attack(cfg: Config) -> NamedAttack:
    """The attack behind robust accuracy over eps: one that looks for the nearest error, whose one run gives the whole
    curve, or one with a step size to scale along. ValueError for another, and for one that measures in another norm.
    """
    own, text = cfg.evaluation, cfg.evaluation.curve_attack
    if text and _looks_for_the_nearest(text):
        if "eps" in spec.parse(text)[1]:
            raise ValueError(f"evaluation.curve_attack: {text!r}: the curve is over eps; leave it out")
        return parse.within(distance_attack(cfg, text), own.norm, float("inf"))
    named = evaluation_attack(cfg, text)
    if not hasattr(named.cfg, "step_size"):
        known = f"fgsm, pgd or cw, or what looks for the nearest error: {_known_nearest()}"
        raise ValueError(f"evaluation.curve_attack: {named.name!r} has no step size; take {known}")
    return named


def distance_attack(cfg: Config, text: str) -> NamedAttack:
    """An attack that looks for the nearest error, however far that is. ValueError if this one does not."""
    if not _looks_for_the_nearest(text):
        name = spec.parse(text)[0]
        problem = f"attack {name!r} does not look for the nearest error; these do: {_known_nearest()}"
        raise ValueError(f"evaluation.distances: {problem}")
    norm = cfg.evaluation.norm
    return parse.named_attack(text, {"norm": norm, "eps": 1.0 if norm == "linf" else 1e6}, {})


def _looks_for_the_nearest(text: str) -> bool:
    return ATTACKS[spec.parse(text)[0]].info.get("nearest", False)


def _known_nearest() -> str:
    return ", ".join(name for name in ATTACKS if _looks_for_the_nearest(name))


def transfer_attacks(cfg: Config, texts: list[str]) -> tuple[NamedAttack, ...]:
    """The attacks of `evaluation.transfer`, by default `texts`, at each of its radii. They need not stay within the
    threat model: what is measured is what other models make of their images. ValueError for one that cannot be made.
    """
    own, found = cfg.evaluation, []
    if not own.transfer.attacks and not own.transfer.eps:
        return tuple(evaluation_attack(cfg, text) for text in texts)
    threat = builders.threat(own, ("steps", "step_size", "restarts"))
    for text in spec.items(own.transfer.attacks) or texts:
        has_eps = hasattr(parse.named_attack(text, *threat).cfg, "eps") and "eps" not in spec.parse(text)[1]
        radii = spec.items(own.transfer.eps) if has_eps else ()
        at = lambda eps, text=text: text if spec.number(eps) == own.eps else spec.with_setting(text, "eps", eps)
        for written in map(at, radii) if radii else [text]:
            named = parse.named_attack(written, *threat)
            if named.objective is kl:
                raise ValueError(
                    f"evaluation.transfer.attacks: {text!r}: kl is measured from clean logits, in training only"
                )
            found.append(named)
    return tuple(found)


def asked_for(cfg: Config) -> tuple[list[str], bool, str]:
    """(white-box attacks, whether transfer attacks too, version of AutoAttack or "") that `cfg.evaluation` asks for.

    "autoattack" among the attacks asks for that protocol; with no other attack beside it, for that alone. Raises
    ValueError for an unknown version, a setting that autoattack has not, and what `check_names` refuses.
    """
    own = cfg.evaluation
    texts, protocols = spec.items(own.attacks), spec.items(own.protocol)
    suites = [t for t in texts if spec.parse(t)[0] == "autoattack"]
    alone = [t for t in texts if t not in suites]
    version = autoattack.autoattack_version(suites[-1], own.version) if suites else ""
    if "autoattack" in protocols:
        version = version or own.version
    autoattack.check_names(texts, version)
    transfer, others = "paper" in protocols, own.transfer.attacks
    direct = alone if "whitebox" in protocols or (transfer and not others) else []
    return direct, transfer and bool(alone or others), version


def evaluation_plan(cfg: Config, dataset: data.Dataset, trained_on: set[str]) -> Plan:
    """What `cfg.evaluation` asks for. ValueError for attacks that cannot run."""
    own, classes = cfg.evaluation, dataset.num_classes
    texts, transfer, version = asked_for(cfg)
    in_suite = autoattack.autoattack(version, own.norm, own.eps, classes) if version else None
    return Plan(
        threat_model=ThreatModel(own.norm, own.eps),
        num_classes=classes,
        seed=cfg.seed,
        direct=tuple(evaluation_attack(cfg, text) for text in texts),
        transfer=transfer_attacks(cfg, texts) if transfer else (),
        transfer_from=own.transfer.source if transfer else "",
        suite=Suite(version, own.precision, *in_suite) if in_suite else None,
        curve_attack=curve_attack(cfg) if texts else None,
        curve=tuple(spec.number(eps) for eps in spec.items(own.curve)),
        curve_examples=own.curve_examples,
        distances=tuple(distance_attack(cfg, text) for text in spec.items(own.distances)),
        distance_examples=own.distance_examples,
        corruptions=own.corruptions,
        corruption_examples=own.corruption_examples,
        pictures=True,
        save_images=own.save_images,
        checks=own.checks,
        check_steps=own.steps,
        check_step=own.step_size / own.eps if own.eps else 0.25,
        training_attacks=tuple(sorted(trained_on)),
        undefended="baseline",
        published=(dataset.name, cfg.model.backbone),
        subset=data.subset,
        batch_size=own.batch_size,
        budget=Budget(*spec.budget(own.budget)),
    )
