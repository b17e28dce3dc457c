"""`mtslvr push`: a checkpoint folder and its model card checked, and the line that publishes them."""

from __future__ import annotations

from pathlib import Path

import click

from .common import PATH, Command


@click.command(
    "push", cls=Command, checkpoint_is_input=True, short_help="Check a checkpoint folder before it is published."
)
@click.argument("folder", type=PATH)
@click.argument("repo", metavar="org/name")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push_command(folder: Path, repo: str, private: bool) -> None:
    """Check that FOLDER can be published as the repository org/name of the hub.

    The checkpoint must load and its model card must say enough. Nothing is sent: the last line printed is the
    command that sends it, `hf upload` of the Hugging Face hub's own tool, which is installed with mtslvr.
    """
    import shlex

    from ..models.checkpoint import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, sha256

    check(folder, repo)
    names = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME)
    for name in names:
        click.echo(f"{name}  {(folder / name).stat().st_size} bytes  sha256 {sha256(folder / name)}")
    include = [word for name in names for word in ("--include", name)]
    click.echo("checked, and nothing was sent. After `hf auth login`, this publishes it:", err=True)
    click.echo(shlex.join(["hf", "upload", repo, str(folder), ".", *include, *["--private"] * private]))


def check(folder: Path, repo: str) -> None:
    """See that a folder can be published.

    Raises:
        HubError: `repo` is not "org/name".
        CheckpointError: not a checkpoint that loads, or a model card that does not say enough.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    from ..errors import CheckpointError, HubError
    from ..models import checkpoint
    from ..models.registry import read_card

    try:
        hf_hub_url(repo, checkpoint.CONFIG_NAME)  # Checks the name.
        if "/" not in repo:
            raise HFValidationError("no organisation or user before a '/'")
    except HFValidationError as error:
        raise HubError(f"{repo!r}: not a repository id ({error}); give 'org/name'") from None
    checkpoint.load(folder)
    card = read_card(folder)
    wanted = {
        "a licence (license:)": card.licence,
        "library_name: mtslvr": card.library == "mtslvr",
        "the training data (datasets:)": card.training_data,
        "measured results (model-index:)": card.figures,
        "a text": card.text,
    }
    if missing := [what for what, there in wanted.items() if not there]:
        raise CheckpointError(
            f"{folder / checkpoint.CARD_NAME}: the model card lacks {'; '.join(missing)}. Nothing should be published "
            "without these: complete the card (benchmarks/model_card.py writes one)"
        )
