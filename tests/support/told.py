"""What a run says happened, without the run."""

from __future__ import annotations


class Told(list[str]):
    """The texts of events, in place of `Recorder.log_event`'s owner."""

    def log_event(self, text: str, **_: object) -> None:
        """Take an event."""
        self.append(text)
