"""Deep reinforcement learning by asynchronous gossip between actor-learners on one machine."""

# Nothing is imported at once, not even `typing`: `python -m galamp` comes here while the working
# directory is still searched first, see isolation.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from galamp.cli.python.result import Result
    from galamp.cli.python.run import Run
    from galamp.cli.python.train import train
    from galamp.core.errors import CheckpointError, GalampError, UserError
    from galamp.telemetry.snapshot import Snapshot
    from galamp.tools.evaluation.agent import Agent, load

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "CheckpointError",
    "GalampError",
    "Result",
    "Run",
    "Snapshot",
    "UserError",
    "__version__",
    "load",
    "train",
]


def __getattr__(name: str) -> object:
    """Import what is asked for when it is: every process imports this package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("Agent", "load"):  # needs torch
        from galamp.tools.evaluation import agent

        return getattr(agent, name)
    if name in ("Result", "Run", "train"):
        from galamp.cli.python import train

        return getattr(train, name)
    if name == "Snapshot":
        from galamp.telemetry import snapshot

        return snapshot.Snapshot
    from galamp.core import errors

    return getattr(errors, name)


def __dir__() -> list[str]:
    """Return what completion in a notebook is to offer."""
    return sorted({*globals(), *__all__})
