"""Annealed importance sampling of a run: a second table below that of its evaluation, and a JSON file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvi._examples import count_examples, select_examples
from fastvi.training.config import RunFolder
from fastvi.training.figures import images_words, show_and_keep
from fastvi.training.settings import TrainingConfig

if TYPE_CHECKING:
    from rich.console import Console

    from fastvi.evaluate import AnnealedEvaluation

_FEW = 2.0
"""With an effective sample size below this, one or two chains make up the estimate of an image."""


@dataclass(frozen=True)
class AnnealingSettings:
    """What `fastvi.evaluate.evaluate_by_annealing` is asked for: see there.

    Attributes
    ----------
    images
        Most test images that are taken, evenly spaced.
    """

    num_temperatures: int
    num_chains: int
    num_steps: int
    start: str
    schedule: str
    images: int
    simulated_images: int
    seed: int


def annealed_file(folder: RunFolder, settings: AnnealingSettings, images: int) -> Path:
    """Return where these figures belong, so that they overwrite none of another kind."""
    kind = f"T{settings.num_temperatures}-C{settings.num_chains}-L{settings.num_steps}"
    return folder.path / f"ais-{kind}-{settings.start}-{settings.schedule}-images{images}-seed{settings.seed}.json"


def check_annealing(model: Any, examples: Any, settings: AnnealingSettings) -> None:
    """Find out, before any work, whether the model can be annealed as asked for.

    Raises
    ------
    TypeError
        If it has no continuous latent variables with a prior and a likelihood, or cannot simulate images.
    """
    from fastvi.evaluate.latents import latents_of, simulate

    one = select_examples(examples, slice(0, 1))
    latents_of(model, one, settings.start)
    if settings.simulated_images > 0:
        simulate(model, 1, one, 0)


def anneal_run(
    file: Path | None,
    config: TrainingConfig,
    model: Any,
    examples: Any,
    all_images: int,
    settings: AnnealingSettings,
    num_samples: int,
    device: str,
    console: Console,
    show_bar: bool,
) -> None:
    """Anneal, print the table, and write the figures to ``file`` unless that is None."""
    from rich.progress import Progress

    from fastvi.evaluate import annealing_steps, evaluate_by_annealing

    images = count_examples("anneal_run", "examples", examples)
    examples = tuple(part.to(device) for part in examples) if isinstance(examples, tuple) else examples.to(device)
    steps = annealing_steps(images, settings.num_temperatures, settings.num_chains, settings.simulated_images)
    with Progress(console=console, auto_refresh=True, transient=True, disable=not show_bar) as bar:
        task = bar.add_task(f"annealing {images} images", total=steps)
        result = evaluate_by_annealing(
            model.to(device),
            examples,
            num_temperatures=settings.num_temperatures,
            num_chains=settings.num_chains,
            num_steps=settings.num_steps,
            start=settings.start,
            schedule=settings.schedule,
            num_samples=num_samples,
            simulated_images=settings.simulated_images,
            test_images=all_images,
            seed=settings.seed,
            on_step=lambda: bar.advance(task),
        )
    show_and_keep(result, lambda: print_annealed_figures(result, config, console), file, console)


def print_annealed_figures(result: AnnealedEvaluation, config: TrainingConfig, console: Console) -> None:
    """Print the table, and below it what speaks against its figures."""
    from rich.table import Table

    title = f"{config.data}, annealed importance sampling: {images_words(result)}"
    table = Table(title=title, show_header=False)
    error, own = result.standard_error, result.annealing_error
    spread = "no standard error from one image" if error is None else f"standard error {error:.3f}"
    table.add_row("test log p(x)", f"{result.log_evidence:.3f} nats, {spread}")
    table.add_row("error by the weights", "not told by one chain" if own is None else f"{own:.3f} nats")
    table.add_row("mean of log w", f"{result.mean_log_weight:.3f} nats")
    if result.importance_weighted is not None:
        table.add_row(f"L_{result.num_samples}", f"{result.importance_weighted:.3f} nats, of the same images")
    table.add_row("effective sample size", f"{result.effective_sample_size:.1f} of {result.num_chains}")
    if result.acceptance is not None:
        table.add_row("acceptance", f"{result.acceptance:.2f}, least of a temperature {result.least_acceptance:.2f}")
    table.add_row("temperatures", f"{result.num_temperatures}, {result.schedule}, from the {result.start}")
    table.add_row("chains", f"{result.num_chains} for each image, {_counted(result.num_leapfrogs, 'leapfrog')}")
    if result.simulated_lower is not None:
        table.add_row(
            f"{result.simulated_images} simulated images",
            f"log p(x) from {result.simulated_lower:.3f} to {result.simulated_upper:.3f} nats",
        )
    table.add_row("time", f"{result.seconds:.1f} s")
    console.print(table)
    if result.num_chains > 1 and not result.median_effective_sample_size >= _FEW:
        console.print(
            "log p(x) is more of a lower bound than an estimate: for half of the images one chain makes it up; "
            "take more temperatures"
        )
    if result.simulated_lower is not None:
        console.print("the bound from above holds for images drawn from the model; of test images only that from below")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
