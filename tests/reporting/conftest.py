"""Work directories as a run leaves them, made up but plausible: digits, a weak model and a stronger one."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

ATTACKS = ("fgsm", "pgd", "cw")
SHARES = {
    "baseline": {"clean": 0.98, "fgsm": 0.45, "pgd": 0.2, "cw": 0.22},
    "defended": {"clean": 0.94, "fgsm": 0.72, "pgd": 0.62, "cw": 0.63},
}


def _interval(share: float, n: int) -> list[float]:
    half = 1.96 * math.sqrt(share * (1 - share) / n) + 1 / n
    return [max(0.0, share - half), min(1.0, share + half)]


def _records(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """One difficulty per image, shared by both models: records are paired, as real ones are."""
    difficulty = rng.random(n)
    records = {"index": np.arange(n), "label": rng.integers(0, 10, n)}
    for model, shares in SHARES.items():
        noisy = np.clip(difficulty + 0.05 * rng.standard_normal(n), 0, None)
        for attack, share in shares.items():
            records[f"{model}/{attack}"] = noisy <= np.quantile(noisy, share)
    return records


def _results(records: dict[str, np.ndarray], n: int) -> dict:
    models = {}
    for model in SHARES:
        hits = {attack: records[f"{model}/{attack}"] for attack in ("clean", *ATTACKS)}
        hits["worst_case"] = np.logical_and.reduce(list(hits.values()))
        accuracy = {attack: float(correct.mean()) for attack, correct in hits.items()}
        checkpoint = {
            "stage": "probe" if model == "defended" else model,
            "which": "latest",
            "epoch": 30,
            "fingerprint": "0123456789abcdef",
        }
        models[model] = {
            "checkpoint": checkpoint,
            "accuracy": accuracy,
            "interval95": {a: _interval(s, n) for a, s in accuracy.items()},
        }
    eps = [0.0, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3]
    return {
        "schema": 1,
        "dataset": {
            "name": "digits",
            "split": "test",
            "num_examples": n,
            "num_classes": 10,
            "class_names": [str(digit) for digit in range(10)],
        },
        "threat_model": {"norm": "linf", "eps": 0.1},
        "models": models,
        "seen_attacks": ["pgd", "cw"],
        "unseen_attacks": ["fgsm"],
        "attacks": {
            "fgsm": {"steps": 1, "eps": 0.1},
            "pgd": {"steps": 20, "eps": 0.1, "step_size": 0.025},
            "cw": {"steps": 20},
        },
        "label_use": {"baseline": ["training"], "defended": ["probe"]},
        "curves": {
            "attack": "pgd",
            "eps": eps,
            "accuracy": {
                "baseline": [0.98, 0.92, 0.74, 0.43, 0.2, 0.03, 0.0, 0.0],
                "defended": [0.94, 0.9, 0.85, 0.75, 0.62, 0.36, 0.16, 0.01],
            },
        },
        "distances": {
            "cw_l2": {
                "baseline": {"norm": "l2", "num_examples": 100, "median": 0.41, "mean": 0.44, "success": 1.0},
                "defended": {"norm": "l2", "num_examples": 100, "median": 0.93, "mean": 0.99, "success": 0.99},
            }
        },
        "training_cost": {
            "baseline": {"forward_backward_passes": 34_500, "seconds": 9.8},
            "pretrain": {"forward_backward_passes": 517_000, "seconds": 75.3},
        },
        "checks": [
            {"name": "inside_ball", "status": "ok", "value": 0.1, "hint": ""},
            {"name": "pgd_not_weaker_than_fgsm", "status": "ok", "value": 0.1, "hint": ""},
        ],
        "environment": {
            "jax": "0.10.2",
            "backend": "cpu",
            "devices": ["cpu:0"],
            "seed": 0,
            "config_name": "quickstart",
            "command": "python -m clead_jax.main --config=configs/quickstart.py",
        },
    }


def _protocols(n: int) -> dict:
    """Transfer attacks and AutoAttack as an evaluation writes them."""
    shares = {
        "paper": {
            "baseline": {"fgsm": 0.45, "pgd": 0.2, "cw": 0.22, "worst_case": 0.19},
            "defended": {"fgsm": 0.9, "pgd": 0.88, "cw": 0.885, "worst_case": 0.87},
        },
        "autoattack": {
            "baseline": {"clean": 0.98, "apgd_ce": 0.1, "apgd_t": 0.03, "fab_t": 0.03, "square": 0.03},
            "defended": {"clean": 0.94, "apgd_ce": 0.59, "apgd_t": 0.55, "fab_t": 0.55, "square": 0.55},
        },
    }
    found = {
        protocol: {
            model: {"accuracy": accuracy, "interval95": {a: _interval(s, n) for a, s in accuracy.items()}}
            for model, accuracy in by_model.items()
        }
        for protocol, by_model in shares.items()
    }
    for entry in found["paper"].values():
        entry["source"] = "baseline"
    for entry in found["autoattack"].values():
        entry["accuracy"]["autoattack"] = entry["accuracy"]["square"]
        entry["interval95"]["autoattack"] = entry["interval95"]["square"]
        entry |= {"version": "standard", "attacks": ["apgd_ce", "apgd_t", "fab_t", "square"], "notes": []}
        passes = {"apgd_ce": (101, 100), "apgd_t": (600.4, 594), "fab_t": (500, 300.6), "square": (2800, 0)}
        entry["passes"] = {a: {"forward": f, "backward": b} for a, (f, b) in passes.items()}
        entry |= {"seconds": 203.0, "complete": True}
    return found


def _metrics() -> list[dict]:
    lines = []
    for stage, epochs, loss, robust in (
        ("baseline", 20, 2.3, 0.2),
        ("pretrain", 30, 4.1, 0.6),
        ("probe", 10, 1.1, None),
    ):
        for epoch in range(1, epochs + 1):
            decay = math.exp(-4 * epoch / epochs)
            line = {"stage": stage, "step": 11 * epoch, "epoch": epoch, "epochs": epochs, "loss": loss * (0.1 + decay)}
            if robust and epoch % 2 == 0:
                line |= {"val_clean": 0.97 - 0.6 * decay, "val_robust": robust * (1 - decay)}
            lines.append(line)
    return lines


def _samples(rng: np.random.Generator, rgb: bool = False) -> dict[str, np.ndarray]:
    digits = load_digits()
    clean = (digits.images[:8, :, :, None] / 16).astype(np.float32)
    clean = np.repeat(clean, 3, axis=-1) * np.float32([1, 0.8, 0.5]) if rgb else clean
    samples = {"index": np.arange(8), "label": digits.target[:8], "clean": clean}
    for model, right in (("baseline", 1), ("defended", 3)):
        samples[f"{model}/clean/prediction"] = digits.target[:8]
        for attack in ATTACKS:
            samples[f"{model}/{attack}"] = np.clip(clean + 0.1 * np.sign(rng.standard_normal(clean.shape)), 0, 1)
            samples[f"{model}/{attack}/prediction"] = np.where(np.arange(8) % 4 < right, digits.target[:8], 8)
    return samples


def _embeddings(rng: np.random.Generator, m: int = 300) -> dict[str, np.ndarray]:
    label = rng.integers(0, 10, m)
    centres = 1.6 * rng.standard_normal((10, 16))
    embeddings = {"label": label}
    for model, confused in (("baseline", 0.8), ("defended", 0.35)):
        fooled = np.where(rng.random(m) < confused, rng.integers(0, 10, m), label)
        embeddings[model] = centres[label] + rng.standard_normal((m, 16))
        embeddings[f"{model}/adversarial"] = centres[fooled] + 1.2 * rng.standard_normal((m, 16))
    return embeddings


@pytest.fixture(scope="session")
def records() -> dict[str, np.ndarray]:
    return _records(np.random.default_rng(0), 360)


@pytest.fixture
def results(records: dict[str, np.ndarray]) -> dict:
    return copy.deepcopy(_results(records, 360))


@pytest.fixture
def all_protocols(results: dict) -> dict:
    """Results that hold all three protocols."""
    protocols = _protocols(360)
    for label, entry in protocols["autoattack"].items():
        entry["accuracy"]["clean"] = results["models"][label]["accuracy"]["clean"]
    return results | {"protocols": protocols}


@pytest.fixture
def samples() -> dict[str, np.ndarray]:
    return _samples(np.random.default_rng(1))


@pytest.fixture
def embeddings() -> dict[str, np.ndarray]:
    return _embeddings(np.random.default_rng(2))


@pytest.fixture
def metrics() -> list[dict]:
    return _metrics()


@pytest.fixture
def workdir(tmp_path: Path, results, records, samples, embeddings, metrics) -> Path:
    """A complete work directory."""
    (tmp_path / "evaluation").mkdir()
    config = {"name": "quickstart", "config": {"seed": 0, "model": {"backbone": "tiny"}, "views": "clean,pgd,cw"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(results))
    np.savez(tmp_path / "evaluation" / "per_example.npz", **records)
    np.savez(tmp_path / "evaluation" / "samples.npz", **samples)
    np.savez(tmp_path / "evaluation" / "embeddings.npz", **embeddings)
    return tmp_path
