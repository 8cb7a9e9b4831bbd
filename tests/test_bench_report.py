"""What a benchmark run leaves: ratios, the tables, the JSON file and the picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fastvi.benchmarks import picture, report
from fastvi.benchmarks.harness import FORWARD, Settings
from fastvi.benchmarks.results import COMPILE, EAGER, FASTVI, FLOOR, JAX, Result, Timing, in_graph

MACHINE = {"cpu": "test", "cores": 2}


def fake_results() -> list[Result]:
    timings = {
        EAGER: Timing(40e-6, 32e-6, 39e-6, 44e-6, calls_per_block=700, peak_bytes=2**21),
        COMPILE: Timing(30e-6, 24e-6, 29e-6, 33e-6, calls_per_block=900, peak_bytes=0),
        FASTVI: Timing(8e-6, 4e-6, 7e-6, 9e-6, calls_per_block=3000, peak_bytes=2**20),
    }
    return [Result("normal", "kl", FORWARD, threads, 4000, 1e9, timings) for threads in (1, 2)]


def test_ratio_and_bandwidth_fraction() -> None:
    result = fake_results()[0]
    assert result.ratio(EAGER, FASTVI) == pytest.approx(5.0)
    assert result.ratio(EAGER, FASTVI, "best") == pytest.approx(8.0)
    assert result.ratio(EAGER, "another") is None
    assert result.bandwidth_fraction(FASTVI) == pytest.approx(0.5)  # 4000 bytes in 8 us, of 1 GB/s
    assert result.bandwidth_fraction("another") is None


def test_graphs_are_compared_with_graphs() -> None:
    timings = {in_graph(name): timing for name, timing in fake_results()[0].timings.items()}
    result = Result("normal", "kl", FORWARD, 1, 4000, 1e9, timings)
    assert result.ratio(in_graph(EAGER), in_graph(FASTVI)) == pytest.approx(5.0)
    screen = io.StringIO()
    report.print_tables([result], MACHINE, Console(file=screen))
    row = next(line for line in screen.getvalue().splitlines() if line.split()[:1] == ["kl"])
    assert row.split() == ["kl", "forward", "1", "40.0", "30.0", "8.0", "5.00x", "3.75x", "2.00", "0.00", "1.00"]


def test_table_shows_times_ratios_bandwidth_and_memory() -> None:
    screen = io.StringIO()
    report.print_tables(fake_results(), MACHINE, Console(file=screen))
    text = screen.getvalue()
    row = next(line for line in text.splitlines() if line.split()[:1] == ["kl"])
    assert row.split() == ["kl", "forward", "1", "40.0", "30.0", "8.0", "5.00x", "3.75x", "50%", "2.00", "0.00", "1.00"]
    best = [line for line in text.splitlines() if line.split()[:1] == ["kl"]][2]
    shown = ["kl", "forward", "1", "32.0", "+25%", "24.0", "+25%", "4.0", "+100%", "8.00x", "6.00x", "1"]
    assert best.split() == shown
    assert "best in microseconds, and spread: (median - best) / best" in " ".join(text.split())
    assert "timed again" not in text
    assert "bandwidth  " in text
    assert "copy bandwidth, threads 2: 1.0 GB/s" in text
    assert "cpu test, cores 2" in text


def test_table_says_what_was_timed_again_and_what_is_not_known() -> None:
    timings = {name: timing for name, timing in fake_results()[0].timings.items() if name != COMPILE}
    timings[JAX] = Timing(16e-6, 16e-6, 16e-6, 16e-6, calls_per_block=1, peak_bytes=None)
    timings[FLOOR] = Timing(2e-6, 2e-6, 2e-6, 2e-6, calls_per_block=1, peak_bytes=0)
    screen = io.StringIO()
    result = Result("step", "s", "step", 2, None, 1e9, timings, attempts=3)
    report.print_tables([result], MACHINE, Console(file=screen), notes=["a note"])
    lines = screen.getvalue().splitlines()
    row = next(line for line in lines if line.split()[:1] == ["s"])
    memory = ["2.00", "1.00", "?", "0.00"]
    assert row.split() == ["s", "step", "2", "40.0", "8.0", "16.0", "2.0", "5.00x", "2.00x", "4.00x", *memory]
    assert (
        "timed 3 times, because the spread was large: s, step, threads 2; the spread of the attempt shown is 100%"
        in lines
    )
    assert "a note" in lines


def test_json_holds_everything(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    settings = Settings(threads=(1, 2), repeats=3)
    report.write_json(path, fake_results(), settings, MACHINE)
    written = json.loads(path.read_text())
    assert written["machine"] == MACHINE
    assert written["settings"] == {
        "device": "cpu",
        "threads": [1, 2],
        "repeats": 3,
        "block_seconds": 0.03,
        "with_compile": True,
        "with_jax": False,
        "largest_spread": 0.1,
        "attempts": 3,
    }
    assert (written["format"], written["format_version"]) == ("fastvi bench", 2)
    row = written["results"][1]
    assert (row["family"], row["case"], row["mode"], row["threads"]) == ("normal", "kl", FORWARD, 2)
    assert row["timings"][FASTVI] == {
        "median": 8e-6,
        "best": 4e-6,
        "spread": 1.0,
        "lower_quartile": 7e-6,
        "upper_quartile": 9e-6,
        "calls_per_block": 3000,
        "peak_bytes": 2**20,
    }
    assert row["ratios"]["eager / fastvi"] == pytest.approx(5.0)
    assert row["ratios_of_best"]["eager / fastvi"] == pytest.approx(8.0)
    assert row["ratios"]["eager / fastvi+compile"] is None
    assert row["attempts"] == 1
    assert row["bandwidth_fraction"][FASTVI] == pytest.approx(0.5)


def test_machine_is_described() -> None:
    described = report.machine()
    assert described["torch"] == torch.__version__
    assert described["cpu"]
    assert set(described) == {"cpu", "cores", "platform", "python", "torch", "fastvi", "isa", "date"}


def test_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "ratios.png"
    picture.write_plot(path, fake_results())
    assert path.read_bytes().startswith(b"\x89PNG")
