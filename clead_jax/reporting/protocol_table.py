"""C-LEAD's Table 1 under more than its protocol: a row per model, attack and radius, a column per protocol.

The paper's own figure stands first, as the paper's: its two sub-columns have no labels, so every radius shows both.
"""

import json
from typing import Any

from matplotlib.figure import Figure

from clead_jax.reporting import charts, labels, tables
from clead_jax.reporting.compare_runs import Attack, Comparison, Entry, Row
from clead_jax.reporting.render import Cell, Table
from clead_jax.results.intervals import Summary, summary

FAMILIES = {"fgsm": "fgsm", "pgd": "pgd", "cw": "cw", "cw_l2": "cw"}  # attack -> its row of the paper's table
Shares = list[dict[Attack, float]]


def table(found: Comparison) -> Table | None:
    """Accuracy in %: the paper's figure, then transferred, white-box and AutoAttack; None without transfer attacks."""
    eps, count = found.results["threat_model"]["eps"], found.results["dataset"]["num_examples"]
    rows: list[list[Cell]] = []
    for row in found.rows:
        transferred, direct = ([getattr(entry, of) for entry in row.models] for of in ("transferred", "accuracy"))
        for family, radius in _kinds(transferred):
            pick = lambda attack, kind=(family, radius): _kind(attack) == kind
            suite = _cell(direct, lambda attack: attack[0] == "autoattack", count) if radius == eps else "—"
            cells = [_paper(row, family, found), _cell(transferred, pick, count), _cell(direct, pick, count), suite]
            how = labels.radius(found.results["threat_model"]["norm"], radius) if radius else "no radius"
            rows.append([(row.name, f"{labels.attack_title(family, {})}, {how}"), *cells])
    sources = ", ".join(dict.fromkeys(entry.source for row in found.rows for entry in row.models if entry.source))
    header = ["Model and attack", tables.PAPER_COLUMN, f"Made on {sources}", "White-box", "AutoAttack"]
    return Table(header, rows) if rows else None


def plain(row: Row, count: int) -> dict[str, Any]:
    """The numbers of a row under transferred images as JSON values, by attack."""
    shares, found = [entry.transferred for entry in row.models], dict[str, Any]()
    for attack in dict.fromkeys(attack for each in shares for attack in each):
        if own := _lowest(shares, attack.__eq__, count):
            told = {"settings": json.loads(attack[1]), "source": row.models[0].source}
            found[attack[0]] = told | own._asdict()
    return found


def _kind(attack: Attack) -> tuple[str, float | None]:
    """(row of the paper's table or "", radius; None for an attack without one)."""
    return FAMILIES.get(attack[0].partition("(")[0], ""), json.loads(attack[1]).get("eps")


def _kinds(transferred: Shares) -> list[tuple[str, float | None]]:
    kinds = {_kind(attack) for shares in transferred for attack in shares if attack[0] != "worst_case"}
    return sorted((kind for kind in kinds if kind[0]), key=lambda kind: ([*FAMILIES].index(kind[0]), -(kind[1] or 0)))


def _lowest(shares: Shares, wanted: Any, count: int) -> Summary | None:
    """Over the seeds; of several attacks of a kind the one that leaves least."""
    single = [min(of) for each in shares if (of := [share for attack, share in each.items() if wanted(attack)])]
    return summary(single, count) if single else None


def _cell(shares: Shares, wanted: Any, count: int) -> Cell:
    if (own := _lowest(shares, wanted, count)) is None:
        return "not measured"
    spread = "" if own.std is None else f" ± {labels.percent(own.std)}"
    return f"{labels.percent(own.mean)}{spread}", labels.span(own.interval95)


def _paper(row: Row, family: str, found: Comparison) -> Cell:
    """Both sub-columns of the paper's table, "68.7 / 57.6"."""
    first: Entry = row.models[0]
    known = tables.paper()["table1"].get(first.fields.get("model.backbone"), {})
    if found.results["dataset"]["name"] != tables.paper()["dataset"] or family not in known:
        return "—"
    return " / ".join(map(labels.percent, known[family]["without" if first.stage == "baseline" else "with"]))


def figure(found: Comparison) -> Figure:
    """How accuracy falls from protocol to protocol, a line per model."""
    models: dict[str, Any] = {}
    protocols: dict[str, dict[str, Any]] = {"paper": {}, "autoattack": {}}
    count = found.results["dataset"]["num_examples"]
    for row in found.rows:
        transferred, direct = ([getattr(entry, of) for entry in row.models] for of in ("transferred", "accuracy"))
        parts = [("clean", direct, models), ("worst_case", direct, models)]
        parts += [("worst_case", transferred, protocols["paper"]), ("autoattack", direct, protocols["autoattack"])]
        for name, shares, into in parts:
            if own := _lowest(shares, lambda attack, name=name: attack[0] == name, count):
                entry = into.setdefault(row.name, {"accuracy": {}, "interval95": {}, "source": row.models[0].source})
                entry["accuracy"][name], entry["interval95"][name] = own.mean, own.interval95
    return charts.by_protocol({"models": models, "protocols": protocols})
