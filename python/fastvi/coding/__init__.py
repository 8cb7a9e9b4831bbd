"""Sparse coding: a row of data as a combination of few atoms of a dictionary.

Solvers of the Lasso for many rows at once, from NumPy arrays or PyTorch tensors: :func:`ista`, :func:`fista`, and
:func:`active_set`, which is exact and the fastest on a CPU. Networks that predict codes: :class:`LISTA` and
:class:`PSD`. Whole images: :class:`ConvolutionalSparseCoding`. :class:`DictionaryLearning` and :class:`SparseCoder`
have scikit-learn's interface, which has to be installed for them: ``pip install "fastvi[coding]"``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastvi.coding.convolutional import (
    CodeMaps,
    ConvolutionalSparseCoding,
    convolutional_fista,
    convolutional_lipschitz,
)
from fastvi.coding.exact import active_set
from fastvi.coding.lasso import SparseCodes, duality_gap, lasso_objective, lipschitz
from fastvi.coding.lista import LISTA
from fastvi.coding.predictive import PSD
from fastvi.coding.proximal import fista, ista

if TYPE_CHECKING:
    from fastvi.coding.dictionary_learning import DictionaryLearning
    from fastvi.coding.sparse_coder import SparseCoder

_ESTIMATORS = {"DictionaryLearning": "dictionary_learning", "SparseCoder": "sparse_coder"}
"""Classes that are imported when they are asked for, by the modules that need scikit-learn."""

__all__ = [
    "LISTA",
    "PSD",
    "CodeMaps",
    "ConvolutionalSparseCoding",
    "DictionaryLearning",
    "SparseCoder",
    "SparseCodes",
    "active_set",
    "convolutional_fista",
    "convolutional_lipschitz",
    "duality_gap",
    "fista",
    "ista",
    "lasso_objective",
    "lipschitz",
]


def __getattr__(name: str) -> Any:
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_ESTIMATORS[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ImportError(
            f'fastvi.coding.{name} needs scikit-learn, which is not installed: pip install "fastvi[coding]"'
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
