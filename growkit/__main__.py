"""Lets `python -m growkit` start the command line."""

import sys

from growkit.cli.main import main

sys.exit(main())
