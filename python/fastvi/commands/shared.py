"""What ``fastvi train`` and ``fastvi evaluate`` share: options, the device, the data of a run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastvi._terminal import LARGEST_COUNT, MAX_THREADS, as_options, fail, finite_number, parse_path, whole_number

if TYPE_CHECKING:
    from rich.console import Console

    from fastvi.data import Dataset, DataSource
    from fastvi.training.config import RunFolder, TrainingConfig

INTERRUPTED_EXIT_CODE = 130


def count(description: str, least: int = 1) -> Any:
    """Make an option that counts something."""
    return typer.Option(parser=whole_number(least, LARGEST_COUNT), metavar="COUNT", help=description)


def seed_option(description: str) -> Any:
    """Make an option that is a seed."""
    return typer.Option(parser=whole_number(0, 2**63 - 1), metavar="SEED", help=description)


def number(description: str) -> Any:
    """Make an option that is a finite number, not negative."""
    return typer.Option(parser=finite_number, metavar="NUMBER", help=description)


def path(description: str) -> Any:
    """Make an option that names a file or a folder."""
    return typer.Option(parser=parse_path, metavar="PATH", help=description)


MovedTo = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="Where data of your own are now, if they are not where they were."),
]
DataDir = Annotated[Path | None, path("Folder of the data files; default: FASTVI_DATA.")]
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


def choose(name: str, wanted: str, choices: Iterable[str]) -> str:
    """Return ``wanted``; a word that is none of the choices ends the command."""
    if wanted not in choices:
        fail(f"--{name} must be one of {', '.join(choices)}, got {wanted!r}")
    return wanted


def choose_device(wanted: str) -> str:
    """Return "cpu" or "cuda"; "auto" is the GPU where nothing stands in its way."""
    from fastvi.training.devices import gpu_obstacle
    from fastvi.training.errors import RunError

    choose("device", wanted, ("auto", "cpu", "cuda"))
    try:
        obstacle = gpu_obstacle()
    except RunError as error:
        fail(str(error))
    if wanted == "cuda" and obstacle is not None:
        fail(f"--device cuda: {obstacle}")
    return "cpu" if wanted == "cpu" or obstacle is not None else "cuda"


def load_data(name: str, place: Path | DataSource | None, download: bool, console: Console | None = None) -> Dataset:
    """Return a data set known by name, or one of the user's own; one that cannot be read ends the command.

    What there is to be said of the user's own goes to the console.
    """
    from fastvi.data import DataError, DataSource, load_dataset

    try:
        if not isinstance(place, DataSource):
            return load_dataset(name, place, download)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            dataset = place.load()
    except DataError as error:
        fail(str(error))
    if console is not None:
        console.print(as_options(_described(dataset)))
        for warning in caught:
            console.print(f"warning: {as_options(str(warning.message))}")
    return dataset


def _described(data: Dataset) -> str:
    """What was read, in a line: where numbers were taken for something else than was meant, it shows."""
    from fastvi.data.rows import shape_of

    *leading, width = data.image_shape
    what = f"rows of {width:,} values" if leading == [1] else f"images of {' x '.join(map(str, data.image_shape))}"
    classes = f", in {data.num_classes:,} classes" if data.num_classes else ""
    return (
        f"{data.name}: {shape_of(data.train)[0]:,} {what} to train, {data.test.shape[0]:,} to test{classes}; "
        f"likelihood {data.likelihood}"
    )


def data_folder(name: str, given: Path | None, run: RunFolder | None = None) -> Path | None:
    """Return the folder of the data: --data-dir, else FASTVI_DATA, else where the run found them when it was made."""
    from fastvi.data import BUNDLED_DATASETS

    if name in BUNDLED_DATASETS:
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
        fail(f"the data of the run were in {folder}, which is not there any more: name their folder with --data-dir")
    return folder


def run_source(run: RunFolder, moved_to: str | None = None) -> DataSource | None:
    """Return how the run's data of the user's own are read; None where its data are known by name.

    Parameters
    ----------
    run
        The run.
    moved_to
        Where the data are now; None: where they were. Data that are not there any more end the command.
    """
    from fastvi.data import DATASET_NAMES, DataSource

    record = run.read_record()
    if record is None or record.source is None:
        if run.read_config().data not in DATASET_NAMES:
            fail(
                f"the data of the run {run.path} were given in Python, and only there they are known: "
                "fastvi.load(run).evaluate(data), fastvi.fit(..., out=run, resume=True)"
            )
        if moved_to is not None:
            fail(f"--data {moved_to}: the data of the run {run.path} are known by name, and not read from a path")
        return None
    source = DataSource.from_dict(record.source)
    if moved_to is not None:
        return source.moved_to(Path(moved_to))
    if not Path(source.path).exists():
        fail(f"the data of the run were in {source.path}, which is not there any more: name their place with --data")
    return source


def run_data(
    run: RunFolder,
    config: TrainingConfig,
    given: Path | None,
    console: Console,
    download: bool = False,
    moved_to: str | None = None,
) -> tuple[Dataset, Path | DataSource | None]:
    """Return the data of a run and their place; data that are not those it was trained on end the command.

    ``moved_to`` names the place of data of the user's own where they are not in the place that the run remembers.
    """
    from fastvi.training.config import RunError

    try:
        place: Path | DataSource | None = run_source(run, moved_to)
        if place is None:
            place = data_folder(config.data, given, run)
        dataset = load_data(config.data, place, download, console)
        compared = run.check_data(dataset)
    except RunError as error:
        fail(str(error))
    if not compared:
        console.print(
            f"{run.path} keeps no record of its data, as runs of fastvi 0.1.0: "
            "only the size of the images could be compared"
        )
    return dataset, place


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"  # by name: newer typer carries its own copy of click
