"""Data sets: readers and their complaints, splits, and the laws of binarisation."""

import gzip
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvi.data import (
    BINARIZATIONS,
    BUNDLED_DATASETS,
    DATASET_NAMES,
    DataError,
    Dataset,
    Presenter,
    binarize,
    evenly_spaced,
    load_dataset,
    read_idx,
    test_images,
)
from support.data_files import idx_bytes, write_idx, write_image_files

DATA_DIR = Path(os.environ.get("FASTVI_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def needs(relative_path):
    return pytest.mark.skipif(not (DATA_DIR / relative_path).exists(), reason=f"{DATA_DIR / relative_path} is absent")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@given(shape=st.lists(st.integers(0, 4), min_size=0, max_size=4), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_idx_files_come_back_as_written(tmp_path_factory, suffix, shape, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / f"file{suffix}"
    write_idx(path, np.asarray(array))
    read = read_idx(path)
    assert read.shape == array.shape
    np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(read_idx(str(path)), array)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "starts with 00 00 08"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "starts with 00 00 08, got 00 00 0d 01"),
        (b"\x00\x00\x08\x03\x00\x00", "header of 16 bytes, the file has 6"),
        (idx_bytes(np.zeros((2, 3), np.uint8))[:-1], r"expected 6 bytes of data for the shape \(2, 3\), got 5"),
        (idx_bytes(np.zeros((2, 3), np.uint8)) + b"x", "expected 6 bytes of data .* got more than 6"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files_are_named_with_what_was_expected(tmp_path, content, complaint, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=complaint) as raised:
        read_idx(path)
    assert str(path) in str(raised.value)


def test_every_cut_of_a_compressed_file_is_refused(tmp_path):
    path = tmp_path / "cut.gz"
    content = gzip.compress(idx_bytes(np.arange(24, dtype=np.uint8).reshape(4, 6)))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"cut\.gz"):
            read_idx(path)


@pytest.mark.parametrize(
    ("name", "subfolder", "suffix"),
    [
        ("mnist", ".", ".gz"),
        ("mnist", "mnist", ".gz"),
        ("mnist", "MNIST/raw", ""),
        ("fashion-mnist", ".", ".gz"),
        ("fashion-mnist", "fashion-mnist", ""),
        ("fashion-mnist", "FashionMNIST/raw", ".gz"),
    ],
)
def test_idx_data_sets_are_found_in_every_layout(tmp_path, name, subfolder, suffix):
    train, test = write_image_files(tmp_path / subfolder, suffix=suffix)
    dataset = load_dataset(name, tmp_path)
    assert dataset.image_shape == (4, 6)
    assert dataset.likelihood == "bernoulli"
    # Two float32 divisions by 255 of the same bytes: equal to the bit.
    torch.testing.assert_close(dataset.train, torch.from_numpy(train).flatten(1).float() / 255.0, rtol=0, atol=0)
    torch.testing.assert_close(dataset.test, torch.from_numpy(test).flatten(1).float() / 255.0, rtol=0, atol=0)


def test_own_folder_comes_before_loose_files_of_another_data_set(tmp_path):
    write_image_files(tmp_path, train_count=5)
    write_image_files(tmp_path / "fashion-mnist", train_count=7)
    assert load_dataset("mnist", tmp_path).train.shape[0] == 5
    assert load_dataset("fashion-mnist", tmp_path).train.shape[0] == 7
    assert load_dataset("fashion-mnist", str(tmp_path)).train.shape[0] == 7


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize(
    ("name", "subfolder"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "."),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_names_with_a_dot_are_found_in_every_layout(tmp_path, name, subfolder, suffix):
    """``train-images.idx3-ubyte``, as some copies of the data sets are called, beside the published names."""
    train, test = write_image_files(tmp_path / subfolder, suffix=suffix)
    for stem in ("train-images", "t10k-images"):
        published = tmp_path / subfolder / f"{stem}-idx3-ubyte{suffix}"
        published.rename(published.with_name(f"{stem}.idx3-ubyte{suffix}"))
        published.mkdir()  # an unpacked folder of the published name, as beside those copies, is in nobody's way
        dataset = load_dataset(name, tmp_path)
        torch.testing.assert_close(dataset.train, torch.from_numpy(train).flatten(1).float() / 255.0, rtol=0, atol=0)
        torch.testing.assert_close(dataset.test, torch.from_numpy(test).flatten(1).float() / 255.0, rtol=0, atol=0)


def test_all_that_was_looked_for_is_named_in_one_line(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    with pytest.raises(DataError) as raised:
        load_dataset("mnist", tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    for name in ("train-images-idx3-ubyte", "train-images.idx3-ubyte"):
        assert f" {name}.gz or {name} " in message
    for folder in (tmp_path / "mnist", tmp_path / "MNIST" / "raw", tmp_path):
        assert str(folder) in message
    assert message.endswith(f"; {tmp_path / 'train-images-idx3-ubyte'} is not a file")


def test_one_file_in_place_of_another(tmp_path):
    write_image_files(tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.arange(5, dtype=np.uint8))  # the labels
    with pytest.raises(DataError, match=r"train-images-.*: expected images .*, got the shape \(5,\)"):
        load_dataset("mnist", tmp_path)
    for shape in ((0, 4, 6), (5, 0, 6)):
        write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros(shape, np.uint8))
        with pytest.raises(
            DataError, match=r"train-images-.*: expected at least one image of one pixel, got the shape"
        ):
            load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "null\0"])
def test_folders_that_cannot_be(tmp_path, name):
    with pytest.raises(DataError, match=r"the data folder .* (cannot be looked at|does not exist)"):
        load_dataset("mnist", tmp_path / name)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(DataError, match=r"the data folder .*file is not a folder"):
        load_dataset("mnist", tmp_path / "file")


def test_environment_names_the_folder(tmp_path, monkeypatch):
    write_image_files(tmp_path)
    monkeypatch.setenv("FASTVI_DATA", str(tmp_path))
    assert load_dataset("mnist").train.shape == (5, 24)
    monkeypatch.delenv("FASTVI_DATA")
    with pytest.raises(DataError, match="`data_dir` or FASTVI_DATA"):
        load_dataset("mnist")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"expected the file train-images-idx3-ubyte\.gz or .*MNIST/raw"):
        load_dataset("mnist", tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_dataset("frey", tmp_path / "nowhere")
    with pytest.raises(DataError, match="choose one of digits, digits-counts, moving-spot, mnist"):
        load_dataset("cifar")


def test_idx_images_of_a_wrong_shape_are_refused(tmp_path):
    write_image_files(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", np.zeros((3, 5, 5), np.uint8))
    with pytest.raises(DataError, match=r"training images are \(4, 6\), test images \(5, 5\)"):
        load_dataset("mnist", tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", np.zeros(3, np.uint8))
    with pytest.raises(DataError, match=r"expected images of shape \(count, height, width\), got the shape \(3,\)"):
        load_dataset("mnist", tmp_path)


def test_frey_splits_the_video_evenly(tmp_path):
    frames = np.arange(1965, dtype=np.uint16).astype(np.uint8)[:, None, None] * np.ones((1, 28, 20), np.uint8)
    np.savez(tmp_path / "frey_faces.npz", x=frames)
    dataset = load_dataset("frey", tmp_path)
    assert (dataset.train.shape, dataset.test.shape) == ((1765, 560), (200, 560))
    assert (dataset.image_shape, dataset.likelihood) == ((28, 20), "gaussian")
    together = torch.cat([dataset.train, dataset.test])[:, 0].mul(255).round().sort().values
    torch.testing.assert_close(together, torch.from_numpy(frames[:, 0, 0]).float().sort().values, rtol=0, atol=0)


def test_binarised_mnist_is_unpacked(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (6, 784), dtype=np.uint8)
    packed = np.packbits(bits, axis=1)
    np.savez(tmp_path / "binarized_mnist.npz", train_packed=packed[:4], test_packed=packed[4:])
    dataset = load_dataset("mnist-binarized", tmp_path)
    np.testing.assert_array_equal(torch.cat([dataset.train, dataset.test]).numpy(), bits)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"y": np.zeros((300, 28, 20), np.uint8)}, "expected an array named x, found y"),
        ({"x": np.zeros((300, 28, 20), np.float32)}, r"bytes \(uint8\), got float32"),
        ({"x": np.zeros((5, 28, 20), np.uint8)}, r"shape \(1965, 28, 20\), got \(5, 28, 20\)"),
    ],
)
def test_wrong_archives_are_refused(tmp_path, arrays, complaint):
    np.savez(tmp_path / "frey_faces.npz", **arrays)
    with pytest.raises(DataError, match=complaint):
        load_dataset("frey", tmp_path)


def test_cut_archives_are_refused(tmp_path):
    path = tmp_path / "frey_faces.npz"
    np.savez_compressed(path, x=np.zeros((300, 28, 20), np.uint8))
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"frey_faces\.npz: cannot be read"):
            load_dataset("frey", tmp_path)


