"""PyTorch's functions that make tensors, for the device that the operation tests run on: ``pytest --device``."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


class _Place:
    """``place.zeros(3)`` is ``torch.zeros(3, device=place.device)``, and so for the others."""

    device = "cpu"

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        return functools.partial(getattr(torch, name), device=self.device)


place = _Place()
