"""Data of a user's own: each format as it was written, the split, the labels, and what the values are taken for."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fastvi.data import DataError, Dataset, DataSource, ImageFolder, from_arrays, from_path
from fastvi.data.splitting import evenly_spaced
from support.own_data import BYTES, table_rows, write_csv, write_images

REALS = table_rows(20, 4)


def rows_of(array, divisor=255.0):
    return torch.from_numpy(array.reshape(len(array), -1).astype(np.float32)) / divisor


def assert_split(data, rows, count):
    """The test rows are spread evenly, and the others train in their order."""
    tested = evenly_spaced(count, len(rows))
    rest = [row for row in range(len(rows)) if row not in tested.tolist()]
    torch.testing.assert_close(data.test, rows[tested], rtol=0, atol=0)
    torch.testing.assert_close(data.train, rows[rest], rtol=0, atol=0)


# Formats


def write_npz(path):
    np.savez(path, BYTES)


def write_npz_compressed(path):
    np.savez_compressed(path, pictures=BYTES)


def write_npy(path):
    np.save(path, BYTES)


def write_fortran_npz(path):
    np.savez(path, x=np.asfortranarray(BYTES))


def write_tensor(path):
    torch.save(torch.from_numpy(BYTES), path)


def write_tensors(path):
    torch.save({"images": torch.from_numpy(BYTES), "other": torch.zeros(3), "note": "mine"}, path)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_npz, "a.npz"),
        (write_npz_compressed, "a.npz"),
        (write_fortran_npz, "a.npz"),
        (write_npy, "a.npy"),
        (write_npy, "b [1].npy"),
        (write_tensor, "a.pt"),
        (write_tensors, "A.PT"),
    ],
)
def test_bytes_come_back_as_grey_values(tmp_path, write, name):
    path = tmp_path / name
    write(path)
    data = from_path(path, test_split=5)
    assert (data.image_shape, data.likelihood, data.train_labels) == ((6, 5), "bernoulli", None)
    assert_split(data, rows_of(BYTES), 5)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("names", [None, ["height", "width", "age", "a b"]])
def test_a_table_of_numbers(tmp_path, delimiter, names):
    path = tmp_path / "table.csv"
    write_csv(path, REALS, names, delimiter)
    data = from_path(path, test_split=0.2)
    assert (data.image_shape, data.likelihood) == ((1, 4), "real-gaussian")
    assert_split(data, rows_of(REALS, 1.0), 4)


def test_a_column_of_words_labels_the_rows(tmp_path):
    path = tmp_path / "table.csv"
    kinds = ["cat", "ant", "bee"] * 6 + ["cat", "bee"]
    write_csv(path, [[*row, kind] for row, kind in zip(REALS.tolist(), kinds, strict=True)], [*"abcd", "kind"])
    data = from_path(path, labels_from="kind", test_split=4)
    assert data.class_names == ("ant", "bee", "cat")
    everything = torch.tensor([("ant", "bee", "cat").index(kind) for kind in kinds])
    tested = evenly_spaced(4, 20)
    assert data.test_labels.tolist() == everything[tested].tolist()
    assert data.num_classes == 3
    assert data.train.shape == (16, 4)


needs_pandas = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("pandas", "pyarrow")), reason="pandas or pyarrow is absent"
)


@needs_pandas
def test_a_parquet_file(tmp_path):
    import pandas

    path = tmp_path / "table.parquet"
    frame = pandas.DataFrame(REALS, columns=[*"abcd"])
    frame["flag"] = frame["a"] > 0
    frame["kind"] = ["cat", "ant"] * 10
    frame.to_parquet(path)
    data = from_path(path, labels_from="kind", test_split=4)
    assert data.class_names == ("ant", "cat")
    assert_split(data, rows_of(np.column_stack([REALS, REALS[:, 0] > 0]), 1.0), 4)
    with pytest.raises(DataError, match=r"table\.parquet: column kind: expected numbers, got"):
        from_path(path)
    frame.loc[3, "b"] = np.nan
    frame.to_parquet(path)
    with pytest.raises(DataError, match=r"table\.parquet: row 3, column b: expected a finite number, got nan"):
        from_path(path, labels_from="kind")


@pytest.mark.parametrize("missing", ["pandas", "pyarrow"])
def test_parquet_names_the_extra_where_pandas_or_its_reader_is_missing(tmp_path, monkeypatch, missing):
    path = tmp_path / "table.parquet"
    path.write_bytes(b"PAR1")

    class Pandas:
        @staticmethod
        def read_parquet(path):
            raise ImportError("Unable to find a usable engine; tried using: 'pyarrow'")

    def find(name):
        if name == "pandas" and missing == "pandas":
            raise ImportError(name)
        return Pandas if name == "pandas" else importlib.import_module(name)

    monkeypatch.setattr("fastvi.data.tables.importlib", type("Importing", (), {"import_module": staticmethod(find)}))
    with pytest.raises(DataError, match=r'pandas with pyarrow: pip install "fastvi\[pandas\]"'):
        from_path(path)


def test_pillow_is_named_with_its_extra(tmp_path, monkeypatch):
    write_images(tmp_path / "pictures", 4)
    whole = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("PIL"):
            raise ImportError(name)
        return whole(name, *arguments, **options)

    for name in [name for name in sys.modules if name.startswith("PIL")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r'read by Pillow: pip install "fastvi\[train\]"'):
        from_path(tmp_path / "pictures")


# Images


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG", ".tiff"])
def test_grey_images_of_a_folder(tmp_path, suffix):
    pixels = write_images(tmp_path / "pictures", 10, (4, 6), suffix=suffix)
    (tmp_path / "pictures" / "notes.txt").write_text("not an image")
    (tmp_path / "pictures" / ".hidden.png").write_text("not an image")
    data = from_path(tmp_path / "pictures", test_split=2)
    assert (data.image_shape, data.likelihood) == ((4, 6), "bernoulli")
    assert_split(data, rows_of(pixels), 2)


def test_colour_images_have_one_channel_after_the_other(tmp_path):
    pixels = write_images(tmp_path, 10, (4, 6, 3))
    data = from_path(tmp_path, test_split=2)
    assert (data.image_shape, data.likelihood) == ((3, 4, 6), "gaussian")
    assert_split(data, rows_of(pixels.transpose(0, 3, 1, 2)), 2)
    assert from_path(tmp_path, colour=False).image_shape == (4, 6)


def test_a_single_colour_image_makes_all_of_them_so(tmp_path):
    write_images(tmp_path, 5, (4, 6))
    Image.fromarray(np.full((4, 6, 3), [255, 0, 0], np.uint8)).save(tmp_path / "zz.png")
    assert ImageFolder(tmp_path).row_format.image_shape == (3, 4, 6)
    red = ImageFolder(tmp_path).rows(torch.tensor([5]))
    assert red.reshape(3, 24).mean(1).tolist() == [1.0, 0.0, 0.0]


def test_images_are_scaled_from_their_middle(tmp_path):
    """Of a wide image the middle square is kept; a uniform one keeps its shade at any size."""
    picture = np.zeros((4, 16), np.uint8)
    picture[:, 4:12] = 200
    for place in range(3):
        Image.fromarray(picture).save(tmp_path / f"{place}.png")
    data = from_path(tmp_path, image_size=(2, 2), test_split=1)
    torch.testing.assert_close(data.train, torch.full((2, 4), 200 / 255), rtol=0, atol=0)


def test_sixteen_bits_are_cut_to_eight(tmp_path):
    for place, value in enumerate((0, 256, 65535)):
        Image.fromarray(np.full((2, 2), value, np.uint16)).save(tmp_path / f"{place}.png")
    rows = ImageFolder(tmp_path).rows(torch.arange(3))
    torch.testing.assert_close(rows[:, 0], torch.tensor([0.0, 1.0, 255.0]) / 255.0, rtol=0, atol=0)


def test_photographs_are_turned_upright(tmp_path):
    """Orientation 6: the first row of the file is the right column of the image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = np.array([[250, 250, 250], [10, 10, 10]], np.uint8)
    for place in range(2):
        Image.fromarray(picture).save(tmp_path / f"{place}.png", exif=exif)
    images = ImageFolder(tmp_path)
    assert images.row_format.image_shape == (3, 2)
    torch.testing.assert_close(
        images.rows(torch.tensor([0])), torch.tensor([[10.0, 250.0] * 3]) / 255.0, rtol=0, atol=0
    )


