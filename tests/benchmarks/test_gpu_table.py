"""The README's section on GPUs: what the records say, and "not measured yet" where there are none."""

import json
import pathlib

import pytest

from benchmarks.gpu import table
from benchmarks.gpu.steps import STEPS

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MACHINE = {"device": "NVIDIA H100", "jax": "0.10.2", "python": "3.12.1"}


def write(folder, step, found):
    (folder / "gpu-h100").mkdir(exist_ok=True)
    record = {"step": step, "command": "python -m x", "seconds": 1.0, "machine": MACHINE, "found": found}
    (folder / "gpu-h100" / f"{step}.json").write_text(json.dumps(record))


def test_without_records_nothing_is_measured(tmp_path):
    assert table.section(table.cards(tmp_path)) == "On a GPU: not measured yet."


def test_every_number_is_one_of_a_record(tmp_path):
    write(tmp_path, "tests", {"said": "== 8 passed in 31.2s =="})
    shown = table.section(table.cards(tmp_path))
    assert "### NVIDIA H100" in shown and "Tests marked `gpu`: 8 passed in 31.2s." in shown
    assert shown.count("not measured yet") == 4
    line = {
        "what": "step pretrain",
        "batch": 512,
        "images_per_s": 1234.6,
        "flops_per_s": 2.5e13,
        "share_of_matmul": 0.25,
    }
    write(tmp_path, "benchmark-resnet50-bfloat16", {"lines": [line]})
    ours, theirs = {"seconds": 1.5, "correct": 3}, {"seconds": 4.5, "correct": 2}
    lines = [{"attack": "pgd", "ours": ours, "theirs": theirs, "ratio": 3.0}]
    write(tmp_path, "torch-compiled", {"torch": "2.8", "compiled": True, "batch": 512, "lines": lines})
    last = {"epoch": 9, "images_per_s": 1500.2, "seconds": 30.4}
    write(tmp_path, "pgd-at", {"supervised": last})
    models = {"defended": {"accuracy": {"clean": 0.8, "pgd": 0.5}, "interval95": {"pgd": [0.49, 0.51]}}}
    write(tmp_path, "pgd-at-fast", {"evaluation": {"dataset": {"num_examples": 10000}, "models": models}})
    shown = table.section(table.cards(tmp_path))
    assert "| resnet50 | bfloat16 | step pretrain | 512 | 1,235 | 25 | 25% |" in shown
    assert "| pgd | 2.8, compiled | 1.5 | 4.5 | 3.00 | 3 of 512 | 2 of 512 |" in shown
    assert "| pgd-at-fast | evaluation | defended | pgd | 10,000 | 50.0 [49.0, 51.0] |" in shown
    assert "| pgd-at | supervised | 9 | 1,500 | 30 |" in shown
    assert "| clean | 10,000 | 80.0 |" in shown and "not measured yet" not in shown


def test_a_file_that_is_no_record_is_named(tmp_path):
    write(tmp_path, "tests", {})
    (tmp_path / "gpu-h100" / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other.json is no record of benchmarks.gpu.measure"):
        table.cards(tmp_path)


def test_the_readme_says_what_the_records_say(tmp_path, capsys):
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text("utf-8"), "utf-8")
    table.main(["table", f"--results={ROOT / 'results'}", f"--write={copy}"])
    assert copy.read_text("utf-8") == (ROOT / "README.md").read_text("utf-8")
    assert capsys.readouterr().out.strip() in copy.read_text("utf-8")


def test_every_step_that_a_table_reads_is_one_that_is_made():
    names = {step.name for step in STEPS}
    assert {f"benchmark-{depth}-{dtype}" for depth in table.DEPTHS for dtype in table.DTYPES} <= names
    assert {"tests", "torch-eager", "torch-compiled", "pgd-at-fast", "clead-resnet18-evaluation"} <= names
