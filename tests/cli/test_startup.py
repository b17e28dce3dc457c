"""What a start imports, counted and not timed; benchmarks/startup.py measures the seconds."""

import json
import subprocess
import sys

import pytest

from mtslvr.cli.main import NAMES


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


def test_help_imports_click_and_nothing_else():
    code = """from mtslvr.cli.main import NAMES, main
for arguments in ([], *([name] for name in NAMES)):
    with contextlib.suppress(SystemExit):
        main([*arguments, "--help"], prog_name="mtslvr")"""
    packages, said = imported(code)
    assert said.count("Usage: mtslvr ") == 1 + len(NAMES)
    assert packages == ["click", "mtslvr"]


@pytest.mark.parametrize("program", ["mtslvr", "mtslvr-embed"])
def test_help_of_the_programs(program):
    entry = "embed" if program == "mtslvr-embed" else "main"
    packages, said = imported(f"sys.argv = [{program!r}, '--help']\nfrom mtslvr.cli.{entry} import main\nmain()")
    assert said.startswith(f"Usage: {program} ") and packages == ["click", "mtslvr"]


def test_the_package_alone_imports_nothing():
    assert imported("import mtslvr")[0] == ["mtslvr"]


@pytest.mark.slow
def test_embedding_imports_what_reads_audio_and_weights_beside_torch():
    packages, _ = imported("import mtslvr\nmtslvr.embed, mtslvr.load", without="import numpy, torch")
    assert set(packages) <= {"mtslvr", "soundfile", "_soundfile", "_soundfile_data", "_cffi_backend", "cffi", "soxr",
                             "safetensors"}  # fmt: skip


@pytest.mark.slow
def test_bundled_weights_are_found_without_the_library_of_hubs():
    code = "from mtslvr.models import hub\nhub.find(next(iter(hub.bundled())))"
    assert "huggingface_hub" not in imported(code)[0]
