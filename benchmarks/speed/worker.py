"""The process of one measurement: python -m speed.worker MODULE:FUNCTION THREADS RESULT < arguments.json."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Call the function, write what it gives."""
    name, threads, result = sys.argv[1:]
    module, function = name.split(":")
    import torch  # before the sections, which may import libraries that count threads themselves

    torch.set_num_threads(int(threads))
    found = getattr(importlib.import_module(module), function)(**json.load(sys.stdin))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