def test_folders_are_labels(tmp_path):
    write_images(tmp_path / "cats", 4)
    write_images(tmp_path / "ants" / "red", 4)
    data = from_path(tmp_path, labels_from="folders", test_split=2)
    assert data.class_names == ("ants", "cats")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [0, 1]


# Shapes


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((9, 12), (1, 12)),
        ((9, 3, 4), (3, 4)),
        ((9, 5, 4, 1), (5, 4)),
        ((9, 1, 5, 4), (5, 4)),
        ((9, 5, 4, 3), (3, 5, 4)),
        ((9, 3, 5, 4), (4, 3, 5)),
        ((9, 3, 5, 6), (3, 5, 6)),
        ((9, 4, 5, 6), (4, 5, 6)),
    ],
)
def test_arrays_of_any_shape(shape, image_shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = from_arrays(array, test_split=3)
    assert data.image_shape == image_shape
    channels_last = len(shape) == 4 and shape[3] == image_shape[0]
    assert_split(data, rows_of(array.transpose(0, 3, 1, 2) if channels_last else array), 3)


def test_rows_are_images_of_the_size_that_is_named():
    rows = np.zeros((5, 36))
    assert from_arrays(rows, image_size=(6, 6)).image_shape == (6, 6)
    assert from_arrays(rows, image_size=(3, 4)).image_shape == (3, 3, 4)
    with pytest.raises(DataError, match="rows of 36 values are no images of `image_size` 5x5"):
        from_arrays(rows, image_size=(5, 5))


def test_whatever_numpy_takes():
    from scipy.sparse import csr_matrix

    rows = np.random.default_rng(0).random((6, 4)).round(1)
    expected = from_arrays(rows)
    alike = [rows.tolist(), torch.from_numpy(rows), csr_matrix(rows), torch.from_numpy(rows).requires_grad_()]
    for given in alike:
        torch.testing.assert_close(from_arrays(given).train, expected.train, rtol=0, atol=0)


# Values


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float16, np.float64])
def test_ones_and_zeros_are_left_as_they_are(dtype):
    array = np.random.default_rng(0).integers(0, 2, (10, 6)).astype(dtype)
    data = from_arrays(array, test_split=2)
    assert data.likelihood == "bernoulli"
    assert_split(data, rows_of(array, 1.0), 2)


