"""A process with mtslvr and the real huggingface_hub in it, which does what the lines of JSON on its stdin say."""

import hashlib
import json
import sys
import time

import huggingface_hub
from click.testing import CliRunner

import mtslvr
from mtslvr import hub, registry
from mtslvr.cli.main import main


def load(name, **options):
    encoder = mtslvr.load(name, device="cpu", fold=False, **options)
    state = b"".join(value.numpy().tobytes() for value in encoder.state_dict().values())
    return {"sha256": hashlib.sha256(state).hexdigest(), "config": encoder.config.to_dict()}


def find(name, **options):
    return str(hub.find(name, **options))


def cli(*arguments):
    result = CliRunner().invoke(main, arguments)
    return {"code": result.exit_code, "out": result.stdout, "err": result.stderr}


def register(name, config, **values):
    made = registry.Registered(config=mtslvr.EncoderConfig.from_dict(config), **values)
    registry.REGISTRY = {**registry.REGISTRY, name: made}


def listing(repo, revision):
    """What the hub's revision and tree API tell of a repository."""
    api = huggingface_hub.HfApi()
    tree = api.list_repo_tree(repo, revision=revision)
    return [api.model_info(repo, revision=revision).sha, {entry.path: entry.size for entry in tree}]


def version():
    return huggingface_hub.__version__


CALLS = {"load": load, "find": find, "cli": cli, "register": register, "listing": listing, "version": version}

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    name, arguments, options = json.loads(line)
    started = time.monotonic()
    try:
        said = {"value": CALLS[name](*arguments, **options)}
    except Exception as error:
        said = {"error": type(error).__name__, "mro": [c.__name__ for c in type(error).__mro__], "message": str(error)}
    print(json.dumps({**said, "seconds": time.monotonic() - started}), flush=True)
