"""Labels that are missing, in every format and by every route, and numbers that cannot be labels."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset as TorchDataset

import fastvi
from fastvi.data import DataError, balanced_labels, from_arrays, from_path
from support.command import assert_one_clear_line, call
from support.own_data import write_csv

pandas = pytest.importorskip("pandas")

SMALL = {"epochs": 1, "hidden_dims": (4,), "latent_dim": 2}
OPTIONS = ("--epochs", "1", "--hidden-dims", "4", "--latent-dim", "2", "--no-progress", "--threads", "1")
COUNT = 48
NUMBERS = np.arange(COUNT) % 12
IS_MISSING = np.arange(COUNT) % 5 == 2
EXPECTED = np.where(IS_MISSING, -1, NUMBERS)
# Words in the order of the numbers.
WORDS = np.array([f"w{number:02d}" for number in NUMBERS])
X = np.random.default_rng(0).integers(0, 2, (COUNT, 12)).astype(np.float32)


def labels_of(data):
    """All labels in the order of the rows, of which the last ten test."""
    return torch.cat([data.train_labels, data.test_labels]).tolist()


def assert_expected(data, names=None):
    assert labels_of(data) == EXPECTED.tolist()
    assert data.class_names == names
    assert data.num_classes == 12


def own(labels):
    """A data set of which the last ten rows test."""
    return from_arrays(X[:-10], X[-10:], labels=labels[:-10], test_labels=labels[-10:])


def cells_of(missing, labels=NUMBERS):
    return [missing if is_missing else str(label) for label, is_missing in zip(labels, IS_MISSING, strict=True)]


def write_table(path, labels, rows=X, first="a"):
    names = [f"{first}{column}" for column in range(rows.shape[1])]
    write_csv(path, [[*row, label] for row, label in zip(rows.tolist(), labels, strict=True)], [*names, "kind"])


@pytest.mark.parametrize("missing", ["", "  ", "nan", "-1"])
def test_numbers_of_a_csv_file_stand_for_themselves(tmp_path, missing):
    write_table(tmp_path / "train.csv", cells_of(missing)[:-10], X[:-10])
    write_table(tmp_path / "test.csv", cells_of(missing)[-10:], X[-10:])
    assert_expected(from_path(tmp_path / "train.csv", labels_from="kind", test_split=tmp_path / "test.csv"))


def test_some_training_labels_are_missing_and_no_test_label_is(tmp_path):
    write_table(tmp_path / "miss.csv", cells_of(""))
    write_table(tmp_path / "full.csv", NUMBERS)
    data = from_path(tmp_path / "miss.csv", labels_from="kind", test_split=tmp_path / "full.csv")
    assert data.train_labels.tolist() == EXPECTED.tolist()
    assert data.test_labels.tolist() == NUMBERS.tolist()
    # Labels that are all missing are of every kind.
    for words, missing in ((NUMBERS, ""), (WORDS, ""), (NUMBERS, -1), (WORDS, -1)):
        write_table(tmp_path / "full.csv", words)
        write_table(tmp_path / "none.csv", [missing] * COUNT)
        data = from_path(tmp_path / "full.csv", labels_from="kind", test_split=tmp_path / "none.csv")
        assert data.train_labels.tolist() == NUMBERS.tolist()
        assert data.test_labels.tolist() == [-1] * COUNT
    with pytest.raises(DataError, match="expected labels of one kind, got words to train and numbers to test"):
        from_arrays(X, X, labels=WORDS, test_labels=NUMBERS)


def test_the_first_label_of_a_table_without_names_may_be_missing(tmp_path):
    rows = [[*row, "" if place % 2 == 0 else place % 4] for place, row in enumerate(X.tolist())]
    write_csv(tmp_path / "table.csv", rows)
    data = from_path(tmp_path / "table.csv", labels_from="12", test_split=8)
    assert len(data.train) == 40
    assert set(labels_of(data)) == {-1, 1, 3}
    write_csv(tmp_path / "index.csv", [["", 0, 1], [0, 1, 0.25], [1, 0, 0.5]])  # pandas' names, above an index
    data = from_path(tmp_path / "index.csv", labels_from="0", test_split=1)
    assert (data.train.shape, labels_of(data)) == ((1, 2), [0, 1])


@pytest.mark.parametrize("name", [None, "label", "kind"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_an_empty_line_of_a_file_of_labels_is_a_missing_label(tmp_path, name, end):
    np.save(tmp_path / "x.npy", X)
    labels = tmp_path / "y.csv"
    labels.write_text("\n".join([*([] if name is None else [name]), *cells_of("")[:-1], "11"]) + end)
    data = from_path(tmp_path / "x.npy", labels_from=labels, test_split=10)
    expected = [*EXPECTED[:-1].tolist(), 11]
    assert sorted(labels_of(data)) == sorted(expected)
    labels.write_text("\n".join(cells_of("")) + "\n")  # the last line is empty, too
    assert sorted(labels_of(from_path(tmp_path / "x.npy", labels_from=labels, test_split=10))) == sorted(EXPECTED)
    labels.write_text("\n".join(["", *map(str, NUMBERS[1:])]) + end)
    data = from_path(tmp_path / "x.npy", labels_from=labels, test_split=10)
    assert labels_of(data).count(-1) == 1
    labels.write_text("\n".join(cells_of("")[:-8]))
    with pytest.raises(DataError, match=r"y\.csv: expected 48 labels, one for each row, got the shape \(40,\)"):
        from_path(tmp_path / "x.npy", labels_from=labels, test_split=10)


def with_missing(labels, missing):
    return [missing if is_missing else label for label, is_missing in zip(labels.tolist(), IS_MISSING, strict=True)]


NUMBERS_WITH_NONE, NUMBERS_WITH_NAN = with_missing(NUMBERS, None), with_missing(NUMBERS, float("nan"))
WORDS_WITH_NONE, WORDS_WITH_NAN = with_missing(WORDS, None), with_missing(WORDS, float("nan"))
COLUMNS = {
    "numbers": NUMBERS_WITH_NAN,
    "whole numbers": pandas.array(NUMBERS_WITH_NONE, dtype="Int64"),
    "words": WORDS_WITH_NONE,
    "strings": pandas.array(WORDS_WITH_NONE, dtype="string"),
    "categories": pandas.Categorical(WORDS_WITH_NONE),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_labels_of_a_parquet_file_may_be_missing(tmp_path, kind):
    names = tuple(sorted(set(WORDS))) if "number" not in kind else None
    frame = pandas.DataFrame(X, columns=[f"a{column}" for column in range(12)]).assign(kind=COLUMNS[kind])
    frame[:-10].to_parquet(tmp_path / "train.parquet")
    frame[-10:].to_parquet(tmp_path / "test.parquet")
    assert_expected(
        from_path(tmp_path / "train.parquet", labels_from="kind", test_split=tmp_path / "test.parquet"), names
    )
    frame[["kind"]].to_parquet(tmp_path / "y.parquet")  # a file of labels alone
    for name, rows in (("train", X[:-10]), ("test", X[-10:])):
        np.save(tmp_path / f"{name}.npy", rows)
    assert_expected(
        from_path(tmp_path / "train.npy", labels_from=tmp_path / "y.parquet", test_split=tmp_path / "test.npy"), names
    )


@pytest.mark.parametrize(
    "labels",
    [
        NUMBERS_WITH_NONE,
        NUMBERS_WITH_NAN,
        np.array(NUMBERS_WITH_NONE, dtype=object),
        torch.tensor(NUMBERS_WITH_NAN),
        WORDS_WITH_NONE,
        WORDS_WITH_NAN,
        with_missing(WORDS, ""),
        with_missing(WORDS, " "),
        np.array(WORDS_WITH_NAN, dtype=object),
        np.array(with_missing(WORDS, "")).astype(bytes),
        *(pandas.Series(column) for column in COLUMNS.values()),
        COLUMNS["categories"],
    ],
    ids=lambda labels: f"{type(labels).__name__} of {labels[0]!r}",
)
def test_labels_of_arrays_may_be_missing(labels):
    assert_expected(own(labels), None if not isinstance(labels[0], str | bytes) else tuple(sorted(set(WORDS))))


def test_truth_values_have_the_same_classes_with_missing_ones():
    values = (NUMBERS % 2 == 1).tolist()
    for missing in (False, True):
        labels = [None if missing and gone else value for value, gone in zip(values, IS_MISSING, strict=True)]
        data = from_arrays(X, X, labels=labels, test_labels=values)
        assert data.class_names == ("False", "True")
        assert data.test_labels.tolist() == [int(value) for value in values]


def test_words_are_labels_and_objects_are_none():
    with pytest.raises(DataError, match=r"data: labels: expected labels that are .* or words, got Python objects"):
        from_arrays(X, labels=[object()] * COUNT)
    with pytest.raises(DataError, match=r"expected one label for each row, got labels of the shape \(48, 2\)"):
        from_arrays(X, labels=np.zeros((COUNT, 2)))
    with pytest.raises(DataError, match=r"expected one label for each row, got labels of the shape \(48, 1\)"):
        from_arrays(X, labels=pandas.DataFrame({"kind": WORDS_WITH_NONE}))
    with pytest.raises(DataError, match="expected labels that are whole numbers or words, got datetime64"):
        from_arrays(X, labels=np.zeros(COUNT, "datetime64[s]"))


class Pairs(TorchDataset):
    """Examples with labels, or alone."""

    def __init__(self, labels):
        self._labels = labels

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        x = torch.from_numpy(X[index])
        return x if self._labels is None else (x, self._labels[index])


def scipy_rows():
    return pytest.importorskip("scipy.sparse").csr_matrix(X)


@pytest.mark.parametrize(
    "data",
    [
        lambda: (X, NUMBERS_WITH_NONE),
        lambda: (torch.from_numpy(X), torch.tensor(NUMBERS_WITH_NAN)),
        lambda: (scipy_rows(), NUMBERS_WITH_NAN),
        lambda: (scipy_rows(), WORDS_WITH_NONE),
        lambda: Pairs(NUMBERS_WITH_NONE),
        lambda: Pairs(torch.tensor(NUMBERS_WITH_NAN)),
        lambda: Pairs(WORDS_WITH_NAN),
        lambda: torch.utils.data.TensorDataset(torch.from_numpy(X), torch.tensor(NUMBERS_WITH_NAN)),
    ],
)
def test_missing_labels_reach_a_run_from_python(data):
    fitted = fastvi.fit("m2", data(), test=data(), **SMALL)
    assert fitted.config.num_classes == 12
    assert fitted._source.train_labels.tolist() == fitted._source.test_labels.tolist() == EXPECTED.tolist()
    assert fitted.evaluate(data(), num_samples=2).figures == fitted.evaluate(num_samples=2).figures
    assert fitted.evaluate(X, num_samples=2).figures == {}
    with pytest.raises(ValueError, match="conditional-vae needs a label for each example, and 20 of the data data"):
        fastvi.fit("conditional-vae", data(), test=data(), **SMALL)


def test_missing_labels_of_a_loader_are_minus_one():
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.tensor(NUMBERS_WITH_NAN))
    nan = fastvi.fit("m2", torch.utils.data.DataLoader(rows, batch_size=16), seed=1, **SMALL)
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(EXPECTED))
    minus_one = fastvi.fit("m2", torch.utils.data.DataLoader(rows, batch_size=16), seed=1, **SMALL)
    for name, value in nan.model.state_dict().items():
        torch.testing.assert_close(value, minus_one.model.state_dict()[name], rtol=0.0, atol=0.0)


def test_a_dataset_without_labels_is_of_use_to_a_run_that_can_do_without():
    fitted = fastvi.fit("m2", (X, NUMBERS), **SMALL)
    assert fitted.evaluate(Pairs(None), num_samples=2).figures == {}
    with pytest.raises(DataError, match="expected pairs of an example and a label, got Tensor"):
        fastvi.fit("m2", Pairs(None), **SMALL)
    conditional = fastvi.fit("conditional-vae", (X, NUMBERS), **SMALL)
    with pytest.raises(DataError, match="expected pairs of an example and a label, got Tensor"):
        conditional.evaluate(Pairs(None))


# Test rows without labels


def test_test_rows_without_labels_train_a_model_that_can_do_without(tmp_path):
    data = from_arrays(X, X, labels=NUMBERS)
    assert data.test_labels is None
    fitted = fastvi.fit("m2", data, out=tmp_path / "run", **SMALL)
    assert fitted.config.num_classes == 12
    assert fitted.evaluate(num_samples=2).figures == {}
    fastvi.fit("m2", data, out=tmp_path / "run", resume=True, **{**SMALL, "epochs": 2})
    with pytest.raises(ValueError, match="conditional-vae needs labels, and the test rows of the data data have none"):
        fastvi.fit("conditional-vae", data, **SMALL)
    with pytest.raises(ValueError, match="semi-supervised needs labels, and the data data have none"):
        fastvi.fit("m2", from_arrays(X, X), **SMALL)


def test_the_command_trains_and_evaluates_with_test_rows_without_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", x_train=X, y_train=NUMBERS, x_test=X[:8])
    options = ("--data", "mine.npz", "--labels-from", "y_train", *OPTIONS)
    result = call("train", "--model", "m2", *options, "--out", "run", "--evaluation-samples", "3")
    assert result.exit_code == 0, result.output
    assert "test error" not in result.stdout
    result = call("evaluate", "run", "--num-samples", "3")
    assert result.exit_code == 0, result.output
    assert "test error" not in result.stdout
    message = "conditional-vae needs labels, and the test rows of the data mine.npz have none"
    assert_one_clear_line(call("train", "--model", "conditional-vae", *options, "--out", "other"), message)


def test_a_file_of_labels_may_be_of_the_training_rows_alone(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "test.npy", X[:8])
    np.save(tmp_path / "y.npy", NUMBERS)
    data = from_path(tmp_path / "x.npy", labels_from=tmp_path / "y.npy", test_split=tmp_path / "test.npy")
    assert data.train_labels.tolist() == NUMBERS.tolist()
    assert data.test_labels is None


# Other data for a run


def digits_run(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / model
    result = call("train", "--model", model, *OPTIONS, "--no-evaluate", "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def m2_run(tmp_path_factory):
    return digits_run("m2", tmp_path_factory)


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory):
    return digits_run("conditional-vae", tmp_path_factory)


COMMANDS = {
    "score": ("--out", "out.csv", "--num-samples", "3", "--no-progress"),
    "encode": ("--out", "out.npz", "--num-samples", "2"),
    "reconstruct": ("--out", "out.npz"),
}


def other_rows(folder, width, form):
    x = np.random.default_rng(3).integers(0, 2, (9, width)).astype(np.float32)
    path = folder / f"other.{form.split()[0]}"
    if form == "npy":
        np.save(path, x)
    elif form == "npz":
        np.savez(path, x=x)
    elif form == "npz of missing labels":
        np.savez(path, x=x, y=np.full(len(x), -1))
    else:
        write_csv(path, x, [f"a{column}" for column in range(width)])
    return path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["npy", "npz", "npz of missing labels", "csv"])
def test_data_without_labels_for_a_run_on_named_data(tmp_path, monkeypatch, m2_run, conditional_run, command, form):
    monkeypatch.chdir(tmp_path)
    path = other_rows(tmp_path, 64, form)
    result = call(command, m2_run, "--data", path, *COMMANDS[command], "--threads", "1")
    assert result.exit_code == 0, result.output
    complaint = call(command, conditional_run, "--data", path, *COMMANDS[command], "--overwrite", "--threads", "1")
    assert_one_clear_line(complaint, f"--data {path}: conditional-vae needs labels, and these data have none")


@pytest.mark.parametrize("form", ["npy", "npz", "npz of missing labels", "csv"])
@pytest.mark.parametrize("own_form", ["npz", "csv", "a file of labels"])
def test_data_without_labels_for_a_run_on_own_data(tmp_path, monkeypatch, own_form, form):
    monkeypatch.chdir(tmp_path)
    labels_from, data = {"npz": ("y", "mine.npz"), "csv": ("kind", "mine.csv")}.get(own_form, ("y.npy", "mine.npy"))
    np.savez("mine.npz", x=X, y=NUMBERS)
    write_table(tmp_path / "mine.csv", NUMBERS)
    np.save("mine.npy", X)
    np.save("y.npy", NUMBERS)
    path = other_rows(tmp_path, 12, form)
    for model in ("m2", "conditional-vae"):
        options = ("--data", data, "--labels-from", labels_from, *OPTIONS, "--no-evaluate", "--out", model)
        result = call("train", "--model", model, *options)
        assert result.exit_code == 0, result.output
    for command, given in COMMANDS.items():
        result = call(command, "m2", "--data", path, *given, "--overwrite", "--threads", "1")
        assert result.exit_code == 0, result.output
        result = call(command, "conditional-vae", "--data", path, *given, "--overwrite", "--threads", "1")
        has_array = own_form == "npz" and form == "npz of missing labels"
        expected = "needs a label for each example, and 9 of" if has_array else "needs labels, and these data have none"
        assert_one_clear_line(result, f"conditional-vae {expected}")
        assert "--labels-from" not in result.stderr


def test_a_file_of_labels_is_not_one_of_other_data(tmp_path, monkeypatch):
    """Nine other rows are not the nine test rows, whose labels follow those of the training rows."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("test.npy", X[:9])
    np.save("y.npy", np.concatenate([NUMBERS, NUMBERS[:9]]))
    options = ("--data", "x.npy", "--labels-from", "y.npy", "--test-split", "test.npy", *OPTIONS, "--no-evaluate")
    assert call("train", "--model", "m2", *options, "--out", "run").exit_code == 0
    for rows, has_labels in ((other_rows(tmp_path, 12, "npy"), False), ("test.npy", True)):
        result = call("reconstruct", "run", "--data", rows, "--out", "out.npz", "--overwrite", "--threads", "1")
        assert result.exit_code == 0, result.output
        assert ("labels" in np.load("out.npz")) == has_labels


