"""Libraries that are not installed with fastvi but with one of its extras: what is missing is named with its extra."""

from __future__ import annotations

import importlib
from typing import Any

LIBRARIES = {
    "PIL": "Pillow",
    "arviz_base": "arviz-base",
    "arviz_stats": "arviz-stats",
    "lightning": "PyTorch Lightning",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pyro": "Pyro",
    "safetensors": "safetensors",
    "scipy": "SciPy",
    "sklearn": "scikit-learn",
}
"""The names by which users know the libraries, by those by which Python imports them."""


def require_extra(library: str, extra: str, purpose: str) -> Any:
    """Import a library of an extra and return it.

    Parameters
    ----------
    library
        As it is imported: ``"sklearn"``, or a module of it, such as ``"scipy.optimize"``.
    extra
        The extra of fastvi that brings it.
    purpose
        What it is needed for, at the beginning of the message.

    Raises
    ------
    ModuleNotFoundError
        If the library is not installed: one line that names the library, the purpose and the extra. A library that is
        there and lacks another one fails with its own words.

    Examples
    --------
    >>> require_extra("nowhere", "train", "training")
    Traceback (most recent call last):
    ...
    ModuleNotFoundError: training needs nowhere, which is not installed: pip install "fastvi[train]"
    """
    name = library.partition(".")[0]
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        raise ModuleNotFoundError(missing(name, extra, purpose), name=error.name) from error


def missing(library: str, extra: str, purpose: str) -> str:
    """Return the line that says which extra brings a library that is not installed."""
    return f'{purpose} needs {LIBRARIES.get(library, library)}, which is not installed: pip install "fastvi[{extra}]"'
