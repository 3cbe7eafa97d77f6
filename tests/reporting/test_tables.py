"""Numbers and words of the tables, against values written down by hand."""

import pytest

from clead_jax.reporting import headline, labels, page, render, tables


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


def test_many_models_have_a_row_each(results):
    assert tables.fitted(tables.before_after(results)).header[0] == "Attack"
    for n in range(5):
        results["models"][f"more{n}"] = results["models"]["baseline"] | {"checkpoint": {"stage": f"more{n}"}}
    table, turned = tables.before_after(results), tables.fitted(tables.before_after(results))
    assert turned.header == ["Model", "Clean images", "FGSM (unseen)", "PGD-20 (seen)", "C&W (seen)", "Worst case"]
    assert [line[0] for line in turned.rows] == [*table.header[1:]] and len(turned.rows) == 8
    assert [line[2] for line in turned.rows] == table.rows[1][1:]
    assert "more3" in tables.table_text(results).splitlines()[9]


def test_adversarial_training_is_not_called_clead(results):
    results["models"]["defended"]["checkpoint"]["stage"] = "supervised"
    assert tables.before_after(results).header[2] == "With adversarial training"


def test_paper_column_shows_its_two_figures_and_never_invents(results):
    table = tables.before_after(results)
    column = lambda backbone: [line[-1] for line in tables.with_paper(table, results, backbone).rows]
    assert set(column("resnet18")) == {"—"}  # digits are not in the paper
    results["dataset"]["name"] = "cifar10"
    assert column("resnet18") == [
        "87.9 → not given",
        "18.4 / 13.6 → 25.8 / 25.0",
        "12.6 / 10.3 → 31.3 / 27.6",
        "9.8 / 7.4 → 21.6 / 18.8",
        "—",
    ]
    assert set(column("tiny")) == {"—"}
    assert tables.cited_by_paper().rows[-1] == ["C-LEAD", "resnet50", "55.3", "68.7", "59.9"]


def test_paper_figures_are_shares_or_null():
    figures = [f for network in tables.paper()["table1"].values() for f in network.values()]
    assert all(0 < share < 1 for f in figures for side in f.values() for share in side or [])
    for network in tables.paper()["table1"].values():
        assert network["clean"]["with"] is None
        assert all(len(network[attack][side]) == 2 for attack in ("fgsm", "pgd", "cw") for side in ("without", "with"))


def test_table_text_for_the_terminal(results, workdir):
    lines = tables.table_text(results).splitlines()
    assert lines[0].startswith("digits, 360 test images (preliminary: fewer than 1,000); L∞, ε = 25.5/255 (0.1)")
    assert lines[2].split() == ["Attack", "Without", "C-LEAD", "With", "C-LEAD", "Gain"]
    assert len({len(line) for line in lines[2:]}) == 1, "columns are aligned"
    assert page.table(workdir / "evaluation") == "\n".join(lines)


@pytest.mark.parametrize(("count", "preliminary"), [(999, True), (1000, False)])
def test_fewer_than_a_thousand_examples_are_preliminary(results, count, preliminary):
    results["dataset"]["num_examples"] = count
    assert ("preliminary" in tables.measured(results)) == preliminary


def test_distances_that_do_not_exist_are_not_numbers(results):
    results["distances"]["cw_l2"]["defended"] |= {"median": None, "mean": None, "success": 0.0}
    row = ["C&W L2: With C-LEAD", "none found", "none found", ("0.0", "of 100")]
    assert tables.distances(results).rows[1] == row


def test_corruptions_with_their_mean_the_strongest_and_the_worst(results):
    shares = {"fog": [0.9, 0.8, 0.7, 0.6, 0.5], "jpeg_compression": [1.0] * 5}
    one = {"accuracy": shares, "mean": 0.85, "worst": 0.7, "num_examples": 100}
    results["corruptions"] = {"defended": one}
    found = tables.corruptions(results)
    assert found.header == ["Corruption", "With C-LEAD"]
    assert found.rows == [
        ["fog", ("70.0", "(severity 5: 50.0)")],
        ["jpeg compression", ("100.0", "(severity 5: 100.0)")],
        ["Mean of all", "85.0"],
        ["Worst of these", "70.0"],
    ]


