"""``fastvi bench`` and ``bench/run.py``: the table, the files, what is refused, and the families that are run."""

from __future__ import annotations

import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from fastvi import benchmarks
from fastvi.benchmarks import harness, jax_runtime
from fastvi.benchmarks.harness import FORWARD, FORWARD_BACKWARD
from fastvi.benchmarks.results import EAGER, FASTVI, in_graph
from fastvi.ops import _backends

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "run.py"


def _invoke(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(benchmarks.bench)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_command_prints_the_table_and_writes_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by the copy of a large array, which takes long.
    monkeypatch.setattr(harness, "copy_bandwidth", lambda timer, settings: 1e9)
    files = [str(tmp_path / "results.json"), str(tmp_path / "ratios.png")]
    code, output = _invoke(
        "--case",
        "kl_normal 100x50",
        "--quick",
        "--no-compile",
        "--threads",
        "1",
        "--json",
        files[0],
        "--plot",
        files[1],
    )
    assert code == 0
    assert output.count("kl_normal 100x50") == 4  # two modes, in the table of medians and in that of the best blocks
    assert ("JAX is not timed: it is not installed: pip install jax" in output) == (find_spec("jax") is None)
    results = json.loads(Path(files[0]).read_text())
    assert [row["mode"] for row in results["results"]] == [FORWARD, FORWARD_BACKWARD]
    assert results["settings"]["repeats"] == 3
    assert Path(files[1]).stat().st_size > 0


@pytest.mark.cuda
def test_command_on_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for case in ("kl_normal 100x50", "rsample_normal 50x100x50", "IWAE step, batch 20, K 1"):
        code, output = _invoke("--device", "cuda", "--case", case, "--quick", "--no-compile", "--json", str(path))
        assert code == 0, output
        written = json.loads(path.read_text())
        assert written["machine"]["gpu"] == torch.cuda.get_device_name()
        for row in written["results"]:
            assert {EAGER, FASTVI, in_graph(EAGER), in_graph(FASTVI)} <= set(row["timings"])
            assert row["ratios"][f"{in_graph(EAGER)} / {in_graph(FASTVI)}"] > 0.0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--family", "nothing"), "nothing"),
        (("--case", "no such case"), "no such case"),
        (("--threads", "1,zero"), "1,zero"),
        (("--threads", "0"), "got '0', expected positive numbers"),
        (("--device", "tpu"), "expected 'cpu' or 'cuda'"),
        (("--repeats", "0"), "got '0', expected a"),
    ],
)
def test_command_refuses(arguments: tuple[str, str], expected: str) -> None:
    code, output = _invoke(*arguments)
    assert code == 2
    assert expected in output


def test_command_does_without_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "copy_bandwidth", lambda timer, settings: 1e9)
    monkeypatch.setattr(jax_runtime, "find_spec", lambda name: None)
    arguments = ("--case", "kl_normal 100x50", "--quick", "--no-compile", "--threads", "1")
    code, output = _invoke(*arguments)
    assert code == 0
    assert output.splitlines().count("JAX is not timed: it is not installed: pip install jax") == 1
    code, output = _invoke(*arguments, "--no-jax")
    assert code == 0
    assert "JAX" not in output


def test_command_says_what_the_gpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backends, "cuda_obstacle", lambda: "there is none here")
    code, output = _invoke("--device", "cuda")
    assert code == 2
    assert "got 'cuda', but there is none here" in output


@pytest.mark.parametrize(
    ("arguments", "families"),
    [((), benchmarks.FAMILIES), *(((family,), (family,)) for family in benchmarks.FAMILIES)],
    ids=["all", *benchmarks.FAMILIES],
)
def test_script_takes_the_family(
    arguments: tuple[str, ...],
    families: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    looked_at: list[str] = []

    def cases_of(family: str) -> list[harness.Case]:
        looked_at.append(family)
        return []

    monkeypatch.setattr(harness, "load_cases", cases_of)
    assert _run_script(monkeypatch, *arguments, "--quick", "--case", "some work") == 2
    assert looked_at == list(families)
    assert "no case has 'some work' in its name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("--help",), 0, "--case"),
        (("normal", "--help"), 0, "--case"),
        (("gamma",), 2, f"got 'gamma', expected one of {', '.join(benchmarks.FAMILIES[:2])}"),
        (("normal", "--repeats", "0"), 2, "got '0', expected a"),
    ],
)
def test_script_answers(
    arguments: tuple[str, ...],
    code: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run_script(monkeypatch, *arguments) == code
    assert expected in "".join(capsys.readouterr())


def _run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Run ``bench/run.py`` with these arguments; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code
