"""How robust is a model really? From the command line, for any model that Python can import, without a work directory.

    python -m clead_jax.audit --model=package.module:function --images=npz:FILE [--eps=8/255] [--attacks=autoattack] ...
    python -m clead_jax.audit --model=... --images=... --output=DIR     # evaluation/results.json, report/index.html
    python -m clead_jax.audit --model=... --images=... --norm=linf,l2,l1 --eps=8/255,0.5,12    # each, and their union
    python -m clead_jax.audit --model=... --images=... --verify=DIR     # measures again: does that record still hold?

`function` takes pixels [B, H, W, C] in [0, 1] and returns logits [B, K]; or it is a `clead_jax.Classifier`; or it takes
no argument and returns one of these. Naming it imports its module, from the current directory too. --model=FILE.jax is
a file of `python -m clead_jax.export`, or another of jax.export. A wrapper may stand around a model:
--model="jpeg(package.module:function,quality=50)". Exit status: 0; 2 for an error; 3 if the model falls
below --fail_below, or a check fails where that is given, or a record does not hold.

From Python: `clead_jax.audit(function, images, labels, ...)`, see `evaluation.audit`.
"""

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clead_jax.core import progress, sharding
from clead_jax.core.types import Classifier, Examples, fingerprint
from clead_jax.evaluation import classifier as classifiers
from clead_jax.evaluation import inputs
from clead_jax.evaluation.audit import Result, audit
from clead_jax.evaluation.checks.outputs import LOGITS, are_probabilities
from clead_jax.evaluation.union import Union, union
from clead_jax.interop.formats import load_exported
from clead_jax.results import audited

if TYPE_CHECKING:
    from absl import flags

FORMATS = ("text", "json", "sarif")
UNMET = 3  # exit status
SETTINGS = {
    "norm": ("linf", "linf, l2 or l1; several, as linf,l2,l1, with their union: images that withstand all"),
    "eps": ("8/255", "radius, in units of the [0, 1] pixel range; one for each norm"),
    "attacks": ("autoattack", "attacks, e.g. pgd(steps=100),autoattack(version=plus)"),
    "budget": ("", "most time (90s, 10m, 2h) or passes per image (2000passes) of the attacks, in each norm"),
    "precision": ("float32", "in which attacks differentiate: float32 or bfloat16; float32 judges"),
}
MEASURED = (*SETTINGS, "split", "num_examples", "seed")  # what decides the numbers, beside model and images


