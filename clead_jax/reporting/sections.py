"""What the report says: one function per section, from the inputs to blocks. The checks come first.

A section that lacks its data says what is missing.
"""

from collections.abc import Callable
from typing import Any

from clead_jax.reporting import charts, headline, labels, pictures, tables
from clead_jax.reporting.render import Block, Bullets, Code, Heading, Picture, Text
from clead_jax.results.read import Inputs


def title(results: dict[str, Any]) -> str:
    """The page's title."""
    return f"Robustness before and after: {results['dataset']['name']}"


def compose(inputs: Inputs) -> list[Block]:
    """All blocks of the report, in order."""
    opening: list[Block] = [Text(tables.measured(inputs.results))]
    return opening + [block for section in SECTIONS for block in section(inputs)]


def checks(inputs: Inputs) -> list[Block]:
    """What the sanity checks found: failures and warnings with what to do, the rest behind a click."""
    found = inputs.results["checks"]
    if not found:
        return [Heading("Checks"), Text("None were made (results.json lists no checks).")]
    raised, rest = ([c for c in found if (c["status"] in ("fail", "warn")) == alarm] for alarm in (True, False))
    return [
        Heading("Checks"),
        Text(_verdict(raised)),
        *([tables.checks(raised, inputs.results)._replace(alarm=True)] if raised else []),
        *([tables.checks(rest, inputs.results)._replace(summary=_counted(rest))] if rest else []),
        Text("What each check would have caught in published work: docs/reading-the-report.md of clead_jax."),
    ]


def _verdict(raised: list[dict[str, Any]]) -> str:
    if any(check["status"] == "fail" for check in raised):
        return "A check failed: the accuracies below may be too high. Do not quote them before it is resolved."
    if raised:
        return "No check failed. What to keep in mind when reading the numbers:"
    return "No check failed or warned."


def _counted(rest: list[dict[str, Any]]) -> str:
    """ "12 checks passed, 3 did not apply"."""
    skipped = sum(check["status"] == "skipped" for check in rest)
    return f"{len(rest) - skipped} checks passed, {skipped} did not apply"


def by_protocol(inputs: Inputs) -> list[Block]:
    """The headline: robust accuracy under stronger and stronger attackers, as sentence, picture, table."""
    results = inputs.results
    measured, absent = headline.measured(results), headline.missing(results)
    blocks: list[Block] = [Heading("Robust accuracy by protocol")]
    if measured:
        blocks += [Text(headline.sentence(model, results)) for model in reversed(results["models"])]
        alt = "Accuracy of every model on clean images and under each protocol, as lines with intervals."
        caption = "Accuracy on clean images and under each protocol, from the weakest attacker to the strongest. "
        blocks.append(Picture("protocols", charts.by_protocol(results), alt, caption + "Bars are 95 % intervals."))
    if absent:
        text = f"Not measured: {', '.join(absent)}. This adds what is missing:"
        command = f"python -m clead_jax.evaluate --workdir={inputs.workdir} --protocol=paper,whitebox,autoattack"
        blocks += [Text(text), Code(command)]
    if measured.keys() - {"whitebox"}:  # those are the next table
        blocks.append(headline.table(results))
    return [*blocks, Bullets(headline.notes(results))] if measured else blocks


def accuracy(inputs: Inputs) -> list[Block]:
    """The table the report exists for, its sentence and its picture."""
    results = inputs.results
    config = (inputs.config or {}).get("config", {})
    table = tables.before_after(results, inputs.per_example)
    alt = "Accuracy of every model under every attack, as points with intervals."
    return [
        Heading("Accuracy before and after"),
        *_gain(results),
        tables.with_paper(table, results, config.get("model", {}).get("backbone", "")),
        Bullets(_table_notes(inputs)),
        *([tables.cited_by_paper()] if results["dataset"]["name"] == tables.paper()["dataset"] else []),
        Picture("before_after", charts.before_after(results), alt, "The table as a picture. Bars are 95 % intervals."),
    ]


