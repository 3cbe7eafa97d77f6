"""An audit as files, and the comparison of a new one with them. The layout is that of a work directory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clead_jax.core import names
from clead_jax.results import read, union
from clead_jax.results.forms import Arrays
from clead_jax.results.intervals import interval95
from clead_jax.results.store import Store

LABEL = "model"  # the name of the one model in the files
CLOSE = 1e-3  # outputs of the same weights on two machines differ by less, relative to the largest
AGREE = 0.005  # the share of verdicts that rounding may change


class Record(NamedTuple):
    """What an earlier audit has left."""

    directory: str
    results: dict[str, Any]
    per_example: dict[str, Arrays]  # norm -> per_example.npz

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings, by the names of the flags."""
        return self.results["environment"]["audit"]

    def refuse_others(self, images: str, outputs: list[list[float]]) -> None:
        """Raises ValueError unless images (their digest) and weights (outputs of the first images) are the same."""
        before = self.results["environment"]
        if before["images"] != images:
            raise ValueError(
                f"{self.directory} is the record of other images (digest {before['images']}, now {images})"
            )
        then, now = np.array(before["outputs"]), np.array(outputs)
        if then.shape != now.shape or np.abs(then - now).max() > CLOSE * max(1.0, np.abs(then).max()):
            raise ValueError(
                f"{self.directory} is the record of another model: it gives other outputs for the same images"
            )

    def differences(self, norm: str, records: Arrays) -> list[str]:
        """What does not hold of the record in a norm, measured again: a sentence for each attack; none if all holds."""
        found, within = [], f" in {norm}" if len(self.per_example) > 1 else ""
        for name, hits in records.items():
            before = self.per_example[norm][f"{LABEL}/{name}"]
            differ = float((before != hits).mean())
            if differ > AGREE:
                shares = f"{before.mean():.2%} in the record, {hits.mean():.2%} now"
                found.append(f"{name}{within} does not hold: {shares}; {differ:.2%} of the images differ")
        return found


def load(directory: str) -> Record:
    """Reads the record of an audit. Raises ValueError, in one line, for a folder that holds none."""
    base = Path(directory) / "evaluation"
    found = read.evaluation(base)
    if "audit" not in found.results["environment"] or found.per_example is None:
        raise ValueError(f"{directory} is not the record of an audit (python -m clead_jax.audit --output=DIR)")
    every = read.evaluations(directory).values()
    record = Record(directory, found.results, {e.results["threat_model"]["norm"]: e.per_example or {} for e in every})
    for norm, _ in names.threats(record.settings["norm"], record.settings["eps"]):
        if norm not in record.per_example:
            raise ValueError(f"{directory} has lost what was measured in {norm}")
    return record


def save(
    directory: str,
    index: np.ndarray,
    labels: np.ndarray,
    parts: Sequence[tuple[dict[str, Any], Arrays]],
    headers: Sequence[dict[str, Any]],
) -> None:
    """Writes evaluation/results.json and per_example.npz into a folder, for report, compare and `load`.

    `parts` are the results and records of every norm, `headers` what is to be said of them. The second and further
    norms lie in folders of evaluation/, and beside them the union of all.
    """
    base, tags = Path(directory) / "evaluation", list[str]()
    for (results, records), header in zip(parts, headers, strict=True):
        tags.append("{norm}-{eps:.6g}".format(**header["threat_model"]) if tags else "")
        store = Store(header, index, labels, base / tags[-1])
        store.results |= {key: value for key, value in results.items() if key not in header}
        store.results["checks"] = results["models"][LABEL].get("checks", [])
        store.records |= {f"{LABEL}/{name}": hits for name, hits in records.items()}
        store.save()
    if len(tags) > 1:
        union.write(base, read.evaluations(directory), tags)


def below(records: dict[str, np.ndarray], checks: list[dict[str, Any]], percent: float | None) -> list[str]:
    """What speaks against a robust accuracy of at least `percent`, in sentences: its interval begins below that, or a
    check has failed, so that a stronger attack may find less. Nothing without a limit.
    """
    if percent is None:
        return []
    hits = np.logical_and.reduce(list(records.values()))
    low, _ = interval95(hits.sum(), len(hits))
    failed, found = [check["name"] for check in checks if check["status"] == "fail"], []
    if 100 * low < percent:
        found = [f"robust accuracy {hits.mean():.1%}, its 95 % interval begins at {low:.1%}, below {percent:g} %"]
    if failed:
        what = f"robust accuracy {hits.mean():.1%} is not to be relied on"
        found += [f"{what}: {', '.join(failed)} failed"]
    return found


def as_json(told: dict[str, Any], unmet: list[str]) -> str:
    """All numbers as one JSON object."""
    return json.dumps(told | {"unmet": unmet}, indent=1)


def as_sarif(told: dict[str, Any], unmet: list[str]) -> str:
    """Failures and warnings as SARIF 2.1.0 (OASIS), for code-scanning systems; the numbers are its properties."""
    levels = {"fail": "error", "warn": "warning"}
    raised = [(c["name"], levels[c["status"]], c["hint"]) for c in told["checks"] if c["status"] in levels]
    raised += [("unmet", "error", text) for text in unmet]
    result = lambda rule, level, text: {"ruleId": rule, "level": level, "message": {"text": text}}
    rules = [{"id": rule} for rule in dict.fromkeys(rule for rule, _, _ in raised)]
    run = {
        "tool": {"driver": {"name": "clead_jax.audit", "rules": rules}},
        "results": [result(*each) for each in raised],
        "properties": {key: told[key] for key in ("accuracy", "interval95", "norm", "eps", "complete")},
    }
    return json.dumps(
        {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}, indent=1
    )
