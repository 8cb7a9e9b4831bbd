"""The command line, called in this process."""

import torch
from typer.testing import CliRunner

from fastvi.cli import app

SMALL = ("--epochs", "2", "--hidden-dims", "8", "--latent-dim", "2", "--num-samples", "2", "--batch-size", "500")
SHORT_EVALUATION = ("--evaluation-samples", "50", "--evaluation-limit", "20")


def call(*arguments):
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)


def assert_one_clear_line(result, message):
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    assert message in lines[0], lines[0]
