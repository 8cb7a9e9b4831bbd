"""Interrupted sampling: what was drawn is kept, and what is resumed is to the bit what would have been drawn."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastvi.mcmc import Positive, SamplerWarning, Samples, sample
from fastvi.mcmc._recording import Recording

F64 = torch.float64
WARMUP, SAMPLES, THIN = 25, 12, 2
START = {"mean": torch.linspace(-1.0, 1.0, 16, dtype=F64).reshape(8, 2), "scale": torch.ones(8, dtype=F64)}


@pytest.fixture(autouse=True)
def _python_handles_ctrl_c() -> Iterator[None]:
    """As in a terminal: a process that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class CrashError(Exception):
    """What ends a process in the middle of a step."""


class Model:
    """A log density that does something at one of its calls."""

    def __init__(self, act: Callable[[], object] = lambda: None, at: int = -1, shift: float = 0.0) -> None:
        self.act, self.at, self.shift, self.calls = act, at, shift, 0

    def __call__(self, mean: Tensor, scale: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            self.act()
        return -0.5 * (mean - self.shift).square().sum(-1) - scale + scale.log()


def run(model: Model, path: Path | None = None, algorithm: str = "hmc", **options: Any) -> Samples:
    arguments: dict[str, Any] = {"seed": 5, "thin": THIN, "bijections": {"scale": Positive()}, "progress": False}
    arguments |= {"num_samples": SAMPLES, "num_warmup": WARMUP, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        return sample(model, START, algorithm=algorithm, checkpoint=path, **arguments)


def crash() -> None:
    raise CrashError


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def assert_same(found: Samples, expected: Samples) -> None:
    for name, value in expected.draws.items():
        assert torch.equal(found[name], value)
    for name, value in expected.statistics.items():
        assert torch.equal(found.statistics[name], value), name
    assert torch.equal(found.num_divergent, expected.num_divergent)
    assert found.settings == expected.settings
    assert found.is_complete


@pytest.mark.parametrize("algorithm", ["hmc", "mala", "chees", "meads"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_after_a_crash_the_draws_are_those_of_an_uninterrupted_run(
    algorithm: str, part: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a file that is written after every step; at 20 % the warm-up still runs, at 90 % draws are made."""
    whole = Model()
    expected = run(whole, algorithm=algorithm)
    monkeypatch.setattr("fastvi.mcmc.sampling._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    path = tmp_path / "chains.pt"
    with pytest.raises(CrashError):
        run(Model(crash, int(part * whole.calls)), path, algorithm)
    resumed = Model()
    assert_same(run(resumed, path, algorithm), expected)
    assert resumed.calls < (1.05 - part) * whole.calls + 10
    assert [file.name for file in tmp_path.iterdir()] == ["chains.pt"]


def test_ctrl_c_keeps_the_draws_and_the_next_call_goes_on(tmp_path: Path) -> None:
    whole = Model()
    expected = run(whole)
    path = tmp_path / "chains.pt"
    with pytest.warns(SamplerWarning, match=f"Sampling was interrupted: each chain has . draws of {SAMPLES}"):
        part = sample(
            Model(interrupt, int(0.85 * whole.calls)), START, SAMPLES, WARMUP, algorithm="hmc", seed=5, thin=THIN,
            bijections={"scale": Positive()}, progress=False, checkpoint=path,
        )  # fmt: skip
    assert not part.is_complete
    assert 0 < part.num_samples < SAMPLES
    assert "; interrupted" in part.table()
    assert torch.equal(part["mean"], expected["mean"][:, : part.num_samples])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same(run(Model(), path), expected)


def test_ctrl_c_in_warm_up_ends_the_call_and_the_next_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "chains.pt"
    with pytest.raises(KeyboardInterrupt):
        run(Model(interrupt, 40), path)
    assert path.exists()
    assert_same(run(Model(), path), run(Model()))


def test_ctrl_c_while_results_are_made_keeps_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(Model())
    draws = Recording.draws

    def interrupted_draws(self: Recording, parameters: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return draws(self, parameters)

    monkeypatch.setattr(Recording, "draws", interrupted_draws)
    assert_same(run(Model()), expected)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("num_warmup", [0, 1, 2, 12])
def test_meads_goes_on_with_the_transition_that_it_began_with(tmp_path: Path, num_warmup: int) -> None:
    options: dict[str, Any] = {"algorithm": "meads", "seed": 1, "progress": False, "num_warmup": num_warmup}
    start = torch.zeros(16, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        whole = sample(lambda x: -0.5 * x.square().sum(-1), start, 20, **options)
        path = tmp_path / "chains.pt"
        sample(lambda x: -0.5 * x.square().sum(-1), start, 7, checkpoint=path, **options)
        assert_same(sample(lambda x: -0.5 * x.square().sum(-1), start, 20, checkpoint=path, **options), whole)
    assert not torch.equal(whole["x"][:, 6], whole["x"][:, 7])


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    """Each bit counts, and a file that was cut off is none."""
    path = tmp_path / "chains.pt"
    samples = run(Model(), path)
    samples.save(tmp_path / "samples.pt")
    for file, read in ((path, lambda: run(Model(), path)), (tmp_path / "samples.pt", None)):
        content = file.read_bytes()
        damages = [content[:size] for size in (0, 1, len(content) // 2, len(content) - 1)]
        for place in range(7, len(content), len(content) // 40):
            damages.append(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        for damaged in damages:
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"holds no (checkpoint of sampling|samples) of fastvi") as caught:
                read() if read is not None else Samples.load(file)
            assert len(str(caught.value).splitlines()) == 1
            assert str(file) in str(caught.value)


def test_an_interrupt_in_the_middle_of_a_step_keeps_the_draws() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    whole = Model()
    expected = run(whole)
    part = run(Model(stop, int(0.85 * whole.calls)))
    assert 0 < part.num_samples < SAMPLES
    assert torch.equal(part["scale"], expected["scale"][:, : part.num_samples])


def test_a_finished_run_is_returned_and_drawn_on(tmp_path: Path) -> None:
    path = tmp_path / "chains.pt"
    first = run(Model(), path)
    again = Model()
    assert_same(run(again, path, seed=None), first)
    assert again.calls < 10  # the checks of the start
    more = run(Model(), path, num_samples=SAMPLES + 5)
    assert_same(more, run(Model(), num_samples=SAMPLES + 5))
    with pytest.raises(ValueError, match="has 17 draws, more than num_samples 12"):
        run(Model(), path)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Model(shift=0.5), {}, "there the log density of the first chain at its start was"),
        (Model(), {"seed": 6}, "its seed is 5, here 6"),
        (Model(), {"thin": 1}, "its thin is 2, here 1"),
        (Model(), {"num_warmup": 26}, "its num_warmup is 25, here 26"),
        (Model(), {"target_acceptance": 0.9}, r"its algorithm is HMCAlgorithm\(.*, here HMCAlgorithm\("),
        (Model(), {"bijections": {}}, r"its parameters is mean \(2,\) Identity\(\), scale \(\) Positive\(\), here"),
    ],
)
def test_a_checkpoint_of_another_problem_is_refused(
    model: Model, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "chains.pt"
    run(Model(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        run(model, path, **options)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "chains.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"chains.pt holds no checkpoint of sampling of fastvi"):
        run(Model(), path)
    with pytest.raises(OSError, match="No such file or directory"):
        run(Model(), tmp_path / "missing" / "chains.pt")
    with pytest.raises(IsADirectoryError):
        run(Model(), tmp_path)
