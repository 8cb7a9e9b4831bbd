"""Whole training steps: bound, gradient and Adam: perceptrons in float32 and bfloat16, convolutions, trajectories."""

from __future__ import annotations

from fastvi.benchmarks.convolutional_step import convolutional_case
from fastvi.benchmarks.hamiltonian_step import hamiltonian_case
from fastvi.benchmarks.perceptron_step import perceptron_case
from fastvi.benchmarks.tutorial_step import tutorial_case

CASES = [
    perceptron_case(100, 50),
    perceptron_case(20, 50),
    perceptron_case(100, 5),
    perceptron_case(128, 1),
    perceptron_case(100, 1),
    perceptron_case(20, 1),
    perceptron_case(100, 50, autocast=True),
    perceptron_case(100, 1, autocast=True),
    tutorial_case(128, sequential=True),
    tutorial_case(128, sequential=False),
    convolutional_case(128),
    hamiltonian_case(100),
]
