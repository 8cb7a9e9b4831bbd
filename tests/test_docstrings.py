"""The examples in the docstrings of every module run, and show what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import fastvi
import fastvi.ops


def modules() -> list[str]:
    """Every Python module of the package; the native ones have no examples, and __main__ would run the program."""
    found = [each.name for each in pkgutil.walk_packages(fastvi.__path__, "fastvi.")]
    return ["fastvi", *(name for name in found if "._cpu_" not in name and not name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    failures, _ = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert failures == 0


@pytest.mark.parametrize("name", fastvi.ops.__all__)
def test_every_operation_has_an_example(name):
    """And says what it raises."""
    documentation = getattr(fastvi, name).__doc__
    assert ">>> " in documentation
    methods = (getattr(fastvi.LogMeanExp, method).__doc__ for method in ("update", "merge"))
    assert all("Raises" in text for text in ([documentation] if name != "LogMeanExp" else methods))
