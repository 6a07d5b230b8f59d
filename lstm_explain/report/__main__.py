"""``python -m lstm_explain.report``."""

import sys

try:
    from lstm_explain.report.command import main

    code = main()
except KeyboardInterrupt:
    # Before there was anything to interrupt, or after the report was there.
    print("interrupted", file=sys.stderr)
    code = 130
sys.exit(code)
