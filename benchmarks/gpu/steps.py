"""What is worth measuring on one GPU, in order of worth: each step a command, about how long it takes, what it leaves.

Words in braces are filled in: {data} the folder of prepared data, {work} one for work directories, {file} where the
numbers go, {epochs} as many as fit. The minutes are estimates for one H100, so that a step is not begun in vain; they
are no measurements. `tiny` follows the command in a rehearsal, where later flags count.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

DEPTHS, DTYPES = ("resnet18", "resnet34", "resnet50"), ("float32", "bfloat16")
TRAIN = 45_000  # images of CIFAR-10 that are not held out


class Fit(NamedTuple):
    """Epochs of a training: as many as `minutes` allow at the rate that `line` has in the record of the step `of`."""

    of: str
    line: str
    minutes: float

    def epochs(self, record: dict[str, Any]) -> int:
        """At least one. ValueError where the record has no such line."""
        for line in record["found"]["lines"]:
            if line["what"] == self.line:
                return max(1, int(60 * self.minutes * line["images_per_s"] / TRAIN))
        raise ValueError(f"{self.of} has no line {self.line!r}")


class Step(NamedTuple):
    """One measurement."""

    name: str
    command: tuple[str, ...]  # of `python -m`
    minutes: float
    found: Callable[[Path, Path], Any]  # (file, its log) -> what is kept of it
    tiny: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # a module that is an extra, or "data"
    after: str = ""  # a step whose work directory it reads
    fit: Fit | None = None


def of_file(file: Path, log: Path) -> Any:
    """The numbers that the command has written."""
    return json.loads(file.read_text("utf-8"))


def last_line(file: Path, log: Path) -> dict[str, str]:
    """The last line that the command has printed: of tests, how many passed and were skipped."""
    lines = log.read_text("utf-8", "replace").split("\n")
    return {"said": next(line for line in reversed(lines) if line.strip())}


def of_training(file: Path, log: Path) -> dict[str, Any]:
    """Of every stage of a work directory, which `file` stands beside, the line of its last epoch: speed, accuracy."""
    lines = (file.with_suffix("") / "metrics.jsonl").read_text("utf-8").splitlines()
    return {line["stage"]: line for line in map(json.loads, lines)}


def of_evaluation(file: Path, log: Path) -> dict[str, Any]:
    """Accuracies and intervals of every model in all results of a work directory, which `file` stands beside."""
    found: dict[str, Any] = {}
    for path in sorted(file.with_suffix("").glob("evaluation/**/results.json")):
        results = json.loads(path.read_text("utf-8"))
        kept = {key: results[key] for key in ("dataset", "threat_model", "training_cost") if key in results}
        found[path.parent.relative_to(file.with_suffix("")).as_posix()] = kept | {"models": results["models"]}
    if not found:
        raise ValueError(f"no results below {file.with_suffix('')}")
    return found


def _benchmark(depth: str, dtype: str, minutes: float) -> Step:
    flags = (f"--config=configs/{depth}.py", f"--config.model.dtype={dtype}", "--seconds=2", "--json={file}")
    tiny = ("--config.data.name=digits", "--config.model.backbone=tiny", "--config.model.width=4", "--batch_size=16")
    tiny += ("--seconds=0", "--config.train_attack.steps=1", "--config.evaluation.steps=1")
    return Step(f"benchmark-{depth}-{dtype}", ("clead_jax.benchmark", *flags), minutes, of_file, tiny)


def _against_torch(name: str, attacks: str, compiled: str, minutes: float) -> Step:
    flags = ("--net=resnet18", "--device=gpu", f"--compiled={compiled}", f"--attacks={attacks}", "--eps=8/255")
    flags += ("--batch_size=512", "--repeats=3", "--json={file}")
    tiny = ("--net=digits", "--device=cpu", "--batch_size=4", "--repeats=1", "--attacks=pgd(steps=2)", "--eps=0.1")
    needs = ("torch", "torchattacks")
    return Step(name, ("benchmarks.torchattacks.run", *flags), minutes, of_file, tiny, needs)


_SMALL = ("--config.data.name=digits", "--config.data.train_size=64", "--config.data.test_size=32")
_SMALL += (
    "--config.model.backbone=tiny",
    "--config.model.stem=cifar",
    "--config.model.width=4",
    "--config.train_attack.steps=1",
)
_SMALL += tuple(f"--config.{s}.epochs=1" for s in ("baseline", "supervised", "pretrain", "probe"))
_SMALL += tuple(f"--config.{s}.batch_size=16" for s in ("baseline", "supervised", "pretrain", "probe"))
_SMALL += ("--config.validation.num_examples=16",)
_FEW = ("--num_examples=16", "--steps=1", "--attacks=fgsm,autoattack(attacks=apgd_ce(steps=2))", "--curve=none")
_FEW += ("--checks=false", "--protocol=whitebox,autoattack", "--batch_size=16")


def _trained(name: str, config: str, stages: str, more: tuple[str, ...], minutes: float, fit: Fit) -> Step:
    """A training of `{epochs}`, in a work directory of its own."""
    flags = (f"--config={config}", f"--workdir={{work}}/{name}", "--config.data.data_dir={data}")
    flags += (f"--config.stages={stages}", *more)
    return Step(name, ("clead_jax.main", *flags), minutes, of_training, _SMALL, ("data",), "", fit)


def _evaluated(name: str, of: str, flags: tuple[str, ...], minutes: float) -> Step:
    """An evaluation of what `of` has trained, on 10,000 images."""
    command = ("clead_jax.evaluate", f"--workdir={{work}}/{of}", "--data_dir={data}", "--curve=none", *flags)
    return Step(name, command, minutes, of_evaluation, _FEW, ("data",), of)


def _clead(name: str, config: str, benchmark: str, minutes: float) -> tuple[Step, ...]:
    more = ("--config.baseline.epochs=20", "--config.pretrain.epochs={epochs}", "--config.probe.epochs=20")
    fit = Fit(benchmark, "step pretrain", 0.7 * minutes)
    everything = ("--protocol=paper,whitebox,autoattack", "--attacks=fgsm,pgd,cw,autoattack", "--version=fast")
    return (
        _trained(name, config, "baseline,pretrain,probe", more, minutes, fit),
        _evaluated(f"{name}-evaluation", name, everything, 8),
    )


_R18 = "benchmark-resnet18-float32"
_AT = ("--config.baseline.epochs=10", "--config.supervised.epochs={epochs}")
_ALL_OF_IT = ("--models=supervised", "--protocol=whitebox,autoattack", "--attacks=fgsm,pgd,cw,autoattack")

STEPS: tuple[Step, ...] = (
    # (a) what the GPU computes is what the CPU computes
    Step("tests", ("pytest", "-m", "gpu", "tests/gpu", "-rs", "-p", "no:cacheprovider"), 4, last_line),
    # (b) speed, beside that of matrix products
    *(_benchmark("resnet18", dtype, 4) for dtype in DTYPES),
    # (c) time to the same verdict as PyTorch's
    _against_torch("torch-eager", "pgd,apgd_ce", "false", 4),
    _against_torch("torch-compiled", "pgd,apgd_ce", "true", 5),
    _against_torch("torch-autoattack", "autoattack,autoattack(version=fast)", "false", 8),
    _against_torch("torch-autoattack-compiled", "autoattack,autoattack(version=fast)", "true", 9),
    Step(
        "fast-against-standard",
        ("benchmarks.fast_autoattack", "--nets=silu,pairs", "--norms=linf", "--json={file}"),
        5,
        of_file,
        ("--nets=small", "--images=4"),
        ("sklearn",),
    ),
    # (d) adversarial training, and AutoAttack on 10,000 images
    _trained("pgd-at", "configs/pgd_at.py", "baseline,supervised", _AT, 8, Fit(_R18, "step supervised", 5)),
    _evaluated("pgd-at-fast", "pgd-at", (*_ALL_OF_IT, "--version=fast"), 8),
    _evaluated("pgd-at-standard", "pgd-at", (*_ALL_OF_IT, "--version=standard"), 25),
    # (e) C-LEAD as the text has it, and as its authors ran it
    *_clead("clead-resnet18", "configs/resnet18.py", _R18, 15),
    *_clead("clead-authors-resnet18", "configs/clead_authors.py:resnet18", _R18, 15),
    # (f) the deeper ones
    *(_benchmark(depth, dtype, 6) for depth in DEPTHS[1:] for dtype in DTYPES),
    *(step for d in DEPTHS[1:] for step in _clead(f"clead-{d}", f"configs/{d}.py", f"benchmark-{d}-float32", 25)),
)
