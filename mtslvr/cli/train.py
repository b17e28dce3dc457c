"""`mtslvr train`: folders of audio to a run directory with a checkpoint folder in it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from .common import PATH, Command

if TYPE_CHECKING:
    from ..training.config import TrainConfig

# `training.recipes.System`, named here because --help imports no torch.
SYSTEMS = ("contrastive-only", "prediction-only", "mt-simple", "mt-split", "mt-bn", "mt-series", "mt-parallel")


@click.command("train", cls=Command, short_help="Train an encoder on folders of audio.")
@click.option("--data", multiple=True, type=PATH, help="Folder of audio or packed clips; may be repeated.")
@click.option("-o", "--out", required=True, type=PATH, help="Run directory.")
@click.option("--config", type=PATH, help="JSON with changes to the recipe: any field of the training config.")
@click.option("--resume", is_flag=True, help="Go on from the last saved state of --out.")
@click.option("--init", type=PATH, help="Run directory or checkpoint folder to start the weights from.")
@click.option("--stop-after", type=int, metavar="N", help="End after N steps of the schedule.  [default: all]")
@click.option("--system", type=click.Choice(SYSTEMS), help="Which of the paper's systems.  [default: mt-parallel]")
@click.option(
    "--recipe",
    type=click.Choice(["own", "published"]),
    help="Settings: this project's, or the paper's.  [default: own]",
)
@click.option(
    "--contrastive",
    type=click.Choice(["simclr", "simsiam"]),
    help="Contrastive objective of --system.  [default: simclr]",
)
@click.option("--augmentation-weight", type=float, help="Lambda of the joint loss.  [default: 1]")
@click.option("--steps", type=int, help="Optimiser steps.  [default: 16000]")
@click.option("--minutes", type=float, metavar="M", help="As many steps as take M minutes here, by 20 that are timed.")
@click.option("--batch-size", type=int, help="Clips a step.  [default: 128]")
@click.option("--crop-seconds", type=float, help="Length of a training crop.  [default: 1.008]")
@click.option("--learning-rate", type=float, help="Peak of the cosine schedule.  [default: 0.001]")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float32"]),
    help="Autocast type; auto is bfloat16 where the processor has it.  [default: auto]",
)
@click.option("--seed", type=int, help="Of weights and batches.  [default: 42]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@click.option("--threads", type=int, help="Torch threads of the training process.  [default: torch's]")
@click.option("--save-every", default=100, show_default=True, help="Steps between saved states.")
def train_command(
    data: tuple[Path, ...],
    out: Path,
    config: Path | None,
    resume: bool,
    minutes: float | None,
    threads: int | None,
    system: str | None,
    recipe: str | None,
    contrastive: str | None,
    **options: Any,
) -> None:
    """Train an encoder on folders of audio, or on what `mtslvr pack` made of them.

    Without options this trains MT-Parallel with SimCLR in this project's recipe, whose settings are the defaults below.
    The run directory holds config.json, environment.json, losses.csv, the state to resume from, and in checkpoint/ the
    encoder that `mtslvr.load` takes.
    """
    import torch

    from ..training.config import TrainConfig
    from ..training.loop import train

    if threads is not None:
        torch.set_num_threads(threads)
    recipe_options = {"system": system, "recipe": recipe, "contrastive": contrastive}
    chosen = read_config(out / "config.json" if config is None and resume else config, recipe_options)
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    settings = {name: options.pop(name) for name in fields & options.keys()}
    changed = dataclasses.replace(chosen, **{k: v for k, v in settings.items() if v is not None})
    if minutes is not None:
        if resume or settings["steps"] is not None:
            raise click.UsageError("--minutes: sets the steps of a new run; leave out --resume and --steps")
        how = {"device": options["device"], "workers": options["workers"]}
        changed = dataclasses.replace(changed, steps=steps_in(minutes, changed, data, **how))
    made = train(changed, out, data, resume=resume, **options)
    click.echo(f"checkpoint: {made}" if made.exists() else f"{out}: no checkpoint yet; go on with --resume")


def steps_in(minutes: float, config: TrainConfig, data: tuple[Path, ...], **how: Any) -> int:
    """How many steps of `config` take so long together, by the median of 20 after 5 that do not count."""
    import statistics
    import tempfile

    from ..training.data import is_packed
    from ..training.loop import train

    if len(data) != 1 or not is_packed(data[0]) or not minutes > 0:
        raise click.UsageError(f"--minutes {minutes:g}: takes more than 0, and one folder from `mtslvr pack` as --data")
    seconds: list[float] = []

    def note(report: dict[str, float]) -> None:
        seconds.append(config.batch_size / report["clips_per_second"])

    timed = dataclasses.replace(config, steps=25, heads=None, validate_every=0, validation_fraction=0.0, patience=0)
    with tempfile.TemporaryDirectory() as folder:
        train(timed, Path(folder) / "timed", data, on_step=note, save_every=100, **how)
    return max(1, round(minutes * 60 / statistics.median(seconds[5:])))


def read_config(path: Path | None, options: dict[str, str | None]) -> TrainConfig:
    """The config of a system and recipe, with the changes in a JSON file, which may not set what an option sets."""
    from ..training.recipes import System, own, published

    make = published if options["recipe"] == "published" else own
    base = make(System(options["system"] or "mt-parallel"), options["contrastive"] or "simclr")
    if path is None:
        return base
    try:
        changes = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: not a readable JSON file ({said}); check the path, or correct it") from None
    changed = base.changed(changes)
    for option, same in (
        ("system", changed.encoder.adapter is base.encoder.adapter),
        ("contrastive", changed.contrastive == base.contrastive),
    ):
        if options[option] is not None and not same:
            raise click.UsageError(f"--{option} {options[option]} with {path}, which sets another; leave one out")
    return changed
