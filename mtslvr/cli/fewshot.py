"""`mtslvr fewshot`: few-shot accuracy of embeddings on labelled audio; several models and datasets side by side."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from .common import PATH, Command
from .measuring import check_outputs, integers, measuring_options, progress_bar, split_list, write_text

if TYPE_CHECKING:
    from ..fewshot import LabelledSet, Results


@click.command("fewshot", cls=Command, short_help="Few-shot accuracy on folders of labelled audio.")
@click.argument("folders", nargs=-1, type=PATH, metavar="[FOLDER]...")
@click.option("--labels", type=PATH, help="csv or tsv with the columns file and label.")
@click.option(
    "--label-field",
    type=int,
    help="Take the class from this field of the file name (0 is the first, parted by '_') instead of its folder.",
)
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="A dataset of the paper; see --root.")
@click.option("--root", "roots", multiple=True, type=PATH, help="Where it is, one a --dataset.")
@click.option("--split", default="test", show_default=True, help="train, val, test or all classes of a --dataset.")
@click.option("--split-file", type=PATH, help="Its class lists: npy, json, csv or txt.")
@click.option("--window", type=float, metavar="SECONDS", help="Length of the windows.  [default: the model's, 5]")
@click.option("--features", multiple=True, help="invariant, variant, concat, pooled, log-mel.  [default: all]")
@click.option("--classifier", "classifiers", multiple=True, help="sgd (published), logistic, centroid, cosine.")
@click.option("--n-way", default=5, show_default=True, help="Classes in an episode.")
@click.option("--n-shot", "--shots", "shots", default="1", show_default=True, help="Labelled files a class; 1,5,10.")
@click.option("--n-query", default=1, show_default=True, help="Files to classify a class.")
@click.option("--episodes", default=10_000, show_default=True, help="Random draws of classes and files.")
@click.option("--seed", default=42, show_default=True, help="Of the draws; the same seed gives the same ones.")
@click.option("--scaling", help="none, l2 or standard, for all features.  [default: l2 for logistic, else none]")
@click.option("--sampler", default="uniform", show_default=True, help="uniform, or published: the paper's own draws.")
@click.option("--weights", is_flag=True, help="Also the share of the classifier's weights on each branch.")
@click.option("--per-class", "show_classes", is_flag=True, help="Also the accuracy of each class.")
@click.option("--cache", type=PATH, help="Folder of computed features.  [default: the user's]")
@click.option("--no-cache", is_flag=True, help="Neither read nor keep features.")
@click.option("--on-error", default="stop", show_default=True, help="stop or skip, at a file that cannot be read.")
@measuring_options
def fewshot_command(
    outputs: tuple[Path, ...], plot: Path | None, cache: Path | None, no_cache: bool, quiet: bool, **options: Any
) -> None:
    """Few-shot accuracy on each FOLDER, one folder a class, with 95% intervals over clips.

    At least --n-way of the classes need --n-shot and --n-query files together, so 2 each by default.

    Invariant, variant and concatenated embeddings, the features before the heads and a log-mel baseline (mean and
    standard deviation of each mel band) stand side by side, all on the same episodes. Features are computed once and
    kept for the next call. Options that take names may be repeated or hold several parted by commas.
    """
    from ..fewshot import CompareConfig, compare, table
    from ..fewshot.features import FEATURES

    check_outputs(outputs, plot)
    drawn = ("n_way", "n_query", "episodes", "seed", "scaling", "sampler", "weights", "on_error")
    config = CompareConfig(
        features=split_list(options["features"]) or FEATURES,
        classifiers=split_list(options["classifiers"]) or ("sgd", "logistic"),
        shots=integers(options["shots"], "--n-shot"),
        **{name: options[name] for name in drawn},
    )
    results = compare(
        _sets(SimpleNamespace(**options)),
        split_list(options["models"]) or (None,),
        config,
        device=options["device"],
        batch_size=options["batch_size"],
        cache=False if no_cache else cache or True,
        progress=progress_bar(quiet),
    )
    _show(results, config.weights, options["show_classes"])
    for path in outputs:
        write_text(path, table.render(results, path))
    if plot is not None:
        from ..analysis import pictures

        pictures.save(pictures.accuracy(results.rows), plot)
        click.echo(f"wrote {plot}", err=True)


def _sets(call: SimpleNamespace) -> list[LabelledSet]:
    from ..errors import ConfigError
    from ..fewshot import prepare, read_set

    folders, datasets, roots, table = call.folders, call.datasets, call.roots, call.labels
    if len(datasets) != len(roots):
        raise ConfigError(f"{len(datasets)} --dataset and {len(roots)} --root; give the folder of each, in order")
    if not folders and not datasets:
        raise ConfigError("nothing to measure: give a folder of labelled audio, or --dataset NAME --root DIR")
    if table is not None and len(folders) != 1:
        raise ConfigError(f"--labels {table} with {len(folders)} folders; give the one that its files are in")
    if call.split_file is not None and len(datasets) != 1:
        raise ConfigError(f"--split-file {call.split_file} with {len(datasets)} --dataset; give one")
    if call.window is not None and datasets:
        raise ConfigError(
            f"--window {call.window:g} with --dataset {', '.join(datasets)}: its windows are as published"
        )
    how = {"label_field": call.label_field, "table": table, "window_seconds": call.window}
    published = [prepare(name, root, call.split, call.split_file) for name, root in zip(datasets, roots, strict=True)]
    return published + [read_set(folder, **how) for folder in folders]


def _show(results: Results, weights: bool, show_classes: bool) -> None:
    from ..fewshot import table
    from ..fewshot.results import describe

    for name, facts in results.datasets.items():
        note = f" ({facts['note']})" if facts["note"] else ""
        click.echo(f"{name}: {facts['classes']} classes, {facts['clips']:,} files{note}")
    for settings in dict.fromkeys(describe(row.result.settings) for row in results):
        click.echo(f"{settings}; accuracy in % ± 95% interval over clips")
    single = len({(row.dataset, row.model, row.n_shot) for row in results if row.model}) == 1
    click.echo(table.format_table(results.rows) if single else table.aligned(table.comparison(results.rows)))
    if weights:
        click.echo("\nshare of the classifier's weight norm on each branch")
        click.echo(table.aligned(table.weight_shares(results.rows)))
    if show_classes:
        for heading, rows in table.groups(results.rows).items():
            click.echo(f"\naccuracy of each class: {heading}")
            click.echo(table.aligned(table.per_class(rows)))
