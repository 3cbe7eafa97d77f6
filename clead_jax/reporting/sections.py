"""What the report says: one function per section, from the inputs to blocks. The checks come first.

A section that lacks its data says what is missing; one without blocks is left out.
"""

from typing import Any

from clead_jax.reporting import charts, extra, headline, labels, pictures, tables
from clead_jax.reporting.render import Block, Bullets, Code, Heading, Picture, Text
from clead_jax.results.read import Inputs

_BARS = "Bars are 95 % intervals."


def title(results: dict[str, Any]) -> str:
    """The page's title."""
    what = "Robustness of one model" if _audited(results) else "Robustness before and after"
    return f"{what}: {results['dataset']['name']}"


def _audited(results: dict[str, Any]) -> bool:
    """Whether these are the results of an audit: one model, without a run that trained it."""
    return "audit" in results["environment"]


def compose(inputs: Inputs) -> list[Block]:
    """All blocks of the report, in order."""
    first = {"Checks": checks, "Robust accuracy by protocol": by_protocol, "All norms together": union}
    of_a_run = {
        "Accuracy before and after": accuracy,
        "Accuracy as the attack grows": over_eps,
        "What the attack changes": images,
        "Features before and after": features,
        "Distance to the nearest error": distances,
    }
    own = {"Accuracy under every attack": accuracy} if _audited(inputs.results) else of_a_run
    sections = first | own | {"Common corruptions": corruptions, "Other evaluations": elsewhere}
    sections |= (
        {} if _audited(inputs.results) else {"Training": training, "Extra data and the test split": extra.compared}
    )
    sections["How to get these numbers again"] = origin
    page: list[Block] = [Text(tables.measured(inputs.results))]
    for heading, section in sections.items():
        if blocks := section(inputs):
            page += [Heading(heading), *blocks]
    return page


def checks(inputs: Inputs) -> list[Block]:
    """What the sanity checks found: failures and warnings with what to do, the rest behind a click."""
    found = inputs.results["checks"]
    if not found:
        return [Text("None were made (results.json lists no checks).")]
    raised, rest = ([c for c in found if (c["status"] in ("fail", "warn")) == alarm] for alarm in (True, False))
    verdict = f"No check failed{'. What to keep in mind when reading the numbers:' if raised else ' or warned.'}"
    if any(check["status"] == "fail" for check in raised):
        verdict = "A check failed: the accuracies below may be too high. Do not quote them before it is resolved."
    skipped = sum(check["status"] == "skipped" for check in rest)
    counted = f"{len(rest) - skipped} checks passed, {skipped} did not apply"
    return [
        Text(verdict),
        *([tables.checks(raised, inputs.results)._replace(alarm=True)] if raised else []),
        *([tables.checks(rest, inputs.results)._replace(summary=counted)] if rest else []),
        Text("What each check would have caught in published work: docs/reading-the-report.md of clead_jax."),
    ]


def by_protocol(inputs: Inputs) -> list[Block]:
    """The headline: robust accuracy under stronger and stronger attackers, as sentence, picture, table."""
    results, blocks = inputs.results, list[Block]()
    measured, absent = headline.measured(results), headline.missing(results)
    if measured:
        blocks += [Text(headline.sentence(model, results)) for model in reversed(results["models"])]
        alt = "Accuracy of every model on clean images and under each protocol, as lines with intervals."
        caption = "Accuracy on clean images and under each protocol, from the weakest attacker to the strongest."
        blocks.append(Picture("protocols", charts.by_protocol(results), alt, f"{caption} {_BARS}"))
    if absent and not _audited(results):
        command = f"python -m clead_jax.evaluate --workdir={inputs.workdir} --protocol=paper,whitebox,autoattack"
        blocks += [Text(f"Not measured: {', '.join(absent)}. This adds what is missing:"), Code(command)]
    if measured.keys() - {"whitebox"}:  # those are the next table
        blocks.append(tables.fitted(headline.table(results)))
    return [*blocks, Bullets(headline.notes(results))] if measured else blocks


def union(inputs: Inputs) -> list[Block]:
    """Accuracy where an image counts only if it withstands the attacks in several norms; nothing without several."""
    if inputs.union is None:
        return []
    if not inputs.union["models"]:
        return [
            Text("Not shown: an evaluation is missing, unfinished, or of another model. Evaluate in all norms again.")
        ]
    rule = "An image counts only if it is right after every attack in that norm, in the last row in all these norms."
    return [tables.union(inputs.union, inputs.results), Text(rule)]


