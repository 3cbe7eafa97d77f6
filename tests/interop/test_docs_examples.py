"""The examples of docs/models-from-elsewhere.md, run as they stand there."""

import pathlib
import re

import numpy as np
import pytest

import clead_jax

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "models-from-elsewhere.md").read_text()
NEEDS = {"PyTorch": "torch", "Flax NNX": "flax", "Equinox": "equinox", "Haiku": "haiku"}


def code(section):
    """The Python under a heading; that on weights goes on from PyTorch's."""
    text = PAGE.split(f"\n## {section}\n")[1]
    end = "\n## Flax NNX\n" if section == "PyTorch" else "\n## "
    return "\n".join(re.findall(r"```python\n(.*?)```", text.split(end)[0], flags=re.DOTALL))


@pytest.mark.parametrize("section", NEEDS)
def test_an_example(section, tmp_path, monkeypatch, capsys):
    pytest.importorskip(NEEDS[section], reason=f"{section} is not installed")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = {"images": rng.random((16, 8, 8, 3), np.float32), "labels": rng.integers(0, 10, 16)}
    exec(code(section), names)
    model = names["model"]
    assert isinstance(model, clead_jax.Classifier) and "pgd" in capsys.readouterr().out
    assert len(model.fingerprint) == 16
    alone = np.concatenate([model(names["images"][n : n + 1]) for n in range(4)])
    np.testing.assert_allclose(model(names["images"])[:4], alone, atol=1e-5)  # eval mode: no image sees the others


def test_every_section_with_code_is_run():
    sections = re.findall(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    assert set(sections) - {"Weights"} == set(NEEDS)


def test_links_within_the_page_lead_somewhere():
    headings = {line.removeprefix("## ").lower().replace(" ", "-") for line in PAGE.splitlines()}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
