"""Published files hold nothing of the machine that they were made on."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (".json", ".jsonl", ".md", ".txt", ".csv", ".html", ".svg")
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] + [
    path for folder in ("results", "docs") for path in sorted((ROOT / folder).rglob("*")) if path.suffix in TEXT
]
ABSOLUTE = re.compile(r"""(?<![\w./~$}-])/(?:tmp|home|root|Users|var|mnt|data|work|scratch)/|\b[A-Za-z]:\\""")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_path_of_a_machine(path):
    found = [line.strip()[:120] for line in path.read_text().splitlines() if ABSOLUTE.search(line)]
    assert not found


@pytest.mark.parametrize("text", ["--json=/tmp/t.json", "see /home/ann/x", '"/root/a"', "C:\\Users\\ann", "in /mnt/x"])
def test_such_paths_are_recognised(text):
    assert ABSOLUTE.search(text)


@pytest.mark.parametrize("text", ["runs/a/tmp/x", "8/255", "https://arxiv.org/abs/1706.06083", "~/tmp/x", "a / b"])
def test_other_text_is_not(text):
    assert not ABSOLUTE.search(text)
