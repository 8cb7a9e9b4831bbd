"""``fastvi evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastvi._terminal import fail, make_console, parse_path, reason
from fastvi.commands.shared import DataDir, Device, ShowProgress, Threads, choose_device, count, run_data

Chunk = Annotated[int | None, count("Samples held at a time; default: about 4,096 decoder rows.")]


def evaluate(
    run: Annotated[Path, typer.Argument(parser=parse_path, metavar="RUN", help="Run folder that fastvi train made.")],
    num_samples: Annotated[int, count("K of the bound that stands for log p(x).")] = 5000,
    chunk: Chunk = None,
    limit: Annotated[int | None, count("Use so many test images, evenly spaced.")] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Write the figures into the run folder too.")] = True,
    progress: ShowProgress = True,
) -> None:
    """Evaluate a run on its test images: ELBO, L_K by streaming, active units, effective sample size."""
    import torch

    from fastvi.objectives.model import has_bound
    from fastvi.training.config import RunError, RunFolder
    from fastvi.training.figures import evaluate_run, evaluation_examples, figures_file, some_examples
    from fastvi.training.files import check_writable

    console = make_console(soft_wrap=True)
    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device(device)
    folder = RunFolder(run)
    try:
        config = folder.read_config()
        model = folder.load_model()
        examples = evaluation_examples(run_data(folder, config, data_dir, console)[0], config)
    except RunError as error:
        fail(str(error))
    examples, images, all_images = some_examples(examples, limit)
    file = figures_file(folder, num_samples if has_bound(model) else None, images) if save else None
    if file is not None:
        try:
            check_writable(file)
        except OSError as error:
            fail(f"{reason(error)}: the figures cannot be written there; --no-save only shows them")
    show_bar = progress and console.is_terminal
    try:
        evaluate_run(file, config, model, examples, all_images, num_samples, chunk, device, console, show_bar)
    except FloatingPointError as error:  # the model's own words for what became infinite or NaN
        fail(str(error))
