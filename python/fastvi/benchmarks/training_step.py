"""What the training steps have in common: the loss of each provider, its gradient, Adam, the check before the clock."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastvi.benchmarks.cases import assert_same_moments
from fastvi.benchmarks.results import COMPILE, EAGER, FASTVI, FASTVI_COMPILE
from fastvi.benchmarks.timers import Call

LOSSES_TO_COMPARE = 20

Loss = Callable[[Tensor], Tensor]
ModelLoss = Callable[[Any, Tensor], Tensor]


def training_step(model: nn.Module, loss: Loss, x: Tensor) -> Call:
    """Return the call of one step: loss, gradients, fused Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=x.is_cuda)

    def step() -> None:
        loss(x).backward()
        optimizer.step()
        optimizer.zero_grad()  # last, so that the peak memory of a call includes the gradients it made

    return step


def steps_and_losses(
    plain: tuple[nn.Module, ModelLoss],
    fused: tuple[nn.Module, ModelLoss],
    x: Tensor,
    with_compile: bool,
    autocast: bool = False,
) -> tuple[dict[str, Call], dict[str, Loss]]:
    """Return the step and the loss of every provider, each with a copy of its model; with autocast in bfloat16."""
    calls: dict[str, Call] = {}
    losses: dict[str, Loss] = {}
    for names, (original, model_loss) in (((EAGER, COMPILE), plain), ((FASTVI, FASTVI_COMPILE), fused)):
        for name in names[: 1 + with_compile]:
            model = copy.deepcopy(original)
            loss: Loss = partial(model_loss, model)
            if name in (COMPILE, FASTVI_COMPILE):
                loss = torch.compile(loss, dynamic=False)
            losses[name] = _in_bfloat16(loss) if autocast else loss
            calls[name] = training_step(model, losses[name], x)
    return {name: calls[name] for name in (EAGER, COMPILE, FASTVI, FASTVI_COMPILE) if name in calls}, losses


def _in_bfloat16(loss: Loss) -> Loss:
    def cast(x: Tensor) -> Tensor:
        with precision(x, autocast=True):
            return loss(x)

    return cast


def precision(x: Tensor, autocast: bool) -> contextlib.AbstractContextManager[object]:
    """Return ``torch.autocast`` in bfloat16 on the tensor's device, or a context that changes nothing."""
    return torch.autocast(x.device.type, torch.bfloat16) if autocast else contextlib.nullcontext()


def check_losses(name: str, losses: Mapping[str, Loss], x: Tensor) -> None:
    """Compare the losses of the providers, each with draws of its own, as random numbers."""
    samples = {
        provider: torch.stack([loss(x).detach().float() for _ in range(LOSSES_TO_COMPARE)])
        for provider, loss in losses.items()
    }
    for provider, sample in samples.items():
        assert_same_moments(f"{name}, loss of {provider}", sample, samples[EAGER])
