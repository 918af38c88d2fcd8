"""Deep reinforcement learning by asynchronous gossip between actor-learners on one machine."""

# Nothing is imported at once, not even `typing`: `python -m galamp` comes here while the working
# directory is still searched first, see isolation.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from galamp.tools.evaluation.agent import Agent, load

__version__ = "0.1.0"
__all__ = ["Agent", "__version__", "load"]


def __getattr__(name: str) -> object:
    """Import what needs torch when it is asked for: every process imports this package."""
    if name not in ("Agent", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from galamp.tools.evaluation import agent

    return getattr(agent, name)
