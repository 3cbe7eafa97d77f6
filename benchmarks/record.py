"""Keep the numbers of finished runs in one file of results/, and print them as the README's table.

    python -m benchmarks.record --workdirs="runs/sweep/*" --json=results/FILE.json
    python -m benchmarks.record --table=results/FILE.json

Run it in the repository's folder. A run is kept under the command that made it, without its work directory; one that is
in the file already is replaced, so that runs can be added while a sweep goes on. In the table a row is a config, the
mean and the standard deviation over its seeds, sorted by the last attack; the README's table of methods is made from
the same files (python -m clead_jax.methods).
"""

import glob
import json
import shlex
import statistics
from pathlib import Path
from typing import Any

from absl import flags

from clead_jax import config
from clead_jax.config import cli
from clead_jax.core import spec
from clead_jax.methods import lineage
from clead_jax.reporting import labels
from clead_jax.results import files, read


def _define(given: flags.FlagValues) -> None:
    flags.DEFINE_string("workdirs", "", "finished runs, a list; * stands for any name", flag_values=given)
    flags.DEFINE_string("json", "", "the file that the numbers go to", flag_values=given)
    flags.DEFINE_string("table", "", "print this file as a table", flag_values=given)


def main(argv: list[str]) -> None:
    """Parses the command line, reads, writes, prints. Raises ValueError where no run is finished."""
    given = cli.parse(argv, _define, __doc__)
    if bool(given.workdirs) != bool(given.json) or not (given.workdirs or given.table):
        raise ValueError("write --workdirs=A,B,... --json=FILE, or --table=FILE")
    if given.workdirs:
        target = Path(given.json)
        found = [path for text in spec.items(given.workdirs) for path in sorted(glob.glob(text))]
        finished = [path for path in found if "checks" in files.load_json(Path(path) / "evaluation/results.json")]
        if not finished:
            raise ValueError(f"--workdirs: no finished run in {given.workdirs}")
        kept = json.loads(target.read_text("utf-8")) if target.exists() else {"runs": []}
        target.write_text(json.dumps(merged(kept, [record(path) for path in finished]), indent=1) + "\n", "utf-8")
    print(table(json.loads(Path(given.table or given.json).read_text("utf-8"))["runs"]))


def merged(kept: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A file's content with these runs in it, by command: {"runs": [...]}."""
    by_command = {run["command"]: run for run in [*kept["runs"], *runs]}
    return kept | {"runs": [by_command[command] for command in sorted(by_command)]}


def record(workdir: str) -> dict[str, Any]:
    """What is kept of a run: how it was made, of every model accuracy in [0, 1] and its 95 % interval, and what those
    stages cost that the defended model came from.
    """
    results = read.read(workdir).results
    environment = dict(results["environment"])
    words = shlex.split(environment.pop("command"))
    models = {label: accuracies(results, label) for label in results["models"]}
    cfg, _ = config.restore(workdir)
    cost, needed = results.get("training_cost", {}), lineage(cfg, cfg.defended)
    return {
        "command": shlex.join(word for word in words if not word.startswith("--workdir=")),
        "environment": {key: environment[key] for key in ("jax", "python", "device", "devices")},
        "dataset": results["dataset"]["name"],
        "num_examples": results["dataset"]["num_examples"],
        "threat_model": results["threat_model"],
        "seed": environment["seed"],
        "models": models,
        "label_use": results.get("label_use", {}),
        "training_cost": {stage: cost[stage] for stage in needed if stage in cost},
    }


def accuracies(results: dict[str, Any], label: str) -> dict[str, Any]:
    """{"accuracy": {attack: share}, "interval95": {attack: [low, high]}} of a model, AutoAttack by its version and
    transfer attacks as "transferred/<attack>" among them, rounded to four digits.
    """
    cascade = results.get("protocols", {}).get("autoattack", {}).get(label, {})
    version = cascade.get("version", "standard")
    suite = "autoattack" if version == "standard" else f"autoattack_{version}"
    transferred = results.get("protocols", {}).get("paper", {}).get(label, {})
    rounded = lambda value: [round(end, 4) for end in value] if isinstance(value, list) else round(value, 4)

    def found(kind: str) -> dict[str, Any]:
        all_of = dict(results["models"][label][kind])
        if "autoattack" in cascade.get(kind, {}):
            all_of[suite] = cascade[kind]["autoattack"]
        all_of |= {f"transferred/{name}": value for name, value in transferred.get(kind, {}).items()}
        return {name: rounded(value) for name, value in all_of.items()}

    return {kind: found(kind) for kind in ("accuracy", "interval95")}


def table(runs: list[dict[str, Any]]) -> str:
    """The defended models in Markdown, in %: a row is a config, its seeds a mean and a spread (n - 1)."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        rows.setdefault(name(run["command"]), []).append(run)
    every = dict.fromkeys(attack for run in runs for attack in run["models"]["defended"]["accuracy"])
    attacks = sorted(every, key=lambda attack: (attack != "clean", "autoattack" in attack, attack == "worst_case"))
    columns = ["config", *(titled(attack) for attack in attacks), "training passes", "seeds"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    last = lambda group: statistics.fmean(run["models"]["defended"]["accuracy"].get(attacks[-1], 0.0) for run in group)
    for title, group in sorted(rows.items(), key=lambda item: -last(item[1])):
        cells = [_cell([run["models"]["defended"]["accuracy"].get(attack) for run in group]) for attack in attacks]
        lines.append(f"| `{title}` | {' | '.join(cells)} | {passes(group[0]):,} | {len(group)} |")
    return "\n".join(lines)


def name(command: str) -> str:
    """'mart.py:digits': the config of a command, and what it changes of the training."""
    words = [word.removeprefix("--config=").removeprefix("configs/") for word in shlex.split(command)[3:]]
    return " ".join(word for word in words if not word.startswith(("--config.evaluation.", "--config.seed=")))


def titled(attack: str) -> str:
    """'autoattack_fast' as the report has it."""
    suite, _, version = attack.partition("_")
    return f"AutoAttack {version}" if suite == "autoattack" and version else labels.attack_title(attack, {})


def passes(run: dict[str, Any]) -> int:
    """Forward and backward passes of those stages."""
    return sum(stage["forward_backward_passes"] for stage in run["training_cost"].values())


def _cell(shares: list[float | None]) -> str:
    known = [100 * share for share in shares if share is not None]
    if not known:
        return ""
    return f"{statistics.fmean(known):.1f}" + (f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else "")


if __name__ == "__main__":
    cli.run(main)
