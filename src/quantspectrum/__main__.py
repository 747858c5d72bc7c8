"""``python -m quantspectrum``."""

import sys

from quantspectrum.cli import main

sys.exit(main())
