"""The comparison with PyTorch. Without torch: the command line, our side, the arithmetic. No time is asserted."""

import importlib.util
import json
import pickle
import re

import numpy as np
import pytest

from benchmarks.torchattacks import jax_side as ours
from benchmarks.torchattacks import run as comparison


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--attacks=fab", "'fab' is not timed; known: pgd, apgd_ce, square"),
        ("--attacks=square(steps=3)", "square takes queries here, not steps"),
        ("--attacks=,", "none given"),
        ("--net=vgg", "small|tiny|digits|resnet18"),
        ("--repeats=0", "repeats"),
        ("--attacks=pgd,autoattack", "autoattack is timed to its verdict; give a radius"),
        ("--attacks=autoattack(steps=3)", "autoattack takes version here, not steps"),
        ("--device=tpu", "cpu|gpu"),
        ("--eps=2", "eps is 2; under linf it lies in [0, 1]"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_a_line(flag, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        comparison.main(["x", flag])
    assert "\n" not in str(refused.value)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"torch and torchattacks not installed; write: pip install -e '.\[torch\]'"):
        comparison.main(["x"])


def test_rates_by_hand():
    turn = lambda mine, other: {"ours": (mine, 10), "theirs": (other, 10)}
    line = {"passes": {"ours": [2, 3], "theirs": [0, 2]}, "turns": [turn(1.0, 4.0), turn(2.0, 4.0), turn(9.0, 9.0)]}
    found = comparison.summary(line, {"batch": 10, "work": (100, 200)})
    assert found["ours"] == {"seconds": 2.0, "images_per_s": 5.0, "flops_per_s": 5.0 * 800, "correct": 10}
    assert found["theirs"] == {"seconds": 4.0, "images_per_s": 2.5, "flops_per_s": 2.5 * 400, "correct": 10}
    assert found["ratio"] == 2.0 and found["ratio_of_turns"] == [1.0, 4.0] and found["all_correct"]
    for place in (0, 1):
        line["turns"][place]["theirs"] = (4.0, 3)
    broken = comparison.summary(line, {"batch": 10, "work": (100, 200)})
    assert not broken["all_correct"] and "flops_per_s" not in broken["theirs"]  # the passes are not known
    assert (broken["ours"]["correct"], broken["theirs"]["correct"]) == (10, 3)


def test_the_recorded_command_names_no_file():
    for typed in (["--net=tiny", "--json=/somewhere/x.json"], ["--json", "x.json", "--net=tiny"], ["--net=tiny"]):
        assert comparison.command(["run.py", *typed]) == "python -m benchmarks.torchattacks.run --net=tiny"


def test_the_small_net_is_what_its_weights_say():
    """Convolutions written out as sums over their nine taps."""
    problem = ours.problem("small", 2)
    x = (problem.images - 0.5) / 0.25
    for layer, stride in zip(problem.weights["layers"][:-1], problem.weights["strides"], strict=True):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, columns = x.shape[1], x.shape[2]
        taps = [padded[:, i : i + rows : stride, j : j + columns : stride] for i in range(3) for j in range(3)]
        kernels = layer["kernel"].reshape(9, *layer["kernel"].shape[2:])
        x = sum(tap @ kernel for tap, kernel in zip(taps, kernels, strict=True))
        x = np.maximum(x + layer["bias"], 0)
    last = problem.weights["layers"][-1]
    np.testing.assert_allclose(ours.logits(problem), x.mean((1, 2)) @ last["kernel"] + last["bias"], atol=1e-4)


def test_our_side_attacks():
    problem = ours.problem("digits", 4)
    seconds, correct = ours.attack(problem, "pgd(steps=2)", comparison.SMALL)
    assert seconds > 0 and correct == 4
    assert ours.attack(problem, "pgd(steps=2)", 0.5)[1] < 4
    suite = "autoattack(attacks=apgd_ce(steps=2))"
    assert ours.attack(problem, suite, 0.5)[1] < 4 and ours.passes("autoattack(version=fast)") == {}
    assert [named.name for named in ours.cascade("autoattack(version=fast)", 0.1)] == ["pma", "apgd_ce", "mm"]
    assert ours.settings("square(queries=7)", 0.1) | {"queries": 7, "eps": 0.1} == ours.settings(
        "square(queries=7)", 0.1
    )


@pytest.mark.parametrize("net", ["small", "tiny", "digits"])
def test_torch_sees_the_same_net(net):
    theirs = pytest.importorskip("benchmarks.torchattacks.torch_side", reason="torch is an extra")
    problem = ours.problem(net, 2)
    found = theirs.logits(pickle.dumps(problem.weights), problem.images)
    np.testing.assert_allclose(found, ours.logits(problem), atol=comparison.CLOSE)


@pytest.mark.parametrize("text", ["pgd(steps=3)", "apgd_ce(steps=3)", "square(queries=3)"])
def test_torch_makes_the_passes_that_we_count(text, monkeypatch):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("benchmarks.torchattacks.torch_side", reason="torch is an extra")
    problem, calls, plain = ours.problem("digits", 2), [], theirs.Normalise.forward

    def counted(self, x):
        calls.append(x.requires_grad and torch.is_grad_enabled())
        return plain(self, x)

    monkeypatch.setattr(theirs.Normalise, "forward", counted)
    settings, weights = ours.settings(text, comparison.SMALL), pickle.dumps(problem.weights)
    theirs.attack(weights, text.partition("(")[0], settings, problem.images, problem.labels)
    after = 1  # the final check, which is not timed
    assert [calls.count(False) - after, calls.count(True)] == ours.passes(text)["theirs"]


@pytest.mark.parametrize("eps", ["", "0.5"])
def test_both_sides_from_the_command_line(tmp_path, capsys, eps):
    pytest.importorskip("torchattacks")
    path = tmp_path / "numbers.json"
    flags = ["--net=digits", "--batch_size=4", "--repeats=1", "--attacks=pgd(steps=2)", f"--json={path}"]
    comparison.main(["run.py", *flags, *([f"--eps={eps}"] if eps else [])])
    found, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert str(tmp_path) not in path.read_text()
    assert ("seconds to the verdict" in printed) == bool(eps) and len(found["lines"]) == 1
    assert found["lines"][0]["all_correct"] == (not eps)
