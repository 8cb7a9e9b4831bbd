"""README's tables of speed: the script that makes them, and that their rows are benchmarks that there are."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from fastvi import benchmarks
from fastvi.benchmarks import harness, report
from fastvi.benchmarks.harness import FORWARD, FORWARD_BACKWARD, Settings
from fastvi.benchmarks.results import COMPILE, EAGER, FASTVI, FASTVI_COMPILE, FLOOR, Result, Timing

ROOT = Path(__file__).resolve().parents[1]


def _result(case: str, mode: str, threads: int, **microseconds: float) -> Result:
    names = {"eager": EAGER, "compiled": COMPILE, "fastvi": FASTVI, "both": FASTVI_COMPILE, "floor": FLOOR}
    timings = {names[name]: Timing(*[time * 1e-6] * 4, 1, 0) for name, time in microseconds.items()}
    return Result("any", case, mode, threads, None, 1e9, timings)


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["readme_table.py", *arguments])
    runpy.run_path(str(ROOT / "bench" / "readme_table.py"), run_name="__main__")


def test_the_tables_show_ratios_and_mark_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    results = [
        _result("kl", FORWARD, 1, eager=900.0, fastvi=1.0),
        _result("kl", FORWARD, 2, eager=30.0, compiled=9.0, fastvi=10.0),
        _result("kl", FORWARD_BACKWARD, 2, eager=25.0, fastvi=20.0),
        _result("IWAE", "step", 2, eager=20.0, compiled=16.0, fastvi=10.0, both=8.0, floor=5.0),
    ]
    report.write_json(path, results, Settings(), {"cpu": "one", "isa": "v4", "torch": "2.14", "cores": 2})
    _run(monkeypatch, str(path))
    assert capsys.readouterr().out.splitlines() == [
        "| work | forward: eager | forward: torch.compile | forward: JAX "
        "| with backward: eager | with backward: torch.compile | with backward: JAX |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| `kl` | 3.00 | **0.90** |  | 1.25 |  |  |",
        "",
        "| training step | eager | torch.compile | JAX | torch.compile, both in it | fastvi / floor |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `IWAE` | 2.00 | 1.60 |  | 2.00 | 2.00 |",
        "",
        "cpu one, isa v4, torch 2.14, threads 2, largest spread 0%",
    ]


@pytest.mark.parametrize(("content", "expected"), [("{}", "not a file of fastvi bench"), (None, "No such file")])
def test_the_script_refuses_in_one_line(
    content: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit, match=expected):
        _run(monkeypatch, str(path))
    with pytest.raises(SystemExit, match="usage"):
        _run(monkeypatch)


def test_rows_of_the_readme_are_benchmarks() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Speed\n")[2].partition("\n## ")[0]
    rows = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
    cases = {case.name for family in benchmarks.FAMILIES for case in harness.load_cases(family)}
    assert rows
    assert rows <= cases
    steps = {name for name in rows if name.startswith("IWAE step")}
    assert any(name.endswith("K 1") for name in steps)
    assert any(name.endswith("bfloat16") for name in steps)
