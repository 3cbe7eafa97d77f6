"""Whatever is changed in a file of a run gives a page, a model or one line, in every reader: never a traceback."""

import json
import pathlib
import random
import shutil

import numpy as np
import pytest
import speck  # noqa: F401  the plugin of that run

import clead_jax
from clead_jax import compare, config, evaluate, report
from clead_jax.experiment import changes, provenance
from clead_jax.training import checkpoint
from clead_jax.training.metric_writer import MetricWriter

OLD = pathlib.Path(__file__).resolve().parent / "fixtures" / "workdir-v0.1"
QUICK, ALL = 15, 1000
STEPS = [f"checkpoints/{stage}/8/step.json" for stage in ("baseline", "probe")]
ARRAYS = [f"evaluation/{name}.npz" for name in ("per_example", "samples", "embeddings")]
FILES = ["evaluation/results.json", "config.json", "metrics.jsonl", *STEPS, *ARRAYS]
COMMAND = ["evaluate", "--attacks=fgsm,pgd,cw", "--nochecks"]
VALUES = (None, True, "", "x" * 20_000, "a\nb", "\ud800", "../../../etc", [], [[]], {}, {"": {}}, -1, 0, 0.5, 1.5, 7,
          10**9, 10**30, 10**400, -1e300, float("nan"), float("inf"), "nan", [0.5] * 300)  # fmt: skip


def places(value, path=()):
    """The path of every value in a tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, inner in items for found in places(inner, (*path, key))]


def damage_tree(tree, chance):
    """One value of a JSON tree is removed, doubled, renamed, negated or replaced."""
    *path, last = chance.choice(places(tree))
    parent = tree
    for key in path:
        parent = parent[key]
    old = parent[last]
    kind = chance.choice(["remove", "rename", "other", "other", "other", "size", "bits"])
    if kind == "remove":
        del parent[last]
    elif kind == "rename" and isinstance(parent, dict):
        parent[chance.choice(["x", last + "\n", "", "clean"])] = parent.pop(last)
    elif kind == "size" and isinstance(old, int | float):
        parent[last] = chance.choice([-old, old * 1e6, old * 10, old + 1, str(old), [old]])
    elif kind == "size" and isinstance(old, str | list):
        parent[last] = chance.choice([old * 50, old[: len(old) // 2], [old], {"of": old}])
    else:
        parent[last] = chance.choice(VALUES)
    return kind, [*path, last]


def damage_array(array, chance):
    """Another type, shape, size, sign, or values."""
    kind = chance.choice(
        ["float", "object", "text", "cut", "grow", "flat", "axis", "scalar", "sign", "huge", "nan", "int"]
    )
    change = {
        "float": lambda: array.astype(np.float64),
        "object": lambda: np.array([{}] * len(array), object),
        "text": lambda: array.astype(str),
        "cut": lambda: array[: len(array) // 2],
        "grow": lambda: np.concatenate([array, array]),
        "flat": lambda: array.reshape(-1),
        "axis": lambda: array[None],
        "scalar": lambda: np.array(1),
        "sign": lambda: -array.astype(np.float32),
        "huge": lambda: array.astype(np.float64) * 1e300 + 1e300,
        "nan": lambda: array * np.float32("nan"),
        "int": lambda: array.astype(np.int64) * 10**12,
    }
    kind = chance.choice([*change])
    return kind, change[kind]()


def damage(path, chance):
    """Changes one thing in a file. Says what."""
    raw = path.read_bytes()
    if chance.random() < 0.12:
        cut = chance.randrange(len(raw))
        flipped = raw[:cut] + bytes([raw[cut] ^ (1 << chance.randrange(8))]) + raw[cut + 1 :]
        path.write_bytes(chance.choice([raw[:cut], flipped, flipped, b"", raw + raw[:cut], b"[" * 100_000]))
        return "bytes", cut
    if path.suffix == ".npz":
        with np.load(path) as stored:
            arrays = dict(stored)
        name = chance.choice([*arrays])
        if chance.random() < 0.2:
            del arrays[name]
            what = "removed"
        else:
            what, arrays[name] = damage_array(arrays[name], chance)
        np.savez_compressed(path, **arrays)
        return name, what
    if path.suffix == ".jsonl":
        trees = [json.loads(line) for line in raw.splitlines()]
        what = damage_tree(trees, chance)
        path.write_text("".join(json.dumps(tree) + "\n" for tree in trees))
        return what
    tree = json.loads(raw)
    what = damage_tree(tree, chance)
    path.write_text(json.dumps(tree))
    return what


def writer(run):
    MetricWriter(run / "metrics.jsonl").drop_after("probe", 4)


def of_main(run):
    cfg, _ = config.restore(str(run))
    changes.refuse_changes(cfg, str(run))
    provenance.training_cost(str(run))
    checkpoint.steps(run / "checkpoints/probe")
    checkpoint.restore_model(run / "checkpoints/probe", "best")


READERS = {
    "report": lambda run: report.main(["report", f"--workdir={run}"]),
    "compare": lambda run: compare.main(["compare", f"--workdirs={run}", f"--output={run}/compare"]),
    "load": lambda run: clead_jax.load(str(run)),
    "main": of_main,
    "metrics": writer,
    "evaluate": lambda run: evaluate.main([*COMMAND, f"--workdir={run}"]),
}
CONCERNS = {  # beside report, compare and main, which read nearly all
    "evaluation": ("report", "compare", "evaluate"),
    "config.json": ("report", "compare", "load", "main", "evaluate"),
    "metrics.jsonl": ("report", "main", "metrics", "evaluate"),
    "checkpoints": ("load", "main", "evaluate"),
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A complete run, everything in it measured."""
    run = shutil.copytree(OLD, tmp_path_factory.mktemp("damaged") / "run")
    evaluate.main([*COMMAND, f"--workdir={run}"])
    return run


def outcome(reader, run):
    """None, or the line a person meets."""
    try:
        READERS[reader](run)
    except (ValueError, OSError, FloatingPointError) as error:
        assert "\n" not in str(error).strip() and str(error).strip(), repr(error)
        return str(error)
    return None


def fuzz(sources, tmp_path, numbers, evaluate_every):
    """Damages one file per case, cases being the same whichever are chosen, and reads it by all its readers."""
    refused, wrong = 0, []
    for number in numbers:
        chance = random.Random(number)
        name, source = chance.choice(FILES), sources[number % len(sources)]
        run = shutil.copytree(source, tmp_path / "run")
        what = damage(run / name, chance)
        for reader in CONCERNS[name if name in CONCERNS else name.split("/")[0]]:
            if reader == "evaluate" and number % evaluate_every:
                continue
            try:
                refused += outcome(reader, run) is not None
            except Exception as error:
                wrong.append(f"case {number}: {reader} of {name} with {what}: {error!r}")
        shutil.rmtree(run)
    assert not wrong, "\n".join(wrong)
    return refused


@pytest.mark.filterwarnings("ignore")
def test_a_few_damages(evaluated, fast_pictures, tmp_path):
    assert fuzz([OLD, evaluated], tmp_path, range(QUICK), 20) > QUICK / 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_thousand_damages(evaluated, fast_pictures, tmp_path):
    assert fuzz([OLD, evaluated], tmp_path, range(ALL), 3) > ALL / 3
