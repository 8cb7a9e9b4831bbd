"""What the commands that take something out of a run share: the run, its examples, and the file that they write."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastvi._terminal import as_options, fail, parse_path, reason
from fastvi.commands.completion import data_names
from fastvi.commands.shared import choose, choose_device, count, data_folder, load_data, path, run_data

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console
    from torch import Tensor

    from fastvi.data import Dataset
    from fastvi.training.config import RunFolder, TrainingConfig

Run = Annotated[Path, typer.Argument(parser=parse_path, metavar="RUN", help="Run folder that fastvi train made.")]
Out = Annotated[Path, path("Where the result goes; what its name ends in is its format.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an older file of that name.")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        autocompletion=data_names,
        help="Other data: a data set by name, or a file or folder of your own, read as the run's own data are; "
        "default: the run's own.",
    ),
]
OtherArray = Annotated[
    str | None,
    typer.Option("--array", metavar="NAME", help="Of other data in an npz or pt file: the array of the rows."),
]
Split = Annotated[str, typer.Option(help="test or train: which examples of data that have both.")]
Limit = Annotated[int | None, count("Use so many examples, evenly spaced.")]


@dataclass(frozen=True)
class Opened:
    """A run with its model, on a device.

    Attributes
    ----------
    folder, config, model
        Of the run.
    device
        Where the model is.
    """

    folder: RunFolder
    config: TrainingConfig
    model: Any
    device: str

    def images(self, rows: Tensor) -> np.ndarray[Any, Any]:
        """Return rows (N, D) in the shape of the run's images, (N, height, width); rows that are none as they are."""
        shape = self.config.image_shape
        array: np.ndarray[Any, Any] = rows.detach().cpu().numpy()
        return array if len(shape) == 2 and shape[0] == 1 else array.reshape(-1, *shape)


@dataclass(frozen=True)
class Examples:
    """Examples as a model takes them, on its device, with the classes that their data say, and their places there."""

    x: Any
    labels: Tensor | None
    places: Tensor

    @property
    def rows(self) -> Tensor:
        """The examples without labels, (M, D)."""
        found: Tensor = self.x[0] if isinstance(self.x, tuple) else self.x
        return found


def open_run(run: Path, device: str, threads: int | None) -> Opened:
    """Return a run with its trained model; one that cannot be read ends the command."""
    import torch

    from fastvi.training.config import RunError, RunFolder

    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device(device)
    folder = RunFolder(run)
    try:
        config = folder.read_config()
        return Opened(folder, config, folder.load_model().to(device), device)
    except RunError as error:
        fail(str(error))


def run_examples(
    opened: Opened,
    data: str | None,
    array: str | None,
    data_dir: Path | None,
    split: str,
    limit: int | None,
    console: Console,
) -> Examples:
    """Return examples of a run's data, or of others, as its model takes them; what cannot be read ends the command."""
    import torch

    from fastvi._examples import select_examples
    from fastvi.data import evenly_spaced, test_images
    from fastvi.training.config import RunError
    from fastvi.training.figures import evaluation_examples

    choose("split", split, ("test", "train"))
    if data is None:
        if array is not None:
            fail("--array is of other data: name them by --data")
        dataset, _ = run_data(opened.folder, opened.config, data_dir, console)
    else:
        dataset = _other_data(opened, data, array, data_dir, console)
    if split == "train":
        if not isinstance(dataset.train, torch.Tensor):
            fail("--split train: the training rows stay on the disk; name some of them by --data")
        dataset = replace(
            dataset, test=dataset.train, test_labels=dataset.train_labels, train_times=None, test_times=None
        )
    try:
        # A model of sequences makes a code of each frame by itself.
        uses_windows = opened.config.uses_neighbours
        frames = test_images(dataset, opened.config.binarization) if uses_windows else None
        examples = evaluation_examples(dataset, opened.config) if frames is None else frames
    except RunError as error:
        fail(str(error))
    total = len(dataset.test)
    places = torch.arange(total) if limit is None or limit >= total else evenly_spaced(limit, total)
    x = select_examples(examples, places)
    x = tuple(part.to(opened.device) for part in x) if isinstance(x, tuple) else x.to(opened.device)
    return Examples(x, None if dataset.test_labels is None else dataset.test_labels[places], places)


