"""The mistakes that users make with data of their own: each is one clear line that names the file, and no traceback."""

from __future__ import annotations

import random
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvi.data import DataError, Dataset, from_arrays, from_path
from support.command import assert_one_clear_line, call
from support.own_data import table_rows, write_csv, write_images

COUNT, HEIGHT, WIDTH = 8, 3, 4
ARRAY_SUFFIXES = (".npz", ".npy", ".pt")
SHORT = ("--epochs", "1", "--hidden-dims", "4", "--latent-dim", "2", "--no-evaluate", "--out", "run")
_MISTAKES = {}


def mistake(words, *options):
    """Register a function of (folder, random generator) that makes a mistake and returns the path of the data."""

    def register(function):
        name = function.__name__
        assert name not in _MISTAKES
        _MISTAKES[name] = (function, words, options)
        return function

    return register


def save(folder, array, suffix, name="data"):
    """Write an array as a file of the kind that the suffix says."""
    path = Path(folder) / f"{name}{suffix}"
    if suffix == ".npz":
        np.savez(path, array)
    elif suffix == ".npy":
        np.save(path, array)
    elif suffix == ".pt":
        torch.save(torch.from_numpy(np.ascontiguousarray(array)), path)
    else:
        write_csv(path, array)
    return path


def unit(generator, shape=(COUNT, HEIGHT * WIDTH)):
    return np.random.default_rng(generator.randrange(1000)).random(shape).astype(np.float32)


def any_suffix(generator, *more):
    return generator.choice([*ARRAY_SUFFIXES, *more])


def planted(generator, value):
    """Rows with one value planted, and where."""
    rows = unit(generator)
    place = generator.randrange(COUNT), generator.randrange(HEIGHT * WIDTH)
    rows[place] = value
    return rows


# Values


@mistake("expected a finite number, got ")
def not_finite(folder, generator):
    value = generator.choice([np.nan, np.inf, -np.inf])
    return save(folder, planted(generator, value), any_suffix(generator, ".csv"))


@mistake("expected a finite number, got ", "--likelihood", "real-gaussian")
def not_finite_reals(folder, generator):
    return save(folder, planted(generator, np.nan), any_suffix(generator, ".csv"))


@mistake("expected numbers that float32 holds, up to 3.4e+38, got ")
def beyond_float32(folder, generator):
    return save(folder, planted(generator, 1.0).astype(np.float64) * 1e300, any_suffix(generator, ".csv"))


@mistake("expected values in [0, 1] for `likelihood` bernoulli, got values from", "--likelihood", "bernoulli")
def outside_the_unit_interval(folder, generator):
    value = generator.choice([-0.5, 1.5, 255.0, -1e-3])
    return save(folder, planted(generator, value), any_suffix(generator, ".csv"))


@mistake("take `likelihood` real-gaussian", "--likelihood", "continuous-bernoulli")
def reals_under_a_likelihood_of_grey_values(folder, generator):
    return save(folder, planted(generator, -3.0), any_suffix(generator, ".csv"))


@mistake("must hold counts, whole numbers of 0 or more, got ", "--likelihood", "poisson")
def no_counts(folder, generator):
    return save(folder, planted(generator, 0.5), any_suffix(generator, ".csv"))


@mistake("standardised values are real numbers", "--standardize", "--likelihood", "bernoulli")
def standardised_ones_and_zeros(folder, generator):
    return save(folder, unit(generator).round(), any_suffix(generator, ".csv"))


# Shapes and dtypes


@mistake("expected an array of rows (N, D) or of images")
def wrong_number_of_axes(folder, generator):
    shape = generator.choice([(), (5,), (2, 2, 2, 2, 2)])
    return save(folder, unit(generator, shape), any_suffix(generator))


@mistake("expected at least one row of at least one value")
def nothing_in_the_array(folder, generator):
    shape = generator.choice([(0, 4), (4, 0), (0, 3, 3), (3, 0, 0)])
    return save(folder, unit(generator, shape), any_suffix(generator))


@mistake("expected images with 1, 3 or 4 channels")
def channels_that_are_none(folder, generator):
    return save(folder, unit(generator, (COUNT, 5, 6, generator.choice([2, 5, 7]))), any_suffix(generator))


@mistake("complex64")
def complex_numbers(folder, generator):
    return save(folder, unit(generator).astype(np.complex64), any_suffix(generator))


