"""Deep reinforcement learning by asynchronous gossip between actor-learners on one machine."""

from __future__ import annotations

__version__ = "0.1.0"