def test_download_goes_through_torchvision(tmp_path, monkeypatch):
    def mnist(root, download):
        assert download
        write_image_files(Path(root) / "MNIST" / "raw")

    torchvision = types.ModuleType("torchvision")
    torchvision.datasets = types.SimpleNamespace(MNIST=mnist)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    assert load_dataset("mnist", tmp_path, download=True).train.shape == (5, 24)
    with pytest.raises(DataError, match="knows mnist and fashion-mnist, not frey"):
        load_dataset("frey", tmp_path, download=True)


def test_missing_optional_packages_are_named(tmp_path, monkeypatch):
    for name in ("torchvision", "sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match="`download` needs torchvision"):
        load_dataset("mnist", tmp_path, download=True)
    with pytest.raises(DataError, match=r"fastvi\[train\]"):
        load_dataset("digits")


GREY = torch.tensor([[0.0, 64.0, 128.0, 255.0]])


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (GREY, r"must hold values in \[0, 1\], got values from 0 to 255; grey values from 0 to 255 are divided by 255"),
        (GREY / 127.5 - 1.0, r"must hold values in \[0, 1\], got values from -1 to 1"),
        (GREY * torch.nan, r"must hold values in \[0, 1\], got NaN among them"),
        (GREY.byte(), r"must be float32 in \[0, 1\], got torch.uint8"),
        (GREY.double() / 255.0, r"must be float32 in \[0, 1\], got torch.float64"),
        (GREY[:0], "there are no (training|test) images"),
        (GREY[0], r"must have the shape \(count, 4\), got \(4,\)"),
        (GREY[:, :3], r"must have the shape \(count, 4\), got \(1, 3\)"),
        (GREY.reshape(1, 2, 2), r"must have the shape \(count, 4\), got \(1, 2, 2\)"),
        (GREY.numpy(), "must be a tensor, got ndarray"),
    ],
)
def test_data_sets_hold_float32_rows_in_the_unit_interval(images, complaint):
    good = GREY / 255.0
    assert Dataset("mine", good, good, (2, 2), "gaussian").test is good
    with pytest.raises(DataError, match=f"^mine: .*training.* {complaint}|^mine: {complaint}"):
        Dataset("mine", images, good, (2, 2), "bernoulli")
    with pytest.raises(DataError, match=f"^mine: .*test.* {complaint}|^mine: {complaint}"):
        Dataset("mine", good, images, (2, 2), "bernoulli")
    with pytest.raises(DataError, match="mine: the likelihood must be one of bernoulli, gaussian"):
        Dataset("mine", good, good, (2, 2), "gamma")