def _define(values: "flags.FlagValues") -> None:
    from absl import flags

    texts = {
        "model": "package.module:function, a file of jax.export, or a wrapper around some of them",
        "images": "npz:FILE (test_images, test_labels, or images, labels), or the name of a data set, e.g. cifar10",
        "data_dir": "where TFDS data lies",
        "output": "folder for results.json, per_example.npz and the report page",
        "verify": "folder of an audit to measure again, with its settings",
    }
    for name, text in texts.items():
        flags.DEFINE_string(name, "", text, flag_values=values)
    for name, (default, text) in SETTINGS.items():
        flags.DEFINE_string(name, default, text, flag_values=values)
    every = "test, or all images: a file or folder without a test split has a fifth held out as its test split"
    flags.DEFINE_enum("split", "test", ("test", "all"), every, flag_values=values)
    flags.DEFINE_integer("num_examples", 0, "a class-balanced subset; 0: all", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("batch_size", 0, "images per batch; 0: the fastest", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of all randomness", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("randomized", False, "the function takes a key as its last argument", flag_values=values)
    common = "accuracy under the 15 common corruptions too, on at most 1,000 images"
    flags.DEFINE_bool("corruptions", False, common, flag_values=values)
    flags.DEFINE_bool("checks", True, "sanity checks, on at most 128 images", flag_values=values)
    lowest = "exit with status 3 if the 95 % interval of the robust accuracy begins below this, in %"
    flags.DEFINE_float("fail_below", None, lowest, 0, 100, flag_values=values)
    flags.DEFINE_enum("format", "text", FORMATS, "of what is printed", flag_values=values)


def main(argv: list[str]) -> None:
    """Parses the command line, measures, prints, writes."""
    from clead_jax.config import cli
    from clead_jax.reporting import page

    given = cli.parse(argv, _define, __doc__ or "")
    for name, example in (("model", "package.module:function"), ("images", "npz:FILE")):
        if not given[name].value:
            raise ValueError(f"which {name}? write --{name}={example}")
    record = audited.load(given.verify) if given.verify else None
    if record and (given_too := [f"--{name}" for name in MEASURED if given[name].present]):
        raise ValueError(f"--verify takes its settings from {given.verify}; leave out {', '.join(given_too)}")
    if given.output and Path(given.output, "evaluation", "results.json").exists():
        raise ValueError(f"{given.output} holds an evaluation already; name another folder, or delete it")
    progress.show(given.verbosity if given.format == "text" else -1, lambda: True)
    settings = record.settings if record else {name: given[name].value for name in MEASURED}
    classifier = imported(given.model, given.randomized)
    dataset, examples = _examples(given, settings)
    images, first_outputs = fingerprint(examples.images, examples.labels), outputs(classifier, examples)
    if record:
        record.refuse_others(images, first_outputs)
    asked: dict[str, Any] = {name: settings[name] for name in (*SETTINGS, "seed")}
    asked |= {"checks": given.checks, "batch_size": given.batch_size or None, "corruptions": given.corruptions}
    found = union(classifier, examples.images, examples.labels, **asked, say=progress.log.info)
    parts, result = found.by_norm, found if len(found.by_norm) > 1 else found.by_norm[found.norm]
    unmet = audited.below(result.correct, result.checks, given.fail_below)
    unmet += [line for norm, part in parts.items() if record for line in record.differences(norm, part.correct)]
    if given.output:
        origin = {"command": cli.command("audit", argv[1:]), "audit": settings}
        environment = origin | {"images": images, "outputs": first_outputs} | sharding.machine()
        headers = [header(part, dataset, environment) for part in parts.values()]
        measured = [(part.results, part.correct) for part in parts.values()]
        audited.save(given.output, examples.index, examples.labels, measured, headers)
        page.build(given.output)
    print(shown(result, unmet, given.format))
    for sentence in unmet:
        print(f"error: {sentence}", file=sys.stderr)
    if record and not unmet:
        progress.log.info(f"{given.verify} holds: every accuracy was found again")
    if unmet:
        sys.exit(UNMET)


def _examples(given: "flags.FlagValues", settings: dict[str, Any]) -> tuple[dict[str, Any], Examples]:
    """What results.json says of the images, and the images. Raises ValueError for a data set that cannot be read."""
    from clead_jax import data

    dataset = data.load(given.images, given.data_dir or None)
    if not dataset.num_classes:
        raise ValueError(f"--images: {dataset.name} has no labels, with which accuracy is measured")
    examples, split, count = dataset.test, settings["split"], settings["num_examples"]
    if split == "all":
        images = np.concatenate([dataset.train_images, dataset.test_images])
        labels = np.concatenate([dataset.train_labels, dataset.test_labels])
        examples = Examples(images, labels, np.arange(len(labels), dtype=np.int32))
    if 0 < count < len(examples.labels):
        examples = data.subset(examples, count)
    classes = {"num_classes": dataset.num_classes, "class_names": list(dataset.class_names)}
    return {"name": dataset.name, "split": split, "num_examples": len(examples.labels)} | classes, examples


def imported(text: str, randomized: bool = False) -> Classifier:
    """The model behind "package.module:function", in a file of jax.export, or behind a wrapper around some of these,
    "jpeg(package.module:function)". Raises ValueError, one line, if it cannot be imported or is none.
    """
    from clead_jax.models import wrappers

    if text.endswith(".jax") or Path(text).is_file():
        return load_exported(text)
    if wrapper := wrappers.unwrapped(text):
        return wrappers.wrap(wrapper[0], *(imported(each, randomized) for each in wrapper[1]))
    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(f"--model={text!r}: write package.module:function")
    with inputs.one_line(f"--model={text}"):  # importing, and making the model, runs the user's code
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if not isinstance(found, Classifier) and callable(found) and not _required(found):
            found = found()
    if isinstance(found, Classifier):
        return found
    if not callable(found):
        raise ValueError(f"--model={text} is a {type(found).__name__}; wanted: a function of pixels, or a Classifier")
    return Classifier(lambda variables, x, *key: found(x, *key), randomized=randomized)


def _required(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a call must give."""
    alone = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in alone and p.default is inspect.Parameter.empty]


def outputs(classifier: Classifier, examples: Examples) -> list[list[float]]:
    """The logits of the first images: they tell one model from another. ValueError, one line, if they are none."""
    model, first = classifiers.compiled(classifier, batch_size=16), examples.images[:4]
    inputs.num_classes(model, examples)
    if are_probabilities(model.attacked_logits(first)):
        raise ValueError(f"the model gives probabilities: {LOGITS}")
    return model.logits(first).tolist()


def header(result: Result, dataset: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """What results.json says of images, threat model and origin."""
    known: dict[str, Any] = {"seen_attacks": [], "unseen_attacks": [], "label_use": {}, "training_cost": {}}
    threat = {"norm": result.norm, "eps": result.eps}
    return {"dataset": dataset, "threat_model": threat, **known, "environment": environment}


def shown(result: Result | Union, unmet: list[str], style: str) -> str:
    """The result as text, JSON or SARIF."""
    if style == "text":
        return str(result)
    numbers: dict[str, Any] = {"accuracy": result.accuracy, "interval95": result.interval95}
    numbers |= {"norm": result.norm, "eps": result.eps}
    told = numbers | {"complete": result.complete, "notes": result.notes, "checks": result.checks}
    if result.corruptions:
        told["corruptions"] = result.corruptions
    if isinstance(result, Union):
        told["by_norm"] = {
            norm: {"accuracy": of.accuracy, "interval95": of.interval95} for norm, of in result.by_norm.items()
        }
    elif result.draws:
        told["draws"] = result.draws
    return {"json": audited.as_json, "sarif": audited.as_sarif}[style](told, unmet)


class _Callable(types.ModuleType):
    """Lets `clead_jax.audit(...)` be the function, and `from clead_jax.audit import audit` go on working."""

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        return audit(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    from clead_jax.config import cli

    cli.run(main)
