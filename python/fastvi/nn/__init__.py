"""Modules over the fused operations, and :func:`fuse`, which puts them under the modules that a model has."""

from fastvi.nn.fusing import Fused, fuse, unfuse
from fastvi.nn.perceptron import MLP
from fastvi.nn.sequential import FusedSequential

__all__ = ["MLP", "Fused", "FusedSequential", "fuse", "unfuse"]
