"""What chains leave while they are sampled: positions and statistics in memory that is taken before the first step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvi.mcmc.kernel import ChainState, StepInfo
from fastvi.mcmc.parameters import Parameters

_CHUNK = 256
"""Draws that are mapped to their supports at once: what that needs besides the result."""


class Recording:
    """Every ``thin``-th state of all chains, unconstrained, with the statistics of the steps that led there.

    Parameters
    ----------
    num_samples
        States that will be kept.
    thin
        Steps from one to the next.
    start
        Where the chains start, (C, D).

    Raises
    ------
    MemoryError
        If there is no memory for them.
    """

    def __init__(self, num_samples: int, thin: int, start: Tensor) -> None:
        self.thin = thin
        self.num_steps_done = 0
        chains = (num_samples, len(start))
        try:
            self.position = start.new_empty((num_samples, *start.shape))
            self.series = {name: start.new_empty(chains) for name in ("acceptance_rate", "energy", "lp")}
        except RuntimeError as error:
            size = num_samples * start.numel() * start.element_size()
            raise MemoryError(
                f"sample: no memory for {size} bytes, num_samples {num_samples} of {len(start)} chains with "
                f"{start.shape[1]} values: choose thin larger and num_samples smaller"
            ) from error
        self.diverging = torch.zeros(chains, dtype=torch.bool, device=start.device)
        self.n_steps = torch.zeros(num_samples, dtype=torch.int64)
        self.num_divergent = torch.zeros(len(start), dtype=torch.int64, device=start.device)

    @property
    def num_kept(self) -> int:
        """States that are there."""
        return self.num_steps_done // self.thin

    def add(self, state: ChainState, info: StepInfo) -> None:
        """Take the state after a step."""
        place = self.num_steps_done // self.thin
        self.num_steps_done += 1
        self.num_divergent += info.is_divergent
        self.diverging[place] |= info.is_divergent
        self.n_steps[place] += info.num_steps
        if self.num_steps_done % self.thin == 0:
            self.position[place] = state.position
            self.series["acceptance_rate"][place] = info.acceptance_probability
            self.series["energy"][place] = info.energy
            self.series["lp"][place] = state.log_density

    def state_dict(self) -> dict[str, Any]:
        """Return what a recording of the same chains needs to go on."""
        rows = -(-self.num_steps_done // self.thin)
        return {
            "num_steps_done": self.num_steps_done,
            "position": self.position[: self.num_kept].clone(),
            "series": {name: values[: self.num_kept].clone() for name, values in self.series.items()},
            "diverging": self.diverging[:rows].clone(),
            "n_steps": self.n_steps[:rows].clone(),
            "num_divergent": self.num_divergent.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.num_steps_done = state["num_steps_done"]
        self.position[: self.num_kept] = state["position"]
        for name, values in state["series"].items():
            self.series[name][: self.num_kept] = values
        self.diverging[: len(state["diverging"])] = state["diverging"]
        self.n_steps[: len(state["n_steps"])] = state["n_steps"]
        self.num_divergent.copy_(state["num_divergent"])

    def draws(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return the values of each parameter, (C, S, *shape)."""
        position = self.position[: self.num_kept].transpose(0, 1)
        found = {}
        for each in parameters:
            values = position.new_empty((*position.shape[:2], *each.shape))
            for first in range(0, self.num_kept, _CHUNK):
                part = slice(first, first + _CHUNK)
                values[:, part] = each.bijection.forward(each.of_position(position[:, part]))
            found[each.name] = values
        return found

    def statistics(self, step_size: float | Tensor) -> dict[str, Tensor]:
        """Return the statistics of each kept state, (C, S), by ArviZ's names."""
        kept = slice(0, self.num_kept)
        found = {name: values[kept].T.contiguous() for name, values in self.series.items()}
        found["diverging"] = self.diverging[kept].T.contiguous()
        shape = found["diverging"].shape
        found["n_steps"] = self.n_steps[kept].expand(shape).contiguous()
        size = torch.as_tensor(step_size, dtype=torch.float64).cpu()
        found["step_size"] = size.reshape(-1, 1).expand(shape).contiguous()
        return {name: found[name] for name in sorted(found)}
