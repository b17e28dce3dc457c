"""A process with mtslvr and the real huggingface_hub in it, which does what the lines of JSON on its stdin say."""

import hashlib
import json
import sys
import time
from pathlib import Path

import huggingface_hub
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.models import hub

sys.path.insert(0, str(Path(__file__).parents[2]))

import narrow

narrow.cut_widths()


def load(name, **options):
    encoder = mtslvr.load(name, device="cpu", fold=False, **options)
    state = b"".join(value.numpy().tobytes() for value in encoder.state_dict().values())
    return {"sha256": hashlib.sha256(state).hexdigest(), "config": encoder.config.to_dict()}


def find(name, **options):
    return str(hub.find(name, **options))


def cli(*arguments):
    result = CliRunner().invoke(main, arguments)
    return {"code": result.exit_code, "out": result.stdout, "err": result.stderr}


def version():
    return huggingface_hub.__version__


CALLS = {"load": load, "find": find, "cli": cli, "version": version}

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    name, arguments, options = json.loads(line)
    started = time.monotonic()
    try:
        said = {"value": CALLS[name](*arguments, **options)}
    except mtslvr.MTSLVRError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        said = {"unnamed": repr(error)}
    print(json.dumps({**said, "seconds": time.monotonic() - started}), flush=True)