@mistake("must hold numbers (bool, integers or floating point), got Python objects")
def python_objects(folder, generator):
    path = Path(folder) / f"data{generator.choice(['.npy', '.npz'])}"
    rows = np.array([[1, "a"], [2, None]], dtype=object)
    (np.save if path.suffix == ".npy" else np.savez)(path, rows)
    return path


@mistake("expected numbers (bool, integers or floating point), got words")
def words_for_rows(folder, generator):
    path = Path(folder) / f"data{generator.choice(['.npy', '.npz'])}"
    (np.save if path.suffix == ".npy" else np.savez)(path, np.array([["a", "b"], ["c", "d"]]))
    return path


@mistake("a tensor, a dictionary of tensors, or a pair (rows, labels)")
def a_pickle_of_something_else(folder, generator):
    path = Path(folder) / "data.pt"
    content = generator.choice([[1, 2, 3], "words", {1: torch.zeros(2)}, Path("a"), Dataset])
    torch.save(content, path)
    return path


@mistake("are no images of `image_size` 5x5", "--image-size", "5x5")
def rows_that_are_no_images_of_the_size(folder, generator):
    return save(folder, unit(generator), any_suffix(generator, ".csv"))


@mistake("the images of an array keep their size", "--image-size", "5x5")
def images_of_an_array_are_not_scaled(folder, generator):
    return save(folder, unit(generator, (COUNT, HEIGHT, WIDTH)), any_suffix(generator))


# Files and folders


@mistake("expected a file or a folder of data, it does not exist")
def no_such_file(folder, generator):
    return Path(folder) / f"absent{any_suffix(generator, '.csv', '.parquet', '/')}"


@mistake("expected a file that ends in .npz")
def an_extension_that_says_nothing(folder, generator):
    path = save(folder, unit(generator), any_suffix(generator, ".csv"))
    return path.rename(path.with_suffix(generator.choice([".dat", ".txt", ".mat", ""])))


@mistake("data")
def another_extension_than_it_is(folder, generator):
    """Whatever the reader makes of it, the line names the file."""
    suffixes = [*ARRAY_SUFFIXES]
    first = generator.choice(suffixes)
    path = save(folder, unit(generator), first)
    return path.rename(
        path.with_suffix(generator.choice([*(suffix for suffix in suffixes if suffix != first), ".csv"]))
    )


@mistake("the file is empty")
def an_empty_file(folder, generator):
    path = Path(folder) / f"data{any_suffix(generator, '.csv', '.parquet')}"
    path.write_bytes(b"")
    return path


@mistake("expected images (")
def a_folder_without_images(folder, generator):
    path = Path(folder) / generator.choice(["data", "data.npz", "data.png"])
    path.mkdir()
    if generator.random() < 0.5:
        (path / "notes.txt").write_text("nothing to see")
    return path


@mistake("expected a folder of images or of npy files, found both")
def a_folder_of_both(folder, generator):
    write_images(Path(folder) / "data", 3)
    save(Path(folder) / "data", unit(generator), ".npy")
    return Path(folder) / "data"


@mistake("expected images of one size, 000.png is 4x6 and wide.png is 4x7: `image_size` HxW scales all of them")
def images_of_two_sizes(folder, generator):
    write_images(Path(folder) / "data", 3)
    write_images(Path(folder) / "other", 1, (4, 7))
    (Path(folder) / "other" / "000.png").rename(Path(folder) / "data" / "wide.png")
    return Path(folder) / "data"


@mistake("expected an image; cannot be read")
def an_image_that_is_none(folder, generator):
    write_images(Path(folder) / "data", 3)
    broken = Path(folder) / "data" / f"{generator.choice(['000', '002', 'zz'])}.png"
    content = (Path(folder) / "data" / "000.png").read_bytes()
    broken.write_bytes(generator.choice([b"", b"not an image", content[:40]]))
    return Path(folder) / "data"


@mistake("expected the image in a folder that says its label", "--labels-from", "folders")
def folders_of_labels_that_are_none(folder, generator):
    write_images(Path(folder) / "data" / "cats", 3)
    write_images(Path(folder) / "data", 1)
    return Path(folder) / "data"


@mistake("expected one array of rows, found no arrays: name it with `array`")
def an_archive_without_arrays(folder, generator):
    np.savez(Path(folder) / "data.npz")
    return Path(folder) / "data.npz"


@mistake("expected one array of rows, found one, two: name it with `array`")
def an_archive_of_several(folder, generator):
    np.savez(Path(folder) / "data.npz", one=unit(generator), two=unit(generator))
    return Path(folder) / "data.npz"


