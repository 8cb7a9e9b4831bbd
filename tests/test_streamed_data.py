"""Data that stay on the disk: rows as in memory, memory that does not grow, and runs that are the same to the bit."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import torch
from rich.console import Console

from fastvi.data import (
    BINARIZATIONS,
    DataError,
    Dataset,
    ImageFolder,
    Presenter,
    RowSource,
    StreamedArrays,
    binarize,
    from_arrays,
    from_path,
)
from fastvi.data.rows import mean_of_rows
from fastvi.training.config import RunError, RunFolder
from fastvi.training.data_record import DataRecord, require_same_data
from fastvi.training.trainer import train
from support.own_data import BYTES, table_rows, write_images
from support.runs import CONFIG, assert_same_end

REALS = table_rows(20, 4)


def write_shards(folder, array, sizes):
    folder.mkdir(exist_ok=True)
    for place, shard in enumerate(np.split(array, np.cumsum(sizes)[:-1])):
        np.save(folder / f"part-{place:02d}.npy", shard)


@pytest.mark.parametrize("sizes", [[30], [10, 20], [1, 0, 28, 1]])
def test_rows_are_those_of_the_files(tmp_path, sizes):
    write_shards(tmp_path, BYTES, sizes)
    data = StreamedArrays(tmp_path)
    rows = torch.from_numpy(BYTES.reshape(30, 30)) / torch.tensor(255.0)
    assert (len(data), data.shape) == (30, (30, 30))
    order = torch.tensor([29, 0, 10, 11, 9, 10, 28])
    for found, expected in (
        (data.rows(order), rows[order]),
        (data[4], rows[4]),
        (data[-1], rows[-1]),
        (data[5:25:3], rows[5:25:3]),
        (data[[3, 2]], rows[[3, 2]]),
        (data.rows(order[:0]), rows[:0]),
        (data.select(order).rows(torch.tensor([1, 0])), rows[order[[1, 0]]]),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for beyond in (30, -31):
        with pytest.raises(IndexError):
            data[beyond]


@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_batches_are_those_of_the_same_data_in_memory(tmp_path, binarization):
    write_shards(tmp_path, BYTES, [13, 17])
    streamed, whole = (from_path(tmp_path, stream=stream, test_split=6) for stream in (True, False))
    assert isinstance(streamed.train, StreamedArrays)
    assert isinstance(whole.train, torch.Tensor)
    assert torch.equal(streamed.test, whole.test)
    assert (streamed.image_shape, streamed.likelihood) == (whole.image_shape, whole.likelihood)
    torch.testing.assert_close(mean_of_rows(streamed.train), whole.train.mean(0))
    presenters = [Presenter(data.train, binarization) for data in (streamed, whole)]
    assert len(presenters[0]) == len(presenters[1]) == 24
    for seed, rows in ((3, [5, 0, 23]), (4, [1]), (3, [2, 2])):
        first, second = (presenter(torch.tensor(rows), seed, row_offset=7) for presenter in presenters)
        assert torch.equal(first, second)


@pytest.mark.parametrize("options", [{}, {"standardize": True}, {"likelihood": "real-laplace"}])
def test_tables_and_images_are_streamed_too(tmp_path, options):
    np.save(tmp_path / "table.npy", REALS)
    pair = [from_path(tmp_path / "table.npy", stream=stream, **options) for stream in (True, False)]
    everything = torch.arange(18)
    torch.testing.assert_close(pair[0].train.rows(everything), pair[1].train, rtol=0, atol=0)
    torch.testing.assert_close(pair[0].test, pair[1].test, rtol=0, atol=0)
    write_images(tmp_path / "pictures" / "a", 8, (4, 6, 3))
    write_images(tmp_path / "pictures" / "b", 8, (4, 6, 3), seed=1)
    pair = [from_path(tmp_path / "pictures", stream=stream, labels_from="folders") for stream in (True, False)]
    assert isinstance(pair[0].train, ImageFolder)
    torch.testing.assert_close(pair[0].train.rows(torch.arange(14)), pair[1].train, rtol=0, atol=0)
    assert torch.equal(pair[0].train_labels, pair[1].train_labels)


class Squares:
    """A source of a user's own, by two methods alone."""

    def __init__(self, wrong_at=None, scale=1.0):
        self.wrong_at = wrong_at
        self.scale = scale

    def __len__(self):
        return 120

    def rows(self, indices):
        values = (indices[:, None] * torch.arange(1, 65) % 17 / 16.0) * self.scale
        if self.wrong_at is not None:
            values[indices == self.wrong_at] = float("nan")
        return values.float()


