"""``fastvi evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastvi._terminal import fail, make_console, parse_path, reason
from fastvi.commands.shared import (
    INTERRUPTED_EXIT_CODE,
    DataDir,
    Device,
    MovedTo,
    ShowProgress,
    Threads,
    choose,
    choose_device,
    count,
    is_given,
    run_data,
    seed_option,
)

_ANNEALING_OPTIONS = (
    "ais_temperatures",
    "ais_chains",
    "ais_leapfrogs",
    "ais_start",
    "ais_schedule",
    "ais_images",
    "ais_simulated",
    "ais_seed",
)

Chunk = Annotated[int | None, count("Samples held at a time; default: about 4,096 decoder rows.")]


def evaluate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(parser=parse_path, metavar="RUN", help="Run folder that fastvi train made.")],
    num_samples: Annotated[int, count("K of the bound that stands for log p(x).")] = 5000,
    chunk: Chunk = None,
    limit: Annotated[int | None, count("Use so many test images, evenly spaced.")] = None,
    data: MovedTo = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    ais: Annotated[
        bool, typer.Option("--ais", help="Also estimate log p(x) by annealed importance sampling of the decoder.")
    ] = False,
    ais_temperatures: Annotated[int, count("Steps from the start to the posterior.")] = 1000,
    ais_chains: Annotated[int, count("Chains for each image.")] = 16,
    ais_leapfrogs: Annotated[int, count("Leapfrog steps at each temperature.")] = 3,
    ais_start: Annotated[
        str, typer.Option(help="prior, encoder, which is q(z|x), or auto: the encoder where it is a diagonal Gaussian.")
    ] = "auto",
    ais_schedule: Annotated[str, typer.Option(help="linear, sigmoidal, or adaptive by a pilot run.")] = "adaptive",
    ais_images: Annotated[int, count("Most test images that are annealed, evenly spaced.")] = 100,
    ais_simulated: Annotated[
        int, count("Images drawn from the model, whose log p(x) is bounded from both sides, too.", least=0)
    ] = 0,
    ais_seed: Annotated[int | None, seed_option("Seed of the annealing; default: the run's.")] = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Write the figures into the run folder too.")] = True,
    progress: ShowProgress = True,
) -> None:
    """Evaluate a run on its test images: ELBO, L_K by streaming, active units, effective sample size, Pareto k-hat.

    With --ais also log p(x) by annealed importance sampling, on fewer images, in a second table and a file of its own.
    """
    import torch

    from fastvi.objectives.model import has_bound
    from fastvi.training.annealed_figures import anneal_run, annealed_file
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
        examples = evaluation_examples(run_data(folder, config, data_dir, console, moved_to=data)[0], config)
    except RunError as error:
        fail(str(error))
    annealing = _annealing_settings(context, config.seed, model, examples)
    examples, images, all_images = some_examples(examples, limit)
    file = figures_file(folder, num_samples if has_bound(model) else None, images) if save else None
    files = [file]
    if annealing is not None:
        annealed, annealed_images, _ = some_examples(examples, annealing.images)
        files.append(annealed_file(folder, annealing, annealed_images) if save else None)
    for each in files:
        try:
            if each is not None:
                check_writable(each)
        except OSError as error:
            fail(f"{reason(error)}: the figures cannot be written there; --no-save only shows them")
    show_bar = progress and console.is_terminal
    try:
        evaluate_run(file, config, model, examples, all_images, num_samples, chunk, device, console, show_bar)
    except FloatingPointError as error:  # the model's own words for what became infinite or NaN
        fail(str(error))
    if annealing is None:
        return
    try:
        anneal_run(files[1], config, model, annealed, all_images, annealing, num_samples, device, console, show_bar)
    except ValueError as error:  # a density that is nowhere finite, or a gradient that nothing accepts
        fail(f"--ais: {error}")
    except KeyboardInterrupt:
        console.print("annealing interrupted: it leaves no figures; those above are whole")
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None


def _annealing_settings(context: typer.Context, seed: int, model: Any, examples: Any) -> Any:
    """What --ais and its options ask for, None without it; what the model cannot do ends the command."""
    from fastvi.evaluate import SCHEDULES, STARTS
    from fastvi.training.annealed_figures import AnnealingSettings, check_annealing

    chosen = context.params
    if not chosen["ais"]:
        for name in _ANNEALING_OPTIONS:
            if is_given(context, name):
                fail(f"--{name.replace('_', '-')} is for --ais, which was not asked for")
        return None
    settings = AnnealingSettings(
        num_temperatures=chosen["ais_temperatures"],
        num_chains=chosen["ais_chains"],
        num_steps=chosen["ais_leapfrogs"],
        start=choose("ais-start", chosen["ais_start"], STARTS),
        schedule=choose("ais-schedule", chosen["ais_schedule"], SCHEDULES),
        images=chosen["ais_images"],
        simulated_images=chosen["ais_simulated"],
        seed=seed if chosen["ais_seed"] is None else chosen["ais_seed"],
    )
    try:
        check_annealing(model, examples, settings)
    except (TypeError, ValueError) as error:
        fail(f"--ais: {error}")
    return settings