@pytest.mark.parametrize("binarization", BINARIZATIONS)
@pytest.mark.parametrize("images", [GREY, -GREY / 255.0, GREY * torch.nan])
def test_only_probabilities_are_binarised(images, binarization):
    """Grey values up to 255 would all become zeros."""
    with pytest.raises(ValueError, match=r"Presenter: images must hold values in \[0, 1\], got"):
        Presenter(images, binarization)
    with pytest.raises(ValueError, match=r"images must hold values in \[0, 1\], got"):
        binarize(images, seed=0)
    with pytest.raises(TypeError, match=r"Presenter: images must be floating-point values .* got torch.uint8"):
        Presenter(GREY.byte(), binarization)


def test_digits_split_is_fixed_and_complete():
    dataset = load_dataset("digits")
    assert (dataset.train.shape, dataset.test.shape) == ((1500, 64), (297, 64))
    assert dataset.train.min() == 0.0
    assert dataset.train.max() == 1.0
    again = load_dataset("digits")
    torch.testing.assert_close(dataset.test, again.test, rtol=0, atol=0)


@given(count=st.integers(1, 50), extra=st.integers(0, 500))
def test_evenly_spaced_indices_are_distinct_and_spread(count, extra):
    total = count + extra
    indices = evenly_spaced(count, total)
    gaps = indices.diff()
    assert indices.shape == (count,)
    assert indices[0] == 0
    assert indices[-1] < total
    if count > 1:
        assert gaps.min() >= total // count
        assert gaps.max() <= -(-total // count)


def test_binarisation_has_the_grey_values_as_probabilities():
    grey = torch.tensor([0.0, 1 / 255, 0.25, 0.5, 0.9, 1.0])
    draws = 200_000
    frequency = binarize(grey.expand(draws, 6), seed=3).mean(0)
    # Five standard errors of a frequency over 200,000 draws; 0 and 1 allow no exception at all.
    bound = 5.0 * (grey * (1.0 - grey) / draws).sqrt()
    assert ((frequency - grey).abs() <= bound).all(), frequency


def test_dynamic_binarisation_draws_anew_with_each_seed():
    presenter = Presenter(torch.full((10, 64), 0.5), "dynamic")
    rows = torch.arange(10)
    first = presenter(rows, seed=1)
    assert torch.equal(first, presenter(rows, seed=1))
    assert not torch.equal(first, presenter(rows, seed=2))
    assert set(first.unique().tolist()) == {0.0, 1.0}


def test_a_shard_is_binarised_as_in_the_whole_batch():
    images = torch.rand(12, 64, generator=torch.Generator().manual_seed(0))
    presenter = Presenter(images, "dynamic")
    rows = torch.tensor([3, 1, 11, 7, 5, 0, 2])
    whole = presenter(rows, seed=9)
    parts = [presenter(rows[:3], seed=9), presenter(rows[3:], seed=9, row_offset=3)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("binarization", ["dynamic", "static", "none"])
def test_batches_are_made_on_the_device_of_the_examples(binarization):
    presenter = Presenter(torch.full((10, 64), 0.5), binarization)
    presenter.to(torch.device("meta"))
    batch = presenter(torch.arange(3, device="meta"), seed=1)
    assert batch.is_meta
    assert batch.shape == (3, 64)


def test_static_binarisation_is_one_draw_and_none_is_the_values():
    images = torch.rand(12, 64, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([3, 1])
    static = Presenter(images, "static")
    assert torch.equal(static(rows, seed=1), static(rows, seed=2))
    assert set(static(rows, seed=1).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(Presenter(images, "none")(rows, seed=1), images[rows])
    with pytest.raises(ValueError, match=f"one of {', '.join(BINARIZATIONS)}, got 'often'"):
        Presenter(images, "often")


def test_test_images_are_the_same_for_every_run():
    dataset = load_dataset("digits")
    assert torch.equal(test_images(dataset, "dynamic"), test_images(dataset, "static"))
    assert test_images(dataset, "dynamic").unique().tolist() == [0.0, 1.0]
    assert torch.equal(test_images(dataset, "none"), dataset.test)


@pytest.mark.parametrize(
    ("name", "train_shape", "test_shape"),
    [
        pytest.param("mnist", (60000, 784), (10000, 784), marks=needs("mnist")),
        pytest.param(
            "mnist-binarized", (50000, 784), (10000, 784), marks=needs("mnist-binarized-static/binarized_mnist.npz")
        ),
        pytest.param("frey", (1765, 560), (200, 560), marks=needs("frey-faces/frey_faces.npz")),
    ],
)
def test_published_files_load(name, train_shape, test_shape):
    dataset = load_dataset(name, DATA_DIR)
    assert dataset.train.shape == train_shape
    assert dataset.test.shape == test_shape
    assert dataset.train.min() >= 0.0
    assert dataset.train.max() <= 1.0


def test_every_name_has_a_loader(tmp_path):
    for name in DATASET_NAMES:
        if name not in BUNDLED_DATASETS:
            with pytest.raises(DataError, match="expected the file"):
                load_dataset(name, tmp_path)


@pytest.mark.parametrize("image_shape", [(4,), 4, (2.0, 2.0), (-2, -2), (2, 2, 1, 1), (1, 0, 4), None])
def test_an_image_shape_that_is_none_is_named(image_shape):
    rows = torch.zeros(3, 4)
    with pytest.raises(DataError, match=r"^own: the image shape must be "):
        Dataset("own", rows, rows, image_shape, "bernoulli")


# Labels


def write_label_files(folder, labels, suffix=".gz", stems=("train-labels", "t10k-labels")):
    for stem, values in zip(stems, labels, strict=True):
        write_idx(folder / f"{stem}-idx1-ubyte{suffix}", np.asarray(values, np.uint8))


def test_labels_of_the_digits_are_those_of_their_images():
    from sklearn.datasets import load_digits

    whole, digits = load_digits(), load_dataset("digits")
    assert digits.num_classes == 10
    rows = {tuple(row): label for row, label in zip((whole.data / 16.0).tolist(), whole.target.tolist(), strict=True)}
    for images, labels in ((digits.train, digits.train_labels), (digits.test, digits.test_labels)):
        assert labels.dtype == torch.int64
        assert [rows[tuple(row)] for row in images.tolist()] == labels.tolist()


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize(("name", "subfolder"), [("mnist", "."), ("mnist", "MNIST/raw"), ("fashion-mnist", ".")])
def test_labels_beside_the_images_are_read(tmp_path, name, subfolder, suffix):
    write_image_files(tmp_path / subfolder, train_count=5, test_count=3)
    assert load_dataset(name, tmp_path).train_labels is None
    assert load_dataset(name, tmp_path).num_classes is None
    write_label_files(tmp_path / subfolder, ([4, 0, 9, 255, 1], [2, 2, 0]), suffix)
    dataset = load_dataset(name, tmp_path)
    assert dataset.train_labels.tolist() == [4, 0, 9, 255, 1]
    assert dataset.test_labels.tolist() == [2, 2, 0]
    assert (dataset.num_classes, dataset.train_labels.dtype) == (256, torch.int64)


def test_labels_of_another_folder_are_not_those_of_the_images(tmp_path):
    """Fashion-MNIST's own images, beside MNIST's labels in the folder above."""
    write_image_files(tmp_path / "fashion-mnist", train_count=5, test_count=3)
    write_label_files(tmp_path, ([1] * 5, [1] * 3))
    assert load_dataset("fashion-mnist", tmp_path).train_labels is None


def test_labels_of_one_part_alone(tmp_path):
    write_image_files(tmp_path, train_count=5, test_count=3)
    write_label_files(tmp_path, ([1] * 5,), stems=("train-labels",))
    dataset = load_dataset("mnist", tmp_path)
    assert dataset.train_labels.tolist() == [1] * 5
    assert dataset.test_labels is None
    assert dataset.num_classes is None


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([1, 2, 3, 4], r"train-labels-idx1-ubyte: expected 5 labels, one for each image, got the shape \(4,\)"),
        ([[1]] * 5, r"expected 5 labels, one for each image, got the shape \(5, 1\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, labels, complaint):
    write_image_files(tmp_path, train_count=5, test_count=3)
    write_label_files(tmp_path, (labels, [0] * 3), suffix="")
    with pytest.raises(DataError, match=complaint):
        load_dataset("mnist", tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"not labels")
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: expected an idx file of bytes"):
        load_dataset("mnist", tmp_path)


@needs("mnist/train-labels-idx1-ubyte.gz")
def test_labels_of_mnist():
    """The published counts of each digit begin 5923, 6742 in the training set and 980, 1135 in the test set."""
    dataset = load_dataset("mnist", DATA_DIR)
    assert dataset.train_labels.bincount()[:2].tolist() == [5923, 6742]
    assert dataset.test_labels.bincount()[:2].tolist() == [980, 1135]
    assert dataset.num_classes == 10


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([1, 2], "mine: the training labels must be a tensor or None, got list"),
        (torch.tensor([1.0, 2.0]), "mine: the training labels must be int64, got torch.float32"),
        (torch.tensor([1]), r"mine: the training labels must have the shape \(2,\), one for each image, got \(1,\)"),
        (torch.tensor([[1], [2]]), r"the training labels must have the shape \(2,\), .* got \(2, 1\)"),
        (torch.tensor([0, -2]), "mine: the training labels must be 0 or more, or -1 for none, got -2"),
    ],
)
def test_labels_of_a_data_set_of_ones_own(labels, complaint):
    grey = torch.zeros(2, 4)
    with pytest.raises(DataError, match=complaint):
        Dataset("mine", grey, grey, (2, 2), "bernoulli", labels)
    whole = Dataset("mine", grey, grey, (2, 2), "bernoulli", torch.tensor([0, 3]), torch.tensor([5, 0]))
    assert whole.num_classes == 6
