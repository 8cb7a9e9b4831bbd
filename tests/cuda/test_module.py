"""The CUDA module as it was built: it asks for no driver before it is used."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("fastvi._cuda") is None:
    pytest.skip("built without the CUDA module", allow_module_level=True)


def test_import_needs_no_driver(run_python):
    """The driver is neither linked nor loaded: the module imports where there is none."""
    assert run_python("import fastvi._cuda; print('libcuda' in open('/proc/self/maps').read())") == "False\n"
