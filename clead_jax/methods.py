"""List every method that a config file describes: what it trains, what that costs, and which numbers are known of it.

    python -m clead_jax.methods [--configs=DIR] [--results=DIR] [--write=README.md]

Prints one Markdown table; --write puts it into a file, between the lines <!-- methods --> and <!-- end of methods -->.
If that file has the lines <!-- compiled --> and <!-- end of compiled -->, between these goes a table of what
`benchmark --compile_for` has found: the files compiled-*.json of --results.

A row is a variant of a file in configs/, as its docstring writes them (":trades"), but for those on digits, whose
numbers stand in the row of the same method on CIFAR. Labels, attacks, passes and parameters follow from the config;
numbers are those of results/*.json whose command changes nothing but the seed and the evaluation. What others have
published is what a file says in PUBLISHED: {variant: text with its source}.
"""

import inspect
import re
import runpy
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from clead_jax import config
from clead_jax.config import cli
from clead_jax.reporting import compiled
from clead_jax.results import files

MARKS = ("<!-- methods -->", "<!-- end of methods -->")
COMPILED = ("<!-- compiled -->", "<!-- end of compiled -->")
COLUMNS = (
    *("Config", "Method", "Trains", "Labels used for", "Attacks seen", "Passes an image × epochs"),
    *("Parameters", "Measured here, %", "Published by others, %"),
)
SHOWN = {"clean": "clean", "pgd": "PGD-20", "cw": "C&W", "worst_case": "worst case"}
SHOWN |= {"autoattack_fast": "AutoAttack fast", "autoattack": "AutoAttack"}


class Preset(NamedTuple):
    """A variant of a config file."""

    path: Path
    variant: str  # "": that of get_config without an argument
    default: str  # the name of that one, if it has one
    title: str
    published: str
    cfg: Any

    @property
    def name(self) -> str:
        """configs/fat.py:trades."""
        return f"configs/{self.path.name}" + (f":{self.variant}" if self.variant else "")

    @property
    def spellings(self) -> tuple[str, ...]:
        """What a command may call this variant, and the same method on digits."""
        name = self.variant or self.default
        plain = ("", self.default) if not self.variant else (self.variant,)
        on_digits = ("digits", f"{name}-digits") if not self.variant else (f"{name}-digits",)
        return (*plain, *on_digits)


def presets(folder: Path) -> list[Preset]:
    """All of a folder, file by file. Raises ValueError for a folder without config files."""
    found = [preset for path in sorted(folder.glob("*.py")) for preset in _variants(path)]
    if not found:
        raise ValueError(f"--configs: {folder} holds no config files")
    return found


def _variants(path: Path) -> Iterable[Preset]:
    module = runpy.run_path(str(path))
    get_config, text = module["get_config"], module["__doc__"]
    first = next(iter(inspect.signature(get_config).parameters.values()), None)
    default = str(first.default) if first else ""
    title = text.partition("\n")[0].partition(": ")[0].rstrip(".")
    published = module.get("PUBLISHED", {})
    yield Preset(path, "", default, title, published.get(default, ""), get_config())
    named = dict.fromkeys(re.findall(r"(?<=[\w\"\s.]):([a-z][\w-]*)", text)) if first else {}
    for variant in named:
        if variant not in (default, "digits") and not variant.endswith("-digits"):
            try:
                cfg = get_config(variant)
            except ValueError:  # some other word behind a colon
                continue
            yield Preset(path, variant, default, title, published.get(variant, ""), cfg)


def lineage(cfg: Any, stage: str) -> list[str]:
    """The stages that a stage's weights come from or are attacked with, and itself, in their order."""
    read = [of(cfg, stage) for of in (config.origin, config.labelled_by, config.neighbours_of)]
    needed = [*(source[0] for source in read if source), *filter(None, [config.reference(cfg, stage)])]
    before = [name for other in needed for name in lineage(cfg, other)]
    return list(dict.fromkeys([*before, stage]))


