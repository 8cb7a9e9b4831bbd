"""``fastvi bench --compare``: the ratios of two files, what only one of them holds, and the files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fastvi import benchmarks
from fastvi.benchmarks import harness, report
from fastvi.benchmarks.harness import FORWARD, FORWARD_BACKWARD, Settings
from fastvi.benchmarks.results import EAGER, FASTVI, Result, Timing

MACHINE: dict[str, str | int] = {"cpu": "one", "cores": 2, "date": "2026-01-01"}


def _invoke(*arguments: str) -> tuple[int, str]:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(benchmarks.bench)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def _timing(best: float, median: float) -> Timing:
    return Timing(median, best, median, median, calls_per_block=1, peak_bytes=0)


def _result(case: str, mode: str, timings: dict[str, Timing], family: str = "normal") -> Result:
    return Result(family, case, mode, 1, None, 1e9, timings)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Two runs: in the second, fastvi's forward of "kl" takes half the time, and eager's is within its spread."""
    first = [
        _result("kl", FORWARD, {EAGER: _timing(40e-6, 50e-6), FASTVI: _timing(8e-6, 8e-6)}),
        _result("kl", FORWARD_BACKWARD, {FASTVI: _timing(9e-6, 9e-6)}),
        _result("IWAE", "step", {FASTVI: _timing(1e-3, 1e-3)}, family="step"),
    ]
    second = [
        _result("kl", FORWARD, {EAGER: _timing(40e-6, 56e-6), FASTVI: _timing(2e-6, 4e-6)}),
        _result("IWAE", "step", {EAGER: _timing(3e-3, 3e-3), FASTVI: _timing(2e-3, 2e-3)}, family="step"),
    ]
    paths = (tmp_path / "a.json", tmp_path / "b.json")
    report.write_json(paths[0], first, Settings(repeats=3), MACHINE)
    report.write_json(paths[1], second, Settings(repeats=5), {**MACHINE, "cpu": "two", "date": "2026-02-02"})
    return str(paths[0]), str(paths[1])


def test_comparison_shows_the_ratio_of_each_provider_and_mode(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "run", lambda *_, **__: pytest.fail("a comparison times nothing"))
    code, output = _invoke("--compare", *files)
    assert code == 0, output
    rows = [line.split() for line in output.splitlines() if line.split()[:1] in (["kl"], ["IWAE"])]
    assert rows == [
        ["kl", FORWARD, "1", EAGER, "50.0", "56.0", "0.89x", "1.00x", "25%", "40%", "no"],
        ["kl", FORWARD, "1", FASTVI, "8.0", "4.0", "2.00x", "4.00x", "0%", "100%", "no"],
        ["IWAE", "step", "1", FASTVI, "1000.0", "2000.0", "0.50x", "0.50x", "0%", "0%", "yes"],
    ]
    lines = output.splitlines()
    assert f"A: {files[0]}, 2026-01-01" in lines
    assert f"only in A: kl, {FORWARD_BACKWARD}, threads 1, {FASTVI}" in lines
    assert f"only in B: IWAE, step, threads 1, {EAGER}" in lines
    assert "machine differs, cpu: A one, B two" in lines
    assert "settings differs, repeats: A 3, B 5" in lines
    assert sum(line.startswith(("machine", "settings")) for line in lines) == 2


@pytest.mark.parametrize(("option", "value"), [("--family", "step"), ("--case", "IWAE")])
def test_comparison_of_some_cases(files: tuple[str, str], option: str, value: str) -> None:
    code, output = _invoke("--compare", *files, option, value)
    assert code == 0, output
    assert "IWAE" in output
    assert "kl" not in output


def test_a_file_compared_with_itself_is_as_fast(files: tuple[str, str]) -> None:
    code, output = _invoke("--compare", files[0], files[0])
    assert code == 0, output
    assert output.count("1.00x") == 2 * 4
    assert "machine and settings are the same" in output


def test_what_a_run_writes_can_be_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "copy_bandwidth", lambda timer, settings: 1e9)
    path = str(tmp_path / "run.json")
    options = ("--quick", "--no-compile", "--threads", "1", "--json", path)
    assert _invoke("--case", "kl_normal 100x50", *options)[0] == 0
    code, output = _invoke("--compare", path, path)
    assert code == 0, output
    assert output.count("kl_normal 100x50") >= 4  # two modes, two providers


def test_nothing_in_common_is_an_error(files: tuple[str, str]) -> None:
    code, output = _invoke("--compare", *files, "--case", "another")
    assert code == 2
    assert output.count("\n") == 1
    assert "have no case, mode, thread count and provider in common" in output


def _without(*keys: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: {key: value for key, value in content.items() if key not in keys}


def _with_timing(**changes: object) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> object:
        content["results"][0]["timings"][EAGER].update(changes)
        return content

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content: [content], "not a file of fastvi bench --json"),
        (lambda content: 3, "not a file of fastvi bench --json"),
        (lambda content: {**content, "format": "another"}, "not a file of fastvi bench --json"),
        (_without("results"), "not a file of fastvi bench --json"),
        (
            _without("format", "format_version"),
            "format version 1, but this fastvi reads version 2; time the cases again",
        ),
        (lambda content: {**content, "format_version": 3}, "format version 3, but this fastvi reads version 2"),
        (_without("machine"), "damaged"),
        (lambda content: {**content, "results": [3]}, "damaged"),
        (lambda content: {**content, "results": [{"timings": ["eager"]}]}, "damaged"),
        (_with_timing(median="soon"), "damaged"),
        (_with_timing(median=None), "damaged"),
        (_with_timing(best=0.0), "damaged"),
        (_with_timing(best=1.0), "damaged"),
        (_with_timing(median=float("nan")), "damaged"),
        (_with_timing(median=10**400), "damaged"),
    ],
)
def test_another_file_is_one_line(
    files: tuple[str, str], change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    Path(files[1]).write_text(json.dumps(change(json.loads(Path(files[1]).read_text()))))
    code, output = _invoke("--compare", *files)
    assert code == 2
    assert output.startswith(f"Error: --compare: {files[1]}: ")
    assert expected in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[" * 10**5, b"9" * 10**5])
def test_what_is_no_json_is_one_line(files: tuple[str, str], data: bytes) -> None:
    Path(files[0]).write_bytes(data)
    code, output = _invoke("--compare", *files)
    assert code == 2
    assert output.startswith(f"Error: --compare: {files[0]}: not a JSON file")
    assert output.count("\n") == 1


def test_a_file_that_is_not_there_is_one_line(files: tuple[str, str], tmp_path: Path) -> None:
    code, output = _invoke("--compare", files[0], str(tmp_path / "none.json"))
    assert code == 2
    assert output == f"Error: --compare: {tmp_path / 'none.json'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--compare", "a.json"), "--compare"),
        (("--compare", "", "b.json"), "expected a path"),
        (("--compare", "a.json", "b.json", "--json", "c.json"), "it times nothing that --json or --plot could write"),
        (("--compare", "a.json", "b.json", "--plot", "c.png"), "it times nothing that --json or --plot could write"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], expected: str) -> None:
    code, output = _invoke(*arguments)
    assert code == 2
    assert expected in output
