"""How much of an estimator's gradient is signal: its mean, variance and signal-to-noise ratio for groups of parameters.

The ratio is that of Rainforth et al. 2018, "Tighter variational bounds are not necessarily better".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastvi._examples import first_tensor
from fastvi._extras import require_extra
from fastvi._options import check_count, options_of
from fastvi.objectives.base import Objective
from fastvi.objectives.importance import repeatable
from fastvi.seeding import mix_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUANTITIES = {
    "signal_to_noise": "signal-to-noise ratio",
    "mean_variance": "variance",
    "mean_norm": "length of the mean gradient",
}
"""What a picture may show of :class:`GradientStatistics`, and what its axis is called."""


@dataclasses.dataclass(frozen=True)
class GradientStatistics:
    """The gradient of one group of P parameters over the repeats.

    Attributes
    ----------
    mean, variance
        ``(P,)``, float64, of each parameter's gradient. The variance is that of one gradient, not of the mean.
    """

    mean: Tensor
    variance: Tensor

    @property
    def mean_norm(self) -> float:
        """Euclidean length of the mean gradient."""
        return float(self.mean.norm())

    @property
    def mean_variance(self) -> float:
        """Variance of one parameter's gradient, on average over the parameters."""
        return float(self.variance.mean())

    @property
    def signal_to_noise(self) -> float:
        """|mean| / standard deviation of one parameter's gradient, on average over the parameters.

        Without the parameters whose gradient was zero in all repeats; NaN where there are no others. Infinite where a
        gradient has no noise.
        """
        moves = (self.variance > 0.0) | (self.mean != 0.0)
        return float((self.mean[moves].abs() / self.variance[moves].sqrt()).mean())


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found.

    Attributes
    ----------
    estimators
        The objectives by name.
    statistics
        For each name, the :class:`GradientStatistics` of each group of parameters.
    repeats
        Number of gradients that they are of.
    """

    estimators: dict[str, Objective]
    statistics: dict[str, dict[str, GradientStatistics]]
    repeats: int

    @property
    def noise_floor(self) -> float:
        """The ratio that so many repeats show, on average, of a gradient that is nothing but noise."""
        return math.sqrt(2.0 / (math.pi * self.repeats))

    def table(self) -> str:
        """A line for each estimator and group: number of parameters, length of the mean, variance, ratio."""
        rows = [["estimator", "group", "parameters", "|mean|", "variance", "SNR"]]
        for name, groups in self.statistics.items():
            for group, found in groups.items():
                figures = (f"{value:.3g}" for value in (found.mean_norm, found.mean_variance, found.signal_to_noise))
                rows.append([name, group, str(len(found.mean)), *figures])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            words = [
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(words).rstrip())
        last = f"over {self.repeats} repeats, which show an SNR of {self.noise_floor:.2g} where there is noise alone"
        return "\n".join([*lines, last])

    def __str__(self) -> str:
        return self.table()

    def figure(self, *quantities: str) -> Figure:
        """Draw the ratio against the number of samples K: a panel for each group, a line for each kind of estimator.

        Estimators are of one kind where they differ in ``num_samples`` alone. What matplotlib returns is saved by
        ``figure.savefig(path)``.

        Parameters
        ----------
        quantities
            What is drawn, a row of panels for each: ``"signal_to_noise"``, which is the one where none is given,
            ``"mean_variance"`` or ``"mean_norm"``.

        Raises
        ------
        ValueError
            If there is no such quantity.
        ImportError
            If matplotlib is not installed.
        """
        for quantity in quantities:
            if quantity not in _QUANTITIES:
                raise ValueError(f"Diagnosis.figure: quantities must be of {', '.join(_QUANTITIES)}, got {quantity!r}")
        make_figure = require_extra("matplotlib.figure", "bench", "a picture").Figure
        groups = list(next(iter(self.statistics.values())))
        drawn = quantities or ("signal_to_noise",)
        figure: Figure = make_figure(figsize=(1.0 + 4.0 * len(groups), 4.0 * len(drawn)), layout="constrained")
        for row, quantity in zip(figure.subplots(len(drawn), len(groups), squeeze=False), drawn, strict=True):
            for panel, group in zip(row, groups, strict=True):
                for kind, points in self._lines(group, quantity).items():
                    panel.plot(*zip(*points, strict=True), marker="o", label=kind)
                if quantity == "signal_to_noise":
                    panel.axhline(self.noise_floor, color="grey", linestyle=":", label="noise alone")
                panel.set(title=group, xscale="log", yscale="log", xlabel="samples K", ylabel=_QUANTITIES[quantity])
            row[-1].legend()
        return figure

    def _lines(self, group: str, quantity: str) -> dict[str, list[tuple[int, float]]]:
        """For each kind of estimator, K and the group's figure."""
        found: dict[str, list[tuple[int, float]]] = {}
        for name, estimator in self.estimators.items():
            point = getattr(estimator, "num_samples", 1), getattr(self.statistics[name][group], quantity)
            found.setdefault(_called(estimator, "num_samples"), []).append(point)
        return {kind: sorted(points) for kind, points in found.items()}


