"""A snapshot as JSON, and back: decoded strictly, since it comes from another process.

    Snapshot --as_json--> {"env_id": ..., "learners": [...], ...} --snapshot_from--> Snapshot

JSON has no NaN and infinity: they are sent as null, and read as None where the field allows it,
else as NaN.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from galamp.core.decode import Limits, Range, decode
from galamp.core.disk import finite
from galamp.core.json_values import DecodeError
from galamp.telemetry.snapshot import Snapshot
from galamp.training.control.framing import BadMessageError

LIMITS = Limits(
    whole=Range(-(2**63) + 1, 2**63 - 1),
    number=Range(-sys.float_info.max, sys.float_info.max),
    all_fields=True,
    null_is_nan=True,
)


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as plain JSON values."""
    values: dict[str, Any] = finite(dataclasses.asdict(snapshot))
    return values


def snapshot_from(values: object) -> Snapshot:
    """Return the snapshot of these JSON values.

    Raises:
        BadMessageError: they are invalid, or of another version of galamp.
    """
    try:
        return decode(Snapshot, values, LIMITS, "snapshot")
    except DecodeError as error:
        raise BadMessageError(f"{error}; it may be of another version of galamp's") from None
