"""What ``sample`` runs: an algorithm is a dataclass of options that starts a run, whose warm-up and sampling are steps.

A run is determined by its seed: interrupted and resumed from its state, it draws what it would have drawn.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from fastvi.mcmc.integrators import Target
from fastvi.mcmc.kernel import ChainState, StepInfo


class Run(Protocol):
    """Chains that an algorithm moves: first ``num_warmup`` warm-up steps, then steps whose states are draws."""

    @property
    def state(self) -> ChainState:
        """Where the chains are."""

    @property
    def kernel(self) -> Any:
        """The kernel that moves them at present; after warm-up it stays the same."""

    def warm_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Do the warm-up step ``t``, from 0 on: move all chains, and adapt."""

    def sample_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Do the sampling step ``t``, from 0 on: move all chains by the kernel that warm-up ended with."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the run needs to go on: numbers, texts and tensors that can be pickled, and no target."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` of a run with the same options returned."""

    def description(self) -> dict[str, Any]:
        """Return what warm-up settled on, by name: ``step_size``, ``num_steps``, ``inverse_mass`` and the like."""


class Algorithm(Protocol):
    """The options of a way to sample, a frozen dataclass."""

    def start(self, target: Target, position: Tensor, num_warmup: int, seed: int) -> Run:
        """Start chains at positions ``(C, D)``.

        Raises
        ------
        TypeError, ValueError
            If positions or what the target gives are not as they must be, or where a chain starts without a finite
            density or gradient.
        """
