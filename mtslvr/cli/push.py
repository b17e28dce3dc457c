"""`mtslvr push`: a checkpoint folder to a repository of the hub, its model card checked first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import Command

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


@click.command("push", cls=Command, short_help="Publish a checkpoint folder on the hub.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo", metavar="org/name")
@click.option("--publish", is_flag=True, help="Send it; without this nothing leaves the machine.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push_command(folder: Path, repo: str, publish: bool, private: bool) -> None:
    """Publish the checkpoint in FOLDER as the repository org/name of the hub.

    Checkpoint and model card are checked, and what would be sent is listed; --publish sends it. The token is the
    one of `hf auth login` or HF_TOKEN.
    """
    from ..checkpoint import sha256

    paths = check(folder, repo)
    for path in paths:
        click.echo(f"{path.name}  {path.stat().st_size} bytes  sha256 {sha256(path)}")
    left = sorted(path.name for path in folder.iterdir() if path not in paths)
    if left:
        click.echo(f"not sent: {', '.join(left)}", err=True)
    if not publish:
        click.echo(f"checked; nothing was sent. With --publish these files become {repo}")
        return
    commit = send(paths, repo, private)
    click.echo(f"{commit.commit_url}\nload it with mtslvr.load({f'{repo}@{commit.oid}'!r})")


def check(folder: Path, repo: str) -> list[Path]:
    """The files to send.

    Raises:
        HubError: `repo` is not "org/name".
        CheckpointError: not a checkpoint that loads, or a model card that does not say enough.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    from .. import checkpoint
    from ..errors import CheckpointError, HubError

    try:
        hf_hub_url(repo, checkpoint.CONFIG_NAME)  # checks the name
        if "/" not in repo:
            raise HFValidationError("no organisation or user before a '/'")
    except HFValidationError as error:
        raise HubError(f"{repo!r}: not a repository id ({error}); give 'org/name'") from None
    checkpoint.load(folder)
    missing = missing_in_card(folder)
    if missing:
        raise CheckpointError(
            f"{folder / checkpoint.CARD_NAME}: the model card lacks {'; '.join(missing)}. Nothing is published "
            "without these: complete the card (benchmarks/model_card.py writes one)"
        )
    return [folder / name for name in (checkpoint.CONFIG_NAME, checkpoint.WEIGHTS_NAME, checkpoint.CARD_NAME)]


def missing_in_card(folder: Path) -> list[str]:
    """What users of published weights have to be told, and this card does not tell."""
    from ..registry import read_card

    card = read_card(folder)
    wanted = {
        "a licence (license:)": card.licence,
        "library_name: mtslvr": card.library == "mtslvr",
        "the training data (datasets:)": card.training_data,
        "measured results (model-index:)": card.figures,
        "a text": card.text,
    }
    return [what for what, there in wanted.items() if not there]


def send(paths: list[Path], repo: str, private: bool) -> CommitInfo:
    """One commit with these files, in a repository made where missing.

    Raises:
        HubError: refused or unreachable.
    """
    from importlib import metadata

    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    from ..errors import HubError, one_line

    api = HfApi(library_name="mtslvr", library_version=metadata.version("mtslvr"))
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path.name, path) for path in paths]
        return api.create_commit(repo, operations, commit_message=f"Weights for mtslvr {metadata.version('mtslvr')}")
    except Exception as error:  # those of httpx or httpx2, by the version of huggingface_hub, among them
        said = one_line(error) or type(error).__name__
        refused = isinstance(error, LocalTokenNotFoundError) or (
            isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
        )
        remedy = "log in with `hf auth login` and a token that may write" if refused else "try again"
        raise HubError(f"{repo}: {constants.ENDPOINT} did not take it ({said}); {remedy}") from None
