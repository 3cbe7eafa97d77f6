"""How the field writes attacks and norms, and what they are called here."""

import re

from clead_jax.core import spec
from clead_jax.core.registry import ATTACKS

NORMS = {"linf": "linf", "l∞": "linf", "l2": "l2", "l1": "l1", "∞": "linf", "inf": "linf"}
ALSO = {"aa": "autoattack", "autoattack": "autoattack", "ifgsm": "bim", "carliniwagner": "cw", "squareattack": "square"}
COUNTED = {"square": "queries", "noise": "points"}  # what the number behind a name is; of others the steps


def norm(text: object) -> str:
    """'Linf', 'L_inf', '∞', 'ℓ∞' or inf -> 'linf'; 'L2' or 2 -> 'l2'. What is unknown stays as it is."""
    plain = re.sub(r"[\s_-]", "", str(text).lower().replace("ℓ", "l"))
    return NORMS.get(plain, NORMS.get(f"l{plain}", str(text)))


def attack(text: str) -> str:
    """'AutoAttack' -> 'autoattack', 'APGD-CE' -> 'apgd_ce', 'C&W' -> 'cw', 'PGD-20(eps=4/255)' ->
    'pgd(steps=20,eps=4/255)'. What is known by its own name, or not at all, stays as it is.
    """
    head, bracket, rest = text.strip().partition("(")
    rest = re.sub(r"\bnorm=([^,)]*)", lambda match: f"norm={norm(match[1])}", rest)
    known = ALSO | {re.sub("_", "", name): name for name in ATTACKS}
    plain = re.sub(r"[\W_]", "", head.lower())
    name, count = re.fullmatch(r"(.*?)(\d*)", plain).groups() if plain not in known else (plain, "")  # type: ignore
    if head in ATTACKS or name not in known or (count and known[name] == "autoattack"):
        return head + bracket + rest
    settings = ",".join(
        filter(None, [count and f"{COUNTED.get(known[name], 'steps')}={count}", rest.removesuffix(")")])
    )
    return f"{known[name]}({settings})" if settings else known[name]


def threats(norms: object, radii: object) -> list[tuple[str, str]]:
    """'linf,l2', '8/255,0.5' -> [('linf', '8/255'), ('l2', '0.5')]. ValueError for a norm that is there twice, or
    without a radius of its own.
    """
    found, eps = [norm(text) for text in spec.items(str(norms))], spec.items(str(radii))
    if twice := [name for name in found if found.count(name) > 1]:
        raise ValueError(f"norm is {norms}: {twice[0]} is there twice")
    if len(found) != len(eps) or not found:
        raise ValueError(
            f"norm is {norms} and eps is {radii}: write one radius for each norm, as linf,l2 and 8/255,0.5"
        )
    return list(zip(found, eps, strict=True))
