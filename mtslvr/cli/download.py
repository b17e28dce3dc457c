"""`mtslvr download`: a checkpoint into the hub's cache, or into a folder for a machine without network."""

from __future__ import annotations

from pathlib import Path

import click

from .common import PATH, Command


@click.command("download", cls=Command, short_help="Download a model, for use without network.")
@click.argument("name")
@click.option("--to", type=PATH, metavar="DIR", help="Also copy it into this folder.")
@click.option("--cache-dir", type=PATH, help="Of the hub.  [default: HF_HOME's]")
def download_command(name: str, to: Path | None, cache_dir: Path | None) -> None:
    """Download NAME, "org/name" or "org/name@revision" of the hub, and check that it loads.

    It is then loaded from the cache. With --to, DIR holds config.json, model.safetensors and the model card, as the
    hub does: copy it to a machine without network and use its path as the model there.
    """
    from ..models import checkpoint
    from ..models.hub import find

    folder = find(name, cache_dir=cache_dir)
    checkpoint.load(folder)
    if to is not None:
        copy(folder, to)
    click.echo(to or folder)


def copy(folder: Path, to: Path) -> None:
    """Copy the files of a checkpoint into a folder of their own.

    Raises:
        ConfigError: `to` holds another checkpoint, or cannot be written.
    """
    import shutil

    from ..errors import ConfigError
    from ..models.checkpoint import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, sha256

    names = [name for name in (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME) if (folder / name).exists()]
    try:
        for name in names:
            if (to / name).exists() and sha256(to / name) != sha256(folder / name):
                raise ConfigError(f"{to / name}: of another checkpoint; choose an empty folder")
        to.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(folder / name, to / name)
    except OSError as error:
        raise ConfigError(f"{to}: cannot be written ({error}); choose another folder") from None
