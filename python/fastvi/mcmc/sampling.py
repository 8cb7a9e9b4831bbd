"""Sampling in one call: warm-up, draws of named and constrained parameters, diagnostics, interruption, resumption."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvi._sizes import check_flag, check_integer, check_number, check_seed
from fastvi.mcmc._progress import SamplingProgress
from fastvi.mcmc._recording import Recording
from fastvi.mcmc.algorithm import Algorithm, Run
from fastvi.mcmc.bijections import Bijection
from fastvi.mcmc.density import check_target, make_target, without_validation
from fastvi.mcmc.diagnosis import SamplerWarning
from fastvi.mcmc.integrators import Target
from fastvi.mcmc.kernel import chain_normals
from fastvi.mcmc.parameters import Parameters, read_start
from fastvi.mcmc.registry import make_algorithm
from fastvi.mcmc.resume import Checkpoint
from fastvi.mcmc.samples import Samples
from fastvi.seeding import mix_seed

DEFAULT_CHAINS = 16
"""Chains of one start: the least for which ChEES adapts well, and hardly dearer than one."""
_JITTER_STREAM, _RUN_STREAM = 0, 1
_HALVINGS = 10
_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_MOST_COLUMNS_SUMMARISED = 500


def sample(
    log_prob: Callable[..., Any],
    initial: Any,
    num_samples: int = 1000,
    num_warmup: int = 1000,
    num_chains: int | None = None,
    *,
    algorithm: str | Algorithm = "auto",
    bijections: Mapping[str, Bijection] | Bijection | None = None,
    vectorize: bool = False,
    seed: int | None = None,
    thin: int = 1,
    start_jitter: float = 0.1,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Samples:
    """Draw from a density by Markov chains, many at once.

    Parameters
    ----------
    log_prob
        The log density, in nats, up to a constant. Where ``initial`` is a mapping it is called with a keyword for each
        parameter, ``log_prob(mu=..., tau=...)``, or with the mapping if it takes one argument of another name; values
        have the shape ``(C, *shape)``, and it returns ``(C,)``. Where ``initial`` is a tensor it is called with
        positions ``(C, D)``. The density is by the parameters themselves: the log-Jacobians of ``bijections`` are added
        to it. A place where it is -inf or NaN has probability 0. Or a target, such as those of
        :mod:`fastvi.mcmc.targets`, whose own names draws then have.
    initial
        Where the chains start, inside the supports: a mapping of names to tensors ``(C, *shape)``, or a tensor
        ``(C, D)``, whose parameter is called ``x``. Or one start for all chains, without the dimension C: a tensor
        ``(D,)``, a mapping together with ``num_chains``, or one with a number among its values. float32 or float64,
        which is the dtype of everything; Python's numbers are taken for float64.
    num_samples
        Draws that are kept of each chain.
    num_warmup
        Steps before them, in which step size, mass and trajectory length are adapted.
    num_chains
        C, for one start; 16 if left out.
    algorithm
        ``hmc``, ``mala``, ``chees``, ``meads``, an object with options, or ``auto``: ChEES for 16 chains and more, else
        HMC.
    bijections
        For each parameter that has bounds, the map onto its support: ``{"sigma": Positive()}``.
    vectorize
        Whether ``log_prob`` is written for one chain, with values ``(*shape)``, and returns one number:
        :func:`torch.func.vmap` makes it one of all chains.
    seed
        From [0, 2^63); None takes one from PyTorch's generator. It determines all draws.
    thin
        Steps for each draw that is kept; the others are made and not stored.
    start_jitter
        Standard deviation of the normal noise that is added to one start, unconstrained, for each chain. Where that
        leads to a log density that is not finite, it is halved for the chain, at last to 0.
    progress
        Whether to show a bar, and the table of diagnostics at the end, on the error stream; None for whether that is a
        terminal.
    checkpoint
        Path of a file that keeps the state, whole at every instant. If it exists, sampling goes on from there, and the
        draws are to the bit those of a run without interruption; a finished one is returned at once. With more
        ``num_samples`` than before, it draws on.
    **options
        Of the algorithm that ``algorithm`` names, such as ``target_acceptance=0.95``.

    Returns
    -------
    Samples
        Draws, statistics and diagnostics.

    Raises
    ------
    TypeError, ValueError
        In one line, if an argument is not as above, a chain starts where the log density or its gradient is not finite,
        ``log_prob`` has no gradient, or a chain's log density depends on other chains.
    KeyboardInterrupt
        If Ctrl-C comes in warm-up, when there are no draws to keep. Later it ends sampling, and the draws made so far
        are returned. With a ``checkpoint``, the next call goes on.

    Warns
    -----
    SamplerWarning
        If draws are not to be trusted as they are: it says why, and what to try. See :meth:`Samples.diagnose`.

    Examples
    --------
    Three measurements with unknown mean and error:

    >>> import torch
    >>> from fastvi.mcmc import Positive, sample
    >>> y = torch.tensor([1.2, 0.7, 1.9], dtype=torch.float64)
    >>> def log_prob(mean, error):
    ...     normal = torch.distributions.Normal(mean[:, None], error[:, None])
    ...     return normal.log_prob(y).sum(1) - 0.5 * mean.square() - error
    >>> samples = sample(
    ...     log_prob, {"mean": 0.0, "error": 1.0}, 500, 300, bijections={"error": Positive()}, seed=1, progress=False
    ... )
    >>> samples["mean"].shape
    torch.Size([16, 500])
    >>> bool((samples["error"] > 0).all()), bool(0.5 < samples["mean"].mean() < 1.2)
    (True, True)
    """
    num_samples = _at_least(1, "num_samples", num_samples)
    num_warmup = _at_least(0, "num_warmup", num_warmup)
    thin = _at_least(1, "thin", thin)
    num_chains = None if num_chains is None else _at_least(1, "num_chains", num_chains)
    start_jitter = check_number("sample", "start_jitter", start_jitter)
    if not 0.0 <= start_jitter < float("inf"):
        raise ValueError(f"sample: start_jitter must be 0 or more, and finite, got {start_jitter:g}")
    vectorize = check_flag("sample", "vectorize", vectorize)
    places = getattr(log_prob, "parameters", None) if getattr(log_prob, "is_target", False) else None
    parameters, start, is_one_start = read_start(initial, num_chains, bijections, DEFAULT_CHAINS, places)
    chosen = make_algorithm(algorithm, len(start), options)
    file = None if checkpoint is None else Checkpoint(checkpoint, start.device)
    seed = _choose_seed(seed, file)
    target = make_target(log_prob, parameters, vectorize)
    with without_validation() if vectorize else contextlib.nullcontext():
        log_density = check_target(target, start, getattr(log_prob, "is_target", False))
    with without_validation():
        if is_one_start and start_jitter > 0.0:
            _check_finite(target, start[:1], parameters)
            start, log_density = _scattered(target, start, start_jitter, mix_seed(seed, _JITTER_STREAM))
        _check_finite(target, start, parameters)
        problem = {
            "algorithm": repr(chosen),
            "number of chains": str(len(start)),
            "num_warmup": str(num_warmup),
            "parameters": parameters.describe(),
            "seed": str(seed),
            "thin": str(thin),
        }
        run = chosen.start(target, start, num_warmup, mix_seed(seed, _RUN_STREAM))
        sampling = _Sampling(run, Recording(num_samples, thin, start), num_warmup, num_samples)
        if file is not None:
            file.check(problem, start, log_density)
            sampling.keep_in(file, {"problem": problem, "start": start.cpu(), "log_density": log_density.cpu()})
        shown = SamplingProgress(progress)
        with _Interrupts() as interrupts:
            with shown:
                sampling.go(shown, interrupts)
            interrupts.ignore_all()  # there are draws, which a second Ctrl-C must not take
            recording, description = sampling.recording, run.description()
            samples = Samples(
                recording.draws(parameters),
                recording.statistics(description.get("step_size", math.nan)),
                recording.num_divergent,
                int(recording.n_steps.sum()),
                {name: _in_words(name, value) for name, value in description.items()},
                seed,
                num_warmup,
                thin,
                is_complete=recording.num_kept == num_samples,
            )
            _report(samples, parameters, num_samples, shown.is_shown)
    return samples


class _Sampling:
    """The steps of a run, with what is kept of them in memory and in a file."""

    def __init__(self, run: Run, recording: Recording, num_warmup: int, num_samples: int) -> None:
        self.run = run
        self.recording = recording
        self.num_warm_done = 0
        self._num_warmup = num_warmup
        self._num_steps = num_samples * recording.thin
        self._file: Checkpoint | None = None
        self._constant: dict[str, Any] = {}
        self._next_write = 0.0

    def keep_in(self, file: Checkpoint, constant: dict[str, Any]) -> None:
        """Go on from a file where there is one, and keep the state there, with what never changes."""
        self._file, self._constant = file, constant
        if file.content is not None:
            done = file.content["recording"]["num_steps_done"]
            if done > self._num_steps:
                raise ValueError(
                    f"sample: checkpoint {file.path} has {done // self.recording.thin} draws, more than num_samples "
                    f"{self._num_steps // self.recording.thin}"
                )
            self.num_warm_done = file.content["num_warm_done"]
            self.run.load_state_dict(file.content["run"])
            self.recording.load_state_dict(file.content["recording"])
            file.content = None  # the draws are in the recording
        self._next_write = time.monotonic() + _SECONDS_BETWEEN_CHECKPOINTS

    def go(self, progress: SamplingProgress, interrupts: _Interrupts) -> None:
        """Do what is left; Ctrl-C ends it between two steps, a second one at once.

        Raises
        ------
        KeyboardInterrupt
            If that happens before there is a draw.
        """
        try:
            if self._warm_up(progress, interrupts):
                self._draw(progress, interrupts)
        except KeyboardInterrupt:
            # It came in the middle of a step: the last state that was written is whole, this one may not be.
            if self.recording.num_kept == 0:
                raise
            return
        self._write()
        if interrupts.have_come() and self.recording.num_kept == 0:
            raise KeyboardInterrupt

    def _warm_up(self, progress: SamplingProgress, interrupts: _Interrupts) -> bool:
        if self._num_warmup:
            progress.begin("warm-up ", self._num_warmup)
        num_divergent = torch.zeros_like(self.recording.num_divergent)
        while self.num_warm_done < self._num_warmup:
            _, info = self.run.warm_step(self.num_warm_done)
            self.num_warm_done += 1
            num_divergent += info.is_divergent
            is_last = self.num_warm_done == self._num_warmup
            progress.advance(self.num_warm_done, info.acceptance_probability, num_divergent, is_last)
            if interrupts.have_come():
                return False
            self._write_now_and_then()
        return True

    def _draw(self, progress: SamplingProgress, interrupts: _Interrupts) -> None:
        progress.begin("sampling", self._num_steps)
        recording = self.recording
        while recording.num_steps_done < self._num_steps and not interrupts.have_come():
            state, info = self.run.sample_step(recording.num_steps_done)
            recording.add(state, info)
            is_last = recording.num_steps_done == self._num_steps
            progress.advance(recording.num_steps_done, info.acceptance_probability, recording.num_divergent, is_last)
            self._write_now_and_then()

    def _write_now_and_then(self) -> None:
        if self._file is not None and time.monotonic() >= self._next_write:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        self._file.write(
            {
                **self._constant,
                "num_warm_done": self.num_warm_done,
                "run": self.run.state_dict(),
                "recording": self.recording.state_dict(),
            }
        )
        self._next_write = time.monotonic() + _SECONDS_BETWEEN_CHECKPOINTS


class _Interrupts:
    """Ctrl-C inside the block, where nobody else handles it: the first waits for a step's end, the second does not."""

    def __init__(self) -> None:
        self._arrived = threading.Event()

    def __enter__(self) -> _Interrupts:
        """Take over Ctrl-C."""
        self._is_ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._is_ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give Ctrl-C back."""
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def have_come(self) -> bool:
        """Return whether there was one."""
        return self._arrived.is_set()

    def ignore_all(self) -> None:
        """Let no further one come through, to the end of the block."""
        if self._is_ours:
            signal.signal(signal.SIGINT, lambda number, frame: None)

    def _note(self, number: int, frame: Any) -> None:
        self._arrived.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _scattered(target: Target, start: Tensor, start_jitter: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions around one start, at which the log densities are finite, and these."""
    noise = chain_normals(seed, 0, start.shape[1], start)
    scale = torch.full_like(start[:, :1], start_jitter)
    for halving in range(_HALVINGS + 1):
        position = start + scale * noise
        log_density, gradient = target(position)
        is_bad = ~(log_density.isfinite() & gradient.isfinite().all(1))
        if not bool(is_bad.any()):
            break
        scale = torch.where(is_bad[:, None], scale * (0.5 if halving < _HALVINGS - 1 else 0.0), scale)
    return position, log_density


