"""Files of one JSON object per line, such as metrics.jsonl, and what a kill in the middle of a line leaves of them."""

import json
from pathlib import Path
from typing import Any

from clead_jax.results import forms


def read(path: str | Path, form: Any = None) -> list[dict[str, Any]]:
    """All records in the order written; none where there is no file.

    A last line without its end is left out: a run may be writing it at this moment, or was killed while it did. Raises
    ValueError, in one line, for damage anywhere else, and for a record that is not of `form` (see `forms`).
    """
    path = Path(path)
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            records.append(json.loads(line.decode()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}, is not valid JSON: {error}") from error
        try:
            forms.check(records[-1], form or {})
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is damaged: {error}; delete that line") from None
    return records
