"""docs/autoencoders.md: its examples run, and it names what there is."""

from __future__ import annotations

import doctest
from pathlib import Path

import fastvi.autoencoders
from fastvi._options import options_of
from fastvi.models import MODELS

PAGE = Path(__file__).parents[2] / "docs" / "autoencoders.md"


def test_examples_run():
    results = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 20
    assert results.failed == 0


def test_page_has_every_model_with_its_options():
    text = PAGE.read_text(encoding="utf-8")
    for name, entry in MODELS.items():
        if issubclass(entry, fastvi.autoencoders.AutoencoderOptions):
            assert f"| `{name}` |" in text
            assert [each.name for each in options_of(entry) if f"`--{each.name.replace('_', '-')}`" not in text] == []
