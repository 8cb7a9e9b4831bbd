"""Data of a user's own: shapes, what the values are taken for, the split, the labels, and what a run remembers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from fastvi.data import DataError, Dataset, DataSource, from_arrays, from_path
from fastvi.data.splitting import evenly_spaced
from support.own_data import BYTES, assert_split, rows_of, table_rows

REALS = table_rows(20, 4)


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


def test_a_data_frame_is_an_array_whatever_its_columns_are_called():
    pandas = pytest.importorskip("pandas", reason="pandas is absent")
    frame = pandas.DataFrame({"rows": [0.5, 0.1, 0.2], "b": [1.0, 1.0, 0.0]})
    data = from_arrays(frame, test_split=1)
    torch.testing.assert_close(data.train, torch.tensor([[0.1, 1.0], [0.2, 0.0]]), rtol=0, atol=0)


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
