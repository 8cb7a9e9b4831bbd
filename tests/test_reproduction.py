"""The page of the reproduction has what its scripts print, and their rows are options that fastvi train takes."""

import csv
import itertools
import json
import shlex
import sys
from pathlib import Path

import pytest

from fastvi.models import MODELS
from fastvi.objectives import OBJECTIVES
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
