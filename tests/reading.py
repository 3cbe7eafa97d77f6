"""What tests read of a run, and whether two trees are equal to the bit."""

import json

import jax
import numpy as np


def same(a, b):
    """Whether all leaves of two trees of one structure are equal."""
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def lines(workdir, stage):
    """The lines of a stage in metrics.jsonl."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]
