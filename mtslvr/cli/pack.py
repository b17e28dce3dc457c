"""`mtslvr pack`: folders of audio to one packed file for training."""

from __future__ import annotations

from pathlib import Path

import click

from .common import PATH, Command, counted, echo


@click.command("pack", cls=Command, short_help="Decode folders of audio once, for training.")
@click.argument("folders", nargs=-1, required=True, type=PATH)
@click.option("-o", "--out", required=True, type=PATH, help="Folder for the packed clips.")
@click.option("--sample-rate", type=click.IntRange(min=1), default=16000, show_default=True, help="Hz.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0.5),
    help="Cut longer files into clips of this length.  [default: keep whole]",
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Files decoded side by side.")
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
