"""Names are data: whatever signs they hold, pages, pictures and the screen show them and nothing else comes of them."""

import io
import json
import re
import shutil
import warnings

import pytest
from marks import slowly
from test_page import Tags

from clead_jax import compare
from clead_jax.config import cli
from clead_jax.core.spec import visible
from clead_jax.reporting import charts, render, tables
from clead_jax.reporting.page import build
from clead_jax.reporting.render import Bullets, Code, Heading, Table, Text
from clead_jax.results import read

pytestmark = pytest.mark.usefixtures("fast_pictures")

NAMES = ["$x^2$", "$a", "a^b_c", "\\frac{", "\\", "cat \U0001f408", "\ud800", "new\nline", "\x1b[31mred", "<b>&amp;",
         "a|b", "```", "\u202eright", "x" * 500, "猫", "--", "# head", "%s{}"]  # fmt: skip


@pytest.mark.parametrize("names", [NAMES[:10], NAMES[-10:]], ids=["first", "last"])
def test_classes_of_any_name_have_their_pages_and_pictures(workdir, results, samples, embeddings, names):
    path = workdir / "evaluation/results.json"
    results["dataset"]["class_names"] = names
    path.write_text(json.dumps(results))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = build(workdir).parent
    assert (folder / "perturbations.png").stat().st_size and (folder / "embeddings.png").stat().st_size
    (folder / "report.md").read_bytes().decode("utf-8")


@pytest.mark.parametrize("name", slowly(NAMES, NAMES[::3], ascii))
def test_models_attacks_stages_and_settings_of_any_name(workdir, results, records, name):
    name = name[:200]
    named = json.loads(json.dumps(results))
    named["models"][name] = named["models"].pop("defended") | {"worst_case_over": ["clean", "fgsm", "pgd", "cw"]}
    named["dataset"]["name"] = named["dataset"]["split"] = name
    named["checks"].append({"name": name, "status": "warn", "value": {name: [name]}, "hint": name})
    named["environment"] = {"command": name, name: name}
    named["attacks"] |= {name: {name: name}}
    named |= {"curves": {}, "distances": {}, "label_use": {name: [name]}, "training_cost": {}}
    (workdir / "evaluation/per_example.npz").unlink()
    (workdir / "evaluation/results.json").write_text(json.dumps(named))
    line = {"stage": name, "step": 1, "epoch": 1, "loss": 1.0}
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = build(workdir).parent
    page, markdown = (folder / "index.html").read_text("utf-8"), (folder / "report.md").read_text("utf-8")
    Tags(page)
    assert "<b>" not in page and "\x1b" not in page + markdown and "\u202e" not in page + markdown
    prose = re.sub(r"(?ms)^(`{3,})$.*?^\1$", "", markdown)
    assert "\n# head" not in prose and not any(line.startswith("line") for line in markdown.splitlines())
    assert tables.table_text(read.read(workdir).results).encode("utf-8")


BLOCKS = {
    "newline": (Text("a\n\n# b"), "a\\\\n\\\\n# b"),
    "heading": (Text("# b"), "\\# b"),
    "list": (Bullets(["- b", "1. c"]), "* \\- b\n* 1\\. c"),
    "quotation": (Text("> b"), "\\> b"),
    "rule": (Text("---"), "\\---"),
    "formula": (Heading("$x$"), "## \\$x\\$"),
    "struck": (Text("~~x~~"), "\\~\\~x\\~\\~"),
    "entity": (Text("&lt;b&gt;"), "\\&lt;b\\&gt;"),
    "link": (Text("[x](http://y)"), "[x\\](http://y)"),
    "definition": (Text("[x]: http://y"), "[x\\]: http://y"),
    "cell": (Table(["a"], [["b\n| c"]]), "| a |\n| :-- |\n| b\\\\n\\| c |"),
    "fence": (Code("a\n```\n# b"), "````\na\n```\n# b\n````"),
    "long fence": (Code("`````"), "``````\n`````\n``````"),
    "escape": (Text("\x1b[2J"), "\\\\x1b[2J"),
}


@pytest.mark.parametrize(("block", "markdown"), BLOCKS.values(), ids=BLOCKS)
def test_no_name_becomes_markup(block, markdown):
    assert render._written(block)[0] == markdown


def test_text_is_made_visible_and_stays_itself():
    assert visible("a\nb\ud800\x00\u2029") == "a\\nb\\ud800\\x00\\u2029"
    assert visible("naïve 猫 👩‍🚀 L∞ ≤ 0") == "naïve 猫 👩‍🚀 L∞ ≤ 0"


def test_names_that_look_like_formulas_are_drawn_as_they_are(results):
    results["models"]["$x^{2}$"] = results["models"].pop("defended")
    figure = charts.before_after(results)
    texts = list(figure.findobj(lambda artist: hasattr(artist, "get_parse_math")))
    assert texts and not any(text.get_parse_math() for text in texts)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "Linf, eps <= 1"), ("latin-1", "Linf"), ("utf-8", "L∞, ε ≤ 1")]
)
def test_a_screen_without_a_sign_shows_it_in_ascii(monkeypatch, encoding, shown):
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.argv", ["door"])
    cli.run(lambda argv: print("L∞, ε ≤ 1; \U0001f408 \ud800 ± − →"))
    screen.flush()
    assert screen.buffer.getvalue().decode(encoding).startswith(shown)


def test_pages_are_utf_8_under_any_locale(workdir, monkeypatch, tmp_path):
    real = io.text_encoding
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *level: encoding or "ascii")
    build(workdir)
    shutil.copytree(workdir, tmp_path / "b")
    compare.main(["compare", f"--workdirs={workdir}", f"--output={tmp_path / 'both'}"])
    monkeypatch.setattr(io, "text_encoding", real)
    for file in (workdir / "report/report.md", workdir / "report/index.html", tmp_path / "both/compare.md"):
        assert "∞" in file.read_text(encoding="utf-8")
