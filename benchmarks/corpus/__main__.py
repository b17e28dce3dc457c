"""`python -m benchmarks.corpus`."""

import sys

from .build import main

sys.exit(main())