def _check_finite(target: Target, start: Tensor, parameters: Parameters) -> None:
    log_density, gradient = target(start)
    is_finite = log_density.isfinite()
    is_bad = ~(is_finite & gradient.isfinite().all(1))
    if not bool(is_bad.any()):
        return
    chains = is_bad.nonzero().flatten().tolist()
    what = "log density" if not bool(is_finite[chains[0]]) else "gradient of the log density"
    value = f" ({float(log_density[chains[0]]):g})" if what == "log density" else ""
    values = parameters.values(start[chains[0]].unsqueeze(0))
    shown = ", ".join(f"{name} {_few(value[0])}" for name, value in list(values.items())[:4])
    listed = ", ".join(map(str, chains[:8])) + (", ..." if len(chains) > 8 else "")
    raise ValueError(
        f"sample: the {what} is not finite{value} where chain{'s' if len(chains) > 1 else ''} {listed} of {len(start)} "
        f"start{'' if len(chains) > 1 else 's'}, at {shown}: start inside the support and nearer to the bulk, give "
        f"bijections for parameters with bounds, such as Positive(), and take float64"
    )


def _few(value: Tensor) -> str:
    numbers = [f"{number:.4g}" for number in value.flatten()[:4].tolist()]
    return numbers[0] if value.dim() == 0 else f"[{', '.join(numbers)}{', ...' if value.numel() > 4 else ''}]"


