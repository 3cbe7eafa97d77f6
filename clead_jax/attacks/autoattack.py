"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690): its versions, as lists of attacks that are run as a cascade.

    standard    APGD on cross entropy, targeted APGD on DLR, targeted FAB, Square
    plus        more of everything: APGD with five restarts, both forms of FAB and of APGD
    rand        for models that draw noise: APGD on gradients averaged over 20 draws
    fast        not the authors': APGD on the probability margin and on cross entropy, and two short runs towards each
                of nine classes (`mm`); meant to leave what standard leaves, for an eighth of its passes, as
                benchmarks/fast_autoattack.py measures
    strongest   fast, then standard; what both have is run once, as in standard

Settings of the first three are those of the authors' code; in L1 those of Croce & Hein 2021 (arXiv 2103.01208). A suite
of one's own is written as its attacks: "autoattack(attacks=pma,apgd_t(targets=20),square(queries=1000))".
"""

import dataclasses
from collections.abc import Sequence

from clead_jax.attacks.objectives import dlr, margin
from clead_jax.attacks.parse import attack_at
from clead_jax.core import spec
from clead_jax.core.types import NamedAttack

_STANDARD: dict[str, dict[str, int]] = {"apgd_ce": {}, "apgd_t": {}, "fab_t": {}, "square": {}}
# Short runs suffice: towards nine classes 20 steps found what 100 did, and a second random start found more.
_FAST: dict[str, dict[str, int]] = {"pma": {"steps": 50}, "apgd_ce": {"steps": 50}, "mm": {"steps": 19, "restarts": 2}}

# version -> attack -> settings that are not the attack's defaults
VERSIONS: dict[str, dict[str, dict[str, int]]] = {
    "standard": _STANDARD,
    "plus": {
        **{"apgd_ce": {"restarts": 5}, "apgd_dlr": {"restarts": 5}, "fab": {"restarts": 5}},
        **{"square": {}, "apgd_t": {}, "fab_t": {}},
    },
    "rand": {"apgd_ce": {"eot": 20, "restarts": 1}, "apgd_dlr": {"eot": 20, "restarts": 1}},
    "fast": _FAST,
    "strongest": _FAST | _STANDARD,
}
# norm -> attack -> settings in that norm, where the version has none
NORMS: dict[str, dict[str, dict[str, int | bool]]] = {
    "l1": {
        "apgd_ce": {"restarts": 5, "widen": True},
        "apgd_dlr": {"restarts": 5, "widen": True},
        "apgd_t": {"targets": 5, "widen": True},
        "pma": {"widen": True},
        "mm": {"widen": True},
    }
}


def autoattack_version(text: str, usual: str = "standard") -> str:
    """'autoattack(version=plus)' -> 'plus'; 'autoattack(attacks=pma,square)' -> 'pma,square', its attacks.

    Raises ValueError for another setting, an unknown version, and an attack that is named twice or not at all.
    """
    settings = spec.parse(text)[1]
    if unknown := settings.keys() - {"version", "attacks"}:
        raise ValueError(f"autoattack has no setting {min(unknown)!r}; it has version and attacks")
    if len(settings) == 2:
        raise ValueError(f"{text!r} has both a version and attacks; write one of them")
    asked = settings.get("version", usual)
    if "attacks" not in settings:
        if asked not in VERSIONS:
            raise ValueError(f"unknown version {asked!r} of autoattack; known: {', '.join(VERSIONS)}")
        return asked
    attacks = spec.items(settings["attacks"])
    if not attacks or len(set(attacks)) < len(attacks):
        wrong = "names an attack twice" if attacks else "names no attack"
        raise ValueError(f"{text!r} {wrong}; write for example autoattack(attacks=pma,square(queries=1000))")
    return ",".join(attacks)


def autoattack(version: str, norm: str, eps: float, num_classes: int) -> tuple[list[NamedAttack], list[str]]:
    """The attacks of a version of AutoAttack, or of a list of attacks, and notes on what few classes made other.

    Raises ValueError for an attack that is unknown or does not fit the norm and eps.
    """
    attacks, notes, most = [], [], 0
    for name, text in texts(version, norm).items():
        named = attack_at(text, norm, eps)._replace(name=name)
        targets = getattr(named.cfg, "targets", 0)
        if targets > num_classes - 1:
            named, most = named._replace(cfg=dataclasses.replace(named.cfg, targets=num_classes - 1)), targets
        needed = 4 if targets else 3
        if named.objective is dlr and num_classes < needed:
            named = named._replace(objective=margin)
            notes.append(f"{name}: DLR needs {needed} classes, not {num_classes}; on the logit margin instead")
        attacks.append(named)
    if most:
        notes.append(f"targeted attacks go for all {num_classes - 1} wrong classes, not for {most}")
    return attacks, notes


def check_names(texts: Sequence[str], version: str) -> None:
    """ValueError for two cascades, or an attack with the name of a part of one: each name stands for one record."""
    if len([text for text in texts if spec.parse(text)[0] == "autoattack"]) > 1:
        raise ValueError("autoattack is asked for twice; run one version after the other")
    if both := set(texts) & set(VERSIONS.get(version, spec.items(version))):
        name = min(both)
        raise ValueError(
            f"{name} is a part of autoattack, where it meets only what the attacks before it have left; "
            f"write {name}(norm=linf), or whatever the norm is, to have it by itself beside that"
        )


def texts(version: str, norm: str) -> dict[str, str]:
    """name -> the attack with its settings, as text. Attacks of a list are named as they are written."""
    if version not in VERSIONS:
        return {text: text for text in spec.items(version)}
    of_norm, found = NORMS.get(norm, {}), {}
    for name, own in VERSIONS[version].items():
        settings = of_norm.get(name, {}) | own
        found[name] = f"{name}({','.join(f'{key}={value}' for key, value in settings.items())})" if settings else name
    return found