# Numbers that cannot be labels


@pytest.mark.parametrize(
    ("labels", "value"),
    [
        ([0, 1e19, 2e19], r"less than 2\^53 where they are floating point, got 1e\+19"),
        ([0, 2.0**53, 1], r"less than 2\^53 .*, got 9007199254740992\.0"),
        ([0, -(2.0**60), 1], r"got -1\.15\d+e\+18"),
        (np.array([0, 1, 2**63 + 5], np.uint64), r"less than 2\^63, got 9223372036854775813"),
        ([0, 1, 2**64], r"less than 2\^63 or words, got 18446744073709551616"),
        ([0, None, 2**53 + 1], r"less than 2\^53 .*, got 9007199254740992\.0"),
        ([0, np.inf, 1], "whole numbers or words, got inf"),
    ],
)
def test_labels_that_are_too_large_are_refused(labels, value):
    with pytest.raises(DataError, match=value):
        from_arrays(X[:3], X[:3], labels=labels, test_labels=[0, 1, 0])
    with pytest.raises(DataError, match=value):
        fastvi.fit("m2", (scipy_rows()[:3], labels), test=(X[:3], [0, 1, 0]), **SMALL)


def test_large_whole_numbers_of_a_csv_file_are_not_rounded(tmp_path):
    write_table(tmp_path / "table.csv", [-(2**53) - place % 2 for place in range(COUNT)])
    assert from_path(tmp_path / "table.csv", labels_from="kind").class_names == (str(-(2**53) - 1), str(-(2**53)))
    write_table(tmp_path / "table.csv", [2**63, *NUMBERS[1:]])
    with pytest.raises(DataError, match=r"table\.csv: expected labels less than 2\^53 .*, got 9\.2"):
        from_path(tmp_path / "table.csv", labels_from="kind")


