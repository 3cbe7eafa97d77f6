"""The table of methods: from configs and recorded runs, and the one that stands in the README."""

import json
import pathlib
import re
import runpy
import statistics

import pytest

from clead_jax import methods
from clead_jax.reporting import compiled

ROOT = pathlib.Path(__file__).resolve().parent.parent
PRESET = '''"""Mine (someone, 2026): a loss.

    python -m clead_jax.main --config=configs/mine.py:other        also :digits, :other-digits; see arXiv:1234
"""

from clead_jax import config

PUBLISHED = {"plain": "clean 1.0 (someone)"}


def get_config(variant="plain"):
    if variant not in ("plain", "other", "digits", "other-digits"):
        raise ValueError(f"mine: no {variant}")
    cfg = config.base()
    cfg.data.name = "digits"
    cfg.model.update({"backbone": "tiny", "width": 4})
    cfg.mine = config.Supervised(attack="" if "other" in variant else "pgd(steps=3)", epochs=7)
    cfg.stages, cfg.defended = "mine,evaluate,report", "mine"
    return cfg
'''


def run(command, seed, clean, **more):
    return {"command": f"python -m clead_jax.main {command}", "dataset": "digits", "seed": seed} | {
        "models": {"defended": {"accuracy": {"clean": clean, "fgsm": 0.5} | more}}
    }


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.py").write_text(PRESET)
    (tmp_path / "results").mkdir()
    runs = [
        run("--config=configs/mine.py:digits --config.evaluation.attacks=pgd", 0, 0.9, pgd=0.4),
        run("--config=configs/mine.py:digits --config.seed=1", 1, 0.8, pgd=0.5),
        run("--config=configs/mine.py:digits --config.mine.epochs=9", 0, 0.1),  # another training
        run("--config=configs/mine.py:other and the fields of the sweep", 0, 0.1),
    ]
    (tmp_path / "results/mine.json").write_text(json.dumps({"runs": runs}))
    (tmp_path / "results/else.json").write_text(json.dumps({"rows": []}))
    return tmp_path


def test_a_row_is_what_config_and_records_say(folders, capsys):
    readme = folders / "README.md"
    readme.write_text(f"before\n{methods.MARKS[0]}\nold\n{methods.MARKS[1]}\nafter\n")
    flags = [f"--{name}={folders / name}" for name in ("configs", "results")]
    methods.main(["methods", *flags, f"--write={readme}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    mine, other = rows
    assert mine[:6] == ["`configs/mine.py`", "Mine (someone, 2026)", "backbone, head", "training", "pgd", "4 × 7"]
    assert mine[7:] == ["digits: clean 85.0, PGD-20 45.0 (2 seeds)", "clean 1.0 (someone)"]
    assert other[:1] + other[4:6] + other[7:] == ["`configs/mine.py:other`", "none", "1 × 7", "not yet", ""]
    table = "\n".join(lines)
    assert readme.read_text() == f"before\n{methods.MARKS[0]}\n{table}\n{methods.MARKS[1]}\nafter\n"


def test_bad_input_is_one_line_and_writes_nothing(folders):
    target = folders / "no-marks.md"
    target.write_text("plain")
    with pytest.raises(ValueError, match=r"--write: \S+ lacks the lines <!-- methods -->"):
        methods.main(["methods", f"--write={target}"])
    assert target.read_text() == "plain"
    with pytest.raises(ValueError, match=r"--configs: \S+ holds no config files"):
        methods.main(["methods", f"--configs={folders / 'results'}"])


def test_the_table_in_the_readme_is_that_of_the_configs():
    readme = (ROOT / "README.md").read_text("utf-8")
    table = methods.table(ROOT / "configs", ROOT / "results")
    made = methods.inserted(readme, table, "README.md")
    made = methods.inserted(made, compiled.table(ROOT / "results"), "README.md", methods.COMPILED)
    assert made == readme, "run python -m clead_jax.methods --write=README.md"


def test_the_head_of_a_config_says_what_was_measured_of_it():
    """AutoAttack fast on the digits, the mean over the seeds, of every method and variant in the table of opponents."""
    found: dict[str, list[float]] = {}
    for each in json.loads((ROOT / "results/digits-opponents.json").read_text())["runs"]:
        config = re.search(r"--config=(configs/\S+)", each["command"])[1]
        found.setdefault(config, []).append(100 * each["models"]["defended"]["accuracy"]["autoattack_fast"])
    for config, shares in found.items():
        path, _, variant = config.partition(":")
        measured = f"{statistics.fmean(shares):.1f}"
        heading = "AutoAttack fast: " if variant in ("", "digits") else f":{variant} "
        assert heading + measured in " ".join(runpy.run_path(str(ROOT / path))["__doc__"].split()), config
    assert len(found) > 25
