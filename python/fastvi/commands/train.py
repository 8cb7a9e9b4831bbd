"""``fastvi train``."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastvi._extras import missing
from fastvi._terminal import FAILED_EXIT_CODE, fail, make_console, reason, show_error
from fastvi.commands.completion import data_names, model_names, objective_names
from fastvi.commands.data_options import (
    Array,
    Colour,
    DivideBy,
    ImageSize,
    LabelsFrom,
    Standardize,
    TestSplit,
    data_name,
    own_source,
    refuse_own_options,
)
from fastvi.commands.options import given_options, make_from, options_for, trainer_options, with_flags
from fastvi.commands.shared import (
    INTERRUPTED_EXIT_CODE,
    DataDir,
    Device,
    ShowProgress,
    Threads,
    choose,
    choose_device,
    count,
    data_folder,
    is_given,
    load_data,
    number,
    path,
    run_data,
    seed_option,
)

if TYPE_CHECKING:
    from fastvi.data import Dataset, DataSource
    from fastvi.training.config import RunFolder, TrainingConfig

_OPTIONS_TO_REPEAT = (
    "data_dir",
    "device",
    "threads",
    "checkpoint_every",
    "run_evaluation",
    "evaluation_samples",
    "evaluation_limit",
    "progress",
    "logger",
)
"""Options of fastvi train that are not settings of the run: they hold for one command."""


def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            autocompletion=data_names,
            help="digits, digits-counts, moving-spot, mnist, fashion-mnist, mnist-binarized or frey; or the path of "
            "your own: an npz, npy, pt, csv or parquet file, or a folder of images or npy files.",
        ),
    ] = "digits",
    test_split: TestSplit = None,
    labels_from: LabelsFrom = None,
    array: Array = None,
    image_size: ImageSize = None,
    colour: Colour = None,
    divide_by: DivideBy = None,
    standardize: Standardize = False,
    data_dir: DataDir = None,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch the data into DATA_DIR.")] = False,
    objective: Annotated[
        str | None,
        typer.Option(
            autocompletion=objective_names,
            help="What is trained, such as elbo, iwae, stl or dreg; each has options of its own, below. Default: iwae, "
            "for autoencoders reconstruction.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(autocompletion=model_names, help="Which model, such as vae; each has options of its own, below."),
    ] = "vae",
    epochs: Annotated[
        int | None, count("Passes over the training images; default: 200 for digits, 100 for moving-spot, else 20.")
    ] = None,
    batch_size: Annotated[int, count("Examples for each step, shared by all processes.")] = 100,
    learning_rate: Annotated[float, number("Adam's step size.")] = 1e-3,
    binarization: Annotated[
        str | None,
        typer.Option(
            help="dynamic, static or none; default: dynamic for grey Bernoulli data, M1's for m1-m2, else none."
        ),
    ] = None,
    seed: Annotated[int, seed_option("Seed of all that is drawn.")] = 0,
    precision: Annotated[
        str,
        typer.Option(
            help="32-true, or bf16-mixed: matrix products of training in bfloat16, all else in float32, which is "
            "faster on processors with bfloat16 instructions. Evaluation is in float32."
        ),
    ] = "32-true",
    device: Device = "auto",
    threads: Threads = None,
    out: Annotated[Path | None, path("Run folder; default: runs/DATA-OBJECTIVE-NUMBER.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run that OUT holds.")] = False,
    resume: Annotated[Path | None, path("Go on with this run; its own settings hold, --epochs may extend it.")] = None,
    checkpoint_every: Annotated[
        int | None, count("Steps between checkpoints, besides those at the end of each epoch.")
    ] = None,
    run_evaluation: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Evaluate on the test images at the end.")
    ] = True,
    evaluation_samples: Annotated[int, count("K of that evaluation.")] = 5000,
    evaluation_limit: Annotated[int, count("Most test images it uses, evenly spaced.")] = 1000,
    progress: ShowProgress = True,
    logger: Annotated[
        str | None,
        typer.Option(
            help="Where figures go beside metrics.csv, separated by commas: tensorboard, wandb, mlflow; default: "
            "tensorboard if it is installed.",
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="PATH", help="TOML file of options by their long names; those given win."),
    ] = None,
) -> None:
    """Train a variational autoencoder; without any option, on scikit-learn's digits in a minute.

    Options of one objective or one model are listed at the end, by its name.
    """
    _require_train_extra()
    import torch

    from fastvi.training.claim import claimed, reopened
    from fastvi.training.config import RunError, RunFolder
    from fastvi.training.data_record import DataRecord
    from fastvi.training.extra_loggers import logger_names
    from fastvi.training.figures import evaluate_run, evaluation_examples, some_examples
    from fastvi.training.other_runs import check_other_runs
    from fastvi.training.pictures import write_pictures
    from fastvi.training.processes import from_first, is_first, join_processes
    from fastvi.training.settings import bfloat16_obstacle
    from fastvi.training.trajectories import write_trajectories
    from fastvi.training.windows import held_out_sequences

    try:
        chosen_loggers = logger_names(logger)
        join_processes()
    except (RunError, ValueError, ImportError) as error:
        fail(str(error))
    console = make_console(soft_wrap=True, quiet=not is_first())
    if threads is not None:
        torch.set_num_threads(threads)
    dataset: Dataset | None = None
    begun: RunFolder | None = None

    def prepare() -> tuple[TrainingConfig, RunFolder, str, Path | DataSource | None]:
        nonlocal begun, dataset
        chosen_device = choose_device(device)
        obstacle = bfloat16_obstacle(chosen_device)
        try:
            if resume is None:
                source = own_source(context, data)
                found_in = source or data_folder(data, data_dir)
                dataset = load_data(data, found_in, download, console)
                config = _new_config(context, dataset, data_name(data, source))
                if config.precision == "bf16-mixed" and obstacle is not None:
                    fail(f"--precision bf16-mixed gains nothing here: {obstacle}")
                record = DataRecord.of(dataset, found_in, config.uses_labels, config.uses_neighbours)
                check_other_runs(config, dataset, out)
                begun = folder = context.with_resource(claimed(out, overwrite, config, record, console.print))
            else:
                if out is not None or overwrite:
                    fail("--resume goes on in the run's own folder: leave out --out and --overwrite")
                refuse_own_options(context)
                begun = folder = RunFolder(resume)
                context.with_resource(reopened(folder, console.print))
                config = _resumed_config(context, folder)
                if config.precision == "bf16-mixed" and obstacle is not None:
                    console.print(f"the run's precision bf16-mixed gains nothing here: {obstacle}")
                moved_to = data if is_given(context, "data") and _is_of_own_data(folder) else None
                dataset, found_in = run_data(folder, config, data_dir, console, download, moved_to)
                folder.write_config(
                    config, DataRecord.of(dataset, found_in, config.uses_labels, config.uses_neighbours)
                )
        except RunError as error:
            fail(str(error))
        return config, folder, chosen_device, found_in

    try:
        config, folder, device, found_in = from_first(prepare)
        if dataset is None:  # in another process than the first
            dataset = load_data(config.data, found_in, download=False)

        from fastvi.training.trainer import train as train_run

        console.print(f"run folder: {folder.path}")
        show_bar = progress and console.is_terminal
        trained = train_run(
            config,
            dataset,
            folder,
            console=console,
            progress=show_bar,
            checkpoint_every=checkpoint_every,
            device=device,
            logger_names=chosen_loggers,
        )
        if not is_first():
            return
        examples = evaluation_examples(dataset, config)
        drawn = True
        try:
            write_pictures(
                trained,
                examples[:, 1] if config.uses_neighbours else examples,
                dataset.image_shape,
                folder.path,
                grey=None if config.binarization == "none" or config.uses_neighbours else dataset.test,
                labels=dataset.test_labels,
            )
            write_trajectories(trained, held_out_sequences(dataset, config.binarization), folder.path)
        except OSError as error:
            show_error(f"not all pictures were written: {reason(error)}")
            drawn = False
        if run_evaluation:
            examples, _, all_images = some_examples(examples, evaluation_limit)
            file, samples = folder.evaluation_file, evaluation_samples
            evaluate_run(file, config, trained, examples, all_images, samples, None, device, console, show_bar)
        if not drawn:
            raise typer.Exit(FAILED_EXIT_CODE)
    except RunError as error:  # in every process, with the same words
        if not is_first():
            raise typer.Exit(FAILED_EXIT_CODE) from error
        fail(str(error))
    except FloatingPointError as error:  # of pictures and evaluation: the model's own words for what became infinite
        fail(str(error))
    except KeyboardInterrupt:
        how = "interrupted before the run began" if begun is None else _how_to_go_on(context, begun)
        console.print(f"\n{how}")
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None


def _require_train_extra() -> None:
    for name in ("lightning", "PIL", "sklearn"):
        if importlib.util.find_spec(name) is None:
            fail(missing(name, "train", "fastvi train"))


def _how_to_go_on(context: typer.Context, run: RunFolder) -> str:
    """Return the line for a run that was interrupted."""
    from fastvi.training.hints import resume_command

    options: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in _OPTIONS_TO_REPEAT or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name]
        if isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        elif parameter.name != "data_dir" or os.environ.get("FASTVI_DATA"):  # which would win over what the run knows
            options += [parameter.opts[0], str(value)]
    command = resume_command(run.path, options)
    if not run.checkpoint_file.exists():
        return f"interrupted before the first checkpoint; to start again: {command}"
    return f"interrupted; to go on: {command}"


def _new_config(context: typer.Context, dataset: Dataset, name: str) -> TrainingConfig:
    """Return the settings of a new run on the data called ``name`` from the command's options, checked."""
    from fastvi.data import BINARIZATIONS
    from fastvi.data.rows import shape_of
    from fastvi.models import MODELS
    from fastvi.objectives import OBJECTIVES
    from fastvi.training.config import TrainingConfig, check_memory, check_settings
    from fastvi.training.other_runs import with_absolute_places
    from fastvi.training.settings import PRECISIONS, check_data, classes_to_train
    from fastvi.training.trainer_settings import TrainerSettings
    from fastvi.training.usual_settings import usual_binarization, usual_epochs

    chosen, given = context.params, given_options(context)
    model_name = choose("model", chosen["model"], MODELS)
    objective_name = choose("objective", chosen["objective"] or MODELS[model_name].default_objective, OBJECTIVES)
    model = make_from(MODELS, model_name, given, dataset)
    if not chosen["learning_rate"] > 0.0:
        fail(f"--learning-rate must be positive, got {chosen['learning_rate']}")
    objective = make_from(OBJECTIVES, objective_name, given, dataset)
    if chosen["binarization"] is None:
        binarization = usual_binarization(model, dataset)
    else:
        binarization = choose("binarization", chosen["binarization"], BINARIZATIONS)
    config = TrainingConfig(
        data=name,
        image_shape=dataset.image_shape,
        objective=objective,
        model=model,
        binarization=binarization,
        epochs=chosen["epochs"] or usual_epochs(name),
        batch_size=chosen["batch_size"],
        learning_rate=chosen["learning_rate"],
        seed=chosen["seed"],
        precision=choose("precision", chosen["precision"], PRECISIONS),
        **trainer_options(given),
    )
    config = with_absolute_places(config)
    try:
        if config.uses_labels:
            num_classes = classes_to_train(config, dataset)
            config = dataclasses.replace(config, num_classes=num_classes, class_names=dataset.class_names)
        check_data(config, dataset)
        check_memory(config, shape_of(dataset.train)[0])
        check_settings(config)
    except (ValueError, TypeError) as error:
        fail(with_flags(str(error), objective, model, TrainerSettings()))
    return config


