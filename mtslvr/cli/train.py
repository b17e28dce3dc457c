"""`mtslvr pack`, `train` and `whiten`: folders of audio to a checkpoint folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from .common import DEVICE, PATH, Command, counted, echo

if TYPE_CHECKING:
    from ..training.config import TrainConfig

# `training.recipes.System`, named here because --help imports no torch.
SYSTEMS = ("contrastive-only", "prediction-only", "mt-simple", "mt-split", "mt-bn", "mt-series", "mt-parallel")
_FROM_ONE = click.IntRange(min=1)


@click.command("pack", cls=Command, short_help="Decode folders of audio once, for training.")
@click.argument("folders", nargs=-1, required=True, type=PATH)
@click.option("-o", "--out", required=True, type=PATH, help="Folder for the packed clips.")
@click.option("--sample-rate", type=_FROM_ONE, default=16000, show_default=True, help="Hz.")
@click.option(
    "--max-seconds", type=click.FloatRange(min=0.5), help="Cut longer files into clips so long.  [default: whole]"
)
@click.option("--threads", type=_FROM_ONE, default=2, show_default=True, help="Files decoded side by side.")
def pack_command(
    folders: tuple[Path, ...], out: Path, sample_rate: int, max_seconds: float | None, threads: int
) -> None:
    """Decode all audio below FOLDERS into one file of 16-bit samples that `mtslvr train --data OUT` takes.

    Files of any rate, length and number of channels; those that cannot be read are listed and left out. The first
    folder below each of FOLDERS names the source of a clip.
    """
    from ..training.data import PackedClips, pack

    failed = pack(folders, out, sample_rate, threads, max_seconds)
    for message in failed:
        echo(message, err=True)
    clips = PackedClips.open(out)
    mean, std = clips.statistics()
    click.echo(f"{out}: {counted(len(clips), 'clip')}, {clips.hours:.2f} h, {counted(len(failed), 'file')} left out")
    click.echo(f"mean {mean:.6g}, standard deviation {std:.6g} (for normalization 'global')")


@click.command("train", cls=Command, short_help="Train an encoder on folders of audio.")
@click.option("--data", multiple=True, type=PATH, help="Folder of audio or packed clips; may be repeated.")
@click.option("-o", "--out", required=True, type=PATH, help="Run directory.")
@click.option("--config", type=PATH, help="JSON with changes to the recipe: any field of the training config.")
@click.option("--resume", is_flag=True, help="Go on from the last saved state of --out.")
@click.option("--init", type=PATH, help="Run directory or checkpoint folder to start the weights from.")
@click.option("--stop-after", type=int, metavar="N", help="End after N steps of the schedule.  [default: all]")
@click.option("--system", type=click.Choice(SYSTEMS), help="Which of the paper's systems.  [default: mt-parallel]")
@click.option("--recipe", type=click.Choice(["own", "published"]), help="Our settings or the paper's.  [default: own]")
@click.option("--contrastive", type=click.Choice(["simclr", "simsiam"]), help="Contrastive loss.  [default: simclr]")
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
@DEVICE
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@click.option("--threads", type=_FROM_ONE, help="Torch threads of the training process.  [default: torch's]")
@click.option("--save-every", default=100, show_default=True, help="Steps between saved states.")
def train_command(
    data: tuple[Path, ...],
    out: Path,
    config: Path | None,
    resume: bool,
    minutes: float | None,
    threads: int | None,
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
    recipe = {name: options.pop(name) for name in ("system", "recipe", "contrastive")}
    chosen = read_config(out / "config.json" if config is None and resume else config, recipe)
    settings = {field.name: options.pop(field.name, None) for field in dataclasses.fields(TrainConfig)}
    changed = dataclasses.replace(chosen, **{name: value for name, value in settings.items() if value is not None})
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
    speeds: list[float] = []  # in clips a second
    timed = dataclasses.replace(config, steps=25, heads=None, validate_every=0, validation_fraction=0.0, patience=0)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "timed"
        train(timed, where, data, on_step=lambda x: speeds.append(x["clips_per_second"]), save_every=100, **how)
    return max(1, round(minutes * 60 * statistics.median(speeds[5:]) / config.batch_size))


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
    same = {
        "system": changed.encoder.adapter is base.encoder.adapter,
        "contrastive": changed.contrastive == base.contrastive,
    }
    for option in same:
        if options[option] is not None and not same[option]:
            raise click.UsageError(f"--{option} {options[option]} with {path}, which sets another; leave one out")
    return changed


@click.command("whiten", cls=Command, short_help="Give a trained encoder other heads, without training it anew.")
@click.argument("run", type=PATH)
@click.argument("out_dir", type=PATH)
@click.option("--power", type=float, help="0 only rotates, 1 evens out what differs within clips.  [default: 1]")
@click.option("--ridge", type=float, help="Added to variances, share of their mean.  [default: 1]")
@click.option("--variant-ridge", type=float, help="The same for the variant head.  [default: 0.1]")
@click.option("--clips", type=int, help="Clips to measure on.  [default: 4096]")
@click.option("--crop-seconds", type=float, help="Length of the crops of these clips, in seconds.  [default: 2.5]")
@click.option("--source-balance", type=float, help="0 draws every clip alike often, 1 every source.  [default: 0.5]")
@click.option("--variant-scale", type=float, help="Length of variant over invariant embeddings.  [default: 0.35]")
@click.option(
    "--spectral-statistics/--no-spectral-statistics", default=None,
    help="Let the variant head read statistics of the mel bands, too.  [default: on]",
)  # fmt: skip
@click.option(
    "--invariant-rows", metavar="ROWS",
    help="What the invariant head reads: maxima over time of these rows of stages 3 and 4, such as "
    "layer3=2:4,layer4=1:3, with ,means also their means; none is what it read in training.  "
    "[default: layer3=2:4,layer4=1:3]",
)  # fmt: skip
@click.option("--variant-rows", metavar="ROWS", help="The same for the variant head.  [default: none]")
@click.option(
    "--disturb/--no-disturb", default=None,
    help="Shrink for the invariant head what a whisper, another microphone and a background change, too.  "
    "[default: on]",
)  # fmt: skip
def whiten_command(run: Path, out_dir: Path, **options: Any) -> None:
    """Write the checkpoint of the training run RUN into OUT_DIR with other heads than it has.

    `mtslvr train` makes heads at its end, as its config says; this makes them again. An option that is not given is as
    it was there; the defaults below are the recipe's. The heads become principal components over the run's own clips,
    after directions in which two crops of a clip differ much have been shrunk.
    """
    given = changes(options)

    from ..training.config import HeadsConfig
    from ..training.run import read_config
    from ..training.whiten import whiten

    heads = dataclasses.replace(read_config(run).heads or HeadsConfig(), **given)
    click.echo(f"checkpoint: {whiten(run, out_dir, heads)}")


def changes(options: dict[str, Any]) -> dict[str, Any]:
    """Settings of `HeadsConfig` from the options that are given."""
    from ..config import Rows

    given = {name: value for name, value in options.items() if value is not None}
    for name in ("invariant_rows", "variant_rows"):
        if name in given:
            try:
                given[name] = None if given[name] == "none" else Rows.parse(given[name])
            except ConfigError as error:
                raise ConfigError(str(error).replace("rows=", f"{name}=")) from None
    return given