def _gain(results: dict[str, Any]) -> list[Block]:
    """The table in one sentence."""
    models = results["models"]
    if not {"baseline", "defended"} <= models.keys():
        return []
    before, after = models["baseline"], models["defended"]
    if not {"clean", "worst_case"} <= before["accuracy"].keys() & after["accuracy"].keys() & {
        *labels.attacks_of(results)
    }:
        return []
    said = {
        attack: " against ".join(
            f"{'at most ' if labels.is_bound(attack, model) else ''}{labels.percent(model['accuracy'][attack])} %"
            for model in (after, before)
        )
        for attack in ("worst_case", "clean")
    }
    text = "Images still classified correctly in the worst case over all attacks"
    return [Text(f"{text}: {said['worst_case']} before. Clean: {said['clean']}.")]


def _table_notes(inputs: Inputs) -> list[str]:
    results = inputs.results
    uses = "; ".join(
        f"{labels.model_title(model, results)}: {', '.join(used) or 'none'}"
        for model, used in results.get("label_use", {}).items()
    )
    notes = [
        *_worst_case_notes(results),
        "C&W: the margin loss of Carlini and Wagner, maximised inside the same ball.",
        "Seen: the defended model was trained on images made by this attack, so a gain there says less.",
        f"Where labels were used. {uses or 'Not recorded'}.",
        *_paper_notes(results),
    ]
    if any(model.get("incomplete") for model in results["models"].values()):
        notes.append("≤: a budget stopped the attack before it was finished, so the accuracy is an upper bound.")
    if inputs.per_example is None:
        notes.append("Gains carry no intervals: evaluation/per_example.npz is missing.")
    return notes


def _paper_notes(results: dict[str, Any]) -> list[str]:
    paper, start = tables.paper(), f"{tables.PAPER_COLUMN}: {tables.paper()['source']}"
    if results["dataset"]["name"] != paper["dataset"]:
        return [f"{start}, have no entry for this data set."]
    return [
        f"{start}, accuracy in %, without → with, both sub-columns of Table 1. A dash: no entry there.",
        f"Inconsistencies in the paper's figures: {paper['inconsistencies']}.",
    ]


def _worst_case_notes(results: dict[str, Any]) -> list[str]:
    every = [name for name in labels.attacks_of(results) if name not in ("clean", "worst_case")]
    over = {model: labels.worst_case_over(found) for model, found in results["models"].items()}
    if all(sorted(names) == sorted(every) for names in over.values()):
        return ["Worst case: an image counts only if it is still classified correctly under every attack of the table."]
    return [
        f"Worst case of {labels.model_title(model, results)}: an image counts only if it is still classified correctly "
        f"under {', '.join(labels.attack_title(name, results) for name in names) or 'no attack: none was run'}."
        for model, names in over.items()
    ]


def over_eps(inputs: Inputs) -> list[Block]:
    """Robust accuracy as the attack grows."""
    heading = Heading("Accuracy as the attack grows")
    if not inputs.results.get("curves", {}).get("accuracy"):
        return [heading, Text("Not measured: results.json holds no curves.")]
    figure = charts.accuracy_over_eps(inputs.results)
    alt = "Accuracy of every model over the radius of the attack."
    if inputs.results["curves"]["attack"].startswith("fgsm"):
        caption = "One step need not do more the longer it is: read PGD and AutoAttack beside it. "
    else:
        caption = "Under an attack that works accuracy falls to guessing, or below, as the radius grows. "
    caption += "Bars are 95 % intervals."
    return [heading, Picture("accuracy_over_eps", figure, alt, caption)]


def images(inputs: Inputs) -> list[Block]:
    """What the attacks did to single images."""
    heading = Heading("What the attack changes")
    if inputs.samples is None:
        return [heading, Text("Not shown: evaluation/samples.npz is missing.")]
    shown = pictures.shown_attack(inputs.samples, inputs.results)
    if shown is None:
        return [heading, Text("Not shown: evaluation/samples.npz holds no attacked images.")]
    figure, factor = pictures.perturbations(inputs.samples, inputs.results, shown)
    attack = labels.attack_title(shown, inputs.results)
    caption = (
        f"The first images evaluated, not chosen, under {attack} against each model. Changes are shown {factor:.2g} "
        "times as strong, around grey. Below the attacked image: what the model takes it for (✓ right, ✗ wrong)."
    )
    return [heading, Picture("perturbations", figure, "Images, amplified changes and attacked images.", caption)]


