"""``python -m lstm_explain.report``."""

import os
import signal
import sys

try:
    from lstm_explain.report.command import INTERRUPTED, main

    code = main()
    # All that is left is Python's own end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
except KeyboardInterrupt:
    # Before there was anything to interrupt, or after the report was there.
    print("interrupted", file=sys.stderr)
    code = INTERRUPTED = 130
if code == INTERRUPTED:
    # Python would end by the signal, and not with this code, where it had come while compiled code was running Python.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
