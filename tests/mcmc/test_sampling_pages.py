"""The pages on sampling: what they show runs."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "mcmc"


@pytest.mark.parametrize(("page", "least"), [("sampling.md", 20), ("tutorial.md", 20)])
def test_the_examples_of_the_page_run(page: str, least: int) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    results = doctest.testfile(str(PAGES / page), module_relative=False, optionflags=flags)
    assert results.attempted >= least
    assert results.failed == 0


def test_the_index_names_every_page() -> None:
    index = (PAGES / "index.md").read_text()
    assert [
        page.name for page in PAGES.glob("*.md") if page.name != "index.md" and f"]({page.name})" not in index
    ] == []
