"""An audit as files, and the comparison of a new one with them. The layout is that of a work directory."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clead_jax.results import read
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
    per_example: dict[str, np.ndarray]

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

    def differences(self, records: dict[str, np.ndarray]) -> list[str]:
        """What of the record does not hold, measured again: one sentence for each attack; none if all holds."""
        found = []
        for name, hits in records.items():
            before = self.per_example[f"{LABEL}/{name}"]
            differ = float((before != hits).mean())
            if differ > AGREE:
                shares = f"{before.mean():.2%} in the record, {hits.mean():.2%} now"
                found.append(f"{name} does not hold: {shares}; {differ:.2%} of the images differ")
        return found


def load(directory: str) -> Record:
    """Reads the record of an audit. Raises ValueError, in one line, for a folder that holds none."""
    found = read.evaluation(Path(directory) / "evaluation")
    if "audit" not in found.results["environment"] or found.per_example is None:
        raise ValueError(f"{directory} is not the record of an audit (python -m clead_jax.audit --output=DIR)")
    return Record(directory, found.results, found.per_example)


def save(
    directory: str,
    index: np.ndarray,
    labels: np.ndarray,
    results: dict[str, Any],
    records: Arrays,
    header: dict[str, Any],
) -> None:
    """Writes evaluation/results.json and per_example.npz into a folder, for report, compare and `load`."""
    store = Store(header, index, labels, Path(directory) / "evaluation")
    store.results |= {key: value for key, value in results.items() if key not in header}
    store.results["checks"] = results["models"][LABEL].get("checks", [])
    store.records |= {f"{LABEL}/{name}": hits for name, hits in records.items()}
    store.save()


def below(records: dict[str, np.ndarray], percent: float | None) -> list[str]:
    """A sentence if the interval of the robust accuracy begins below `percent`; none without a limit."""
    hits = np.logical_and.reduce(list(records.values()))
    low, _ = interval95(hits.sum(), len(hits))
    if percent is None or 100 * low >= percent:
        return []
    return [f"robust accuracy {hits.mean():.1%}, its 95 % interval begins at {low:.1%}, below {percent:g} %"]


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
