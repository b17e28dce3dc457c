"""Puts this folder on the path, so that any test can `import fill_rule`; importlib mode does not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
