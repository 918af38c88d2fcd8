"""Profile as a file for speedscope: one profile per process, with its title in its name.

Samples --speedscope--> bytes of profile.speedscope.json

Format: https://github.com/jlfwong/speedscope, `file-format-schema.json`, kind `sampled`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from galamp.tools.profile.stacks import Samples

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def speedscope(name: str, all_samples: Sequence[Samples], rate: int) -> bytes:
    """Return the file; `rate` is in samples per second."""
    frames: dict[str, int] = {}
    profiles = [_profile(samples, frames, rate) for samples in all_samples]
    content = {
        "$schema": SCHEMA,
        "name": name,
        "exporter": "galamp profile",
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": frame} for frame in frames]},
        "profiles": profiles,
    }
    return json.dumps(content).encode()


def _profile(samples: Samples, frames: dict[str, int], rate: int) -> dict[str, Any]:
    """Return one process, the stacks in order; new frames are added to `frames`."""
    stacks = sorted(samples.stacks.items())
    return {
        "type": "sampled",
        "name": f"{samples.title} (process {samples.pid})",
        "unit": "seconds",
        "startValue": 0,
        "endValue": samples.total / rate,
        "samples": [
            [frames.setdefault(frame, len(frames)) for frame in stack] for stack, _ in stacks
        ],
        "weights": [count / rate for _, count in stacks],
    }
