"""Rows of figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvi.training.errors import RunError, reason


def rows_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the content of a file of one row or more, all with the columns of the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_rows(path: Path) -> list[dict[str, float]]:
    """Return the rows of a file, whole numbers as int; none where there is no file.

    Raises
    ------
    RunError
        If it cannot be read or is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        return [{name: _number(value) for name, value in row.items()} for row in rows]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path} is damaged ({error}): put a copy of it back, or move it away") from error


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)
