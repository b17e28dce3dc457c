"""What a start imports, counted and not timed; benchmarks/startup.py measures the seconds."""

import json
import subprocess
import sys

import pytest

from mtslvr.cli.main import NAMES


def imported(code, without=""):
    """Top-level packages outside the standard library that `code` imports beyond those of `without`."""
    program = f"""import contextlib, io, json, sys
{without}
before = {{name.split(".")[0] for name in sys.modules}}
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    exec({code!r})
after = {{name.split(".")[0] for name in sys.modules}} - before
print(json.dumps([sorted(after - set(sys.stdlib_module_names)), said.getvalue()]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_imports_click_and_nothing_else():
    code = """from mtslvr.cli.main import NAMES, main
for arguments in ([], *([name] for name in NAMES)):
    with contextlib.suppress(SystemExit):
        main([*arguments, "--help"], prog_name="mtslvr")"""
    packages, said = imported(code)
    assert said.count("Usage: mtslvr ") == 1 + len(NAMES) and packages == ["click", "mtslvr"]
    packages, said = imported("sys.argv = ['mtslvr-embed', '--help']\nfrom mtslvr.cli.embed import main\nmain()")
    assert said.startswith("Usage: mtslvr-embed ") and packages == ["click", "mtslvr"]
    assert imported("import mtslvr")[0] == ["mtslvr"]


@pytest.mark.slow
def test_embedding_imports_what_reads_audio_and_weights_beside_torch_and_no_library_of_hubs():
    packages, _ = imported("import mtslvr\nmtslvr.embed, mtslvr.load", without="import numpy, torch")
    assert {*packages} <= {"mtslvr", "soundfile", "_soundfile", "_soundfile_data", "_cffi_backend", "cffi", "soxr",
                           "safetensors"}  # fmt: skip
    code = "from mtslvr.models import hub\nhub.find(next(iter(hub.bundled())))"
    assert "huggingface_hub" not in imported(code)[0]
