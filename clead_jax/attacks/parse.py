"""From the attacks a config names, like "pgd(steps=10)", to attacks that run with the settings of their section."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from clead_jax import attacks
from clead_jax.core import spec
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import NamedAttack, Objective

VERSIONS = {
    "standard": ("apgd_ce", "apgd_t", "fab_t", "square"),
    "plus": ("apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"),
    "rand": ("apgd_ce", "apgd_dlr"),
}


def named_attack(text: str, threat: dict[str, Any], common: dict[str, Any]) -> NamedAttack:
    """'pgd(steps=10)' -> an attack. `threat` (norm, eps) holds for all attacks that have such a field; `common`
    (steps, step_size ...) for those registered with `tunable=True`; what stands in parentheses overrides both.

    Raises ValueError for an unknown attack or setting, naming the known ones.
    """
    entry = ATTACKS[spec.parse(text)[0]]
    common = common if entry.info.get("tunable") else {}
    cfg = spec.settings(text, "attack", entry.config, {**threat, **common})
    if hasattr(cfg, "eps"):
        spec.unit(cfg.eps, f"{text}: eps", getattr(cfg, "norm", "linf"))
    return NamedAttack(text, entry.value, entry.info["objective"], cfg)


def attack_at(text: str, norm: str, eps: float, steps: int = 20, relative_step: float = 0.25) -> NamedAttack:
    """'pgd(steps=10)' -> the attack in a ball of radius eps, its steps `relative_step` times that long."""
    common = {"steps": steps, "step_size": eps * relative_step}
    return _within(named_attack(text, {"norm": norm, "eps": eps}, common), norm, eps)


def _within(named: NamedAttack, norm: str, eps: float) -> NamedAttack:
    """An attack whose successes count inside the threat model only. ValueError if it would look elsewhere for them."""
    if named.cfg.norm != norm:
        raise ValueError(f"attack {named.name!r} measures in {named.cfg.norm}, the threat model in {norm}")
    if not ATTACKS[spec.parse(named.name)[0]].info.get("nearest") and getattr(named.cfg, "eps", 0) > eps * (1 + 1e-6):
        raise ValueError(f"attack {named.name!r} goes beyond the threat model's eps, {eps:.6g}: no such success counts")
    return named._replace(radius=eps)


def autoattack_version(text: str, usual: str = "standard") -> str:
    """'autoattack(version=plus)' -> 'plus'. Raises ValueError for another setting or an unknown version."""
    settings = spec.parse(text)[1]
    if unknown := settings.keys() - {"version"}:
        raise ValueError(f"autoattack has no setting {min(unknown)!r}; it has version")
    asked = settings.get("version", usual)
    if asked not in VERSIONS:
        raise ValueError(f"unknown version {asked!r} of autoattack; known: {', '.join(VERSIONS)}")
    return asked


def autoattack(version: str, norm: str, eps: float, num_classes: int) -> tuple[list[NamedAttack], list[str]]:
    """The attacks of a version of AutoAttack (Croce & Hein 2020), and notes on what few classes made other.

    standard   APGD on cross entropy, targeted APGD on DLR, targeted FAB, Square
    plus       more of everything: APGD with five restarts, both forms of FAB and of APGD
    rand       for models that draw noise: APGD on gradients averaged over 20 draws

    Settings are those of the authors' code; in L1 those of Croce & Hein 2021 (arXiv 2103.01208).
    """
    attacks, notes = [], []
    for name in VERSIONS[version]:
        named = named_attack(_spec(name, version, norm, num_classes), {"norm": norm, "eps": eps}, {})
        needed = {"apgd_dlr": 3, "apgd_t": 4}.get(name, 2)
        if num_classes < needed:
            named = named._replace(objective=objective("margin"))
            notes.append(f"{name}: DLR needs {needed} classes, not {num_classes}; on the logit margin instead")
        attacks.append(named._replace(name=name, radius=eps))
    if num_classes < 10 and version != "rand":
        notes.append(f"targeted attacks go for all {num_classes - 1} wrong classes, not for 9")
    return attacks, notes


def _spec(name: str, version: str, norm: str, num_classes: int) -> str:
    settings: dict[str, Any] = {}
    if version == "rand":
        settings["eot"] = 20
    if name in ("apgd_ce", "apgd_dlr") and (version == "plus" or (norm == "l1" and version == "standard")):
        settings["restarts"] = 5
    if name == "fab" and version == "plus":
        settings["restarts"] = 5
    if name in ("apgd_t", "fab_t"):
        most = 5 if (name, norm) == ("apgd_t", "l1") else 9
        settings["targets"] = min(most, num_classes - 1)
    if name.startswith("apgd") and norm == "l1":
        settings["widen"] = True
    return f"{name}({','.join(f'{k}={v}' for k, v in settings.items())})" if settings else name


def objective(name: str) -> Objective:
    """ "cross_entropy", "margin" ..., as a function."""
    return attacks.OBJECTIVES[name]


def check_names(texts: Sequence[str], version: str) -> None:
    """ValueError for two cascades, or an attack with the name of a part of one: each name stands for one record."""
    if len([text for text in texts if spec.parse(text)[0] == "autoattack"]) > 1:
        raise ValueError("autoattack is asked for twice; run one version after the other")
    if both := set(texts) & set(VERSIONS.get(version, ())):
        name = min(both)
        raise ValueError(
            f"{name} is a part of autoattack, where it meets only what stood before it; "
            f"write {name}(norm=linf), or whatever the norm is, to have it by itself beside that"
        )


def at_radius(attack: NamedAttack, eps: float) -> NamedAttack:
    """The same attack in another ball, its step size scaled along."""
    step = attack.cfg.step_size
    if step is not None:
        step = eps * (step / attack.cfg.eps if attack.cfg.eps else 0.0)
    return attack._replace(cfg=dataclasses.replace(attack.cfg, eps=eps, step_size=step), radius=eps)
