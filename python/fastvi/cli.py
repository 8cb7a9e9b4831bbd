"""The command line: ``fastvi train``, ``evaluate``, ``bench`` and ``info``.

Commands import what they need when they run, so that ``fastvi --help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastvi._terminal import (
    FAILED_EXIT_CODE,
    LARGEST_COUNT,
    MAX_THREADS,
    CommandGroup,
    finite_number,
    make_console,
    parse_path,
    reason,
    show_error,
    whole_number,
)
from fastvi._terminal import fail as _fail
from fastvi.benchmarks import bench

if TYPE_CHECKING:
    from rich.console import Console

    from fastvi.data import Dataset
    from fastvi.training.config import RunFolder, TrainingConfig

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # errors are whole lines then, not broken by the sides of a box
)

_DEFAULT_NUM_SAMPLES = {"elbo": 1, "stl": 1, "iwae": 5, "dreg": 5}
_DEFAULT_EPOCHS = {"digits": 200}
_BUNDLED_DATA = ("digits",)
"""Data sets that are read from no folder."""
_OPTIONS_TO_REPEAT = (
    "data_dir",
    "device",
    "threads",
    "checkpoint_every",
    "run_evaluation",
    "evaluation_samples",
    "evaluation_limit",
    "progress",
)
"""Options of fastvi train that are not settings of the run: they hold for one command."""
_INTERRUPTED_EXIT_CODE = 130


def _count(description: str, least: int = 1) -> Any:
    """Make an option that counts something."""
    return typer.Option(parser=whole_number(least, LARGEST_COUNT), metavar="COUNT", help=description)


def _number(description: str) -> Any:
    """Make an option that is a finite number, not negative."""
    return typer.Option(parser=finite_number, metavar="NUMBER", help=description)


def _path(description: str) -> Any:
    """Make an option that names a file or a folder."""
    return typer.Option(parser=parse_path, metavar="PATH", help=description)


DataDir = Annotated[Path | None, _path("Folder of the data files; default: FASTVI_DATA.")]
Threads = Annotated[
    int | None,
    typer.Option(
        parser=whole_number(1, MAX_THREADS),
        metavar="COUNT",
        help="CPU threads; default: as many as PyTorch takes.",
    ),
]
ShowProgress = Annotated[bool, typer.Option("--progress/--no-progress", help="Progress bars, or lines for a log.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; auto is a GPU where there is one to use.")]
Chunk = Annotated[int | None, _count("Samples held at a time; default: about 4,096 decoder rows.")]


@app.command()
def train(
    context: typer.Context,
    data: Annotated[str, typer.Option(help="digits, mnist, fashion-mnist, mnist-binarized or frey.")] = "digits",
    data_dir: DataDir = None,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch the data into DATA_DIR.")] = False,
    objective: Annotated[str, typer.Option(help="Bound to maximise: elbo, iwae, stl or dreg.")] = "iwae",
    num_samples: Annotated[
        int | None, _count("K, samples for each example; default: 1 for elbo and stl, else 5.")
    ] = None,
    backward_samples: Annotated[
        int | None, _count("iwae: samples that the backward pass takes; default: all K.")
    ] = None,
    beta: Annotated[float, _number("elbo: weight of the divergence.")] = 1.0,
    free_bits: Annotated[float, _number("elbo: nats free for each latent dimension.")] = 0.0,
    warm_up_steps: Annotated[int, _count("elbo: steps over which beta rises from 0.", least=0)] = 0,
    epochs: Annotated[int | None, _count("Passes over the training images; default: 200 for digits, else 20.")] = None,
    batch_size: Annotated[int, _count("Examples for each step, shared by all processes.")] = 100,
    learning_rate: Annotated[float, _number("Adam's step size.")] = 1e-3,
    latent_dim: Annotated[int, _count("Latent dimensions; 2 gives a picture of them.")] = 50,
    hidden_dims: Annotated[str, typer.Option(help="Widths of the hidden layers, from the data inwards.")] = "200,200",
    activation: Annotated[str, typer.Option(help="tanh, relu, softplus or elu.")] = "tanh",
    likelihood: Annotated[str | None, typer.Option(help="bernoulli or gaussian; default: what fits the data.")] = None,
    binarization: Annotated[
        str | None, typer.Option(help="dynamic, static or none; default: dynamic for grey Bernoulli data, else none.")
    ] = None,
    seed: Annotated[
        int, typer.Option(parser=whole_number(0, 2**63 - 1), metavar="SEED", help="Seed of all that is drawn.")
    ] = 0,
    device: Device = "auto",
    threads: Threads = None,
    out: Annotated[Path | None, _path("Run folder; default: runs/DATA-OBJECTIVE-NUMBER.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run that OUT holds.")] = False,
    resume: Annotated[Path | None, _path("Go on with this run; its own settings hold, --epochs may extend it.")] = None,
    checkpoint_every: Annotated[
        int | None, _count("Steps between checkpoints, besides those at the end of each epoch.")
    ] = None,
    run_evaluation: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Evaluate on the test images at the end.")
    ] = True,
    evaluation_samples: Annotated[int, _count("K of that evaluation.")] = 5000,
    evaluation_limit: Annotated[int, _count("Most test images it uses, evenly spaced.")] = 1000,
    progress: ShowProgress = True,
) -> None:
    """Train a variational autoencoder; without any option, on scikit-learn's digits in a minute."""
    _require_train_extra()
    import torch

    from fastvi.data import test_images
    from fastvi.training.claim import claimed, reopened
    from fastvi.training.config import RunError, RunFolder
    from fastvi.training.data_record import DataRecord
    from fastvi.training.figures import evaluate_run, some_images
    from fastvi.training.pictures import write_pictures
    from fastvi.training.processes import from_first, is_first, join_processes

    try:
        join_processes()
    except RunError as error:
        _fail(str(error))
    console = make_console(soft_wrap=True, quiet=not is_first())
    if threads is not None:
        torch.set_num_threads(threads)
    dataset: Dataset | None = None
    begun: RunFolder | None = None

    def prepare() -> tuple[TrainingConfig, RunFolder, str, Path | None]:
        nonlocal begun, dataset
        chosen_device = _choose_device(device)
        try:
            if resume is None:
                data_folder = _data_folder(data, data_dir)
                dataset = _load_data(data, data_folder, download)
                config = _new_config(context.params, dataset)
                record = DataRecord.of(dataset, data_folder)
                begun = folder = context.with_resource(claimed(out, overwrite, config, record, console.print))
            else:
                if out is not None or overwrite:
                    _fail("--resume goes on in the run's own folder: leave out --out and --overwrite")
                begun = folder = RunFolder(resume)
                context.with_resource(reopened(folder, console.print))
                config = _resumed_config(context, folder)
                dataset, data_folder = _run_data(folder, config, data_dir, console, download)
                folder.write_config(config, DataRecord.of(dataset, data_folder))
        except RunError as error:
            _fail(str(error))
        return config, folder, chosen_device, data_folder

    try:
        config, folder, device, data_folder = from_first(prepare)
        if dataset is None:  # in another process than the first
            dataset = _load_data(config.data, data_folder, download=False)

        from fastvi.training.trainer import train as train_run

        console.print(f"run folder: {folder.path}")
        show_bar = progress and console.is_terminal
        model = train_run(
            config,
            dataset,
            folder,
            console=console,
            progress=show_bar,
            checkpoint_every=checkpoint_every,
            device=device,
        )
        if not is_first():
            return
        images = test_images(dataset, config.binarization)
        drawn = True
        try:
            write_pictures(model, images, dataset.image_shape, folder.path)
        except OSError as error:
            show_error(f"not all pictures were written: {reason(error)}")
            drawn = False
        if run_evaluation:
            images, all_images = some_images(images, evaluation_limit), images.shape[0]
            file, count = folder.evaluation_file, evaluation_samples
            evaluate_run(file, config, model, images, all_images, count, None, device, console, show_bar)
        if not drawn:
            raise typer.Exit(FAILED_EXIT_CODE)
    except RunError as error:  # in every process, with the same words
        if not is_first():
            raise typer.Exit(FAILED_EXIT_CODE) from error
        _fail(str(error))
    except KeyboardInterrupt:
        how = "interrupted before the run began" if begun is None else _how_to_go_on(context, begun)
        console.print(f"\n{how}")
        raise typer.Exit(_INTERRUPTED_EXIT_CODE) from None


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(parser=parse_path, metavar="RUN", help="Run folder that fastvi train made.")],
    num_samples: Annotated[int, _count("K of the bound that stands for log p(x).")] = 5000,
    chunk: Chunk = None,
    limit: Annotated[int | None, _count("Use so many test images, evenly spaced.")] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Write the figures into the run folder too.")] = True,
    progress: ShowProgress = True,
) -> None:
    """Evaluate a run on its test images: ELBO, L_K by streaming, active units, effective sample size."""
    import torch

    from fastvi.data import test_images
    from fastvi.training.config import RunError, RunFolder
    from fastvi.training.figures import evaluate_run, figures_file, some_images
    from fastvi.training.files import check_writable

    console = make_console(soft_wrap=True)
    if threads is not None:
        torch.set_num_threads(threads)
    device = _choose_device(device)
    folder = RunFolder(run)
    try:
        config = folder.read_config()
        model = folder.load_model()
    except RunError as error:
        _fail(str(error))
    images = test_images(_run_data(folder, config, data_dir, console)[0], config.binarization)
    images, all_images = some_images(images, limit), images.shape[0]
    file = figures_file(folder, num_samples, images.shape[0]) if save else None
    if file is not None:
        try:
            check_writable(file)
        except OSError as error:
            _fail(f"{reason(error)}: the figures cannot be written there; --no-save only shows them")
    show_bar = progress and console.is_terminal
    evaluate_run(file, config, model, images, all_images, num_samples, chunk, device, console, show_bar)


