"""An evaluation of a run and what it leaves: a table on the screen, a JSON file for each K and number of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fastvi.training.config import RunFolder, TrainingConfig
from fastvi.training.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from fastvi.evaluate import Evaluation
    from fastvi.models import VAE


def figures_file(folder: RunFolder, num_samples: int, images: int) -> Path:
    """Return where figures of this K and this number of images belong, so that they overwrite none of another kind.

    The first figures of a run are its evaluation.json; those of another K or number of images lie beside it.
    """
    kept = None
    try:
        if folder.evaluation_file.is_file():  # a device or a pipe might never end
            kept = json.loads(folder.evaluation_file.read_bytes())
        elif not folder.evaluation_file.exists():
            return folder.evaluation_file
    except (OSError, ValueError, RecursionError):
        pass
    if isinstance(kept, dict) and (kept.get("num_samples"), kept.get("images")) == (num_samples, images):
        return folder.evaluation_file
    return folder.path / f"evaluation-K{num_samples}-images{images}.json"


def write_figures(path: Path, result: Evaluation) -> None:
    """Write the figures.

    Raises
    ------
    OSError
        If the file cannot be written; it names ``path``.
    """
    write_whole(path, (json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n").encode())


def reliability_note(result: Evaluation) -> str | None:
    """Return a line about an L_K that cannot stand for log p(x); None where nothing speaks against it."""
    if result.reliable:
        return None
    few = f"a few of the {result.num_samples:,} samples" if result.num_samples > 1 else "a single sample"
    return (
        f"L_{result.num_samples} is unreliable as log p(x): for {result.unreliable_images:,} of {result.images:,} "
        f"images it rests on {few}, so another seed gives another value"
    )


def print_figures(result: Evaluation, config: TrainingConfig, console: Console) -> None:
    """Print the table, and below it what speaks against its figures."""
    from rich.table import Table

    some = "" if result.images == result.test_images else f" {result.images:,} of"
    title = f"{config.data}, {config.objective} K={config.num_samples}:{some} {result.test_images:,} test images"
    error, active = result.standard_error, result.active_units
    spread = "no standard error from one image" if error is None else f"standard error {error:.3f}"
    note = reliability_note(result)
    table = Table(title=title, show_header=False)
    table.add_row("test ELBO", f"{result.elbo:.3f} nats")
    if result.training_num_samples != 1:
        table.add_row(f"test L_{result.training_num_samples}", f"{result.training_bound:.3f} nats")
    table.add_row(
        f"test L_{result.num_samples}",
        f"{result.importance_weighted:.3f} nats, {spread}{', unreliable' if note else ''}",
    )
    table.add_row("active units", "not told by one image" if active is None else f"{active} of {result.latent_dim}")
    table.add_row("effective sample size", f"{result.effective_sample_size:.1f} of {result.num_samples}")
    table.add_row("time", f"{result.seconds:.1f} s")
    console.print(table)
    if note:
        console.print(note)


def some_images(images: Tensor, limit: int | None) -> Tensor:
    """Return at most ``limit`` of the images, evenly spaced."""
    from fastvi.data import evenly_spaced

    count = images.shape[0]
    return images if limit is None or limit >= count else images[evenly_spaced(limit, count)]


def evaluate_run(
    file: Path | None,
    config: TrainingConfig,
    model: VAE,
    images: Tensor,
    all_images: int,
    num_samples: int,
    chunk: int | None,
    device: str,
    console: Console,
    show_bar: bool,
) -> None:
    """Evaluate, print the table, and write the figures to ``file`` unless that is None."""
    from rich.progress import Progress

    from fastvi.evaluate import evaluate, evaluation_rows

    rows = evaluation_rows(images.shape[0], num_samples, config.num_samples)
    with Progress(console=console, auto_refresh=True, transient=True, disable=not show_bar) as bar:
        task = bar.add_task(f"evaluating with K = {num_samples}", total=rows)
        result = evaluate(
            model.to(device),
            images.to(device),
            num_samples=num_samples,
            training_num_samples=config.num_samples,
            chunk=chunk,
            test_images=all_images,
            seed=config.seed,
            on_rows=lambda done: bar.advance(task, done),
        )
    try:
        print_figures(result, config, console)
    finally:  # a screen or pipe that takes no more is no reason to lose them
        if file is not None:
            write_figures(file, result)
    if file is not None:
        console.print(f"figures: {file}")
