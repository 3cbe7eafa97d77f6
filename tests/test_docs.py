"""The pages under docs/ against the code they describe."""

import pathlib
import re

from clead_jax.evaluation.checks.run import CHECKS

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "reading-the-report.md").read_text("utf-8")
ERRORS = (ROOT / "docs" / "when-something-goes-wrong.md").read_text("utf-8")


def test_every_check_has_its_row_and_every_row_its_check():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.split("\n## The checks\n")[1], flags=re.MULTILINE)
    assert sorted(rows) == sorted([check.__name__ for check in CHECKS] + ["trained_to_the_end"])


def test_links_within_the_page_lead_somewhere():
    headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in PAGE.splitlines()}
    links = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    assert links and set(links) <= headings


def test_every_error_that_is_explained_is_one_of_the_code():
    source = "".join(path.read_text("utf-8") for path in (ROOT / "clead_jax").rglob("*.py"))
    rows = re.findall(r"^\| (`[^|]*) \|", ERRORS, flags=re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        parts = [part for part in re.split(r"[^a-z ]", row) if len(part.strip()) > 5]
        assert any(part.strip() in source for part in parts), row


def test_the_pages_are_linked():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(f"](docs/{page.name})" in readme for page in (ROOT / "docs").glob("*.md"))
