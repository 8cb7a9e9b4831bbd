"""docs/bounds/on-digits.md and its script: which model serves which estimator, and lines that are commands."""

from __future__ import annotations

import dataclasses
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvi._options import options_of
from fastvi._registry import Registry
from fastvi.models import MODELS
from fastvi.objectives import OBJECTIVES
from fastvi.training.settings import TrainingConfig, check_settings

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "digits_table.py"
PAGE = ROOT / "docs" / "bounds" / "on-digits.md"
SMALL = {
    "latent_dim": 2,
    "latent_dims": (3, 2),
    "hidden_dims": (4,),
    "upper_hidden_dims": (4,),
    "channels": (2, 2, 2),
    "layer_dims": (3, 2),
    "num_variables": 2,
    "num_categories": 3,
    "reverse_dim": 4,
    "num_leapfrogs": 1,
}


def _table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, cells without backquotes; the first row is the head."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip().strip("`") for cell in line] for line in lines]
    return [rows[0], *rows[2:]]


def _made(registry: Registry[Any], name: str, given: dict[str, Any]) -> Any:
    """An entry of a registry as the command line makes it for digits, of small sizes."""
    fields: dict[str, Any] = {}
    for option in options_of(registry[name]):
        if option.from_data is not None:
            fields[option.name] = "bernoulli"
        elif option.name in given:
            fields[option.name] = given[option.name]
        elif option.name in SMALL and registry is MODELS:
            fields[option.name] = SMALL[option.name]
        elif option.usual is not dataclasses.MISSING:
            fields[option.name] = option.usual
    return registry.make(name, **fields)


def _options(text: str) -> dict[str, Any]:
    """``--no-analytic-kl --warm-up-steps 9`` as fields."""
    found: dict[str, Any] = {}
    for word in shlex.split(text):
        if word.startswith("--no-"):
            found[word[5:].replace("-", "_")] = False
        elif word.startswith("--"):
            found[last := word[2:].replace("-", "_")] = True
        else:
            found[last] = int(word) if word.isdigit() else word
    return found


@pytest.mark.parametrize("model_name", _table("Which model serves which")[0][1:])
def test_the_page_says_which_model_serves_which_estimator(model_name: str) -> None:
    """Where it says no, the settings are refused in a line; where it says yes, all parameters get finite gradients."""
    head, *rows = _table("Which model serves which")
    x: Any = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)).round()
    model_options = _made(MODELS, model_name, {})
    x = (x, torch.arange(4)) if model_options.uses_labels else x
    for row in rows:
        given = _options(row[0])
        objective = _made(OBJECTIVES, given.pop("objective"), given)
        config = TrainingConfig("digits", (8, 8), objective, model_options, "dynamic", 1, 100, 1e-3, 0, num_classes=10)
        if row[head.index(model_name)] == "no":
            with pytest.raises((TypeError, ValueError)) as refused:
                check_settings(config)
            assert "\n" not in str(refused.value)
            continue
        assert row[head.index(model_name)] == "yes"
        check_settings(config)
        torch.manual_seed(0)
        model = config.build_model(torch.full((64,), 0.5))
        value = objective.at_step(0)(model, x, seed=1)
        assert value.isfinite().all()
        value.mean().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def test_the_page_has_every_model_and_every_objective() -> None:
    head, *rows = _table("Which model serves which")
    bounds = {name for name, entry in OBJECTIVES.items() if entry.is_bound and not entry.uses_labels}
    models = {name for name, entry in MODELS.items() if entry.default_objective in bounds}
    assert (set(head[1:]), len(head[1:])) == (models, len(models))
    assert {_options(row[0])["objective"] for row in rows} == bounds
    lines = [_options(row[0]) for row in _table("Figures")[1:]]
    assert {line["objective"] for line in lines} == bounds
    assert {line.get("model", "vae") for line in lines} == models


def test_the_lines_of_the_page_are_those_of_the_script() -> None:
    script = runpy.run_path(str(SCRIPT))
    head, *rows = _table("Figures")
    assert [cell.replace("`", "") for cell in script["HEAD"]] == [cell.replace("`", "") for cell in head]
    assert [row[0] for row in rows] == script["COMMANDS"]
    for _, elbo, importance_weighted, processor_seconds, *_ in rows:
        assert -30.0 < float(elbo) < float(importance_weighted) < -20.0
        assert float(processor_seconds) < 120.0


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["digits_table.py", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


SHORT = "--epochs 1 --batch-size 500 --hidden-dims 4 --latent-dim 2 --evaluation-samples 10 --evaluation-limit 20"


def test_the_script_prints_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _run(monkeypatch, "--only=conditional-vae", f"--more={SHORT}")
    head, _, line = capsys.readouterr().out.splitlines()
    assert head.startswith("| options of `fastvi train` | ELBO | L_5000 |")
    figures = r"\| -\d+\.\d\d \| -\d+\.\d\d \| \d+ \| \d+ \| \d+ \|"
    assert re.fullmatch(rf"\| `--model conditional-vae --objective dreg` {figures}", line)


def test_what_fails_ends_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="Error: no line holds 'adagrad'"):
        _run(monkeypatch, "--only", "adagrad")
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit, match="Error: false -m fastvi train --threads 1 --no-progress --objective elbo"):
        _run(monkeypatch)
