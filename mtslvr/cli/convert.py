"""`mtslvr convert`: an official .pt state dict to a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

import click

from .common import PATH, Command, choice


@click.command("convert", cls=Command, checkpoint_is_input=True, short_help="Convert an official .pt checkpoint.")
@click.argument("checkpoint", type=PATH)
@click.argument("out_dir", type=PATH)
@choice(
    "--normalization", ["window", "file", "global", "none"],
    "Kept with the weights: by each window, by the file (published evaluation of 2023-08), by the statistics "
    "of the training data (published training), or not at all.",
)  # fmt: skip
@click.option("--global-mean", type=float, help="Of the training waveforms, where the file name does not tell.")
@click.option("--global-std", type=float, help="Of the training waveforms, where the file name does not tell.")
def convert_command(
    checkpoint: Path, out_dir: Path, normalization: str, global_mean: float | None, global_std: float | None
) -> None:
    """Convert CHECKPOINT.pt, an official MT-SLVR state dict, into the folder OUT_DIR.

    The file is loaded as tensors only; one that would run code is refused. `mtslvr.load(OUT_DIR)` then gives
    the published embeddings.
    """
    import torch

    from ..config import Normalization
    from ..errors import ConfigError
    from ..models.official import convert_official

    if (global_mean is None) != (global_std is None):
        raise ConfigError("--global-mean and --global-std belong together; give both or neither")
    statistics = None if global_mean is None or global_std is None else (global_mean, global_std)
    encoder = convert_official(checkpoint, normalization=Normalization(normalization), statistics=statistics)
    # Full precision: rounding to float16 would move the published embeddings.
    encoder.save(out_dir, dtype=torch.float32, card=model_card(checkpoint.name))
    config = encoder.config
    click.echo(
        f"{out_dir}: adapter {config.adapter.value}, {config.frontend.channels} channels, {config.heads} heads of "
        f"{config.head_dim}, normalization {config.normalization.value}"
    )


def model_card(name: str) -> str:
    """README.md of a converted checkpoint."""
    return f"""---
library_name: mtslvr
pipeline_tag: feature-extraction
---
# {name}, converted

Converted locally from an official MT-SLVR checkpoint, which carries no licence: for your own use.
"""