app.command("bench")(bench)


@app.command()
def info() -> None:
    """Show the version, the instruction set in use, threads, backends and PyTorch."""
    import torch
    from rich.table import Table

    from fastvi import _native

    backends = _native.backends()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    rows = {
        "fastvi": importlib.metadata.version("fastvi"),
        "instruction set": _native.selected_isa(),
        "available": ", ".join(_native.available_isas()),
        "backends": ", ".join(backends),
        "CUDA": f"{'built in' if 'cuda' in backends else 'not in this build'}; PyTorch finds {gpu}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "PyTorch": torch.__version__,
        "Python": sys.version.split()[0],
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    make_console().print(table)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastvi {importlib.metadata.version('fastvi')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Variational inference in PyTorch: train, evaluate and time importance-weighted autoencoders."""


def main() -> None:
    """Run the command line."""
    app()


def _require_train_extra() -> None:
    if not all(importlib.util.find_spec(name) for name in ("lightning", "PIL", "sklearn")):
        _fail("fastvi train needs the 'train' extra: pip install \"fastvi[train]\"")


def _choose_device(wanted: str) -> str:
    """Return "cpu" or "cuda"; "auto" is the GPU where nothing stands in its way."""
    from fastvi.ops._backends import cuda_obstacle
    from fastvi.training.errors import RunError
    from fastvi.training.processes import layout

    _choose("device", wanted, ("auto", "cpu", "cuda"))
    try:
        obstacle = cuda_obstacle() if layout() == (1, 1) else "several processes train on the CPU"
    except RunError as error:
        _fail(str(error))
    if wanted == "cuda" and obstacle is not None:
        _fail(f"--device cuda: {obstacle}")
    return "cpu" if wanted == "cpu" or obstacle is not None else "cuda"


def _load_data(name: str, data_dir: Path | None, download: bool) -> Dataset:
    from fastvi.data import DataError, load_dataset

    try:
        return load_dataset(name, data_dir, download)
    except DataError as error:
        _fail(str(error))


def _data_folder(name: str, given: Path | None, run: RunFolder | None = None) -> Path | None:
    """Return the folder of the data: --data-dir, else FASTVI_DATA, else where the run found them when it was made."""
    if name in _BUNDLED_DATA:
        return None
    if given is not None:
        return given
    if os.environ.get("FASTVI_DATA"):
        return Path(os.environ["FASTVI_DATA"])
    record = None if run is None else run.read_record()
    if record is None or record.data_dir is None:
        return None
    folder = Path(record.data_dir)
    if not folder.is_dir():
        _fail(f"the data of the run were in {folder}, which is not there any more: name their folder with --data-dir")
    return folder


def _run_data(
    run: RunFolder, config: TrainingConfig, given: Path | None, console: Console, download: bool = False
) -> tuple[Dataset, Path | None]:
    """Return the data of a run and their folder; data that are not those it was trained on end the command."""
    from fastvi.training.config import RunError

    try:
        folder = _data_folder(config.data, given, run)
        dataset = _load_data(config.data, folder, download)
        compared = run.check_data(dataset)
    except RunError as error:
        _fail(str(error))
    if not compared:
        console.print(
            f"{run.path} keeps no record of its data, as runs of fastvi 0.1.0: "
            "only the size of the images could be compared"
        )
    return dataset, folder


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


def _new_config(options: dict[str, Any], dataset: Dataset) -> TrainingConfig:
    """Return the settings of a new run from the command's options, checked."""
    from fastvi.data import BINARIZATIONS
    from fastvi.models.vae import ACTIVATIONS, LIKELIHOODS
    from fastvi.objectives import OBJECTIVES, make_objective
    from fastvi.training.config import TrainingConfig, check_memory, check_settings

    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    settings = {name: value for name, value in options.items() if name in names}
    objective = _choose("objective", options["objective"], OBJECTIVES)
    _choose("activation", options["activation"], ACTIVATIONS)
    settings["hidden_dims"] = _parse_hidden_dims(options["hidden_dims"])
    settings["image_shape"] = dataset.image_shape
    settings["likelihood"] = dataset.likelihood
    if options["likelihood"] is not None:
        settings["likelihood"] = _choose("likelihood", options["likelihood"], LIKELIHOODS)
    if options["binarization"] is None:
        is_grey = settings["likelihood"] == "bernoulli" and bool(((dataset.test > 0) & (dataset.test < 1)).any())
        settings["binarization"] = "dynamic" if is_grey else "none"
    else:
        _choose("binarization", options["binarization"], BINARIZATIONS)
    if options["num_samples"] is None:
        settings["num_samples"] = _DEFAULT_NUM_SAMPLES[objective]
    if options["epochs"] is None:
        settings["epochs"] = _DEFAULT_EPOCHS.get(options["data"], 20)
    if not options["learning_rate"] > 0.0:
        _fail(f"--learning-rate must be positive, got {options['learning_rate']}")
    if objective != "elbo" and (options["beta"], options["free_bits"], options["warm_up_steps"]) != (1, 0, 0):
        _fail(f"--beta, --free-bits and --warm-up-steps belong to the objective elbo, not to {objective}")
    if options["backward_samples"] is not None:
        if objective != "iwae":
            _fail(f"--backward-samples belongs to the objective iwae, not to {objective}")
        if options["backward_samples"] > settings["num_samples"]:
            _fail(
                f"--backward-samples must be at most --num-samples = {settings['num_samples']}, "
                f"got {options['backward_samples']}"
            )
    config = TrainingConfig(**settings)
    try:
        make_objective(config.objective, **config.objective_options())
        check_memory(config, dataset.train.shape[0])
        check_settings(config)
    except (ValueError, TypeError) as error:
        _fail(str(error))
    return config


def _choose(name: str, wanted: str, choices: Iterable[str]) -> str:
    if wanted not in choices:
        _fail(f"--{name} must be one of {', '.join(choices)}, got {wanted!r}")
    return wanted


def _parse_hidden_dims(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        _fail(f"--hidden-dims must be widths separated by commas, such as 200,200; got {text!r}")
    if not all(1 <= width <= LARGEST_COUNT for width in widths):
        _fail(f"--hidden-dims must be widths from 1 to {LARGEST_COUNT}, got {text!r}")
    return widths


def _resumed_config(context: typer.Context, folder: RunFolder) -> TrainingConfig:
    """Return the settings of the run to go on with; options that contradict them end the command."""
    from fastvi.training.config import RunError

    try:
        config = folder.read_config()
        trained_epochs = folder.trained_epochs()
    except RunError as error:
        _fail(str(error))
    for field in dataclasses.fields(config):
        if field.name not in context.params:
            continue
        source = context.get_parameter_source(field.name)
        if source is None or source.name != "COMMANDLINE":  # by name: newer typer carries its own copy of click
            continue
        given, kept = context.params[field.name], getattr(config, field.name)
        if field.name == "hidden_dims":
            given = _parse_hidden_dims(given)
        if field.name == "epochs":
            if given < trained_epochs:
                _fail(f"--epochs {given}: the run has already gone through {trained_epochs} epochs")
            config = dataclasses.replace(config, epochs=given)
        elif given != kept:
            option = field.name.replace("_", "-")
            _fail(f"--{option} {given} contradicts the {kept} of the run {folder.path}: leave it out, or start anew")
    return config