@mistake("expected an array named three, as `array` says, found one, two", "--array", "three")
def an_archive_without_the_array(folder, generator):
    np.savez(Path(folder) / "data.npz", one=unit(generator), two=unit(generator))
    return Path(folder) / "data.npz"


# Tables


@mistake("line 3, column b: expected a number, got ")
def a_cell_that_is_no_number(folder, generator):
    cell = generator.choice(["", " ", "n/a", "1,5".replace(",", "'"), "x"])
    (Path(folder) / "data.csv").write_text(f"a,b\n1,2\n3,{cell}\n5,6\n")
    return Path(folder) / "data.csv"


@mistake("line 5, column b: expected a finite number, got nan")
def a_cell_that_is_not_finite(folder, generator):
    word = generator.choice(["nan", "NaN", " nan "])
    (Path(folder) / "data.csv").write_text(f"a,b\n1,2\n\n3,4\n5,{word}\n")
    return Path(folder) / "data.csv"


@mistake("line 3: expected 2 cells, got ")
def a_line_of_another_length(folder, generator):
    (Path(folder) / "data.csv").write_text(f"a,b\n1,2\n{generator.choice(['3', '3,4,5'])}\n5,6\n")
    return Path(folder) / "data.csv"


@mistake("expected lines of numbers below the names, found none")
def names_alone(folder, generator):
    (Path(folder) / "data.csv").write_text("a,b\n")
    return Path(folder) / "data.csv"


@mistake("expected one column named kind, as `labels_from` says, found none among a, b", "--labels-from", "kind")
def no_such_column(folder, generator):
    write_csv(Path(folder) / "data.csv", table_rows(5, 2), ["a", "b"])
    return Path(folder) / "data.csv"


# Labels and splits


@mistake("expected an array named y, as `labels_from` says, found arr_0", "--labels-from", "y")
def no_such_array_of_labels(folder, generator):
    return save(folder, unit(generator), ".npz")


@mistake("expected 8 labels, one for each row, got the shape ", "--labels-from", "y")
def labels_of_another_length(folder, generator):
    np.savez(Path(folder) / "data.npz", x=unit(generator), y=np.zeros(generator.choice([1, 7, 9]), int))
    return Path(folder) / "data.npz"


@mistake("expected one label for each row, got labels of the shape (8, 3)", "--labels-from", "y")
def labels_of_several_numbers(folder, generator):
    np.savez(Path(folder) / "data.npz", x=unit(generator), y=np.zeros((COUNT, 3), int))
    return Path(folder) / "data.npz"


@mistake("expected labels that are whole numbers or words, got 0.5", "--labels-from", "y")
def labels_of_fractions(folder, generator):
    np.savez(Path(folder) / "data.npz", x=unit(generator), y=np.full(COUNT, 0.5))
    return Path(folder) / "data.npz"


@mistake("`labels_from` must be the path of a file of labels", "--labels-from", "y")
def labels_from_nowhere(folder, generator):
    return save(folder, unit(generator), ".npy")


@mistake("expected rows to train beside those to test", "--test-split", "8")
def nothing_left_to_train(folder, generator):
    return save(folder, unit(generator), any_suffix(generator, ".csv"))


@mistake("expected test rows of the shape 1 x 12, as those to train, got 1 x 5", "--test-split", "other.npy")
def test_rows_of_another_shape(folder, generator):
    save(folder, unit(generator, (3, 5)), ".npy", "other")
    return save(folder, unit(generator), any_suffix(generator, ".csv"))


test_rows_of_another_shape.__test__ = False


def one_line(error, name):
    words = str(error)
    assert "\n" not in words
    assert name in words, words
    return words


