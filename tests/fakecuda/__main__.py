"""Prints settings with which Python has fake GPUs: `eval "$(python -m tests.fakecuda 4)"`.

Further settings are variables of their own, see install.py.
"""

from __future__ import annotations

import shlex
import sys

from tests.fakecuda.inside import settings

if __name__ == "__main__":
    devices = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    for name, value in settings(devices).items():
        print(f"export {name}={shlex.quote(value)}")
