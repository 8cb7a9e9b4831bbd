"""Fixtures of the tests of chains."""

import pytest

from support.chain_targets import ROUTES, take_route


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let native targets take the kernel, then matrix products."""
    take_route(request.param, monkeypatch)
    return str(request.param)
