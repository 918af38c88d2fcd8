"""One compute thread for every test and all that it starts: two cores, many processes."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