@pytest.mark.parametrize("kind", [list, lambda labels: np.array(labels, np.uint64)])
def test_balanced_labels_refuses_what_int64_cannot_hold(kind):
    with pytest.raises(ValueError, match=r"balanced_labels: labels must be less than 2\^63, got 9223372036854775813"):
        balanced_labels(kind([0, 1, 2**63 + 5]), 3, seed=0)
    assert balanced_labels(np.array([0, 1], np.uint64), 2, seed=0).tolist() == [0, 1]


def test_numbers_with_many_gaps_between_them_are_refused_before_training(tmp_path):
    labels = NUMBERS % 3 * 100_000
    message = "the labels of the data {} are 3 different numbers up to 200,000"
    for model in ("m2", "conditional-vae"):
        with pytest.raises(ValueError, match=message.format("data")):
            fastvi.fit(model, (X, labels), **SMALL)
    path = tmp_path / "mine.npz"
    np.savez(path, x=X, y=labels)
    command = ("train", "--model", "m2", "--data", path, "--labels-from", "y", "--out", tmp_path / "run", *OPTIONS)
    assert_one_clear_line(call(*command), message.format(path))
    assert not (tmp_path / "run").exists()
    assert from_arrays(X, labels=labels).num_classes == 200_001  # a model that needs no labels does not mind
    assert fastvi.fit("conditional-vae", (X, NUMBERS % 3 * 400), **SMALL).config.num_classes == 801


# Labels that are all missing


@pytest.mark.parametrize("missing", [-1, -1.0, float("nan"), "", None])
def test_no_label_at_all_is_refused(tmp_path, missing):
    labels = [missing] * COUNT
    with pytest.raises(ValueError, match="no training example has a label"):
        fastvi.fit("m2", (X, labels), **SMALL)
    with pytest.raises(ValueError, match="needs a label for each example, and 48 of the data data have none"):
        fastvi.fit("conditional-vae", (X, labels), **SMALL)
    write_table(tmp_path / "table.csv", ["" if missing is None else missing] * COUNT)
    command = ("train", "--model", "m2", "--data", tmp_path / "table.csv", "--labels-from", "kind", *OPTIONS)
    assert_one_clear_line(call(*command, "--out", tmp_path / "run"), "no training example has a label")
    assert from_arrays(X, labels=np.where(NUMBERS % 2 == 0, -1, 1)).class_names == ("-1", "1")
