"""evaluation, attacks, core and results import, and audit a model, with the other packages deleted."""

import pathlib
import shutil
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "clead_jax"
KEPT = ("__init__.py", "audit.py", "core", "attacks", "results", "evaluation")

AUDIT = """
import pathlib, pkgutil, sys
import numpy as np
import clead_jax
assert pathlib.Path(clead_jax.__file__).is_relative_to(sys.argv[1]), clead_jax.__file__
for module in pkgutil.walk_packages(clead_jax.__path__, "clead_jax."):
    __import__(module.name)

rng = np.random.default_rng(0)
images, w = rng.uniform(0.2, 0.8, (32, 4, 4, 1)).astype(np.float32), rng.normal(size=(16, 4)).astype(np.float32)
forward = lambda v, x: (x.reshape(len(x), -1) - 0.5) @ v
labels = np.asarray(forward(w, images)).argmax(-1)
model = clead_jax.Classifier(forward, w)
result = clead_jax.audit(model, images, labels, eps=0.05, attacks="fgsm,pgd(steps=5),square(queries=20)", batch_size=32)
assert result.accuracy["clean"] == 1 > result.accuracy["pgd(steps=5)"] and len(result.checks) > 20
print(result)
"""


def test_an_audit_needs_four_packages(tmp_path):
    copy = tmp_path / "clead_jax"
    copy.mkdir()
    for name in KEPT:
        source = PACKAGE / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy / name)
    command = [sys.executable, "-c", AUDIT, str(tmp_path)]
    env = {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "32 images, linf, eps 0.05" in done.stdout and "checks ok" in done.stdout