def diagnose(
    model: Any,
    x: Any,
    estimators: Mapping[str, Objective] | Sequence[Objective],
    *,
    repeats: int = 100,
    groups: Mapping[str, Sequence[Tensor]] | None = None,
    seed: int | None = None,
) -> Diagnosis:
    """Measure mean, variance and signal-to-noise ratio of gradients.

    Each estimator's mean over the batch is differentiated ``repeats`` times, with other noise each time and the same
    noise for all estimators. Neither the model nor its parameters' ``grad`` changes.

    Parameters
    ----------
    model
        What the estimators ask for.
    x
        Data, ``(B, ...)``: whatever the model takes. The ratio rises as the square root of B.
    estimators
        Objectives by name, or a sequence of them, whose names are their classes with the options that are not at their
        default.
    repeats
        R, at least 2. Ratios below ``sqrt(2 / (pi R))`` cannot be told from none.
    groups
        Parameters by name of their group. None takes those of a ``torch.nn.Module`` that ask for gradients, a group for
        each of its direct submodules and each of its own parameters.
    seed
        Determines all noise; None takes a seed from PyTorch's generator.

    Raises
    ------
    TypeError, ValueError
        If there is no estimator or one of them twice, fewer than two repeats, no row of data, no parameter that asks
        for a gradient, a group that is empty or has parameters that are not the model's, or an estimator that cannot
        take the model.

    Examples
    --------
    >>> import torch
    >>> from fastvi.models import VAE
    >>> from fastvi.objectives import DReG, IWAE, diagnose
    >>> model = VAE(16, latent_dim=2, hidden_dims=(8,))
    >>> found = diagnose(model, torch.ones(10, 16), [IWAE(5), DReG(5)], repeats=20, seed=0)
    >>> list(found.statistics["DReG(num_samples=5)"])
    ['encoder', 'posterior_head', 'decoder', 'likelihood_head']
    >>> found.table().splitlines()[0].split()
    ['estimator', 'group', 'parameters', '|mean|', 'variance', 'SNR']
    """
    repeats = check_count("diagnose", "repeats", repeats, at_least=2)
    named = _by_name(estimators)
    for estimator in named.values():
        estimator.check_model(model)
    batch = first_tensor(x)
    if batch is not None and batch.shape[:1] == (0,):
        raise ValueError(f"diagnose: x must have one row or more, got the shape {tuple(batch.shape)}")
    members = _groups_of(model) if groups is None else _given_groups(groups, model)
    parameters = [parameter for group in members.values() for parameter in group]
    if not parameters or not all(parameter.requires_grad for parameter in parameters):
        raise ValueError("diagnose: groups must hold parameters that ask for gradients, and at least one")
    seed = repeatable(seed, x)
    statistics = {}
    idle = None
    for name, estimator in named.items():
        mean, variance = _moments(model, x, estimator, parameters, [mix_seed(seed, part) for part in range(repeats)])
        sizes = [sum(parameter.numel() for parameter in group) for group in members.values()]
        parts = zip(members, mean.split(sizes), variance.split(sizes), strict=True)
        statistics[name] = {group: GradientStatistics(*moments) for group, *moments in parts}
        still = (mean == 0.0) & (variance == 0.0)
        idle = still if idle is None else idle & still
    if groups is not None and idle is not None:
        _refuse_strangers(members, model, idle)
    return Diagnosis(named, statistics, repeats)


