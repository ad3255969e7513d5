"""Results on standard output: as tables, as JSON, or as CSV."""

import csv
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from saxml.saxutil.table import render_table

TABLE, JSON, CSV = "table", "json", "csv"
FORMATS = (TABLE, JSON, CSV)

# Header and rows.
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def show(form: str, value: Any, *tables: Table) -> None:
    """Prints a result: `value` as one JSON document, or the tables.

    In JSON a number that is not finite is null. CSV is as RFC 4180 has it, a blank line between
    two tables.
    """
    if form == JSON:
        text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
        sys.stdout.write(text + "\n")
        return
    for i, (header, rows) in enumerate(tables):
        if form == CSV:
            sys.stdout.write("\n" if i else "")
            csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])
        else:
            sys.stdout.write(render_table(header, rows))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
