"""The pages under docs/ against the code they describe."""

import pathlib
import re

from clead_jax.evaluation.checks.run import CHECKS

PAGE = (pathlib.Path(__file__).resolve().parent.parent / "docs" / "reading-the-report.md").read_text()


def test_every_check_has_its_row_and_every_row_its_check():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.split("\n## The checks\n")[1], flags=re.MULTILINE)
    assert sorted(rows) == sorted([check.__name__ for check in CHECKS] + ["trained_to_the_end"])


def test_links_within_the_page_lead_somewhere():
    headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in PAGE.splitlines()}
    links = re.findall(r"\]\(#([\w-]+)\)", PAGE)
    assert links and set(links) <= headings