def _report(samples: Samples, parameters: Parameters, num_samples: int, is_shown: bool) -> None:
    is_small = sum(math.prod(each.shape) for each in parameters) <= _MOST_COLUMNS_SUMMARISED
    lines = samples.diagnose(with_agreement=is_small)
    if not samples.is_complete:
        lines.insert(0, f"Sampling was interrupted: each chain has {samples.num_samples} draws of {num_samples}")
    if is_shown:
        from rich.console import Console

        console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        console.print(samples.table() if is_small else repr(samples))
    if lines:
        warnings.warn("\n".join(lines), SamplerWarning, stacklevel=3)


def _choose_seed(seed: int | None, file: Checkpoint | None) -> int:
    if seed is not None:
        return check_seed("sample", seed, "an int or None")
    if file is not None and file.content is not None:
        return int(file.content["problem"]["seed"])
    return int(torch.randint(2**63 - 1, ()))


def _at_least(least: int, name: str, value: object) -> int:
    number = check_integer("sample", name, value)
    if number < least:
        raise ValueError(f"sample: {name} must be {least} or more, got {number}")
    return number


def _in_words(name: str, value: Any) -> str:
    if value is None:
        return "identity" if name == "inverse_mass" else "none"
    if isinstance(value, Tensor):
        if name == "inverse_mass":
            return "dense" if value.dim() == 2 else "diagonal"
        if value.numel() > 1:
            return f"{float(value.min()):.3g} to {float(value.max()):.3g}"
        value = float(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
