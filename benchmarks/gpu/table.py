"""The README's section on GPUs, from the records of `measure`.

    python -m benchmarks.gpu.table [--results=results] [--write=README.md]

Prints Markdown; --write puts it into a file, between the lines <!-- gpu --> and <!-- end of gpu -->. Every number is
one of a record in results/gpu-<card>/; what has none is "not measured yet".
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.gpu.steps import DEPTHS, DTYPES, STEPS
from clead_jax.config import cli
from clead_jax.methods import inserted

MARKS = ("<!-- gpu -->", "<!-- end of gpu -->")
NOTHING = "not measured yet"
TRAININGS = {step.after for step in STEPS} - {""}
EVALUATIONS = {step.name for step in STEPS if step.after}
Records = dict[str, dict[str, Any]]  # step -> its record


def cards(folder: Path) -> dict[str, Records]:
    """Card -> its records, of all results/gpu-*/. Raises ValueError, one line, for a file that is no record."""
    found: dict[str, Records] = {}
    for path in sorted(folder.glob("gpu-*/*.json")):
        try:
            record = json.loads(path.read_text("utf-8"))
            name, step = record["machine"]["device"], record["step"]
            record["found"], record["command"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no record of benchmarks.gpu.measure ({error!r})") from None
        found.setdefault(name, {})[step] = record
    return found


def section(found: dict[str, Records]) -> str:
    """All tables, card by card; without any card one sentence."""
    if not found:
        return f"On a GPU: {NOTHING}."
    return "\n\n".join(f"### {name}\n\n{_card(records)}" for name, records in sorted(found.items()))


def _card(records: Records) -> str:
    machine = next(iter(records.values()))["machine"]
    tests = records.get("tests", {}).get("found", {}).get("said", NOTHING).strip("= ")
    first = f"jax {machine['jax']}, Python {machine['python']}. Tests marked `gpu`: {tests}."
    tables = (_speed, _torch, _training, _accuracy)
    return "\n\n".join([first, *(_table(*each(records)) for each in tables)])


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return f"{title}: {NOTHING}."
    lines = [columns, ("---",) * len(columns), *rows]
    return f"{title}:\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _speed(records: Records) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    rows = []
    for depth in DEPTHS:
        for dtype in DTYPES:
            record = records.get(f"benchmark-{depth}-{dtype}")
            for line in record["found"]["lines"] if record else []:
                shown = (f"{line['images_per_s']:,.0f}", f"{line['flops_per_s'] / 1e12:.3g}")
                rows.append((depth, dtype, line["what"], str(line["batch"]), *shown, f"{line['share_of_matmul']:.0%}"))
    columns = ("network", "dtype", "what", "batch", "images/s", "TFLOP/s", "of the measured matrix product")
    return "Speed (`clead_jax.benchmark`; random images)", columns, rows


def _torch(records: Records) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    rows = []
    for found in _found(records, lambda step: step.startswith("torch-")):
        kind = "compiled" if found["compiled"] else "eager"
        for line in found["lines"]:
            seconds = [f"{line[side]['seconds']:.3g}" for side in ("ours", "theirs")]
            left = [f"{line[side]['correct']} of {found['batch']}" for side in ("ours", "theirs")]
            rows.append((line["attack"], f"{found['torch']}, {kind}", *seconds, f"{line['ratio']:.2f}", *left))
    columns = ("attack", "torch", "ours, s", "theirs, s", "times as fast", "correct after ours", "after theirs")
    return "Time to the verdict beside torchattacks (ResNet-18, random weights, one batch)", columns, rows


def _training(records: Records) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    rows = []
    for step, record in records.items():
        for stage, line in record["found"].items() if step in TRAININGS else []:
            shown = (str(line["epoch"]), f"{line['images_per_s']:,.0f}", f"{line['seconds']:,.0f}")
            rows.append((step, stage, *shown))
    columns = ("step", "stage", "epochs", "images/s", "seconds, last epoch")
    return "Training (CIFAR-10)", columns, rows


def _accuracy(records: Records) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    rows: dict[tuple[str, ...], None] = {}
    for step, record in records.items():
        for place, results in record["found"].items() if step in EVALUATIONS else []:
            count = f"{results['dataset']['num_examples']:,}"
            for model, measured in results["models"].items():
                for attack, share in measured["accuracy"].items():
                    interval = measured.get("interval95", {}).get(attack)
                    between = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
                    rows[(step, place, model, attack, count, f"{100 * share:.1f}{between}")] = None
    columns = ("step", "results", "model", "attack", "images", "accuracy, %")
    return "Accuracy (trainings cut to the epochs that their commands name)", columns, list(rows)


def _found(records: Records, wanted: Callable[[str], bool]) -> Iterable[dict[str, Any]]:
    return (record["found"] for step, record in records.items() if wanted(step))


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("results", "results", "folder of the measured numbers", flag_values=values)
    flags.DEFINE_string("write", "", "file to put the section into, e.g. README.md", flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, prints the section, writes it where it is asked to."""
    options = cli.parse(argv, _define, __doc__)
    made = section(cards(Path(options.results)))
    print(made)
    if options.write:
        target = Path(options.write)
        target.write_text(inserted(target.read_text("utf-8"), made, options.write, MARKS), "utf-8")


if __name__ == "__main__":
    cli.run(main)