def _other_data(opened: Opened, data: str, array: str | None, data_dir: Path | None, console: Console) -> Dataset:
    """Data that are not the run's, of rows of the same length: all of them, where they come from a path."""
    from fastvi.data import DATASET_NAMES, DataError, DataSource
    from fastvi.training.class_names import require_words_of, with_numbers_of
    from fastvi.training.config import RunError

    config, by_itself = opened.config, False
    if data in DATASET_NAMES:
        if array is not None:
            fail(f"--array is of data in a file, and {data} is a data set by name")
        dataset = load_data(data, data_folder(data, data_dir), False, console)
    else:
        try:
            record = opened.folder.read_record()
        except RunError as error:
            fail(str(error))
        likelihood = getattr(config.model, "likelihood", None)
        if record is not None and record.source is not None:
            # Read beside the training rows, so that the values are divided and standardised as theirs were.
            source = DataSource.from_dict(record.source)
            if array is not None:
                fail("--array: other data are read as the run's own are, whose array was chosen when it was trained")
        else:
            by_itself = True
            source = DataSource(data, array=array, likelihood=likelihood)
            if Path(data).is_dir():
                source = replace(source, image_size=(config.image_shape[-2], config.image_shape[-1]))
        if not Path(data).exists():
            fail(f"--data must be one of {', '.join(DATASET_NAMES)}, or a path, and {data} is not there")
        try:
            dataset = source.load_beside(data)
        except DataError as error:
            if source.labels_from is None or config.uses_labels:
                beside = "" if str(error).startswith(data) else f"--data {data}, read beside the run's own data: "
                fail(as_options(beside + str(error)))
            dataset = load_data(data, replace(source, labels_from=None, test_split=data), False)
    try:
        if by_itself:
            require_words_of(config, dataset)
        dataset = with_numbers_of(config, dataset)
    except RunError as error:
        fail(f"--data {data}: {error}")
    if config.uses_labels and dataset.test_labels is None and not config.takes_missing_labels:
        fail(f"--data {data}: {config.label_user} needs labels, and these data have none")
    width, expected = math.prod(dataset.image_shape), math.prod(config.image_shape)
    if width != expected:
        fail(f"--data {data}: expected rows of {expected:,} values, as the run was trained on, got {width:,}")
    return replace(dataset, image_shape=config.image_shape)


def check_out(out: Path, suffixes: Sequence[str], overwrite: bool) -> None:
    """End the command before its work where its result cannot go to ``out``."""
    from fastvi.training.files import check_writable

    if out.suffix.lower() not in suffixes:
        fail(f"--out must end in {' or '.join(suffixes)}, got {out}")
    if out.is_file() and not overwrite:
        fail(f"{out} is there already: name another --out, or add --overwrite")
    try:
        check_writable(out)
    except OSError as error:
        fail(f"{reason(error)}: the result cannot be written there")


@contextmanager
def one_line() -> Iterator[None]:
    """End the command in one line where the model has not what is asked of it, or its numbers are not finite."""
    try:
        yield
    except (TypeError, ValueError, FloatingPointError, ModuleNotFoundError) as error:
        fail(as_options(str(error)))


def npz_bytes(arrays: Mapping[str, np.ndarray[Any, Any] | Tensor | None]) -> bytes:
    """Return an npz file of the arrays that there are."""
    import numpy as np

    found = {name: _as_array(value) for name, value in arrays.items() if value is not None}
    file = io.BytesIO()
    np.savez(file, **found)  # type: ignore[arg-type]  # NumPy's stubs take the names for its own arguments
    return file.getvalue()


def csv_bytes(columns: Mapping[str, np.ndarray[Any, Any] | Tensor | None]) -> bytes:
    """Return a csv file of the columns that there are; a number that is not defined is an empty field."""
    found = {name: _as_array(value).tolist() for name, value in columns.items() if value is not None}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(found)
    for row in zip(*found.values(), strict=True):
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in row])
    return text.getvalue().encode()


def write_results(files: Mapping[Path, bytes], console: Console) -> None:
    """Write files whole, and say where they are; the last word of a command."""
    from fastvi.training.files import write_whole

    for file, content in files.items():
        try:
            write_whole(file, content)
        except OSError as error:
            fail(f"{reason(error)}: the result was not written")
        console.print(f"written: {file}")


def show_arrays(title: str, arrays: Mapping[str, Any], console: Console) -> None:
    """Show what a file of arrays will hold: name, shape, and the least, mean and largest value."""
    from rich.table import Table

    table = Table("array", "shape", "least", "mean", "largest", title=title)
    for name, value in arrays.items():
        if value is None:
            continue
        array = _as_array(value)
        figures = (array.min(), array.mean(), array.max())
        table.add_row(name, " x ".join(map(str, array.shape)), *(f"{float(figure):.4g}" for figure in figures))
    console.print(table)


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    return value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