def test_the_union_has_a_row_for_each_norm_and_one_for_all(results):
    threats = [{"norm": "linf", "eps": 8 / 255}, {"norm": "l2", "eps": 0.5}]
    accuracy = {"clean": 0.9, "linf": 0.5, "l2": 0.6, "union": 0.4}
    models = {"defended": {"accuracy": accuracy, "interval95": {}, "incomplete": ["l2", "union"]}}
    found = tables.union({"of": ["", "l2-0.5"], "threat_models": threats, "models": models}, results)
    assert [row[0] for row in found.rows] == [
        "Clean images",
        "L∞, ε = 8/255 (0.0314)",
        "L2, ε = 0.5",
        "All of these norms",
    ]
    assert [row[1][0] for row in found.rows] == ["90.0", "50.0", "≤ 60.0", "≤ 40.0"]


def test_words():
    assert labels.radius("linf", 8 / 255) == "L∞, ε = 8/255 (0.0314)"
    assert labels.radius("l2", 0.5) == "L2, ε = 0.5"
    assert [labels.points(value) for value in (0.417, -0.043, -0.0001)] == ["+41.7", "−4.3", "+0.0"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "—"),
        (True, "yes"),
        (1200, "1200"),
        (0.123456, "0.1235"),
        ("sqrt", "sqrt"),
        ([], "—"),
        ([0.25, None, "a"], "0.25, —, a"),
        ({"clean": 0.98123, "at": [1, 2], "of": {"pgd": False}}, "clean 0.9812, at (1, 2), of (pgd no)"),
    ],
)
def test_any_json_value_is_written_for_people(value, said):
    assert labels.scalar(value) == said


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("pgd", "PGD-20"),
        ("pgd(steps=100,restarts=5)", "PGD-100 (restarts 5)"),
        ("apgd_ce", "APGD-CE"),
        ("apgd_dlr", "APGD-DLR"),
        ("apgd_t", "APGD-T"),
        ("fab_t(targets=5)", "FAB-T (targets 5)"),
        ("mi_fgsm", "MI-FGSM"),
        ("bim", "BIM"),
        ("noise", "Random noise"),
        ("my_own", "my_own"),
        ("no (spec", "no (spec"),
    ],
)
def test_attacks_have_their_usual_names(results, name, title):
    assert labels.attack_title(name, results) == title


def test_checks_by_gravity_with_the_model_in_words(results):
    checks = [
        {"name": "ball/defended", "status": "ok", "value": 0.1, "hint": ""},
        {"name": "steps_enough/baseline", "status": "warn", "value": {"gain": 0.02}, "hint": "more steps"},
        {"name": "batch_statistics", "status": "fail", "value": None, "hint": "evaluation mode"},
    ]
    assert tables.checks(checks, results).rows == [
        [("batch_statistics", ""), "FAIL", "—", "evaluation mode"],
        [("steps_enough", "(Without C-LEAD)"), "WARN", "gain 0.02", "more steps"],
        [("ball", "(With C-LEAD)"), "OK", "0.1", ""],
    ]


def test_protocols_side_by_side(all_protocols):
    table = headline.table(all_protocols)
    assert table.header == ["Attack and protocol", "Without C-LEAD", "With C-LEAD"]
    names = [line[0] for line in table.rows]
    assert names[:4] == [(a, "(Transfer attack)") for a in ("FGSM", "PGD-20", "C&W", "Worst case")]
    assert names[7:9] == [("Worst case", "(White-box)"), ("APGD-CE", "(AutoAttack)")]
    assert names[-1] == ("AutoAttack", "")
    assert [line[2][0] for line in table.rows if line[0][0] == "PGD-20"] == ["88.0", "61.9"]
    assert table.rows[-1][1:] == [("3.0", "[1.0, 5.0]"), ("55.0", "[49.6, 60.4]")]


def test_the_protocols_in_one_sentence(all_protocols, results):
    said = headline.sentence("defended", all_protocols)
    worst = f"{100 * results['models']['defended']['accuracy']['worst_case']:.1f}"
    assert said == (
        f"With C-LEAD: clean 93.9 %; under transferred attacks 87.0 %; attacked directly {worst} %; "
        "under AutoAttack 55.0 %."
    )
    assert headline.missing(all_protocols) == []
    del all_protocols["protocols"]["paper"]["defended"]
    assert "transferred" not in headline.sentence("defended", all_protocols)


