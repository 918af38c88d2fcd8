"""One compute thread for every test and all that it starts: two cores, many processes."""

from __future__ import annotations

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"

# Whoever starts the tests in the background may ignore signals; children would inherit that, and
# a run leaves ignored signals ignored.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)
