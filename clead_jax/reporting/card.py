"""The card of exported files as Markdown: what they are, how robust they were found, how to find it again."""

from typing import Any

from clead_jax.reporting import labels

FACTS = ("readable_until", "jaxlib", "opset", "form")


def markdown(card: dict[str, Any]) -> str:
    """The card of `experiment.export` as a page."""
    model, files = card["model"], card["files"]
    parts = [
        f"# {model['name']}, exported",
        f"{labels.measurement(card)}; accuracy in %, 95 % intervals; `{card['attacks']}`, seed {card['seed']}.",
        _table(["file", *_columns(files)], [[each["file"], *_accuracies(each, files)] for each in files.values()]),
        _promises(files),
        "## What the files compute",
        _table(
            ["file", "bytes", "gradients", "largest logit difference", "digest"],
            [
                [
                    each["file"],
                    f"{each['bytes']:,}",
                    each["gradients"],
                    f"{each['largest_logit_difference']:.1e}",
                    each["digest"],
                ]
                for each in files.values()
            ],
        ),
        f"Batch size: {card['batch_size']}. Pixels: {card['pixels']}. Output: {model['num_classes']} logits.",
        _batch_norm(card["batch_norm"]),
        "## Latency",
        _table(
            ["file", "batch", "median, ms", "95th percentile, ms", "images/s"],
            [
                [each["file"], str(t["batch"]), *(f"{t[k]:.3g}" for k in ("median_ms", "p95_ms", "images_per_s"))]
                for each in files.values()
                for t in each["latency"]
            ],
        ),
        "On the machine below, from NumPy to NumPy, other programs of that machine included.",
        "## Where it comes from",
        _table(["", ""], [[name, labels.scalar(value)] for name, value in _origin(card).items()]),
        f"```\n{card['command']}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _columns(files: dict[str, Any]) -> list[str]:
    """What was measured of any file; the worst case last."""
    names = dict.fromkeys(name for each in files.values() for name in each["accuracy"])
    return sorted(names, key=lambda name: name == "worst case")


def _accuracies(each: dict[str, Any], files: dict[str, Any]) -> list[str]:
    cell = lambda name: f"{labels.percent(each['accuracy'][name])} {labels.span(each['interval95'][name])}"
    return [cell(name) if name in each["accuracy"] else "" for name in _columns(files)]


def _promises(files: dict[str, Any]) -> str:
    """How long the files can be read."""
    lines = []
    for each in files.values():
        if "readable_until" in each:
            day = each["readable_until"] or f"six months after the release of jaxlib {each['jaxlib']}"
            lines.append(f"`{each['file']}`: jax promises to read it in releases up to {day}.")
        elif facts := [f"{fact} {each[fact]}" for fact in FACTS if fact in each]:
            lines.append(f"`{each['file']}`: {', '.join(facts)}.")
    archive = "the weights (`model.safetensors`) and `config.json`" if "safetensors" in files else None
    lines.append(f"For longer, keep {archive}." if archive else "For longer, export `safetensors` too: the weights.")
    return "\n".join(f"* {line}" for line in lines)


def _batch_norm(told: dict[str, Any]) -> str:
    count = told["folded_convolutions"]
    how = f"folded into {count} convolutions, which moves" if count else "not folded; folding would move"
    return f"BatchNorm: {told['mode']}, {how} logits by {told['moved']:.1e} of the largest."


def _origin(card: dict[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in card["model"].items() if name not in ("name", "num_classes")}
    return own | {"images": card["images"]} | card["environment"]


def _table(head: list[str], rows: list[list[str]]) -> str:
    line = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
