"""`mtslvr train`: folders of audio to a run directory with a checkpoint folder in it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from ..config import AdapterKind
from ..errors import ConfigError
from .common import Command


@click.command("train", cls=Command, short_help="Train an encoder on folders of audio.")
@click.option("--data", multiple=True, type=click.Path(path_type=Path), help="Folder of audio; may be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run directory.")
@click.option("--config", type=click.Path(path_type=Path), help="JSON with any field of the training config.")
@click.option("--resume", is_flag=True, help="Go on from the last saved state of --out.")
@click.option("--init", type=click.Path(path_type=Path), help="Run directory whose last state the weights start from.")
@click.option("--stop-after", type=int, metavar="N", help="End after N steps of the schedule.  [default: all]")
@click.option("--adapter", type=click.Choice([kind.value for kind in AdapterKind]), help="Default: parallel.")
@click.option("--contrastive", type=click.Choice(["simclr", "simsiam", "none"]), help="Default: simclr.")
@click.option("--augmentation-weight", type=float, help="Lambda of the joint loss.  Default: 1.")
@click.option("--steps", type=int, help="Optimiser steps.")
@click.option("--batch-size", type=int, help="Clips a step.")
@click.option("--crop-seconds", type=float, help="Length of a training crop.")
@click.option("--learning-rate", type=float, help="Peak of the cosine schedule.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), help="Autocast type.")
@click.option("--seed", type=int)
@click.option("--device", default="auto", show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@click.option("--threads", type=int, help="Torch threads of the training process.")
@click.option("--save-every", default=100, show_default=True, help="Steps between saved states.")
def train_command(
    data: tuple[Path, ...],
    out: Path,
    config: Path | None,
    resume: bool,
    init: Path | None,
    stop_after: int | None,
    adapter: str | None,
    device: str,
    workers: int,
    threads: int | None,
    save_every: int,
    **settings: Any,
) -> None:
    """Train an encoder on folders of audio.

    Without --config and options this is the recipe of the bundled weights. The run directory holds config.json,
    environment.json, losses.csv, the state to resume from, and in checkpoint/ the encoder that
    `mtslvr.load` takes.
    """
    import torch

    from ..training.loop import train

    if threads is not None:
        torch.set_num_threads(threads)
    recipe = read_recipe(out / "config.json" if resume and config is None else config, adapter, settings)
    folder = train(
        recipe,
        out,
        data,
        resume=resume,
        init=init,
        stop_after=stop_after,
        device=device,
        workers=workers,
        save_every=save_every,
    )
    click.echo(f"checkpoint: {folder}")


def read_recipe(path: Path | None, adapter: str | None, settings: dict[str, Any]) -> Any:
    """A TrainConfig from a JSON file, with the options given on the command line on top."""
    from ..training.config import TrainConfig, encoder_config

    try:
        values = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable JSON file ({error})") from None
    recipe = TrainConfig.from_dict(values)
    changes = {name: value for name, value in settings.items() if value is not None}
    if adapter is not None:
        changes["encoder"] = encoder_config(AdapterKind(adapter), recipe.encoder.window_seconds)
    return dataclasses.replace(recipe, **changes)
