"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690): its versions, as lists of attacks that are run as a cascade."""

from collections.abc import Sequence
from typing import Any

from clead_jax.attacks.objectives import margin
from clead_jax.attacks.parse import named_attack
from clead_jax.core import spec
from clead_jax.core.types import NamedAttack

VERSIONS = {
    "standard": ("apgd_ce", "apgd_t", "fab_t", "square"),
    "plus": ("apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"),
    "rand": ("apgd_ce", "apgd_dlr"),
}


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

    Settings are those of the authors' code; in L1 those of Croce & Hein 2021 (arXiv 2103.01208). "plus" makes five
    restarts; "rand", for models that draw noise, averages gradients over 20 draws.
    """
    attacks, notes = [], []
    for name in VERSIONS[version]:
        named = named_attack(_spec(name, version, norm, num_classes), {"norm": norm, "eps": eps}, {})
        needed = {"apgd_dlr": 3, "apgd_t": 4}.get(name, 2)
        if num_classes < needed:
            named = named._replace(objective=margin)
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


def check_names(texts: Sequence[str], version: str) -> None:
    """ValueError for two cascades, or an attack with the name of a part of one: each name stands for one record."""
    if len([text for text in texts if spec.parse(text)[0] == "autoattack"]) > 1:
        raise ValueError("autoattack is asked for twice; run one version after the other")
    if both := set(texts) & set(VERSIONS.get(version, ())):
        name = min(both)
        raise ValueError(
            f"{name} is a part of autoattack, where it meets only what the attacks before it have left; "
            f"write {name}(norm=linf), or whatever the norm is, to have it by itself beside that"
        )