def row(preset: Preset, records: list[dict[str, Any]]) -> list[str]:
    """The cells of one preset."""
    import jax

    from clead_jax.core import numerics
    from clead_jax.experiment import stages
    from clead_jax.experiment.context import open_random
    from clead_jax.experiment.label_use import label_use

    cfg, stage = preset.cfg, preset.cfg.defended
    epochs = {name: cfg[name].epochs for name in lineage(cfg, stage)}
    run = open_random(cfg, 16)
    built = {name: run.every_stage[name] for name in epochs}
    several = len(built) > 1
    cost = ", ".join(
        f"{name} {built[name].passes} × {epochs[name]}" if several else f"{built[name].passes} × {epochs[name]}"
        for name in built
    )
    params = jax.eval_shape(run.fresh, numerics.key(0))["params"]
    size = sum(leaf.size for part in ("backbone", "head") for leaf in jax.tree.leaves(params[part]))
    seen = sorted(stages.trained_on(cfg, stage) - {"clean", "augmented", "neighbour"})
    return [
        f"`{preset.name}`",
        preset.title,
        ", ".join(built[stage].trained),
        ", ".join(label_use(cfg, stage)) or "nothing",
        ", ".join(seen) or "none",
        cost,
        f"{size / 1e6:.3g} M",
        measured(preset, records) or "not yet",
        preset.published or "",
    ]


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The runs of all results/*.json that say by which command of `main` they were made, and of which models."""
    found = [files.load_json(path) or {} for path in sorted(folder.glob("*.json"))]
    runs = [run for each in found for run in each.get("runs", [])]
    return [run for run in runs if "clead_jax.main" in run.get("command", "") and "defended" in run.get("models", {})]


def measured(preset: Preset, records: list[dict[str, Any]]) -> str:
    """'digits: clean 99.2, PGD-20 91.9; ...': the accuracies of a preset, the mean where there are several seeds."""
    by_data: dict[str, dict[int, dict[str, float]]] = {}
    for run in records:
        if _of(run["command"]) in {(preset.path.name, spelling) for spelling in preset.spellings}:
            accuracy = run["models"]["defended"]["accuracy"]
            by_data.setdefault(run["dataset"], {}).setdefault(run["seed"], {}).update(accuracy)
    return "; ".join(f"{data}: {_accuracies(list(seeds.values()))}" for data, seeds in sorted(by_data.items()))


def _accuracies(seeds: list[dict[str, float]]) -> str:
    common = [name for name in SHOWN if all(name in each for each in seeds)]
    shown = [f"{SHOWN[name]} {100 * sum(each[name] for each in seeds) / len(seeds):.1f}" for name in common]
    return ", ".join(shown) + (f" ({len(seeds)} seeds)" if len(seeds) > 1 else "")


def _of(command: str) -> tuple[str, str] | None:
    """The config file and variant of a command, None if it changes more than the seed and the evaluation."""
    words = shlex.split(command)[3:]
    given = [word for word in words if not re.match(r"--(workdir=|config\.(evaluation\.|seed=|data\.data_dir=))", word)]
    if len(given) != 1 or not given[0].startswith("--config="):
        return None
    file, _, variant = given[0].removeprefix("--config=").partition(":")
    return Path(file).name, variant


def table(configs: Path, results: Path) -> str:
    """The Markdown table of all presets."""
    records = recorded(results)
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(row(preset, records) for preset in presets(configs))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def inserted(text: str, table: str, name: str, marks: tuple[str, str] = MARKS) -> str:
    """The text of a file with the table between the two marks. Raises ValueError if they are not there."""
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"--write: {name} lacks the lines {marks[0]} and {marks[1]}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("configs", "configs", "folder of the config files", flag_values=values)
    flags.DEFINE_string("results", "results", "folder of the measured numbers", flag_values=values)
    flags.DEFINE_string("write", "", "file to put the table into, e.g. README.md", flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, prints the table, writes it where it is asked to."""
    options = cli.parse(argv, _define, __doc__)
    target = Path(options.write) if options.write else None
    text = target.read_text("utf-8") if target else ""
    if target:
        inserted(text, "", options.write)
    made = table(Path(options.configs), Path(options.results))
    print(made)
    if target:
        text = inserted(text, made, options.write)
        if COMPILED[0] in text:
            text = inserted(text, compiled.table(Path(options.results)), options.write, COMPILED)
        target.write_text(text, "utf-8")


if __name__ == "__main__":
    cli.run(main)
