"""Every transport in the registry keeps the contract."""

from __future__ import annotations

import pytest

from galamp.gossip.transport import TRANSPORTS
from tests.contracts.transport import TransportContract


class TestRegistered(TransportContract):
    """Whatever is in the registry, under its name."""

    @pytest.fixture(autouse=True, params=sorted(TRANSPORTS))
    def _named(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param