def accuracy(inputs: Inputs) -> list[Block]:
    """The table the report exists for, its sentence and its picture."""
    results, config = inputs.results, (inputs.config or {}).get("config", {})
    table = tables.before_after(results, inputs.per_example)
    alt = "Accuracy of every model under every attack, as points with intervals."
    picture = Picture("before_after", charts.before_after(results), alt, f"The table as a picture. {_BARS}")
    if _audited(results):
        return [table, Bullets(_worst_case_notes(results)), *tables.draws(results), picture]
    return [
        *_gain(results),
        tables.fitted(tables.with_paper(table, results, config.get("model", {}).get("backbone", ""))),
        Bullets(_table_notes(inputs)),
        *tables.draws(results),
        *([tables.cited_by_paper()] if results["dataset"]["name"] == tables.paper()["dataset"] else []),
        picture,
    ]


def _gain(results: dict[str, Any]) -> list[Block]:
    """The table in one sentence, if it holds both models, clean and in the worst case."""
    models = [results["models"].get(label, {"accuracy": {}}) for label in ("defended", "baseline")]
    both = models[0]["accuracy"].keys() & models[1]["accuracy"].keys() & {*labels.attacks_of(results)}
    if not both >= {"clean", "worst_case"}:
        return []
    worst, clean = (
        " against ".join(
            f"{'at most ' if labels.is_bound(attack, model) else ''}{labels.percent(model['accuracy'][attack])} %"
            for model in models
        )
        for attack in ("worst_case", "clean")
    )
    what = "Images still classified correctly in the worst case over all attacks"
    return [Text(f"{what}: {worst} before. Clean: {clean}.")]


def _table_notes(inputs: Inputs) -> list[str]:
    results, paper = inputs.results, tables.paper()
    used = [
        f"{labels.model_title(model, results)}: {', '.join(uses) or 'none'}"
        for model, uses in results.get("label_use", {}).items()
    ]
    notes = [
        *_worst_case_notes(results),
        "C&W: the margin loss of Carlini and Wagner, maximised inside the same ball.",
        "Seen: the defended model was trained on images made by this attack, so a gain there says less.",
        f"Where labels were used. {'; '.join(used) or 'Not recorded'}.",
    ]
    for model, found in results["models"].items():
        seen = "; ".join(found.get("checkpoint", {}).get("attacks_see", []))
        notes += [f"{labels.model_title(model, results)}: {seen}."] if seen else []
    source = f"{tables.PAPER_COLUMN}: {paper['source']}"
    if results["dataset"]["name"] == paper["dataset"]:
        notes.append(f"{source}, accuracy in %, without → with, both sub-columns of Table 1. A dash: no entry there.")
        notes.append(f"Inconsistencies in the paper's figures: {paper['inconsistencies']}.")
    else:
        notes.append(f"{source}, have no entry for this data set.")
    if any(model.get("incomplete") for model in results["models"].values()):
        notes.append("≤: a budget stopped the attack before it was finished, so the accuracy is an upper bound.")
    if inputs.per_example is None:
        notes.append("Gains carry no intervals: evaluation/per_example.npz is missing.")
    return notes


def _worst_case_notes(results: dict[str, Any]) -> list[str]:
    every = {*labels.attacks_of(results)} - {"clean", "worst_case"}
    over = {model: labels.worst_case_over(found) for model, found in results["models"].items()}
    text = "an image counts only if it is still classified correctly under"
    if all({*names} == every for names in over.values()):
        return [f"Worst case: {text} every attack of the table."]
    title = lambda name: labels.attack_title(name, results)
    return [
        f"Worst case of {labels.model_title(model, results)}: {text} "
        f"{', '.join(map(title, names)) or 'no attack: none was run'}."
        for model, names in over.items()
    ]


def over_eps(inputs: Inputs) -> list[Block]:
    """Robust accuracy as the attack grows."""
    curves = inputs.results.get("curves", {})
    if not curves.get("accuracy"):
        return [Text("Not measured: results.json holds no curves.")]
    caption = "Under an attack that works accuracy falls to guessing, or below, as the radius grows."
    if curves["attack"].startswith("fgsm"):
        caption = "One step need not do more the longer it is: read PGD and AutoAttack beside it."
    caption += f" The attack: {labels.attack_title(curves['attack'], inputs.results)}."
    figure, alt = charts.accuracy_over_eps(inputs.results), "Accuracy of every model over the radius of the attack."
    return [Picture("accuracy_over_eps", figure, alt, f"{caption} {_BARS}")]


