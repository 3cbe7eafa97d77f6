"""From the text of an attack, like "pgd(steps=10,objective=margin)", to an attack with all its settings."""

import dataclasses
from typing import Any

import clead_jax.attacks  # noqa: F401  importing it registers the attacks
from clead_jax.attacks.objectives import OBJECTIVES, OF_EMBEDDINGS, kl
from clead_jax.core import names, spec
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import NamedAttack, Objective


def named_attack(text: str, threat: dict[str, Any], common: dict[str, Any]) -> NamedAttack:
    """'pgd(steps=10)' -> an attack. `threat` (norm, eps) holds for all attacks that have such a field; `common`
    (steps, step_size ...) for those registered with `tunable=True`; settings in parentheses override both.

    `objective=margin` replaces what the attack maximises. Raises ValueError for an unknown attack, setting or
    objective, naming the known ones. Names may be written as the field does: "PGD-20".
    """
    text = names.attack(text)
    name, own = spec.parse(text)
    try:
        entry = ATTACKS[name]
    except ValueError as error:
        raise ValueError(f"{error}; and autoattack, where several attacks may be named") from None
    chosen = own.pop("objective", "")
    common = common if entry.info.get("tunable") else {}
    plain = f"{name}({','.join(f'{key}={value}' for key, value in own.items())})" if chosen else text
    cfg = spec.settings(plain, "attack", entry.config, {**threat, **common})
    if hasattr(cfg, "eps"):
        spec.unit(cfg.eps, f"{text}: eps", getattr(cfg, "norm", "linf"))
    objective = _objective(text, chosen, entry.info) if chosen else entry.info["objective"]
    return NamedAttack(text, entry.value, objective, cfg)


def attack_at(text: str, norm: str, eps: float, steps: int = 20, relative_step: float = 0.25) -> NamedAttack:
    """'pgd(steps=10)' -> the attack in a ball of radius eps, its steps `relative_step` times that long."""
    common = {"steps": steps, "step_size": eps * relative_step}
    return within(named_attack(text, {"norm": norm, "eps": eps}, common), norm, eps)


def within(named: NamedAttack, norm: str, eps: float) -> NamedAttack:
    """An attack whose successes count inside the threat model only. ValueError if it would look elsewhere for them."""
    if named.objective is kl:
        raise ValueError(f"attack {named.name!r}: kl is measured from clean logits, which only training has")
    if named.objective in OF_EMBEDDINGS:
        raise ValueError(f"attack {named.name!r}: its objective is one of embeddings, which only training has")
    if named.cfg.norm != norm:
        raise ValueError(f"attack {named.name!r} measures in {named.cfg.norm}, the threat model in {norm}")
    nearest = ATTACKS[spec.parse(named.name)[0]].info.get("nearest")
    if not nearest and getattr(named.cfg, "eps", 0) > eps * (1 + 1e-6):
        raise ValueError(f"attack {named.name!r} goes beyond the threat model's eps, {eps:.6g}: no such success counts")
    return named._replace(radius=eps)


def at_radius(attack: NamedAttack, eps: float) -> NamedAttack:
    """The same attack in another ball, its step size, if it has one, in the same proportion to the radius."""
    scaled, step = {"eps": eps}, getattr(attack.cfg, "step_size", None)
    if step is not None:
        scaled["step_size"] = eps * (step / attack.cfg.eps if attack.cfg.eps else 0.0)
    return attack._replace(cfg=dataclasses.replace(attack.cfg, **scaled), radius=eps)


def _objective(text: str, name: str, info: Any) -> Objective:
    if info.get("own_objective"):
        raise ValueError(f"{text}: this attack does not maximise an objective that could be chosen")
    if name not in OBJECTIVES:
        raise ValueError(f"{text}: unknown objective {name!r}; known: {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
