"""Some audio, and the command that embeds it with the model of random weights."""

import functools

import pytest
from click.testing import CliRunner

from mtslvr.cli.main import main
from mtslvr.models import hub


@pytest.fixture(scope="session")
def load():
    """Loads each encoder once a session."""
    return functools.cache(hub.load)


@pytest.fixture(scope="session")
def run():
    """Calls `mtslvr`, which is to end with `code`."""

    def call(*arguments, code=0, **more):
        result = CliRunner().invoke(main, [*map(str, arguments)], **more)
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def embed(monkeypatch, load, model, run):
    """Calls `mtslvr embed` with `model`."""
    monkeypatch.setattr(hub, "load", load)
    return functools.partial(run, "embed", "--model", model)


@pytest.fixture(scope="session")
def audio(tmp_path_factory, write):
    """Three short files in two folders."""
    root = tmp_path_factory.mktemp("audio")
    for seed, name in enumerate(["a.wav", "b.wav", "deep/a.wav"]):
        write(root / name, 0.5, seed)
    return root