def test_test_rows_have_the_scale_of_the_others():
    """Bytes that test are grey values too, where all of them happen to be 0 or 1."""
    train, test = np.full((5, 4), 255, np.uint8), np.ones((2, 4), np.uint8)
    assert from_arrays(train, test).test.unique().item() == pytest.approx(1 / 255)


def test_counts_are_left_as_they_are():
    counts = np.arange(40, dtype=np.uint8).reshape(10, 4)
    data = from_arrays(counts, likelihood="poisson", test_split=2)
    assert data.likelihood == "poisson"
    assert_split(data, rows_of(counts, 1.0), 2)


def test_values_are_divided_as_asked():
    grey = np.arange(40.0).reshape(10, 4)
    data = from_arrays(grey, divide_by=39, test_split=2)
    assert data.likelihood == "bernoulli"
    assert_split(data, rows_of(grey, 39.0), 2)


def test_standardised_columns():
    """Mean 0 and deviation 1 over the training rows; test rows by the same numbers; constant columns are all 0."""
    rows = np.random.default_rng(0).normal(size=(50, 4)) * [1.0, 100.0, 0.01, 0.0] + [3.0, -50.0, 0.0, 7.0]
    with pytest.warns(UserWarning, match="constant columns: 3;"):
        data = from_arrays(rows, test_split=10, standardize=True)
    assert data.likelihood == "real-gaussian"
    tested = evenly_spaced(10, 50)
    mean, deviation = (getattr(np.delete(rows, tested, 0), name)(0) for name in ("mean", "std"))
    expected = (rows[tested.numpy()] - mean) / np.where(deviation > 0, deviation, 1.0)
    torch.testing.assert_close(data.test, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(data.train.mean(0), torch.zeros(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (np.column_stack([REALS, np.ones(20)]), {}, "constant columns: 4; "),
        (100.0 * REALS, {}, "the columns' standard deviations go from .* `standardize` brings them to 1"),
        (np.arange(80.0).reshape(20, 4), {}, "whole numbers from 4 to 79, are taken for real numbers; grey values"),
        (np.column_stack([np.abs(np.tanh(REALS)), np.zeros(20)]), {"likelihood": "laplace"}, "constant columns: 4; "),
    ],
)
def test_what_a_user_should_know(values, options, words):
    with pytest.warns(UserWarning, match=words):
        from_arrays(values, **options)


def test_constant_pixels_of_images_are_no_matter():
    images = np.zeros((9, 4, 4), np.uint8)
    images[:, 1:3, 1:3] = 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_arrays(images)
        from_arrays(images.reshape(9, 16))
        from_arrays(images, likelihood="gaussian")


# Splits and labels


def test_a_tenth_tests_unless_something_else_is_asked_for():
    rows = np.random.default_rng(0).random((250, 3))
    assert from_arrays(rows).test.shape[0] == 25
    assert from_arrays(rows[:3]).test.shape[0] == 1
    assert from_arrays(rows, test_split=0.5).test.shape[0] == 125
    assert from_arrays(rows, test_split=1).test.shape[0] == 1
    wide = np.zeros((150_000, 1), np.float32)
    assert from_arrays(wide).test.shape[0] == 10_000


def test_files_that_have_a_test_part_keep_it(tmp_path):
    path = tmp_path / "mnist.npz"
    arrays = {"x_train": BYTES[:20], "y_train": np.arange(20) % 3, "x_test": BYTES[20:], "y_test": np.arange(10) % 3}
    np.savez(path, **arrays)
    data = from_path(path, labels_from="y_train")
    torch.testing.assert_close(data.train, rows_of(BYTES[:20]), rtol=0, atol=0)
    torch.testing.assert_close(data.test, rows_of(BYTES[20:]), rtol=0, atol=0)
    assert data.train_labels.tolist() == arrays["y_train"].tolist()
    assert data.test_labels.tolist() == arrays["y_test"].tolist()
    assert from_path(path, test_split=4).train.shape[0] == 16
    assert from_path(path, array="x_test", test_split=4).train.shape[0] == 6


def test_other_rows_test(tmp_path):
    np.savez(tmp_path / "a.npz", x=BYTES[:20], y=["a", "c"] * 10)
    np.savez(tmp_path / "b.npz", x=BYTES[20:], y=["b", "c"] * 5)
    data = from_path(tmp_path / "a.npz", test_split=tmp_path / "b.npz", labels_from="y")
    torch.testing.assert_close(data.test, rows_of(BYTES[20:]), rtol=0, atol=0)
    assert data.class_names == ("a", "b", "c")
    assert data.train_labels.tolist() == [0, 2] * 10
    assert data.test_labels.tolist() == [1, 2] * 5


def write_label_file(path, labels):
    if path.suffix == ".csv":
        path.write_text("\n".join(["kind", *map(str, labels)]) + "\n")
    elif path.suffix == ".npy":
        np.save(path, labels)
    else:
        torch.save(torch.as_tensor(labels), path)


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".pt"])
def test_labels_of_another_file(tmp_path, suffix):
    np.save(tmp_path / "a.npy", BYTES)
    labels = np.arange(30) % 4
    write_label_file(tmp_path / f"labels{suffix}", labels)
    data = from_path(tmp_path / "a.npy", labels_from=tmp_path / f"labels{suffix}", test_split=6)
    tested = evenly_spaced(6, 30)
    assert data.test_labels.tolist() == labels[tested.numpy()].tolist()
    assert data.class_names is None
    np.save(tmp_path / "b.npy", BYTES[:5])
    write_label_file(tmp_path / f"labels{suffix}", np.arange(35) % 4)
    data = from_path(tmp_path / "a.npy", labels_from=tmp_path / f"labels{suffix}", test_split=tmp_path / "b.npy")
    assert data.test_labels.tolist() == [2, 3, 0, 1, 2]


