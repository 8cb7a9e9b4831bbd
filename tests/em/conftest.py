"""Which kernels the tests of mixtures drive."""

from __future__ import annotations

from support.other_kernels import chosen_kernels

__all__ = ["chosen_kernels"]