def dataset(source):
    return Dataset("squares", source, Squares().rows(torch.arange(40)), (8, 8), "bernoulli")


def run(folder, data, config=CONFIG):
    folder = RunFolder(folder)
    if not folder.config_file.exists():
        folder.write_config(config)
    train(config, data, folder, console=Console(file=io.StringIO()), progress=False)
    return folder


def test_a_run_on_a_source_is_the_run_on_its_rows_to_the_bit(tmp_path):
    """Resumed after each epoch, too."""
    whole = dataclasses.replace(dataset(Squares()), train=Squares().rows(torch.arange(120)))
    assert isinstance(Squares(), RowSource)
    first = run(tmp_path / "memory", whole)
    assert_same_end(run(tmp_path / "source", dataset(Squares())), first)
    for epochs in (1, 2, 3):
        resumed = run(tmp_path / "resumed", dataset(Squares()), dataclasses.replace(CONFIG, epochs=epochs))
    assert_same_end(resumed, first)


def test_a_source_is_split_and_made_a_data_set():
    data = from_arrays(Squares(), test_split=20, image_size=(8, 8), labels=np.arange(120) % 2)
    assert (len(data.train), data.test.shape, data.image_shape) == (100, (20, 64), (8, 8))
    everything = Squares().rows(torch.arange(120))
    tested = torch.arange(20) * 6
    torch.testing.assert_close(data.test, everything[tested], rtol=0, atol=0)
    rest = [row for row in range(120) if row % 6]
    torch.testing.assert_close(data.train.rows(torch.arange(100)), everything[rest], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Squares(wrong_at=77), r"Squares: its rows must hold values in \[0, 1\], got NaN"),
        (Squares(scale=3.0), r"Squares: its rows must hold values in \[0, 1\], got values from 0 to 3"),
    ],
)
def test_wrong_values_in_the_midst_end_a_run_in_one_line(tmp_path, source, words):
    with pytest.raises(RunError, match=words) as raised:
        run(tmp_path / "run", dataset(source))
    assert "\n" not in str(raised.value)


def test_a_run_knows_the_data_of_a_source_again(tmp_path):
    write_shards(tmp_path, BYTES, [13, 17])
    data = from_path(tmp_path, stream=True)
    record = DataRecord.of(data)
    require_same_data(record, data.image_shape, from_path(tmp_path, stream=True), tmp_path)
    require_same_data(DataRecord.of(dataset(Squares())), (8, 8), dataset(Squares()), tmp_path)
    changed = BYTES.copy()
    changed[-1] ^= 1
    write_shards(tmp_path, changed, [13, 17])
    with pytest.raises(RunError, match="its training images have other pixels than these"):
        require_same_data(record, data.image_shape, from_path(tmp_path, stream=True), tmp_path)
    with pytest.raises(RunError, match="its training images have other pixels than these"):
        require_same_data(DataRecord.of(dataset(Squares())), (8, 8), dataset(Squares(scale=0.5)), tmp_path)


