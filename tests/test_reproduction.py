"""The page of the reproduction has what its scripts print, and their rows are options that fastvi train takes."""

import csv
import itertools
import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from sklearn.svm import LinearSVC

from fastvi.data import balanced_labels, evenly_spaced, load_dataset
from fastvi.models import MODELS
from fastvi.objectives import OBJECTIVES
from fastvi.semi_supervised import LatentFeatures
from support.command import call

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "bench" / "reproduce"
PAGE = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")


@pytest.fixture
def scripts(monkeypatch):
    """The modules of bench/reproduce, by name; none stays imported."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("rows", "run", "table", "semi_supervised")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = {name: __import__(name) for name in names}
    yield found
    for name in names:
        sys.modules.pop(name, None)


def test_the_page_has_the_tables(scripts, capsys):
    scripts["table"].main()
    first = capsys.readouterr().out
    scripts["semi_supervised"].print_table()
    second = capsys.readouterr().out
    assert first.count("\n") > 2
    assert first in PAGE
    assert second in PAGE


def test_rows_are_of_known_models_and_objectives_and_begin_with_known_rows(scripts):
    rows = scripts["rows"].ROWS
    for name, row in rows.items():
        words = shlex.split(row.options)
        options = dict(itertools.pairwise(words))
        assert row.name == name
        assert options.get("--model", "vae") in MODELS
        assert options["--objective"] in OBJECTIVES
        assert row.start_from is None or list(rows).index(row.start_from) < list(rows).index(name)


def test_a_row_is_trained_gone_on_with_and_told(scripts, tmp_path, monkeypatch, capsys):
    """The first row on scikit-learn's digits, with a single epoch and few samples."""
    run = scripts["run"]
    monkeypatch.setattr(run, "RECIPE", run.RECIPE.replace("--data mnist", "--data digits"))
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "AIS", "--ais --ais-temperatures 4 --ais-chains 2 --ais-images 3")
    few = "--num-samples 30"
    short = scripts["rows"].Row(
        "short", "--objective elbo --epochs 1 --hidden-dims 4 --latent-dim 2 --seed 1", 86.76, ais=True, evaluation=few
    )
    monkeypatch.setattr(run, "ROWS", {"short": short})
    commands = []

    def fastvi(*words):
        commands.append(words[0])
        result = call(*words)
        assert result.exit_code == 0, result.output

    monkeypatch.setattr(run, "fastvi", fastvi)
    monkeypatch.setattr(sys, "argv", ["run.py", "short", "--out", str(tmp_path)])
    run.main()
    run.main()  # all is there
    assert commands == ["train", "evaluate"]
    with (tmp_path / "results" / "short-seed1.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    found = json.loads((tmp_path / "short" / "evaluation.json").read_text())
    assert float(row["importance_weighted"]) == pytest.approx(found["importance_weighted"], abs=1e-3)
    assert (row["row"], row["seed"], row["epochs"]) == ("short", "1", "1")
    assert row["ais"] != ""
    assert "short-seed1.csv: L_30 " in capsys.readouterr().out


def test_a_draw_of_the_support_vector_machine(scripts, tmp_path, monkeypatch):
    """On scikit-learn's digits, with an M1 of few epochs."""
    script, digits = scripts["semi_supervised"], load_dataset("digits")
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script, "load_dataset", lambda *_: digits)
    result = call("train", "--objective", "elbo", "--epochs", "5", "--out", tmp_path / "vae-k1", "--no-evaluate")
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(sys, "argv", ["x", "m1-svm", "--labels", "100", "--draw", "2", "--out", str(tmp_path)])
    script.main()
    with (tmp_path / "results" / "m1-svm-100-draw2.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    labels = digits.train_labels.clone()
    unlabelled = torch.ones_like(labels, dtype=torch.bool)
    unlabelled[balanced_labels(labels, 100, seed=2)] = False
    features = LatentFeatures(tmp_path / "vae-k1").fit(digits.train[evenly_spaced(1000, 1500)].numpy())
    machine = LinearSVC(dual=False).fit(features.transform(digits.train[~unlabelled].numpy()), labels[~unlabelled])
    score = machine.score(features.transform(digits.test.numpy()), digits.test_labels)
    # Rows in another order: a test image on the edge of two classes may fall to the other side.
    assert float(row["error"]) == pytest.approx(100.0 * (1.0 - score), abs=1.0)
    assert (row["model"], row["labels"], row["draw"]) == ("m1-svm", "100", "2")