def features(inputs: Inputs) -> list[Block]:
    """Where the encoders put clean and attacked images: the picture, and how well they fall into classes."""
    blocks: list[Block] = [Heading("Features before and after"), _projection(inputs)]
    if not inputs.results.get("clusters"):
        return blocks
    meaning = (
        "Measured on the features themselves, scaled to length 1: the mean distance of two images of one class and of "
        "two classes (0 to 2), and the silhouette (−1 to 1; above 0, an image is nearer to its own class than to any "
        "other)."
    )
    return [*blocks, tables.clusters(inputs.results), Text(meaning)]


def _projection(inputs: Inputs) -> Block:
    if inputs.embeddings is None:
        return Text("Not shown: evaluation/embeddings.npz is missing.")
    if not pictures.embedded_models(inputs.embeddings, inputs.results):
        return Text("Not shown: evaluation/embeddings.npz holds no features of attacked images.")
    figure = pictures.embeddings(inputs.embeddings, inputs.results)
    caption = (
        "Features in two dimensions (t-SNE; one projection per model, fitted to clean and attacked images together). "
        "Names mark where the clean images of a class are, colours are true classes: an image attacked with success "
        "lies away from its name. Distances between clusters mean little."
    )
    if inputs.results["dataset"].get("num_classes", 0) > pictures.MAX_CLASSES:
        caption += f" Only the first {pictures.MAX_CLASSES} classes are shown."
    return Picture("embeddings", figure, "Features of clean and attacked images, per model.", caption)


def training(inputs: Inputs) -> list[Block]:
    """How the stages went, and what they cost."""
    blocks: list[Block] = [Heading("Training")]
    if inputs.metrics:
        figure = charts.training_curves(inputs.metrics)
        caption = "Losses of different stages are different functions. Validation images come from the training split."
        blocks.append(Picture("training_curves", figure, "Loss and validation accuracy of every stage.", caption))
    else:
        blocks.append(Text("No curves: metrics.jsonl is missing."))
    if inputs.results.get("training_cost"):
        return [*blocks, tables.cost(inputs.results)]
    return [*blocks, Text("No cost: results.json holds none.")]


def distances(inputs: Inputs) -> list[Block]:
    """Minimal-norm attacks: how far is the nearest error."""
    heading = Heading("Distance to the nearest error")
    if not inputs.results.get("distances"):
        return [heading, Text("Not measured: no minimal-norm attack was run.")]
    unit = Text("Smallest changes found, in the norm of the attack, for pixels in [0, 1].")
    counted = Text(
        "Counted are the images for which an error was found, out of those tried (last column). An image that is "
        "misclassified as it is counts as found at distance 0: it lowers median and mean."
    )
    return [heading, unit, tables.distances(inputs.results), counted]


def elsewhere(inputs: Inputs) -> list[Block]:
    """Evaluations under another threat model, or of other images: their tables."""
    if not inputs.others:
        return []
    blocks: list[Block] = [Heading("Other evaluations of this run")]
    for results in inputs.others.values():
        blocks += [Text(tables.measured(results)), tables.before_after(results)]
        if headline.measured(results).keys() - {"whitebox"}:
            blocks += [headline.table(results), Bullets(headline.notes(results))]
    return blocks


def origin(inputs: Inputs) -> list[Block]:
    """Where the numbers come from, and how to get them again."""
    environment = dict(inputs.results["environment"])
    command = environment.pop("command", None)
    preset = environment.get("config_name", "CONFIG")
    unknown = Text(f"The command was not recorded. The preset was configs/{preset}.py; all settings follow.")
    blocks: list[Block] = [Heading("How to get these numbers again"), Code(command) if command else unknown]
    if inputs.config is None:
        blocks.append(Text("The settings are unknown: config.json is missing."))
    else:
        blocks.append(Code(_indented(inputs.config), summary="All settings (config.json)"))
    blocks.append(Code(_indented(inputs.results.get("attacks", {})), summary="Settings of the attacks"))
    return [*blocks, tables.facts(environment)]


def _indented(value: dict[str, Any], depth: int = 0) -> str:
    """Nested settings as an outline, which reads better than JSON."""
    lines = []
    for name, part in value.items():
        nested = isinstance(part, dict) and part
        lines.append(f"{'  ' * depth}{name}:" + ("" if nested else f" {part}"))
        lines += [_indented(part, depth + 1)] if nested else []
    return "\n".join(lines)


SECTIONS: tuple[Callable[[Inputs], list[Block]], ...] = (
    checks,
    by_protocol,
    accuracy,
    over_eps,
    images,
    features,
    distances,
    elsewhere,
    training,
    origin,
)
