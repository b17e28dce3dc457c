"""One run of `mtslvr-embed` in this process: seconds, CPU seconds, what it said, peak memory."""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
import time
from pathlib import Path
from typing import Any

from mtslvr.cli.embed import embed_command


def embed(source: str, output: str, options: list[str]) -> dict[str, Any]:
    """Embed a file or folder anew.

    Args:
        source: INPUT of the command.
        output: where to write.
        options: more of the command's options.
    Returns:
        Its summary (`seconds` without start, loading and the final writing), `wall` and `cpu` of the whole
        command within Python, and `peak` memory of the process so far in MiB.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        embed_command.main([source, "-o", output, "--overwrite", "--json", "-q", *options], standalone_mode=False)
    summary = json.loads(said.getvalue())
    kept = {name: summary[name] for name in ("done", "failed", "rows", "audio_seconds", "seconds")}
    if kept["failed"] or not kept["done"]:
        raise RuntimeError(f"{source}: {kept['done']} files embedded, {kept['failed']} failed")
    return {**kept, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": peak_mib()}


def peak_mib() -> float:
    """Most resident memory that this process had; that of the parent, which Linux counts in ru_maxrss, left out."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) / 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
