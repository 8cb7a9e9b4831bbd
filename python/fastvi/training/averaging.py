"""An exponential moving average of a model's parameters over the steps of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """The average a <- decay a + (1 - decay) theta after each step, which begins with the first step's parameters.

    It is no module, so that it is no part of the model that is trained.

    Parameters
    ----------
    model
        The model that is trained; its buffers are taken as they are.
    decay
        In (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @property
    def model(self) -> nn.Module:
        """A model of its own with the averaged parameters."""
        return self._averaged.module

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self._averaged.to(device)

    def update(self, model: nn.Module) -> None:
        """Take in the parameters after a step."""
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged model's state, and how many steps are in it."""
        return {"state_dict": self.model.state_dict(), "steps": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the state that `state_dict` gave."""
        self.model.load_state_dict(state["state_dict"])
        self._averaged.n_averaged.fill_(state["steps"])
