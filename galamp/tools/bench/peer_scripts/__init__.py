"""Programs that train a peer, run by the peer's own Python: they import nothing of galamp.

Each takes `--game ROM --num-envs N --network NAME --seed S --run-dir FOLDER`, and `--algorithm
NAME` if it has several. It trains until it is ended, and appends rows with `global_step`,
`emulator_frames` and `wall_s` to `metrics.jsonl`.
"""

from __future__ import annotations
