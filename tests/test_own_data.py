"""Data of a user's own: each format as it was written."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastvi.data import DataError, ImageFolder, from_path
from fastvi.data.splitting import evenly_spaced
from support.own_data import BYTES, assert_split, rows_of, table_rows, write_csv, write_images

REALS = table_rows(20, 4)


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
