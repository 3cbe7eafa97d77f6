"""Checks of what was recorded: can it be, is it likely, and of how many examples is it?"""

import json
from importlib import resources
from typing import Any

import numpy as np

from clead_jax.core import spec
from clead_jax.evaluation.checks.context import CheckContext, check, slack
from clead_jax.results.intervals import PRELIMINARY, interval95


def only_training_attacks(context: CheckContext) -> dict[str, Any]:
    """Some attack was not trained on. A model can fit the attack it is trained with.

    In catastrophic overfitting it is right on all that FGSM makes, and wrong on all of PGD (Wong et al. 2020).
    """
    names = [name for name in context.records if name != "clean"]
    if not names:
        return check("only_training_attacks", "warn", [], "no attack was recorded at all")
    if context.training_attacks is None:
        return check("only_training_attacks", "skipped", None, "it is not known which attacks were trained on")
    unseen = [name for name in names if spec.parse(name)[0] not in context.training_attacks]
    hint = "all attacks were trained on: add autoattack, or any other"
    return check("only_training_attacks", "ok" if unseen else "warn", unseen or names, hint)


def robust_above_clean(context: CheckContext) -> dict[str, Any]:
    """No accuracy under an attack is above the clean one of the same images, on transferred images neither.

    A published log has 57.6 % beside a clean accuracy of 9.4 %: its two loaders scaled images differently. Transferred
    images may repair a few, by chance.
    """
    attacked = {name: hits for name, hits in context.records.items() if name != "clean"}
    attacked |= {f"transferred/{name}": hits for name, hits in context.transferred.items()}
    if not attacked:
        return check("robust_above_clean", "skipped", None, "no attack was recorded")
    clean, worst = context.records["clean"], max(attacked, key=lambda name: attacked[name].sum())
    hits = attacked[worst]
    above = int(hits.sum()) - int(clean.sum())
    value = {"attack": worst, "clean": float(clean.mean()), "attacked": float(hits.mean())}
    hint = f"{hits.mean():.1%} under {worst}, {clean.mean():.1%} clean: other scales or labels, or no attack at all"
    status = "ok" if above <= 0 else "warn" if above <= slack(len(hits), 0.01) else "fail"
    return check("robust_above_clean", status, value, hint)


def sample_size(context: CheckContext) -> dict[str, Any]:
    """A thousand examples or more were attacked.

    With 128 the interval of 50 % goes from 41 to 59, wider than most gains that papers claim.
    """
    hits = _worst(context)
    low, high = interval95(int(hits.sum()), len(hits))
    value = {"n": len(hits), "accuracy": float(hits.mean()), "interval95": [low, high]}
    hint = f"preliminary: fewer than {PRELIMINARY} examples; {low:.0%} to {high:.0%} is all that is known"
    return check("sample_size", "ok" if len(hits) >= PRELIMINARY else "warn", value, hint)


def extraordinary(context: CheckContext) -> dict[str, Any]:
    """The result is not above the best published for this data, threat model and architecture.

    Most results that were fell within a year: 13 of 13 defences of 2018 to 2020 (Tramer et al. 2020).
    """
    if context.published is None:
        return check("extraordinary", "skipped", None, "data set or architecture are not known")
    if not set(context.records) - {"clean"}:
        return check("extraordinary", "skipped", None, "no attack was recorded")
    best = _best_published(*context.published, context.norm, context.eps)
    if best is None:
        return check("extraordinary", "skipped", None, f"no published figure for {context.published[0]} at this eps")
    hits = _worst(context)
    low, _ = interval95(int(hits.sum()), len(hits))
    value = {"accuracy": float(hits.mean()), **{k: best[k] for k in ("robust", "source", "date")}}
    hint = f"extraordinary: above the best published, {100 * best['robust']:.2f}% ({best['source']}): verify"
    return check("extraordinary", "ok" if low <= best["robust"] else "warn", value, hint)


def _worst(context: CheckContext) -> np.ndarray:
    return np.logical_and.reduce(list(context.records.values()))


def _best_published(data: str, architecture: str, norm: str, eps: float) -> dict[str, Any] | None:
    """The best figure of the architecture, or of any, in a ball no larger than this one."""
    file = resources.files("clead_jax.evaluation").joinpath("published.json")
    table = json.loads(file.read_text(encoding="utf-8"))["figures"]
    plain = lambda name: name.lower().replace("-", "").replace("_", "")
    alike = [row for row in table if (plain(row["data"]), row["norm"]) == (plain(data), norm)]
    comparable = [row for row in alike if spec.number(row["eps"]) <= eps * 1.001]
    own = [row for row in comparable if plain(row["architecture"]) == plain(architecture)]
    return max(own or comparable, key=lambda row: row["robust"], default=None)
