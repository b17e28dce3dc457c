"""What the tests of the hub call in processes of their own, whose huggingface_hub has read its environment there."""

import hashlib

from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.models import hub


def load(name, **options):
    encoder = mtslvr.load(name, device="cpu", fold=False, **options)
    state = b"".join(value.numpy().tobytes() for value in encoder.state_dict().values())
    return hashlib.sha256(state).hexdigest(), encoder.config


def find(name, **options):
    return hub.find(name, **options)


def cli(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr
