"""An evaluation of a run and what it leaves: a table on the screen, a JSON file for each K and number of images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvi._examples import count_examples, select_examples
from fastvi._options import check_count
from fastvi._pareto import largest_reliable_k
from fastvi.objectives.model import has_bound
from fastvi.training.class_names import with_numbers_of
from fastvi.training.config import RunFolder
from fastvi.training.errors import RunError
from fastvi.training.files import write_whole
from fastvi.training.settings import TrainingConfig, check_data, with_missing_labels
from fastvi.training.windows import held_out_windows

if TYPE_CHECKING:
    from rich.console import Console

    from fastvi.data import Dataset
    from fastvi.evaluate import AnnealedEvaluation, Evaluation, LossEvaluation


def figures_file(folder: RunFolder, num_samples: int | None, images: int) -> Path:
    """Return where figures of this K and this number of images belong, so that they overwrite none of another kind.

    K is None for a loss, which has none.
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
    samples = "" if num_samples is None else f"-K{num_samples}"
    return folder.path / f"evaluation{samples}-images{images}.json"


def write_figures(path: Path, result: Evaluation | LossEvaluation | AnnealedEvaluation) -> None:
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

    title = f"{config.data}, {config.objective_name} K={config.num_samples}: {images_words(result)}"
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
    unknown = "not told by one image" if result.images == 1 else "not told: the model has no encoder"
    if result.images > 1 and result.latent_dim is not None:
        unknown = "not told: the posterior's mean has no closed form"
    table.add_row("active units", unknown if active is None else f"{_sum(active)} of {_sum(result.latent_dim)}")
    table.add_row("effective sample size", f"{result.effective_sample_size:.1f} of {result.num_samples}")
    if result.pareto_k is not None and result.heavy_tails is not None:
        limit = largest_reliable_k(result.num_samples)
        table.add_row(
            "Pareto k-hat",
            f"{result.pareto_k:.2f}, median; above {limit:.2g} for {result.heavy_tails:,} of {result.images:,} images",
        )
    for name, value in result.figures.items():
        table.add_row(f"test {name}", f"{value:.2f}{' %' if name == 'error' else ''}")
    table.add_row("time", f"{result.seconds:.1f} s")
    console.print(table)
    if note:
        console.print(note)


def _sum(numbers: int | tuple[int, ...] | None) -> str:
    """A number, or one for each layer: 16 + 5."""
    return " + ".join(map(str, numbers)) if isinstance(numbers, tuple) else str(numbers)


def images_words(result: Evaluation | LossEvaluation | AnnealedEvaluation) -> str:
    """How many images the figures are of."""
    some = "" if result.images == result.test_images else f"{result.images:,} of "
    return f"{some}{result.test_images:,} test images"


def print_loss(result: LossEvaluation, config: TrainingConfig, console: Console) -> None:
    """Print the table of a loss, and below it why there are no other figures."""
    from rich.table import Table

    table = Table(title=f"{config.data}, {config.objective_name}: {images_words(result)}", show_header=False)
    unit = config.objective.unit
    table.add_row(f"test {config.objective.value_name}", f"{result.loss:.3f}{' ' if unit else ''}{unit}")
    for name, value in result.figures.items():
        table.add_row(name, f"{value:.3f}")
    table.add_row("time", f"{result.seconds:.1f} s")
    console.print(table)
    what = "bound without importance weights" if config.objective.is_bound else "loss and no bound on log p(x)"
    console.print(f"{config.objective_name} is a {what}: there is no ELBO, no L_K and no effective sample size to tell")


def evaluation_examples(data: Dataset, config: TrainingConfig) -> Any:
    """Return the test images as a run's objective takes them: (M, D), in a pair with their labels where it uses them.

    Where the model takes missing labels, images without any have -1. A model of sequences takes each with its two
    neighbours, (W, 3, D).

    Raises
    ------
    RunError
        If the data are not those that the run can take.
    """
    from fastvi.data import test_images

    data = with_numbers_of(config, data)
    try:
        check_data(config, data, trains=False)
    except ValueError as error:
        raise RunError(str(error)) from error
    if config.uses_neighbours:
        return held_out_windows(data, config.binarization)
    images = test_images(data, config.binarization)
    return (images, with_missing_labels(config, data).test_labels) if config.uses_labels else images


def some_examples(examples: Any, limit: int | None, owner: str = "evaluate") -> tuple[Any, int, int]:
    """Return at most ``limit`` of the examples, evenly spaced, how many they are, and of how many.

    Raises
    ------
    TypeError, ValueError
        If the limit is no count; the message begins with ``owner``.
    """
    from fastvi.data import evenly_spaced

    limit = None if limit is None else check_count(owner, "limit", limit)
    count = count_examples("some_examples", "examples", examples)
    if limit is None or limit >= count:
        return examples, count, count
    return select_examples(examples, evenly_spaced(limit, count)), limit, count


def evaluate_run(
    file: Path | None,
    config: TrainingConfig,
    model: Any,
    examples: Any,
    all_images: int,
    num_samples: int,
    chunk: int | None,
    device: str,
    console: Console,
    show_bar: bool,
) -> None:
    """Evaluate, print the table, and write the figures to ``file`` unless that is None."""
    from rich.progress import Progress

    from fastvi.evaluate import evaluate, evaluate_loss, evaluation_rows

    model = model.to(device)
    examples = tuple(part.to(device) for part in examples) if isinstance(examples, tuple) else examples.to(device)
    if not has_bound(model):
        loss = evaluate_loss(config.objective, model, examples, test_images=all_images, seed=config.seed)
        show_and_keep(loss, lambda: print_loss(loss, config, console), file, console)
        return
    rows = evaluation_rows(count_examples("evaluate_run", "examples", examples), num_samples, config.num_samples)
    with Progress(console=console, auto_refresh=True, transient=True, disable=not show_bar) as bar:
        task = bar.add_task(f"evaluating with K = {num_samples}", total=rows)
        result = evaluate(
            model,
            examples,
            num_samples=num_samples,
            training_num_samples=config.num_samples,
            chunk=chunk,
            test_images=all_images,
            seed=config.seed,
            on_rows=lambda done: bar.advance(task, done),
        )
    show_and_keep(result, lambda: print_figures(result, config, console), file, console)


def show_and_keep(
    result: Evaluation | LossEvaluation | AnnealedEvaluation,
    show: Callable[[], None],
    file: Path | None,
    console: Console,
) -> None:
    """Show figures, then write them to ``file`` and say where, unless that is None."""
    try:
        show()
    finally:  # a screen or pipe that takes no more is no reason to lose them
        if file is not None:
            write_figures(file, result)
    if file is not None:
        console.print(f"figures: {file}")
