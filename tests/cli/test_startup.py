"""What a start imports, counted and not timed; benchmarks/startup.py measures the seconds."""

import json
import subprocess
import sys

import pytest

from mtslvr.cli.main import main


def imported(code, without=""):
    """Top-level packages outside the standard library that `code` imports beyond those of `without`."""
    program = f"""
import contextlib, io, json, sys
{without}
before = {{name.split(".")[0] for name in sys.modules}}
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
{chr(10).join("    " + line for line in code.splitlines())}
after = {{name.split(".")[0] for name in sys.modules}} - before
print(json.dumps([sorted(after - set(sys.stdlib_module_names)), said.getvalue()]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arguments", [[], *([name] for name in main.lazy)], ids=lambda arguments: " ".join(arguments))
def test_help_imports_click_and_nothing_else(arguments):
    code = f"sys.argv = ['mtslvr', *{arguments!r}, '--help']\nfrom mtslvr.cli.main import main\nmain()"
    packages, said = imported(code)
    assert said.startswith(" ".join(["Usage: mtslvr", *arguments, ""]))
    assert packages == ["click", "mtslvr"]


def test_help_of_the_embedding_command():
    code = "sys.argv = ['mtslvr-embed', '--help']\nfrom mtslvr.cli.embed import main\nmain()"
    packages, said = imported(code)
    assert said.startswith("Usage: mtslvr-embed ") and packages == ["click", "mtslvr"]


def test_the_package_alone_imports_nothing():
    assert imported("import mtslvr")[0] == ["mtslvr"]


def test_embedding_imports_what_reads_audio_and_weights_beside_torch():
    packages, _ = imported("import mtslvr\nmtslvr.embed, mtslvr.load", without="import numpy, torch")
    assert set(packages) <= {"mtslvr", "soundfile", "_soundfile", "_soundfile_data", "_cffi_backend", "cffi", "soxr",
                             "safetensors"}  # fmt: skip


def test_bundled_weights_are_found_without_the_library_of_hubs():
    code = "import mtslvr\nfrom mtslvr import hub\nhub.find(next(iter(hub.bundled()))) if hub.bundled() else None"
    assert "huggingface_hub" not in imported(code)[0]