def _moments(
    model: Any, x: Any, estimator: Objective, parameters: list[Tensor], seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the gradient in all parameters, by Welford's updates, so that no gradient is kept."""
    mean = torch.zeros(sum(map(Tensor.numel, parameters)), dtype=torch.float64, device=parameters[0].device)
    square = torch.zeros_like(mean)
    with torch.enable_grad():
        for count, seed in enumerate(seeds, 1):
            value = estimator(model, x, seed=seed).mean()
            found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
            gradient = torch.cat([part.double().flatten() for part in found])
            deviation = gradient - mean
            mean = mean + deviation / count
            square = square + deviation * (gradient - mean)
    return mean.cpu(), (square / (len(seeds) - 1)).cpu()


def _by_name(estimators: object) -> dict[str, Objective]:
    """The objectives by their names, none of which is there twice."""
    if isinstance(estimators, Mapping):
        named = dict(estimators)
    elif isinstance(estimators, Iterable):
        named = {}
        for each in estimators:
            name = _called(each)
            if name in named:
                raise ValueError(
                    f"diagnose: estimators must differ, or be given by names of their own, got {name} twice"
                )
            named[name] = each
    else:
        raise TypeError(f"diagnose: estimators must be a sequence, or by name, got {type(estimators).__name__}")
    if not named:
        raise ValueError("diagnose: estimators must be one objective or more, got none")
    for name, estimator in named.items():
        if not isinstance(estimator, Objective):
            raise TypeError(f"diagnose: estimators must be objectives, got {type(estimator).__name__} for {name}")
    return named


def _given_groups(groups: object, model: Any) -> dict[str, list[Tensor]]:
    """The groups, each of one tensor or more; those of a module hold parameters of its own."""
    if not isinstance(groups, Mapping):
        raise TypeError(f"diagnose: groups must be sequences of parameters by name, got {type(groups).__name__}")
    found: dict[str, list[Tensor]] = {}
    for name, group in groups.items():
        if isinstance(group, (str, Tensor)) or not isinstance(group, Iterable):
            raise TypeError(f"diagnose: groups must be sequences of parameters, got {type(group).__name__} for {name}")
        found[name] = list(group)
        if not found[name]:
            raise ValueError(f"diagnose: groups must hold one parameter or more, got none for {name}")
        for parameter in found[name]:
            if not isinstance(parameter, Tensor):
                raise TypeError(f"diagnose: groups must hold parameters, got {type(parameter).__name__} for {name}")
    return found


def _refuse_strangers(groups: dict[str, list[Tensor]], model: Any, idle: Tensor) -> None:
    """Refuse parameters that are not the module's own where no estimator has a gradient in them."""
    own = {id(parameter) for parameter in model.parameters()} if isinstance(model, nn.Module) else set()
    named = [(name, parameter) for name, group in groups.items() for parameter in group]
    for (name, parameter), still in zip(named, idle.split([each.numel() for _, each in named]), strict=True):
        if id(parameter) not in own and bool(still.all()):
            raise ValueError(
                f"diagnose: groups must hold parameters of the model, got one of the shape {tuple(parameter.shape)} "
                f"for {name}, in which no estimator has a gradient"
            )


def _groups_of(model: Any) -> dict[str, list[Tensor]]:
    """The parameters of a module that ask for gradients, by the first word of their names."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"diagnose: groups must be given for {type(model).__name__}, which is no torch.nn.Module")
    found: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(name.partition(".")[0], []).append(parameter)
    return found


def _called(estimator: Objective, left_out: str | None = None) -> str:
    """The name of its class with those options that are not at their default; one of them may be left out."""
    name = type(estimator).__name__
    if not dataclasses.is_dataclass(estimator):
        return name
    given = {option.name: getattr(estimator, option.name) for option in options_of(type(estimator))}
    defaults = {option.name: option.default for option in options_of(type(estimator))}
    words = [f"{key}={value}" for key, value in given.items() if key != left_out and value != defaults[key]]
    return f"{name}({', '.join(words)})" if words else name
