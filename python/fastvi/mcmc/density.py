"""The target that chains move on, made of a user's log density of named or constrained parameters, and checks of it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from fastvi.mcmc.integrators import Target, as_target
from fastvi.mcmc.parameters import Parameters

_NotFactorisedError: Any = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # documented, but not listed


class ParameterTarget:
    """The log density of unconstrained positions (C, D): that of the parameters plus the log-Jacobian.

    Where a factorisation fails for a chain, whose parameters lead to no positive definite matrix, the density of that
    chain is 0.
    """

    is_target = True

    def __init__(self, log_prob: Callable[..., Any], parameters: Parameters, vectorize: bool) -> None:
        self._parameters = parameters
        self._of_values = _by_keywords(log_prob, parameters, vectorize)
        self._differentiate = as_target(self._log_density)

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log densities (C,) and their gradients (C, D)."""
        try:
            return self._differentiate(position)
        except _NotFactorisedError:
            pass  # one chain's failure must not be that of all
        parts = [self._one_or_nothing(position[chain : chain + 1]) for chain in range(len(position))]
        return torch.cat([value for value, _ in parts]), torch.cat([gradient for _, gradient in parts])

    def _one_or_nothing(self, position: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return self._differentiate(position)
        except _NotFactorisedError:
            return position.new_full((1,), -torch.inf), torch.zeros_like(position)

    def _log_density(self, position: Tensor) -> Tensor:
        log_det_jacobian = self._parameters.log_det_jacobian(position)
        value = self._of_values(self._parameters.values(position), len(position)).to(position.dtype)
        return value if log_det_jacobian is None else value + log_det_jacobian


class TargetOfValues:
    """A native target of constrained values side by side, as one of unconstrained positions: by the chain rule."""

    is_target = True

    def __init__(self, target: Target, parameters: Parameters) -> None:
        self._target = target
        self._parameters = parameters

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log densities (C,) and their gradients (C, D)."""
        with torch.enable_grad():
            start = position.detach().requires_grad_()
            values = self._parameters.values(start).values()
            value = torch.cat([each.flatten(1) if each.dim() > 1 else each.unsqueeze(1) for each in values], 1)
            log_det_jacobian = self._parameters.log_det_jacobian(start)
            assert log_det_jacobian is not None  # where it is 0 everywhere the target itself serves
            log_density, gradient = self._target(value.detach())
            (pulled_back,) = torch.autograd.grad(
                (value, log_det_jacobian), start, (gradient, torch.ones_like(log_det_jacobian))
            )
        return log_density + log_det_jacobian.detach(), pulled_back


def make_target(log_prob: Any, parameters: Parameters, vectorize: bool) -> Target:
    """Make the target of positions (C, D) of what a user gave as a log density.

    Raises
    ------
    TypeError, ValueError
        If it cannot be called with the parameters.
    """
    if not callable(log_prob):
        raise TypeError(f"sample: log_prob must be a function or a target, got {type(log_prob).__name__}")
    if getattr(log_prob, "is_target", False):
        if vectorize:
            raise ValueError("sample: vectorize is for a log_prob of one chain, and a target takes all of them")
        return log_prob if parameters.is_plain else TargetOfValues(log_prob, parameters)
    return ParameterTarget(log_prob, parameters, vectorize)


@contextlib.contextmanager
def without_validation() -> Iterator[None]:
    """Let torch.distributions take any parameters: one that a wild trajectory meets has density 0, and is no error."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def check_target(target: Target, position: Tensor, is_native: bool) -> Tensor:
    """Call a target where the chains start, and return the log densities (C,), finite or not.

    Raises
    ------
    TypeError, ValueError
        In one line, if it fails there, or gives something of another shape, dtype or device; or if a chain's log
        density depends on the other chains, or on chance.
    """
    try:
        log_density, gradient = target(position)
    except (RuntimeError, IndexError, ValueError) as error:
        raise _explained(error, position) from error
    if log_density.shape != position.shape[:1] or gradient.shape != position.shape:
        raise ValueError(
            f"sample: the target of positions {tuple(position.shape)} must give a log density "
            f"{tuple(position.shape[:1])} and a gradient {tuple(position.shape)}, "
            f"got {tuple(log_density.shape)} and {tuple(gradient.shape)}"
        )
    if not is_native:
        _check_chains_are_apart(target, position, log_density)
    return log_density


def _check_chains_are_apart(target: Target, position: Tensor, log_density: Tensor) -> None:
    """Move all chains but one: the density of that one must stay what it was."""
    finite = log_density.isfinite().nonzero()
    if len(finite) == 0:
        return
    chain = int(finite[0])
    # Each by another length, so that no mean or difference over chains stays what it was.
    lengths = 0.1 * (0.5 + 0.6180339887 * torch.arange(1, position.numel() + 1, dtype=torch.float64) % 1.0)
    moved = position + lengths.to(position).reshape(position.shape) * (1.0 + position.abs())
    moved[chain] = position[chain]
    with without_validation():
        before, after = float(log_density[chain]), float(target(moved)[0][chain])
    # Products of matrices round as their shapes have it, and the sum of many terms is known to so much.
    if not abs(after - before) <= 1e-3 * (1.0 + abs(before)) * (1.0 if position.dtype == torch.float32 else 1e-2):
        raise ValueError(
            f"sample: the log density of a chain must depend on nothing but its own parameters, got {before:g} and, "
            f"after the other chains were moved, {after:g}: sum over the data and the parameters' dimensions and never "
            f"over the first one, which counts chains, use no fresh noise, or write log_prob for one chain and give "
            f"vectorize=True"
        )


def _by_keywords(
    log_prob: Callable[..., Any], parameters: Parameters, vectorize: bool
) -> Callable[[dict[str, Tensor], int], Tensor]:
    """The user's function, called as it wants its parameters, with a check of the shape that it returns."""
    takes_keywords = parameters.is_named and _binds(log_prob, **dict.fromkeys(parameters.names))
    if not takes_keywords and not _binds(log_prob, None):
        expected = ", ".join(parameters.names) if parameters.is_named else "the positions"
        raise TypeError(f"sample: log_prob must take {expected}, got {_signature(log_prob)}")

    def call(values: dict[str, Tensor]) -> Any:
        if takes_keywords:
            return log_prob(**values)
        return log_prob(values if parameters.is_named else next(iter(values.values())))

    def of_values(values: dict[str, Tensor], num_chains: int) -> Tensor:
        result = torch.func.vmap(lambda each: _one_number(call(each)))(values) if vectorize else call(values)
        if not isinstance(result, Tensor):
            raise TypeError(f"sample: log_prob must return a tensor, got {type(result).__name__}")
        if result.shape != (num_chains,):
            raise ValueError(_wrong_shape(result, values, num_chains))
        device = next(iter(values.values())).device
        if result.device != device:
            raise ValueError(f"sample: log_prob must be on the device of initial, {device}, got {result.device}")
        return result

    return of_values


def _one_number(result: Any) -> Any:
    if isinstance(result, Tensor) and result.dim() != 0:
        raise ValueError(
            f"sample: with vectorize=True log_prob must return one number, the log density of one chain, got the shape "
            f"{tuple(result.shape)}: sum over it"
        )
    return result


def _wrong_shape(result: Tensor, values: dict[str, Tensor], num_chains: int) -> str:
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
    return (
        f"sample: log_prob must return one number for each of {num_chains} chain{'s' if num_chains > 1 else ''}, "
        f"({num_chains},), got the shape "
        f"{tuple(result.shape)} from {shapes}: sum over all dimensions but the first, or write log_prob for one chain "
        f"and give vectorize=True"
    )


def _binds(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError:
        return False
    except ValueError:  # no signature is known, as of functions written in C
        return not keywords
    return True


def _signature(function: Callable[..., Any]) -> str:
    try:
        return f"a function of {inspect.signature(function)}"
    except ValueError:
        return f"{function!r}"


def _explained(error: Exception, position: Tensor) -> Exception:
    """The error of a log density at its start, in one line that says what to try."""
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if first_line.startswith("sample:"):
        return error
    lowered = first_line.lower()
    failed = f"sample: log_prob failed where the chains start: {first_line}"
    if "constraint" in lowered or "within the support" in lowered:
        return ValueError(
            f"{failed.split(', but found')[0]}: start where the density is positive; a parameter with bounds needs a "
            f"bijection such as Positive()"
        )
    if "vmap" in lowered or "functorch" in lowered:
        return ValueError(
            f"sample: log_prob cannot be vectorized: {first_line}: write it for all chains at once, or without what "
            f"torch.func.vmap refuses, such as if, .item() and masks: torch.where takes their place"
        )
    if "boolean value of tensor" in lowered:
        return ValueError(
            f"{failed}: chains do not all take the same branch: choose by torch.where(condition, one, other) instead "
            f"of if, and use neither .item() nor masks"
        )
    if "numpy()" in lowered:
        return ValueError(f"{failed}: use operations of torch alone, whose gradients are known")
    if "device" in lowered:
        return ValueError(
            f"sample: log_prob failed where the chains start, on {position.device}: {first_line}: the data must be on "
            f"the device of initial"
        )
    if "dtype" in lowered or "scalar type" in lowered:
        return ValueError(f"{failed}: initial has {position.dtype}, and the data must have it too")
    if isinstance(error, IndexError) or "must match the size" in lowered or "shape" in lowered:
        return ValueError(
            f"{failed}: arguments have one row for each of {len(position)} chain{'s' if len(position) > 1 else ''}, "
            "their first dimension: write mu[:, None] where data or other dimensions follow, or write log_prob for one "
            "chain and give vectorize=True; one start for all chains needs num_chains"
        )
    return error