def test_a_pair_of_tensors_has_its_labels(tmp_path):
    torch.save((torch.from_numpy(BYTES), torch.arange(30) % 2), tmp_path / "pair.pt")
    assert from_path(tmp_path / "pair.pt").num_classes == 2


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([3, 0, 1], [3, 0, 1], None),
        ([2.0, 0.0, 1.0], [2, 0, 1], None),
        ([-1, 1, -1], [0, 1, 0], ("-1", "1")),
        ([True, False, True], [1, 0, 1], ("False", "True")),
        ([b"no", b"yes", b"no"], [0, 1, 0], ("no", "yes")),
    ],
)
def test_labels_of_any_kind(labels, numbers, names):
    data = from_arrays(np.zeros((3, 2)), np.zeros((1, 2)), labels=labels, test_labels=labels[:1])
    assert data.train_labels.tolist() == numbers
    assert data.class_names == names


# What a run remembers


@pytest.mark.parametrize(
    "source",
    [
        DataSource("a.npz"),
        DataSource("a.csv", test_split=0.25, labels_from="kind", standardize=True, likelihood="real-laplace"),
        DataSource("folder", test_split="other", labels_from="folders", image_size=(4, 5), colour=True, stream=True),
        DataSource("a.npz", test_split=5, array="x", divide_by=16.0),
    ],
)
def test_a_source_is_remembered_with_absolute_paths(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = DataSource.from_dict(source.as_dict())
    assert again == source.absolute()
    assert again.path == str(tmp_path / source.path)
    assert again.absolute() == again


def test_what_lay_beside_the_data_moves_with_them(tmp_path):
    (tmp_path / "new").mkdir()
    source = DataSource(str(tmp_path / "old/a.npy"), str(tmp_path / "old/b.npy"), str(tmp_path / "old/labels.npy"))
    moved = source.moved_to(tmp_path / "new" / "a.npy")
    assert moved.path == str(tmp_path / "new" / "a.npy")
    assert moved.test_split == str(tmp_path / "new" / "b.npy")
    assert moved.labels_from == str(tmp_path / "new" / "labels.npy")


@pytest.mark.parametrize(
    "values",
    [None, [], {}, {"path": 3}, {"path": "a", "more": 1}, {"path": "a", "image_size": [2]}, {"path": "a", "stream": 1}],
)
def test_a_damaged_record_of_a_source_is_refused(values):
    with pytest.raises(DataError, match="a source of data must have"):
        DataSource.from_dict(values)


def test_a_data_set_of_real_numbers():
    rows = torch.tensor([[-5.0, 1e30], [3.0, 0.0]])
    assert Dataset("mine", rows, rows, (1, 2), "real-gaussian").likelihood == "real-gaussian"
    with pytest.raises(DataError, match=r"must hold values in \[0, 1\].* `likelihood` real-gaussian takes any real"):
        Dataset("mine", rows, rows, (1, 2), "gaussian")
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(DataError, match="mine: the test images must hold finite numbers, got"):
            Dataset("mine", rows, torch.full((1, 2), wrong), (1, 2), "real-laplace")
