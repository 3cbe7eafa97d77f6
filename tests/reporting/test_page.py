"""The front door: work directory in, pages and pictures out."""

import html.parser
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from clead_jax.reporting.page import build

pytestmark = pytest.mark.usefixtures("quick_projection")

PICTURES = {"protocols", "before_after", "accuracy_over_eps", "perturbations", "embeddings", "training_curves"}


@pytest.fixture
def pages(workdir):
    """report.md and index.html of a complete work directory, and their folder."""
    folder = build(workdir).parent
    return (folder / "report.md").read_text(), (folder / "index.html").read_text(), folder


def edit_results(workdir, **changes):
    path = workdir / "evaluation" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class Tags(html.parser.HTMLParser):
    """Collects attributes by tag and insists that every tag is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = {}, []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.setdefault(tag, []).append(dict(attributes))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_pictures_hold_something_and_both_pages_show_them(pages):
    markdown, page, folder = pages
    assert {path.stem for path in folder.glob("*.png")} == PICTURES
    for name in PICTURES:
        with Image.open(folder / f"{name}.png") as image:
            assert image.width == 1200
            assert np.asarray(image.convert("L")).std() > 10
        assert f"({name}.png)" in markdown
    images = Tags(page).found["img"]
    assert {image["src"] for image in images} == {f"{name}.png" for name in PICTURES}
    assert all(len(image["alt"]) > 20 for image in images)


def test_page_is_whole_and_needs_nothing_from_elsewhere(pages):
    _, page, _ = pages
    tags = Tags(page)
    assert not tags.open
    assert not {"link", "script"} & tags.found.keys()
    assert any(meta.get("name") == "viewport" for meta in tags.found["meta"])
    assert "http" not in page


def test_both_pages_carry_the_numbers_and_no_path_of_this_machine(pages, workdir):
    for text in pages[:2]:
        for said in ("20.0", "61.9", "preliminary", "25.5/255", "PGD-20", "Paper, not measured here", "517,000"):
            assert said in text, said
        assert "python -m clead_jax.main --config=configs/quickstart.py" in text
        assert str(workdir) not in text


def test_building_again_changes_nothing(pages, workdir):
    folder = pages[2]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    build(workdir)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_says_what_is_missing_and_leaves_no_outdated_picture(workdir):
    build(workdir)
    for name in ("per_example", "samples", "embeddings"):
        (workdir / "evaluation" / f"{name}.npz").unlink()
    (workdir / "metrics.jsonl").unlink()
    (workdir / "config.json").unlink()
    edit_results(workdir, curves={}, distances={}, training_cost={}, attacks={}, label_use={})
    folder = build(workdir).parent
    markdown = (folder / "report.md").read_text().replace("\\", "")
    for name in ("per_example.npz", "samples.npz", "embeddings.npz", "metrics.jsonl", "config.json", "curves"):
        assert name in markdown, name
    assert {path.stem for path in folder.glob("*.png")} == {"protocols", "before_after"}


def test_checks_come_first_and_only_failures_and_warnings_are_unfolded(workdir):
    text = (build(workdir).parent / "report.md").read_text().replace("\\", "")
    assert (
        text.index("## Checks")
        < text.index("## Robust accuracy by protocol")
        < text.index("## Accuracy before and after")
    )
    assert "No check failed or warned" in text
    alarm = {"name": "gradient_zero_or_nan/defended", "status": "fail", "value": 0.3125, "hint": "Use a margin loss."}
    quiet = {"name": "transfer", "status": "skipped", "value": None, "hint": "one model only"}
    warned = {"name": "small", "status": "warn", "value": {"n": [360]}, "hint": "more images"}
    edit_results(workdir, checks=[quiet, warned, alarm])
    folder = build(workdir).parent
    text = (folder / "report.md").read_text().replace("\\", "")
    rows = (
        "| gradient_zero_or_nan (With C-LEAD) | FAIL | 0.3125 | Use a margin loss. |\n| small | WARN | n (360) |",
        "<details><summary>0 checks passed, 1 did not apply</summary>",
        "| transfer ",
    )
    assert [text.index(row) for row in rows] == sorted(text.index(row) for row in rows)
    page = (folder / "index.html").read_text()
    assert not Tags(page).open
    folded = page[page.index("<details>") : page.index("</details>")]
    assert "transfer" in folded and "gradient_zero_or_nan" not in folded
    assert page.index("Use a margin loss.") < page.index("<details>")


def test_the_headline_names_what_is_missing_and_the_command_that_adds_it(workdir, all_protocols, monkeypatch):
    command = "python -m clead_jax.evaluate --workdir={} --protocol=paper,whitebox,autoattack"
    text = (build(workdir).parent / "report.md").read_text()
    assert "Not measured: Transfer attack, AutoAttack." in text and command.format("DIR") in text
    monkeypatch.chdir(workdir.parent)
    text = (build(workdir.name).parent / "report.md").read_text()
    assert command.format(workdir.name) in text, (
        "a relative path is repeated, an absolute one holds on one machine only"
    )
    edit_results(workdir, protocols=all_protocols["protocols"])
    text = (build(workdir).parent / "report.md").read_text()
    assert "Not measured" not in text
    headline = text[text.index("## Robust accuracy by protocol") : text.index("## Accuracy before and after")]
    for said in (
        "under AutoAttack 55.0 %",
        "(protocols.png)",
        "| APGD-CE (AutoAttack) |",
        "not made against the defence",
    ):
        assert said in headline, said


def test_other_evaluations_are_shown_with_their_own_radius(workdir, results):
    results["threat_model"]["eps"] = 4 / 255
    (workdir / "evaluation" / "linf-0.01569").mkdir()
    (workdir / "evaluation" / "linf-0.01569" / "results.json").write_text(json.dumps(results))
    text = (build(workdir).parent / "report.md").read_text()
    assert "ε = 4/255" in text.split("## Other evaluations")[1]


def test_class_names_and_data_set_names_are_never_markup(workdir, results):
    edit_results(workdir, dataset=results["dataset"] | {"name": "<b>|cats*"})
    folder = build(workdir).parent
    assert "<b>" not in (folder / "index.html").read_text()
    assert "\\<b>\\|cats\\*" in (folder / "report.md").read_text()


def test_a_torn_last_line_is_a_running_training_any_other_is_damage(workdir):
    path = workdir / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"stage": "pro')
    build(workdir)
    path.write_text('{"stage": "pro\n' + whole)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1"):
        build(workdir)


@pytest.mark.parametrize("name", ["results.json", "samples.npz", "embeddings.npz", "per_example.npz"])
def test_a_damaged_file_is_named(workdir, name):
    path = workdir / "evaluation" / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=name) as caught:
        build(workdir)
    assert "\n" not in str(caught.value)


def test_results_of_another_schema_or_half_an_evaluation_are_refused(workdir):
    edit_results(workdir, schema=7)
    with pytest.raises(ValueError, match=r"schema 7.*reads 1"):
        build(workdir)
    (workdir / "evaluation" / "results.json").write_text('{"schema": 1, "models": {}}')
    with pytest.raises(ValueError, match=r"lacks dataset.*not finished"):
        build(workdir)


def test_without_attacked_images_their_pictures_are_left_out_and_it_says_so(workdir, samples, embeddings):
    evaluation = workdir / "evaluation"
    np.savez(evaluation / "samples.npz", **{k: v for k, v in samples.items() if k in ("clean", "label", "index")})
    np.savez(evaluation / "embeddings.npz", **{k: v for k, v in embeddings.items() if "adversarial" not in k})
    folder = build(workdir).parent
    text = (folder / "report.md").read_text().replace("\\", "")
    assert "Not shown: evaluation/samples.npz holds no attacked images" in text
    assert "Not shown: evaluation/embeddings.npz holds no features of attacked images" in text
    assert {path.stem for path in folder.glob("*.png")} == PICTURES - {"perturbations", "embeddings"}


def test_cluster_measures_stand_under_the_picture_or_not_at_all(workdir):
    found = {"intra": 0.41, "inter": 1.25, "silhouette": None}
    edit_results(workdir, clusters={"defended": {"clean": found | {"silhouette": 0.333}, "attacked": found}})
    text = build(workdir).with_name("report.md").read_text()
    assert "With C-LEAD: clean" in text and "0.333" in text and "1.250" in text
    edit_results(workdir, clusters={})
    assert "Silhouette" not in build(workdir).with_name("report.md").read_text()


def test_under_the_distances_stands_what_they_count(pages):
    section = pages[0].split("## Distance to the nearest error")[1].split("##")[0]
    assert "of 100" in section and "distance 0" in section


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def test_command_line_writes_the_report_without_jax(workdir):
    code = (
        "import sys; from clead_jax import report; report.main(['report', f'--workdir={sys.argv[1]}'])\n"
        "assert not {'jax', 'tensorflow', 'matplotlib.pyplot'} & sys.modules.keys()"
    )
    done = run("-c", code, str(workdir))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(workdir / "report" / "index.html")
    assert (workdir / "report" / "index.html").exists()


def test_command_line_errors_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    for arguments, said in (
        ([f"--workdir={tmp_path / 'absent'}"], "absent does not exist"),
        ([f"--workdir={tmp_path}"], "clead_jax.evaluate"),
        ([], "--workdir"),
    ):
        done = run("-m", "clead_jax.report", *arguments)
        assert done.returncode != 0
        assert said in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


def test_a_report_that_cannot_be_written_is_an_os_error(workdir):
    (workdir / "report").touch()
    with pytest.raises(OSError, match="report"):
        build(workdir)


def test_extra_data_that_are_test_images_are_named(workdir):
    assert "Extra data" not in (build(workdir).parent / "report.md").read_text()
    pair = {"test": 7, "extra": 40, "distance": 0.0123}
    found = {"name": "npz:more.npz", "fingerprints": ["a", "b"], "num_images": 42, "num_test": 360}
    found |= {"near_duplicates": 1, "threshold": 0.05, "nearest": [pair]}
    (workdir / "extra.json").write_text(json.dumps(found))
    text = (build(workdir).parent / "report.md").read_text().replace("\\", "")
    assert "## Extra data and the test split" in text and "42 images of npz:more.npz" in text
    assert "1 of 360 test images have a near-duplicate" in text and "0.0123" in text
    (workdir / "extra.json").write_text(json.dumps(found | {"nearest": [{"test": -1}]}))
    with pytest.raises(ValueError, match=r"extra.json is damaged \(.*nearest"):
        build(workdir)