def _resumed_config(context: typer.Context, folder: RunFolder) -> TrainingConfig:
    """Return the settings of the run to go on with; options that contradict them end the command."""
    from fastvi.models import MODELS
    from fastvi.objectives import OBJECTIVES
    from fastvi.training.config import RunError
    from fastvi.training.other_runs import with_absolute_places
    from fastvi.training.trainer_settings import TrainerSettings

    given = given_options(context)
    try:
        config = folder.read_config()
        trained_epochs = folder.trained_epochs()
    except RunError as error:
        fail(str(error))
    names = {"objective": config.objective_name, "model": config.model_name}
    for name in ("data", "objective", "model", "binarization", "batch_size", "learning_rate", "seed", "precision"):
        if is_given(context, name) and not (name == "data" and _is_of_own_data(folder)):
            _compare(name, context.params[name], names.get(name, getattr(config, name)), folder)
    for name, value in options_for(OBJECTIVES, config.objective_name, given).items():
        _compare(name, value, getattr(config.objective, name), folder)
    of_model, of_trainer = options_for(MODELS, config.model_name, given), trainer_options(given)
    try:
        model: Any = config.model
        wanted = dataclasses.replace(config, model=dataclasses.replace(model, **of_model), **of_trainer)
    except (ValueError, TypeError) as error:
        fail(with_flags(str(error), config.model, TrainerSettings()))
    wanted, kept = with_absolute_places(wanted), with_absolute_places(config)
    for name in of_model:
        _compare(name, getattr(wanted.model, name), getattr(kept.model, name), folder)
    for name in of_trainer:
        _compare(name, getattr(wanted, name), getattr(kept, name), folder)
    if is_given(context, "epochs"):
        epochs = context.params["epochs"]
        if epochs != config.epochs and not config.may_be_extended:
            fail(f"--epochs {epochs}: the schedule {config.schedule} of the run is that of {config.epochs} epochs")
        if epochs < trained_epochs:
            fail(f"--epochs {epochs}: the run has already gone through {trained_epochs} epochs")
        config = dataclasses.replace(config, epochs=epochs)
    return config


def _is_of_own_data(folder: RunFolder) -> bool:
    """Whether the run's data are the user's own: then --data says where they are now."""
    record = folder.read_record()
    return record is not None and record.source is not None


def _compare(name: str, given: Any, kept: Any, folder: RunFolder) -> None:
    if given != kept:
        option = name.replace("_", "-")
        fail(f"--{option} {given} contradicts the {kept} of the run {folder.path}: leave it out, or start anew")