TEN_GIGABYTES = """
import resource
import numpy as np
from pathlib import Path
from fastvi.data import Presenter, StreamedArrays, from_path
from fastvi.data.rows import mean_of_rows
from fastvi.training.batches import ShuffledBatches
from fastvi.training.data_record import DataRecord

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def some_steps(path, count):
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, 64, 64))
    array[0] = array[-1] = 255
    del array
    data = from_path(path, test_split=100, stream=True)
    assert isinstance(data.train, StreamedArrays) and data.image_shape == (3, 64, 64)
    presenter = Presenter(data.train, "none")
    DataRecord.of(data)
    mean_of_rows(data.train)
    for batch in ShuffledBatches(len(presenter), 100, seed=0):
        presenter(batch.indices, seed=batch.step)
        if batch.step == 9:
            return data

folder = Path(FOLDER)
some_steps(folder / "small.npy", 1_000)
before = peak()
data = some_steps(folder / "large.npy", 850_000)
print(peak() - before, (folder / "large.npy").stat().st_size, len(data.train), data.train[-1].mean().item())
"""


def test_ten_gigabytes_are_streamed_in_constant_memory(tmp_path, run_python):
    """Of a set of ten gigabytes no more is kept than 30 bytes for each row, the order of an epoch among them."""
    code = TEN_GIGABYTES.replace("FOLDER", repr(str(tmp_path)))
    grown, size, rows, last = run_python(code).split()
    assert int(size) > 10e9
    assert int(rows) == 849_900
    assert float(last) == 1.0
    assert int(grown) < 30 * 850_000 + 2**25


def test_a_large_file_is_streamed_by_itself(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", BYTES)
    assert isinstance(from_path(tmp_path / "a.npy").train, torch.Tensor)
    monkeypatch.setattr("fastvi.data.reading.STREAM_FROM_BYTES", 4 * BYTES.size - 1)
    assert isinstance(from_path(tmp_path / "a.npy").train, StreamedArrays)


def test_static_draws_are_those_of_the_rows_places():
    presenter = Presenter(Squares(), "static")
    drawn = binarize(Squares().rows(torch.arange(120)), 20080705)
    assert torch.equal(presenter(torch.tensor([119, 3]), seed=0), drawn[[119, 3]])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8)], r"b\.npy: expected rows of the shape \(3,\)"),
        (
            [np.zeros((2, 3), np.uint8), np.zeros((2, 3))],
            r"b\.npy: expected rows .* dtype uint8.* got \(3,\) and float64",
        ),
        ([np.asfortranarray(np.zeros((2, 3)))], r"a\.npy: expected rows one after the other"),
        ([np.zeros((2, 3), np.complex64)], r"a\.npy: .* must hold numbers .* got complex64"),
        ([np.zeros(())], r"a\.npy: expected an array of rows"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path, files, words):
    for name, array in zip("ab", files, strict=False):
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(DataError, match=words):
        StreamedArrays(tmp_path)


def test_a_file_that_shrinks_or_goes_is_named(tmp_path):
    np.save(tmp_path / "a.npy", BYTES)
    data = StreamedArrays(tmp_path / "a.npy")
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"a\.npy: expected 900 values, and the file became shorter"):
        data[29]
    (tmp_path / "a.npy").unlink()
    with pytest.raises(DataError, match=r"a\.npy: cannot be read any more"):
        data[0]


def test_bytes_that_only_seem_to_be_bits_are_told(tmp_path):
    """Of 1,000 rows the 256 that are looked at hold 0 and 1 alone."""
    rows = np.ones((1000, 3), np.uint8)
    rows[2] = 200
    np.save(tmp_path / "a.npy", rows)
    data = StreamedArrays(tmp_path / "a.npy")
    assert data[0].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(DataError, match=r"a\.npy: row 2 holds the byte 200, .* `divide_by` says"):
        data[1:4]
    grey = from_path(tmp_path / "a.npy", stream=True, divide_by=255.0)
    assert grey.train[1].max().item() == pytest.approx(200 / 255)


def test_a_value_that_is_not_finite_is_named_when_it_is_read(tmp_path):
    reals = REALS.copy()
    reals[9, 2] = np.inf
    write_shards(tmp_path, reals, [5, 15])
    data = StreamedArrays(tmp_path)
    data[:9]
    with pytest.raises(DataError, match=r"part-01\.npy: row 4, column 2: expected a finite number, got inf"):
        data.select(torch.tensor([1, 9])).rows(torch.tensor([0, 1]))
