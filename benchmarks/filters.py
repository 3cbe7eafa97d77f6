"""What input filters and ensembles are worth: every model of a run under attacks that know of them, and that do not.

    python -m benchmarks.filters --workdir=runs/quickstart --json=results/digits-filters.json [--rows=...]
    python -m benchmarks.filters --table=results/digits-filters.json

Run it in the repository's folder, on a run of configs/quickstart.py. A filtered model is attacked by PGD-20 in three
ways (`attacked` in clead_jax/models/filters.py says which), and by `autoattack(version=fast)` through the filter. What
is in the file is not measured again, so that the same command goes on; `--table` prints it as the README has it.
"""

import itertools
import json
from pathlib import Path
from typing import Any

from absl import flags

from clead_jax.config import cli
from clead_jax.core import spec

EPS = 0.1
COLUMNS = {
    "PGD-20, exact": ("exact", "pgd"),
    "PGD-20, through": ("through", "pgd"),
    "PGD-20, bare": ("bare", "pgd"),
    "AutoAttack fast, through": ("through", "autoattack(version=fast)"),
}
"""Title -> what attacks see, and the attack."""
ROWS = {
    "undefended": "baseline",
    "3 bits per pixel": "bit_depth(baseline,bits=3,attacked={way})",
    "JPEG at quality 75": "jpeg(baseline,quality=75,attacked={way})",
    "Gaussian blur 3x3": "blur(baseline,size=3,attacked={way})",
    "median 3x3": "median(baseline,size=3,attacked={way})",
    "total variation 0.1": "total_variation(baseline,weight=0.1,attacked={way})",
    "random resize and pad": "resize_pad(baseline,least=0.8,attacked={way})",
    "C-LEAD": "probe",
    "C-LEAD behind JPEG": "jpeg(probe,quality=75,attacked={way})",
    "undefended + C-LEAD by probabilities": "ensemble(baseline+probe)",
    "undefended + C-LEAD by logits": "ensemble(baseline+probe,combine=logits)",
}
"""Name -> model, as `--models` has it; `{way}` where it is attacked in every way."""


def _define(given: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", "", "a run of configs/quickstart.py", flag_values=given)
    flags.DEFINE_string("json", "", "the file that the numbers go to", flag_values=given)
    flags.DEFINE_string("rows", ",".join(ROWS), "names of the rows to measure", flag_values=given)
    flags.DEFINE_integer("images", 128, "test images, at most", lower_bound=1, flag_values=given)
    flags.DEFINE_integer(
        "batch_size",
        16,
        "images per batch; the smaller, the fewer programs are compiled",
        lower_bound=1,
        flag_values=given,
    )
    flags.DEFINE_string("table", "", "only print this file as a table", flag_values=given)


def main(argv: list[str]) -> None:
    """Parses the command line, measures column by column, prints the table."""
    given = cli.parse(argv, _define, __doc__)
    if given.table:
        print(table(json.loads(Path(given.table).read_text())))
        return
    if not given.workdir or not given.json:
        raise ValueError("write --workdir=DIR --json=FILE")
    if unknown := [name for name in spec.items(given.rows) if name not in ROWS]:
        raise ValueError(f"rows: unknown {unknown[0]!r}; known: {', '.join(ROWS)}")
    path = Path(given.json)
    found = json.loads(path.read_text()) if path.exists() else begun(given)
    for column, name in itertools.product(COLUMNS, spec.items(given.rows)):
        row = found["rows"].setdefault(name, {"model": ROWS[name], "accuracy": {}, "interval95": {}, "seconds": {}})
        if column not in row["accuracy"] and ("{way}" in ROWS[name] or COLUMNS[column][0] == "through"):
            measure(row, column, given)
            path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def begun(given: flags.FlagValues) -> dict[str, Any]:
    """What the file says of the whole."""
    from clead_jax.core import sharding

    settings = f"--images={given.images} --batch_size={given.batch_size}"
    command = f"python -m benchmarks.filters --workdir=runs/quickstart --json=results/digits-filters.json {settings}"
    facts = {"command": command, "norm": "linf", "eps": EPS, "images": given.images}
    return facts | {"environment": sharding.machine(), "rows": {}}


def measure(row: dict[str, Any], column: str, given: flags.FlagValues) -> None:
    """Adds one column to a row: accuracy in [0, 1], its interval, and seconds, compilation included."""
    from clead_jax import data
    from clead_jax.evaluation.audit import audit
    from clead_jax.experiment import models

    way, attack = COLUMNS[column]
    model, test = models.resolve(row["model"].format(way=way), given.workdir), data.load("digits").test
    images, labels = test.images[: given.images], test.labels[: given.images]
    result = audit(model, images, labels, eps=EPS, attacks=[attack], checks=False, batch_size=given.batch_size)
    for title, key in (("clean", "clean"), (column, [*result.accuracy][-1])):
        row["accuracy"][title], row["interval95"][title] = result.accuracy[key], result.interval95[key]
    row["seconds"][column] = round(result.seconds, 1)


def table(found: dict[str, Any]) -> str:
    """The rows in Markdown, accuracies in %."""
    columns = ["clean", *COLUMNS]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, row in found["rows"].items():
        cells = [f"{100 * row['accuracy'][column]:.1f}" if column in row["accuracy"] else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
