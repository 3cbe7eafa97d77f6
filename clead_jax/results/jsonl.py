"""Files of one JSON object per line, such as metrics.jsonl, and what a kill in the middle of a line leaves of them."""

import json
from pathlib import Path
from typing import Any


def read(path: str | Path) -> list[dict[str, Any]]:
    """All records in the order written; none where there is no file.

    A last line without its end is left out: a run may be writing it at this moment, or was killed while it did. Raises
    ValueError, in one line, for damage anywhere else.
    """
    path = Path(path)
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is not valid JSON: {error}") from error
    return records
