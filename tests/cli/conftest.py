"""Some audio, and the command that embeds it with the model of random weights."""

import functools

import pytest
from click.testing import CliRunner

from mtslvr.cli.embed import embed_command
from mtslvr.models import hub


@pytest.fixture(scope="session")
def load():
    """Loads each encoder once a session."""
    return functools.cache(hub.load)


@pytest.fixture
def embed(monkeypatch, load, model):
    """Calls mtslvr-embed with `model`, which is to end with `code`."""
    monkeypatch.setattr(hub, "load", load)

    def run(*arguments, code=0, **more):
        result = CliRunner().invoke(embed_command, ["--model", str(model), *map(str, arguments)], **more)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="session")
def audio(tmp_path_factory, write):
    """Three short files in two folders."""
    root = tmp_path_factory.mktemp("audio")
    for seed, name in enumerate(["a.wav", "b.wav", "deep/a.wav"]):
        write(root / name, 0.5, seed)
    return root