def test_an_attack_stopped_by_its_budget_is_a_bound_everywhere(all_protocols):
    all_protocols["protocols"]["autoattack"]["defended"]["complete"] = False
    assert "under AutoAttack at most 55.0 %" in headline.sentence("defended", all_protocols)
    *_, without, defended = headline.table(all_protocols).rows[-1]
    assert (without[0], defended[0]) == ("3.0", "≤ 55.0")
    stopped = [note for note in headline.notes(all_protocols) if "upper bound" in note]
    assert len(stopped) == 1 and "With C-LEAD" in stopped[0]


def test_the_terminal_names_the_protocols_too(all_protocols, results):
    assert tables.table_text(all_protocols).startswith(tables.table_text(results) + "\n\nWithout C-LEAD: clean")
    assert tables.table_text(all_protocols).endswith("under AutoAttack 55.0 %.")


def test_cost_of_autoattack_is_said(all_protocols):
    notes = " ".join(headline.notes(all_protocols))
    assert "version standard; 4,001 forward and 995 backward passes per image on average; 3 min 23 s" in notes


def test_clean_accuracy_alone_is_no_protocol(results):
    for model in results["models"].values():
        model["accuracy"] = {"clean": 0.9, "worst_case": 0.9}
    assert headline.measured(results) == {}
    assert [row[0][0] for row in tables.before_after(results).rows] == ["Clean images"], "no attack, no worst case"
    assert headline.missing(results) == ["Transfer attack", "White-box", "AutoAttack"]


def test_text_table_aligns_and_joins_fine_print():
    table = render.Table(["name", "n"], [["a", ("1.0", "[0, 2]")], ["long", "12"]])
    assert render.text(table).splitlines() == [
        "name           n",
        "----  ----------",
        "a     1.0 [0, 2]",
        "long          12",
    ]


def test_models_are_named_by_their_stage_unless_the_user_named_them(results):
    models, named = results["models"], lambda name: labels.model_title(name, results)
    of = lambda stage, **more: {"checkpoint": {"stage": stage, **more}, "accuracy": {"clean": 0.9}}
    models["defended"]["checkpoint"]["stage"] = "finetune"
    assert named("defended") == "finetune", "a stage of the user's has no title but its name"
    models["probe"] = of("probe")
    assert named("probe") == "With C-LEAD"
    models["defended"] = of("probe")
    assert (named("defended"), named("probe")) == ("With C-LEAD", "With C-LEAD (probe)")
    models["mine"], models["averaged"] = of("probe"), of("probe", weights="ema")
    assert (named("mine"), named("averaged")) == ("mine", "averaged (ema)")
    models["defended"] = of("probe", weights="ema")
    assert named("defended") == "With C-LEAD (ema)"


def test_a_single_attack_that_a_budget_stopped_is_a_bound_everywhere(all_protocols, records):
    all_protocols["models"]["defended"]["incomplete"] = ["cw"]
    table = tables.before_after(all_protocols, records)
    for attack, sign in (("PGD", ""), ("C&W", "≤ "), ("Worst case", "≤ ")):
        assert row(table, attack)[2][0][:2] == (sign or row(table, attack)[2][0][:2])
        assert (row(table, attack)[3] == "unknown") == bool(sign)
    assert "attacked directly at most" in headline.sentence("defended", all_protocols)
    assert "at most" not in headline.sentence("baseline", all_protocols)
    white = [line for line in headline.table(all_protocols).rows if line[0] == ("C&W", "(White-box)")]
    assert white[0][2][0].startswith("≤ ") and not white[0][1][0].startswith("≤ ")


def test_the_probe_of_another_method_is_not_called_c_lead():
    results = {"models": {"defended": {"checkpoint": {"stage": "probe"}}}}
    title = lambda *stages: labels.model_title("defended", results | {"training_cost": dict.fromkeys(stages)})
    assert title("baseline", "pretrain", "probe") == title("first", "pretrain", "probe") == title() == "With C-LEAD"
    assert title("baseline", "acl", "probe") == "With acl"
    assert title("baseline", "simclr", "deacl", "probe") == "With simclr + deacl"
