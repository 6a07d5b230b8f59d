"""``python -m lstm_explain.report``."""

import sys

from lstm_explain.report.command import main

sys.exit(main())
