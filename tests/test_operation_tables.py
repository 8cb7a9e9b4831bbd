"""The tables of operations in the documentation name the operations there are."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from fastvi import ops

ROOT = Path(__file__).parents[1]
EVERY_OTHER = "every other operation"


def tables(page: str) -> list[list[str]]:
    """The first cells of each table of operations in a page."""
    found = re.findall(r"^\| operation \|.*\n\|[-| ]+\n((?:\|.*\n)+)", (ROOT / page).read_text(), re.MULTILINE)
    return [[line.split("|")[1].strip() for line in rows.splitlines()] for rows in found]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_readme_has_a_row_for_each_family() -> None:
    families = defaultdict(set)
    for name in ops.__all__:
        families[getattr(ops, name).__module__].add(name)
    (rows,) = tables("README.md")
    assert sorted(sorted(names(row)) for row in rows) == sorted(sorted(family) for family in families.values())


@pytest.mark.parametrize("table", tables("docs/composition.md"), ids=["precision", "transforms"])
def test_composition_leaves_no_operation_out(table: list[str]) -> None:
    """Each is named once, or is one of the others, whose row is the last."""
    named = [name for row in table for name in names(row)]
    assert set(named) < set(ops.__all__)
    assert len(named) == len(set(named))
    assert [row for row in table if not names(row)] == [table[-1]] == [EVERY_OTHER]