def images(inputs: Inputs) -> list[Block]:
    """What the attacks did to single images."""
    if inputs.samples is None:
        return [Text("Not shown: evaluation/samples.npz is missing.")]
    shown = pictures.shown_attack(inputs.samples, inputs.results)
    if shown is None:
        return [Text("Not shown: evaluation/samples.npz holds no attacked images.")]
    figure, factor = pictures.perturbations(inputs.samples, inputs.results, shown)
    caption = (
        f"The first images evaluated, not chosen, under {labels.attack_title(shown, inputs.results)} against each "
        f"model. Changes are shown {factor:.2g} times as strong, around grey. Below the attacked image: what the model "
        "takes it for (✓ right, ✗ wrong)."
    )
    if len(pictures.pictured_models(inputs.samples, inputs.results, shown)) > pictures.MAX_MODELS:
        caption += f" Only the first {pictures.MAX_MODELS} models are shown."
    return [Picture("perturbations", figure, "Images, amplified changes and attacked images.", caption)]


def features(inputs: Inputs) -> list[Block]:
    """Where the encoders put clean and attacked images: the picture, and how well they fall into classes."""
    meaning = (
        "Measured on the features themselves, scaled to length 1: the mean distance of two images of one class and of "
        "two classes (0 to 2), and the silhouette (−1 to 1; above 0, an image is nearer to its own class than to any "
        "other)."
    )
    known = inputs.results.get("clusters")
    return [_projection(inputs), *((tables.clusters(inputs.results), Text(meaning)) if known else ())]


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
    curves: Block = Text("No curves: metrics.jsonl is missing.")
    if inputs.metrics:
        figure, alt = charts.training_curves(inputs.metrics), "Loss and validation accuracy of every stage."
        caption = "Losses of different stages are different functions. Validation images come from the training split."
        curves = Picture("training_curves", figure, alt, caption)
    known = inputs.results.get("training_cost")
    return [curves, tables.cost(inputs.results) if known else Text("No cost: results.json holds none.")]


def distances(inputs: Inputs) -> list[Block]:
    """Minimal-norm attacks: how far is the nearest error."""
    if not inputs.results.get("distances"):
        return [Text("Not measured: no minimal-norm attack was run.")]
    unit = "Smallest changes found, in the norm of the attack, for pixels in [0, 1]."
    counted = (
        "Counted are the images for which an error was found, out of those tried (last column). An image that is "
        "misclassified as it is counts as found at distance 0: it lowers median and mean."
    )
    return [Text(unit), tables.distances(inputs.results), Text(counted)]


def corruptions(inputs: Inputs) -> list[Block]:
    """Accuracy without an attack, on images that are noisy, blurred, under fog or badly compressed."""
    if not (found := inputs.results.get("corruptions")):
        return []
    count = next(iter(found.values()))["num_examples"]
    said = (
        f"Accuracy in %, the mean over five severities, of {count:,} images under the corruptions of Hendrycks and "
        "Dietterich (2019) with the strengths of ImageNet-C; the data set CIFAR-10-C is milder."
    )
    return [Text(said), tables.corruptions(inputs.results)]


def elsewhere(inputs: Inputs) -> list[Block]:
    """Evaluations under another threat model, or of other images: their tables."""
    blocks: list[Block] = []
    for results in inputs.others.values():
        blocks += [Text(tables.measured(results)), tables.fitted(tables.before_after(results))]
        if headline.measured(results).keys() - {"whitebox"}:
            blocks += [tables.fitted(headline.table(results)), Bullets(headline.notes(results))]
    return blocks


def origin(inputs: Inputs) -> list[Block]:
    """Where the numbers come from, and how to get them again."""
    environment = dict(inputs.results["environment"])
    command, preset = environment.pop("command", None), environment.get("config_name", "CONFIG")
    unknown = Text(f"The command was not recorded. The preset was configs/{preset}.py; all settings follow.")
    settings: Block = Text("The settings are unknown: config.json is missing.")
    if _audited(inputs.results):
        settings = Code(_indented(environment.pop("audit")), summary="All settings of the audit")
        environment.pop("outputs", None)
    if inputs.config is not None:
        settings = Code(_indented(inputs.config), summary="All settings (config.json)")
    attacks = Code(_indented(inputs.results.get("attacks", {})), summary="Settings of the attacks")
    return [Code(command) if command else unknown, settings, attacks, tables.facts(environment)]


def _indented(value: dict[str, Any], depth: int = 0) -> str:
    """Nested settings as an outline, which reads better than JSON."""
    lines = []
    for name, part in value.items():
        nested = isinstance(part, dict) and part
        lines.append(f"{'  ' * depth}{name}:" + ("" if nested else f" {part}"))
        lines += [_indented(part, depth + 1)] if nested else []
    return "\n".join(lines)
