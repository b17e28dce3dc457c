"""`mtslvr invariance`: how far each transformation of training moves the embeddings, by branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import PATH, Command
from .measuring import check_outputs, measuring_options, progress_bar, split_list, write_text


@click.command("invariance", cls=Command, short_help="How far transformations move each embedding.")
@click.argument("folder", type=PATH)
@click.option("--clips", default=500, show_default=True, help="At most so many files, drawn at random.")
@click.option("--draws", default=1, show_default=True, help="Transformed copies of each, by each transformation.")
@click.option("--seed", default=42, show_default=True, help="Of the draws of files and transformations.")
@click.option("--layer", default="head", show_default=True, help="head, or pooled: before it.")
@click.option("--shrinkage", type=float, help="Share of the identity in the covariance.  [default: Ledoit-Wolf's]")
@click.option("--published", is_flag=True, help="Pitch shift through the published fine STFT, much slower.")
@measuring_options
def invariance_command(
    folder: Path,
    models: tuple[str, ...],
    outputs: tuple[Path, ...],
    plot: Path | None,
    device: str,
    quiet: bool,
    **settings: Any,
) -> None:
    """Distance between the embeddings of clips of FOLDER and of their transformed copies.

    For each of the seven transformations of training and each branch: the distance relative to that between different
    clips (0 is invariant, 1 is as far as another clip), the paper's Mahalanobis distance, and the cosine. No labels are
    needed, but at least 30 files, and 100 for a verdict to be trusted.
    """
    from ..analysis import InvarianceConfig, invariance
    from ..fewshot.table import aligned, markdown

    check_outputs(outputs, plot)
    config = InvarianceConfig(**settings)
    found = invariance(folder, split_list(models) or (None,), config, device=device, progress=progress_bar(quiet))
    click.echo(
        f"{folder}: {found.settings['clips']} clips, {config.draws} copies by each transformation, seed "
        f"{config.seed}, {config.layer} features"
    )
    click.echo("means; Mahalanobis ± 95% interval over clips")
    click.echo(aligned(found.table()))
    for line in found.conclusions():
        click.echo(line)
    texts = {".json": found.to_json, ".csv": found.to_csv}
    texts |= {".md": lambda: markdown(found.table()) + "\n", ".txt": lambda: aligned(found.table()) + "\n"}
    for path in outputs:
        write_text(path, texts[path.suffix.lower()]())
    if plot is not None:
        from ..analysis import pictures

        pictures.save(pictures.heat_map(found), plot)
        click.echo(f"wrote {plot}", err=True)
