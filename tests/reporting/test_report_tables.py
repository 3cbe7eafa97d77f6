"""Numbers and words of the tables, against values written down by hand."""

import numpy as np
import pytest

from clead_jax import report
from clead_jax.reporting import intervals, render, tables, wording


def row(table, attack):
    return next(line for line in table.rows if line[0][0].startswith(attack))


def test_before_after_row_by_row(results, records):
    table = tables.before_after(results, records)
    assert table.header == ["Attack", "Without C-LEAD", "With C-LEAD", "Gain"]
    assert [line[0] for line in table.rows] == [
        ("Clean images", ""),
        ("FGSM", "(unseen)"),
        ("PGD-20", "(seen)"),
        ("C&W", "(seen)"),
        ("Worst case", ""),
    ]
    share = {model: records[f"{model}/pgd"].mean() for model in ("baseline", "defended")}
    _, without, defended, gain = row(table, "PGD")
    assert without[0] == f"{100 * share['baseline']:.1f}" and defended[0] == f"{100 * share['defended']:.1f}"
    assert gain[0] == f"{100 * (share['defended'] - share['baseline']):+.1f}"
    assert row(table, "Clean")[3][0].startswith("−")


def test_gain_has_an_interval_only_with_the_records(results, records):
    assert row(tables.before_after(results), "PGD")[3][1] == ""
    table = tables.before_after(results, records)
    for attack in ("PGD", "Worst case"):
        middle, (low, high) = row(table, attack)[3][0], row(table, attack)[3][1].strip("[]").split(", ")
        assert float(low) < float(middle) < float(high) < float(low) + 15


def test_one_model_has_no_gain_and_an_unmeasured_attack_says_so(results):
    del results["models"]["defended"]["accuracy"]["cw"]
    table = tables.before_after(results)
    assert row(table, "C&W")[2:] == ["not measured", "not measured"]
    del results["models"]["defended"]
    assert tables.before_after(results).header == ["Attack", "Without C-LEAD"]


def test_adversarial_training_is_not_called_clead(results):
    results["models"]["defended"]["checkpoint"]["stage"] = "supervised"
    assert tables.before_after(results).header[2] == "With adversarial training"


def test_paper_column_never_invents(results, monkeypatch):
    table = tables.before_after(results)
    column = lambda: [line[-1] for line in tables.with_paper(table, results, "resnet18").rows]
    assert set(column()) == {"—"}  # digits are not in the paper
    results["dataset"]["name"] = "cifar10"
    assert column() == ["—", "not available to us", "not available to us", "not available to us", "—"]
    known = {"dataset": "cifar10", "accuracy": {"resnet18": {"pgd": {"without": 0.125, "with": 0.5}}}}
    monkeypatch.setattr(tables, "paper", lambda: known)
    assert column() == ["—", "—", "12.5 → 50.0", "—", "—"]


def test_paper_figures_are_shares_or_null():
    for backbone in tables.paper()["accuracy"].values():
        for figures in backbone.values():
            assert all(value is None or 0 <= value <= 1 for value in figures.values())


def test_table_text_for_the_terminal(results, workdir):
    lines = tables.table_text(results).splitlines()
    assert lines[0].startswith("digits, 360 test images (preliminary: fewer than 1,000); L∞, ε = 25.5/255 (0.1)")
    assert lines[2].split() == ["Attack", "Without", "C-LEAD", "With", "C-LEAD", "Gain"]
    assert len({len(line) for line in lines[2:]}) == 1, "columns are aligned"
    assert report.table(workdir / "evaluation") == "\n".join(lines)


@pytest.mark.parametrize(("count", "preliminary"), [(999, True), (1000, False)])
def test_fewer_than_a_thousand_examples_are_preliminary(results, count, preliminary):
    results["dataset"]["num_examples"] = count
    assert ("preliminary" in tables.measured(results)) == preliminary


def test_distances_that_do_not_exist_are_not_numbers(results):
    results["distances"]["cw_l2"]["defended"] |= {"median": None, "mean": None, "success": 0.0}
    assert tables.distances(results).rows[1] == ["C&W L2: With C-LEAD", "none found", "none found", "0.0"]


def test_wilson_against_published_values():
    assert intervals.wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert intervals.wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert intervals.wilson(1.0, 1000)[0] == pytest.approx(1000 / (1000 + 1.959964**2))


def test_paired_interval_covers_the_truth_and_profits_from_pairing():
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(1000):
        difficulty = rng.random(200)
        low, high = intervals.paired_difference(difficulty < 0.3, difficulty + 0.1 * rng.random(200) < 0.6)
        covered += low <= 0.25 <= high  # P(difficulty + 0.1 u < 0.6) - 0.3 = 0.55 - 0.3
        widths.append(high - low)
    assert 0.93 <= covered / 1000 <= 0.98
    independent = 2 * 1.96 * np.sqrt((0.3 * 0.7 + 0.55 * 0.45) / 200)
    assert np.mean(widths) < 0.8 * independent
    same = np.ones(50, bool)
    low, high = intervals.paired_difference(same, same)
    assert low == -high < 0, "no change seen is not no change proven"


def test_words():
    assert wording.radius("linf", 8 / 255) == "L∞, ε = 8/255 (0.0314)"
    assert wording.radius("l2", 0.5) == "L2, ε = 0.5"
    assert [wording.points(value) for value in (0.417, -0.043, -0.0001)] == ["+41.7", "−4.3", "+0.0"]
    assert [wording.duration(value) for value in (9.84, 75.3, 7380)] == ["9.8 s", "1 min 15 s", "2 h 3 min"]
    assert wording.scalar({"clean": 0.98123, "list": [1, None]}) == "clean 0.9812, list 1, none"


def test_text_table_aligns_and_joins_fine_print():
    table = render.Table(["name", "n"], [["a", ("1.0", "[0, 2]")], ["long", "12"]])
    assert render.text(table).splitlines() == [
        "name           n",
        "----  ----------",
        "a     1.0 [0, 2]",
        "long          12",
    ]
