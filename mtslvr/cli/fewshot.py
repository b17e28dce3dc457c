"""`mtslvr fewshot`: few-shot accuracy of the embeddings on a folder of labelled audio."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Command


@click.command("fewshot", cls=Command, short_help="Few-shot accuracy on a folder of labelled audio.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", help="Bundled name, checkpoint folder or hub id.  [default: the bundled weights]")
@click.option(
    "--label-field",
    type=int,
    help="Take the class from this field of the file name (0 is the first, parted by '_') instead of its folder.",
)
@click.option("--n-way", default=5, show_default=True, help="Classes in an episode.")
@click.option("--n-shot", default=1, show_default=True, help="Labelled files a class.")
@click.option("--n-query", default=1, show_default=True, help="Files to classify a class.")
@click.option("--episodes", default=1000, show_default=True)
@click.option("--seed", default=42, show_default=True)
@click.option(
    "--classifier",
    "classifiers",
    multiple=True,
    type=click.Choice(["sgd", "logistic", "centroid"]),
    default=["sgd", "logistic"],
    show_default=True,
    help="sgd is the published one; may be repeated.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--batch-size", default=16, show_default=True, help="Windows at once through the encoder.")
def fewshot_command(
    folder: Path,
    model: str | None,
    label_field: int | None,
    n_way: int,
    n_shot: int,
    n_query: int,
    episodes: int,
    seed: int,
    classifiers: tuple[str, ...],
    device: str,
    batch_size: int,
) -> None:
    """Few-shot accuracy on FOLDER, one folder a class, with 95% intervals.

    Invariant, variant and concatenated embeddings stand beside the log-mel baseline (mean and standard deviation
    of each mel band), all on the same episodes.
    """
    from ..fewshot import format_table, run

    rows = run(
        folder,
        model=model,
        label_field=label_field,
        n_way=n_way,
        n_shot=n_shot,
        n_query=n_query,
        episodes=episodes,
        seed=seed,
        classifiers=classifiers,
        device=device,
        batch_size=batch_size,
    )
    click.echo(f"{folder}: {n_way}-way {n_shot}-shot, {episodes} episodes, seed {seed}; accuracy in % ± 95% interval")
    click.echo(format_table(rows))
