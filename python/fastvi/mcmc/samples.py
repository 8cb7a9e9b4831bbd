"""What sampling returns: draws, statistics of the sampler, and their table, by ArviZ's diagnostics."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastvi._archive import archive_bytes, has_checksum, is_whole
from fastvi._extras import missing, require_extra
from fastvi._files import write_whole
from fastvi.mcmc.diagnosis import Diagnosis

_SHOWN_ROWS = 40
_FORMAT = "fastvi samples 1"


class SummaryRow(NamedTuple):
    """A number that was drawn: moments, their Monte Carlo error, quantiles, and diagnostics over all chains.

    Attributes
    ----------
    name
        Of the parameter, with the place in it: ``theta[0, 1]``.
    mean, sd
        Of all draws.
    mcse_mean
        Monte Carlo standard error of the mean.
    quantile_5, quantile_95
        5 % of the draws are below the first, 5 % above the second.
    ess_bulk, ess_tail
        Effective sample sizes for the centre and for these two quantiles.
    r_hat
        Rank-normalised split R-hat: near 1 where the chains agree; above 1.01 they do not, yet.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner: Rank-normalization, folding, and localization: an improved R-hat
    for assessing convergence of MCMC. Bayesian Analysis 16, 2021.
    """

    name: str
    mean: float
    sd: float
    mcse_mean: float
    quantile_5: float
    quantile_95: float
    ess_bulk: float
    ess_tail: float
    r_hat: float


@dataclass(frozen=True)
class Summary:
    """The rows of a table, one for each number that was drawn; ``str`` shows it.

    Parameters
    ----------
    rows
        In the order of the parameters.
    """

    rows: tuple[SummaryRow, ...]

    @property
    def worst_r_hat(self) -> float:
        """The largest R-hat; NaN where it is unknown for one of them, as after fewer than four draws."""
        return float(np.max([row.r_hat for row in self.rows]))

    @property
    def least_ess(self) -> float:
        """The least of bulk and tail ESS; NaN likewise."""
        return float(np.min([min(row.ess_bulk, row.ess_tail) for row in self.rows]))

    def __getitem__(self, name: str) -> SummaryRow:
        """Return the row of a name such as ``theta[0]``.

        Raises
        ------
        KeyError
            If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        shown = self.rows
        if len(shown) > _SHOWN_ROWS:
            worst = sorted(range(len(shown)), key=lambda place: -np.nan_to_num(shown[place].r_hat, nan=np.inf))
            shown = tuple(shown[place] for place in sorted(worst[:_SHOWN_ROWS]))
        head = ("", "mean", "sd", "mcse", "5 %", "95 %", "ESS bulk", "tail", "R-hat")
        cells = [head, *(_cells(row) for row in shown)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        if len(self.rows) > len(shown):
            lines.append(f"({len(self.rows) - len(shown)} more rows, whose R-hat is smaller)")
        return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """Draws of all chains.

    Parameters
    ----------
    draws
        For each parameter ``(C, S, *shape)``: chain, draw, and the parameter's own shape, as ArviZ has it.
    statistics
        Of each draw, ``(C, S)``, by ArviZ's names: ``acceptance_rate``, ``diverging`` (whether a transition that led
        to the draw was), ``energy``, ``lp`` (log density of the unconstrained parameters, in nats), ``n_steps``
        (gradients taken for it), ``step_size``.
    num_divergent
        Divergent transitions of each chain ``(C,)``, those between kept draws included.
    num_steps
        Gradients that each chain took after warm-up.
    settings
        What warm-up settled on, by name, for the table.
    seed
        That of the run.
    num_warmup, thin
        As they were asked for.
    is_complete
        False where sampling was interrupted: the draws are those made so far.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import sample
    >>> samples = sample(lambda x: -0.5 * x.square().sum(-1), torch.zeros(64, 2), 200, 200, seed=1, progress=False)
    >>> samples["x"].shape
    torch.Size([64, 200, 2])
    >>> bool(abs(samples["x"].mean()) < 0.1)
    True
    """

    draws: dict[str, Tensor]
    statistics: dict[str, Tensor]
    num_divergent: Tensor
    num_steps: int
    settings: dict[str, str]
    seed: int
    num_warmup: int
    thin: int
    is_complete: bool = True
    _summary: list[Summary] = field(default_factory=list)

    @property
    def num_chains(self) -> int:
        """C."""
        return len(self.num_divergent)

    @property
    def num_samples(self) -> int:
        """S, the draws that each chain has."""
        return self.statistics["lp"].shape[1]

    def __getitem__(self, name: str) -> Tensor:
        """Return the draws ``(C, S, *shape)`` of a parameter.

        Raises
        ------
        KeyError
            If there is none of this name.
        """
        if name not in self.draws:
            raise KeyError(f"no parameter {name!r}: the samples have {', '.join(self.draws)}")
        return self.draws[name]

    def numpy(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the draws as arrays of NumPy."""
        return {name: value.cpu().numpy() for name, value in self.draws.items()}

    def columns(self) -> tuple[list[str], np.ndarray[Any, Any]]:
        """Return a name for each number that was drawn, and the draws ``(C, S, P)`` of all of them side by side."""
        names: list[str] = []
        for name, value in self.numpy().items():
            shape = value.shape[2:]
            names += [f"{name}[{', '.join(map(str, place))}]" if place else name for place in np.ndindex(*shape)]
        parts = [value.reshape(*value.shape[:2], -1) for value in self.numpy().values()]
        return names, np.concatenate(parts, axis=2)

    def summary(self) -> Summary:
        """Return moments, errors, effective sample sizes and R-hat of every number that was drawn, by arviz-stats.

        Raises
        ------
        ModuleNotFoundError
            If arviz-stats is not installed.
        """
        if not self._summary:
            self._summary.append(_summarise(*self.columns()))
        return self._summary[0]

    def diagnose(self, with_agreement: bool = True) -> list[str]:
        """Return what is wrong with the draws, one line each with what to try; none where nothing is known to be.

        Divergences, chains that do not move, energies that mix too slowly, and, where arviz-stats is installed, R-hat
        and effective sample sizes, which take time for thousands of numbers: not without ``with_agreement``.
        """
        names, values = self.columns()
        found = Diagnosis(names, values, {name: value.cpu().numpy() for name, value in self.statistics.items()})
        lines = found.lines(int(self.num_divergent.sum()), self.thin)
        if with_agreement and self.num_samples >= 4 and _has_arviz():
            lines += found.agreement(self.summary().rows)
        return lines

    def to_arviz(self) -> Any:
        """Return the ``DataTree`` of ArviZ with the groups ``posterior`` and ``sample_stats``.

        Raises
        ------
        ModuleNotFoundError
            If arviz-base is not installed.
        """
        arviz = _extra("arviz_base", "to_arviz")
        statistics = {name: value.cpu().numpy() for name, value in self.statistics.items()}
        return arviz.from_dict({"posterior": self.numpy(), "sample_stats": statistics})

    def save(self, path: str | Path) -> None:
        """Write the samples to a file, which :meth:`load` reads.

        Raises
        ------
        OSError
            If the file cannot be written; an older one is as it was.
        """
        content = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "_summary"}
        write_whole(Path(path), archive_bytes({"format": _FORMAT, **content}))

    @classmethod
    def load(cls, path: str | Path) -> Samples:
        """Read what :meth:`save` wrote, to the CPU.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it holds no samples.
        """
        content = load_checked(Path(path), _FORMAT, "samples")
        return cls(**{name: value for name, value in content.items() if name != "format"})

    def table(self) -> str:
        """Return the settings and the rows of :meth:`summary` as text."""
        if self.num_samples == 0:
            return self._head()
        table = str(self.summary()) if _has_arviz() else missing("arviz_stats", "mcmc", "the table of R-hat and ESS")
        return f"{self._head()}\n{table}"

    def __str__(self) -> str:
        return "\n".join([self.table(), *self.diagnose()])

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape[2:])}" for name, value in self.draws.items())
        return f"Samples of {shapes}: {self.num_chains} chains, {self.num_samples} draws each"

    def _head(self) -> str:
        count = f"{self.num_chains} chains, {self.num_samples} draws each"
        count += f" of {self.thin} steps" if self.thin > 1 else ""
        count += f", {self.num_warmup} warm-up steps, {self.num_steps} gradients a chain after them"
        count += "" if self.is_complete else "; interrupted"
        return "\n".join([count, ", ".join(f"{name} {value}" for name, value in self.settings.items())])


def load_checked(path: Path, file_format: str, what: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a file of `archive_bytes` that must have a format; it is never executed, and every changed bit is noticed.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is another file, or damaged.
    """
    archive = path.read_bytes()
    if not is_whole(archive):
        found = "it is damaged" if has_checksum(archive) else "it has no checksum at its end, or was cut off"
        raise ValueError(f"{path} holds no {what} of fastvi: {found}")
    content = torch.load(io.BytesIO(archive), map_location=device, weights_only=True)
    if not isinstance(content, dict) or content.get("format") != file_format:
        raise ValueError(f"{path} holds no {what} that this version of fastvi reads, {file_format!r}")
    return content


def _summarise(names: list[str], values: np.ndarray[Any, Any]) -> Summary:
    statistics = _extra("arviz_stats.base", "summary").array_stats
    values = values.astype(np.float64)
    places = {"chain_axis": 0, "draw_axis": 1}
    # What never moves has no variance, and fewer than four draws no diagnostics: NaN says so, without a word.
    with np.errstate(all="ignore"):
        low, high = np.quantile(values, [0.05, 0.95], axis=(0, 1))
        columns = (
            values.mean((0, 1)),
            values.std((0, 1), ddof=1) if values.shape[0] * values.shape[1] > 1 else np.full(len(names), np.nan),
            statistics.mcse(values, method="mean", **places),
            low,
            high,
            statistics.ess(values, method="bulk", **places),
            statistics.ess(values, method="tail", prob=(0.05, 0.95), **places),
            statistics.rhat(values, **places),
        )
    rows = zip(names, *(np.asarray(column).tolist() for column in columns), strict=True)
    return Summary(tuple(SummaryRow(*row) for row in rows))


def _cells(row: SummaryRow) -> tuple[str, ...]:
    numbers = (row.mean, row.sd, row.mcse_mean, row.quantile_5, row.quantile_95)
    return (
        row.name,
        *(f"{number:.4g}" for number in numbers),
        f"{row.ess_bulk:.0f}",
        f"{row.ess_tail:.0f}",
        f"{row.r_hat:.3f}" if row.r_hat < 1000.0 else f"{row.r_hat:.0e}",
    )


def _has_arviz() -> bool:
    try:
        _extra("arviz_stats.base", "")
    except ModuleNotFoundError:
        return False
    return True


def _extra(module: str, method: str) -> Any:
    return require_extra(module, "mcmc", f"Samples.{method}")
