"""What is drawn, read back from the figures: positions, units, marks. Looks are judged by eye."""

import numpy as np
import pytest

from clead_jax.reporting import charts, pictures, style


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.xaxis.label, ax.title, ax._left_title)]


def test_radii_are_in_grey_levels_under_linf_and_plain_under_l2(results):
    results["threat_model"] = {"norm": "linf", "eps": 8 / 255}
    results["curves"]["eps"] = [value / 255 for value in (0, 1, 2, 4, 8, 16, 32, 64)]
    ax = charts.accuracy_over_eps(results).axes[0]
    assert list(ax.lines[0].get_xdata()) == pytest.approx([0, 1, 2, 4, 8, 16, 32, 64])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "4", "8", "16", "32", "64"]
    assert "1/255" in ax.get_xlabel() and "L∞" in ax.get_xlabel()
    results["threat_model"] = {"norm": "l2", "eps": 0.5}
    ax = charts.accuracy_over_eps(results).axes[0]
    assert list(ax.lines[0].get_xdata()) == pytest.approx(results["curves"]["eps"])
    assert "255" not in ax.get_xlabel()


def test_accuracy_is_in_percent_with_wilson_bars_of_the_curves_own_examples(results):
    def bars(count):
        results["curves"]["num_examples"] = count
        container = charts.accuracy_over_eps(results).axes[0].containers[0]
        assert list(container[0].get_ydata()) == pytest.approx([98, 92, 74, 43, 20, 3, 0, 0])
        return container[2][0].get_segments()

    (_, low), (_, high) = bars(100)[4]
    assert (low, high) == pytest.approx((13.3, 28.9), abs=0.1)  # Wilson, 20 of 100
    (_, low), (_, high) = bars(10_000)[4]
    assert high - low < 2


def test_before_after_shows_every_measurement_with_its_interval(results):
    ax = charts.before_after(results).axes[0]
    for container, model in zip(ax.containers, ("baseline", "defended"), strict=True):
        measured = results["models"][model]
        assert list(container[0].get_xdata()) == pytest.approx([100 * a for a in measured["accuracy"].values()])
        ends = np.array([segment[:, 0] for segment in container[2][0].get_segments()])
        assert ends == pytest.approx(100 * np.array(list(measured["interval95"].values())))
    assert ax.get_yticklabels()[0].get_text() == "Clean images"


def test_the_picture_by_protocol_shows_every_protocol_with_its_interval(all_protocols):
    ax = charts.by_protocol(all_protocols).axes[0]
    ticks = [label.get_text().split("\n")[0] for label in ax.get_xticklabels()]
    assert ticks == ["Clean images", "Transfer attack", "White-box", "AutoAttack"]
    whitebox = all_protocols["models"]["defended"]
    defended = ax.containers[1]
    expected = np.array([whitebox["accuracy"]["clean"], 0.87, whitebox["accuracy"]["worst_case"], 0.55])
    assert defended[0].get_ydata() == pytest.approx(100 * expected)
    ends = np.array([segment[:, 1] for segment in defended[2][0].get_segments()])
    intervals = [whitebox["interval95"]["clean"], whitebox["interval95"]["worst_case"]]
    assert ends[[0, 2]] == pytest.approx(100 * np.array(intervals))
    assert {text.get_text() for text in ax.texts} >= {"87.0", "55.0", "19.0", "3.0"}


def test_the_picture_by_protocol_shows_only_what_was_measured_and_bounds_as_bounds(all_protocols, results):
    ax = charts.by_protocol(results).axes[0]
    assert [label.get_text().split("\n")[0] for label in ax.get_xticklabels()] == ["Clean images", "White-box"]
    all_protocols["protocols"]["autoattack"]["defended"]["complete"] = False
    ax = charts.by_protocol(all_protocols).axes[0]
    assert "≤ 55.0" in [text.get_text() for text in ax.texts]
    low, high = ax.containers[1][2][0].get_segments()[3][:, 1]
    assert low == pytest.approx(55) and high > 58


def test_equal_values_are_not_written_over_each_other(all_protocols):
    for entry in all_protocols["protocols"]["autoattack"].values():
        entry["accuracy"]["autoattack"] = 0.031
    same = [text for text in charts.by_protocol(all_protocols).axes[0].texts if text.get_text() == "3.1"]
    assert sorted(text.get_ha() for text in same) == ["left", "right"]


