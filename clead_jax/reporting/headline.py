"""The same models under three protocols, each a stronger attacker than the one before: the report's headline.

    paper        transfer attack: images made once, on the undefended model, then shown to every model
    whitebox     the attacks of the table, run on the model itself
    autoattack   the standard ensemble on the model itself: what is still correct after each of its attacks

In results.json the white-box numbers are those of `models`; the others are under `protocols`.
"""

from typing import Any, NamedTuple

from clead_jax.core.spec import duration
from clead_jax.reporting import labels
from clead_jax.reporting.render import Cell, Table


class Protocol(NamedTuple):
    """How a protocol reads: title, part of a sentence, what it does; and the accuracy that sums it up."""

    title: str
    phrase: str
    how: str
    summary: str = "worst_case"


PROTOCOLS = {
    "paper": Protocol("Transfer attack", "under transferred attacks", "images made on\n{source}"),
    "whitebox": Protocol("White-box", "attacked directly", "images made for\neach model"),
    "autoattack": Protocol("AutoAttack", "under AutoAttack", "the ensemble, for\neach model", "autoattack"),
}


_NOTES = {
    "paper": "Transfer attack: the attacked images were made once, on {source}, and shown to every model. "
    "This is the protocol that the paper's numbers appear to use. The images were not made against the defence: a "
    "model that classifies them correctly may still be broken by an attack on itself.",
    "whitebox": "White-box: the attacks of the next table, run on each model itself.",
    "autoattack": "AutoAttack: each number is the share still classified correctly after that attack and all before.",
}


class Accuracy(NamedTuple):
    """The share of images that is classified correctly, in [0, 1], and its 95 % interval.

    A bound is no measurement: not all attacks were made, so the true share is at most this.
    """

    share: float
    interval: tuple[float, float] | None
    bound: bool


def measured(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Protocol -> model -> its entry, for the protocols that were run, from the weakest to the strongest."""
    unattacked = {"clean", "worst_case"}
    attacked = {name: entry for name, entry in results["models"].items() if entry["accuracy"].keys() - unattacked}
    found = results.get("protocols", {}) | {"whitebox": attacked}
    return {
        name: by_model
        for name, protocol in PROTOCOLS.items()
        if (by_model := {m: e for m, e in found.get(name, {}).items() if protocol.summary in e["accuracy"]})
    }


def missing(results: dict[str, Any]) -> list[str]:
    """Titles of the protocols that were not run."""
    return [protocol.title for name, protocol in PROTOCOLS.items() if name not in measured(results)]


def by_protocol(model: str, results: dict[str, Any]) -> dict[str, Accuracy]:
    """Accuracy of one model on clean images and under each protocol; what was not measured is not there."""
    steps = {"clean": (results["models"][model], "clean")}
    steps |= {p: (found[model], PROTOCOLS[p].summary) for p, found in measured(results).items() if model in found}
    known = {step: (entry, attack) for step, (entry, attack) in steps.items() if attack in entry["accuracy"]}
    interval = lambda entry, attack: entry.get("interval95", {}).get(attack)
    return {s: Accuracy(e["accuracy"][a], interval(e, a), labels.is_bound(a, e)) for s, (e, a) in known.items()}


def sentence(model: str, results: dict[str, Any]) -> str:
    """In words: "With C-LEAD: clean 94.1 %; attacked directly 75.0 %; under AutoAttack at most 71.3 %."."""
    parts = []
    for step, found in by_protocol(model, results).items():
        phrase = PROTOCOLS[step].phrase if step in PROTOCOLS else "clean"
        parts.append(f"{phrase} {'at most ' if found.bound else ''}{labels.percent(found.share)} %")
    return f"{labels.model_title(model, results)}: {'; '.join(parts)}."


def table(results: dict[str, Any]) -> Table:
    """Accuracy in % with its interval: a row per protocol and attack, a column per model."""
    models, rows = results["models"], list[list[Cell]]()
    for name, by_model in measured(results).items():
        attacks = dict.fromkeys(attack for entry in by_model.values() for attack in entry["accuracy"])
        attacks.pop("clean", None)
        for attack in sorted(attacks, key=PROTOCOLS[name].summary.__eq__):
            title, protocol = labels.attack_title(attack, results), PROTOCOLS[name].title
            where = "" if title == protocol else f"({protocol})"
            rows.append([(title, where), *(labels.accuracy(attack, by_model.get(model, {})) for model in models)])
    return Table(["Attack and protocol", *(labels.model_title(model, results) for model in models)], rows)


def notes(results: dict[str, Any]) -> list[str]:
    """What a reader must know about the protocols that were run."""
    found = measured(results)
    suite = found.get("autoattack", {}).items()
    efforts = [f"AutoAttack, {labels.model_title(model, results)}: {_effort(entry)}." for model, entry in suite]
    return [_NOTES[name].format(source=source(results)) for name in found] + efforts


def source(results: dict[str, Any]) -> str:
    """What the images of the transfer attack were made on, in words."""
    names = {entry.get("source", "baseline") for entry in results.get("protocols", {}).get("paper", {}).values()}
    return "the undefended model" if names <= {"baseline"} else ", ".join(sorted(names))


def _effort(entry: dict[str, Any]) -> str:
    """Version, what was spent, and whether that was all of it."""
    said = [f"version {entry['version']}"] if "version" in entry else []
    if passes := entry.get("passes"):
        forward, backward = (sum(each[kind] for each in passes.values()) for kind in ("forward", "backward"))
        said.append(f"{forward:,.0f} forward and {backward:,.0f} backward passes per image on average")
    if "seconds" in entry:
        said.append(duration(entry["seconds"]))
    if not entry.get("complete", True):
        said.append("STOPPED BY ITS BUDGET: the accuracy is an upper bound, the same command goes on")
    return "; ".join([*said, *entry.get("notes", [])])