@pytest.mark.parametrize("name", _MISTAKES)
@settings(max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_each_mistake_in_python(name, seed):
    make, expected, given_options = _MISTAKES[name]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the data beside the mistake
        path = make(folder, random.Random(seed))
        options = python_options(given_options, folder)
        with pytest.raises(DataError) as raised:
            from_path(path, **options)
        words = one_line(raised.value, folder)
        assert expected in words


def python_options(given, folder):
    """What the options of a command are in Python."""
    found = {}
    given = list(given)
    while given:
        name = given.pop(0).removeprefix("--").replace("-", "_")
        value = True if name == "standardize" else given.pop(0)
        if name == "image_size":
            value = tuple(map(int, value.split("x")))
        if name == "test_split" and value.endswith(".npy"):
            value = Path(folder) / value
        found[name] = value
    return found


@pytest.mark.usefixtures("own_directory")
@pytest.mark.parametrize("name", _MISTAKES)
def test_each_mistake_of_a_command(name):
    make, expected, options = _MISTAKES[name]
    path = make(".", random.Random(name))
    result = call("train", "--data", f"./{path}", *options, *SHORT)
    as_option = expected
    for word in ("likelihood", "image_size", "array", "labels_from", "divide_by"):
        as_option = as_option.replace(f"`{word}`", f"--{word.replace('_', '-')}")
    assert_one_clear_line(result, as_option)
    assert not Path("run").exists()


@pytest.mark.usefixtures("own_directory")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data", "digits", "--test-split", "0.1"), "--test-split is for data of your own"),
        (("--data", "digits", "--image-size", "8x8"), "--image-size is for data of your own"),
        (("--standardize",), "--standardize is for data of your own"),
        (("--data", "data.npy", "--data-dir", "."), "leave out --data-dir and --download"),
        (("--data", "data.npy", "--test-split", "1.5"), "--test-split must be a fraction between 0 and 1"),
        (("--data", "data.npy", "--test-split", "0"), "--test-split must be a fraction between 0 and 1"),
        (("--data", "data.npy", "--test-split", "nan"), "--test-split must be a fraction between 0 and 1"),
        (("--data", "data.npy", "--divide-by", "0"), "--divide-by must be a positive number, got 0"),
        (("--data", "no/such/thing"), "no/such/thing: expected a file or a folder of data, it does not exist"),
        (("--data", "x" * 5000 + "/a"), "cannot be looked at"),
        (("--data", "nothing"), "unknown data set 'nothing': choose one of digits"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    save(".", unit(random.Random(0)), ".npy")
    assert_one_clear_line(call("train", *options, *SHORT), words)
    assert not Path("run").exists()


@pytest.mark.usefixtures("own_directory")
@pytest.mark.parametrize("size", ["28", "28x", "0x4", "axb", "-1x4", "28x28x3"])
def test_an_image_size_that_is_none_is_a_usage_error(size):
    result = call("train", "--data", "data.npy", "--image-size", size)
    assert result.exit_code == 2
    assert "expected HEIGHTxWIDTH such as 28x28" in " ".join(result.stderr.split())


def damaged(content, generator):
    data = bytearray(content)
    kind = generator.randrange(3)
    if kind == 0:
        return bytes(data[: generator.randrange(len(data))])
    for _ in range(1 if kind == 1 else 20):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("suffix", [*ARRAY_SUFFIXES, ".csv", ".png"])
def test_damaged_files_are_read_or_named(tmp_path, suffix):
    """Whatever happened to its bytes, a file gives a data set or one line with its name."""
    generator = random.Random(suffix)
    path = tmp_path / "data"
    if suffix == ".png":
        write_images(path, 3)
        damage = path / "001.png"
    else:
        path = damage = save(tmp_path, unit(generator), suffix)
    content = damage.read_bytes()
    refused = 0
    for _ in range(120):
        damage.write_bytes(damaged(content, generator))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                assert isinstance(from_path(path), Dataset)
            except DataError as error:
                refused += 1
                one_line(error, str(path))
    assert refused > 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[1, 2], [3]],), "mine: expected an array of numbers, got list"),
        ((["a", "b"],), "mine: expected numbers"),
        ((object(),), "mine: expected numbers .* got an object of type object"),
        ((np.zeros((4, 2)), np.zeros((1, 3))), "mine: expected test rows of the shape 1 x 2"),
        ((np.zeros((1, 2)),), "mine: expected rows to train beside those to test, 1 of 1 rows are to test"),
    ],
)
def test_arrays_that_are_none(arguments, words):
    with pytest.raises(DataError, match=words):
        from_arrays(*arguments, name="mine")


def test_numbers_beyond_float32_are_not_called_infinite(tmp_path):
    values = np.zeros((6, 2))
    values[3, 1] = -1e300
    path = tmp_path / "rows.npy"
    np.save(path, values)
    with pytest.raises(DataError, match=r"row 3, column 1: expected numbers that float32 holds, .* got -1e\+300"):
        from_path(path)
    with pytest.raises(DataError, match=r"expected numbers that float32 holds, up to 3\.4e\+38, got -1e\+300"):
        from_arrays(values)


def test_labels_that_are_objects_are_told_how_to_be_written(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.zeros((3, 2)), y=np.array([None, "cat", "dog"], dtype=object))
    with pytest.raises(DataError, match="got Python objects; words are an array of str, in which an empty one"):
        from_path(path, labels_from="y")
