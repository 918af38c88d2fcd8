"""Reading what the real W&B has written offline."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def wandb_rows(folder: Path) -> tuple[list[dict[str, Any]], Any]:
    """Return the rows in a folder of an offline run, and what it says of the run."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    rows, run = [], None
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            run = record.run
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in items})
    return rows, run


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log with W&B's header of 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(content):
        size, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield record
            record = b""
        left = -at % 32_768
        at += left if left < 7 else 0  # no header fits into the rest of the block