def test_training_shows_every_stage_and_says_where_nothing_was_validated(metrics):
    figure = charts.training_curves(metrics)
    left, right = figure.axes[2:4]  # second row: pretrain
    lines = [line for line in metrics if line["stage"] == "pretrain"]
    assert list(left.lines[0].get_xdata()) == [line["step"] for line in lines]
    assert list(right.lines[1].get_ydata()) == [100 * line["val_robust"] for line in lines if "val_robust" in line]
    assert "no validation in this stage" in texts(figure)


def test_a_loss_of_several_terms_is_shown_with_the_share_of_each(metrics):
    joint = [line | {"stage": "joint", "term_ce": 0.25 * line["loss"], "term_supcon": 0.75 * line["loss"]}
             for line in metrics if line["stage"] == "baseline"]  # fmt: skip
    figure = charts.training_curves(joint)
    left = figure.axes[0]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["ce", "supcon"]
    tops = [layer.get_paths()[0].vertices[:, 1].max() for layer in left.collections]
    loss = max(line["loss"] for line in joint)
    assert tops == pytest.approx([0.25 * loss, loss])
    assert charts.training_curves([line | {"term_ce": 1.0} for line in metrics]).axes[0].get_legend() is None


@pytest.mark.parametrize("channels", [1, 3])
def test_perturbations_are_amplified_alike_and_predictions_marked(samples, results, channels):
    samples = {name: np.repeat(a, channels, -1) if a.ndim == 4 else a for name, a in samples.items()}
    figure, factor = pictures.perturbations(samples, results, "pgd")
    assert factor == pytest.approx(5, rel=1e-4)  # 0.5 over eps 0.1
    images = [ax.images[0].get_array() for ax in figure.axes]
    expected = np.clip(0.5 + 5 * (samples["baseline/pgd"][0] - samples["clean"][0]), 0, 1).squeeze()
    assert np.asarray(images[1]) == pytest.approx(expected, abs=1e-4)
    assert np.asarray(images[2]) == pytest.approx(samples["baseline/pgd"][0].squeeze(), abs=1e-6)
    said = texts(figure)
    assert {"label: 0", "✓ 0", "✗ 8", "✓ 1", "Without C-LEAD", "With C-LEAD", "change × 5"} <= set(said)


def test_of_many_models_the_first_are_pictured(samples, results):
    for n in range(4):
        results["models"][f"more{n}"] = results["models"]["baseline"]
        samples |= {key.replace("baseline", f"more{n}"): samples[key] for key in list(samples) if "baseline" in key}
    assert len(pictures.pictured_models(samples, results, "pgd")) == 6
    figure, _ = pictures.perturbations(samples, results, "pgd")
    assert len(figure.axes) == pictures.ROWS * (1 + 2 * pictures.MAX_MODELS)
    (legend,) = charts.before_after(results).legends
    assert len(legend.texts) == 6 and legend._ncols < 6


def test_another_attack_is_shown_where_pgd_was_not_run(samples, results):
    assert pictures.shown_attack(samples, results) == "pgd"
    assert pictures.shown_attack({k: v for k, v in samples.items() if "pgd" not in k}, results) == "fgsm"
    assert pictures.shown_attack({"clean": samples["clean"]}, results) is None


@pytest.mark.slow
def test_embedding_is_repeatable_and_shows_clusters_fall_apart(embeddings, results):
    spread = {}
    figure = pictures.embeddings(embeddings, results)
    again = pictures.embeddings(embeddings, results)
    for ax, other in zip(figure.axes, again.axes, strict=True):
        points = [dots.get_offsets() for dots in ax.collections]
        assert all(np.array_equal(a, b.get_offsets()) for a, b in zip(points, other.collections, strict=True))
        spread[ax.get_title(loc="left")] = np.mean([np.std(cluster, axis=0).mean() for cluster in points])
    for model in ("Without C-LEAD", "With C-LEAD"):
        assert spread[f"{model}: attacked"] > 2 * spread[f"{model}: clean"]


def test_many_classes_are_cut_to_the_colours_there_are(embeddings, results):
    embeddings["label"] = np.arange(300) % 100
    figure = pictures.embeddings(embeddings, results)
    assert len(figure.axes[0].collections) == len(style.PALETTE) == len(set(style.PALETTE))


def test_models_differ_by_more_than_colour():
    before, after = style.lines(["baseline", "defended"])
    assert before.marker != after.marker and before.linestyle != after.linestyle
    assert style.lines(["mine", "defended", "baseline"])[1:] == [after, before], "these two look alike everywhere"
    assert len(set(style.lines(["baseline", "defended", *"abcdefghijklmn"]))) == 16
