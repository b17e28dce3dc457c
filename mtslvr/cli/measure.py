"""`mtslvr fewshot`, `invariance` and `report`: embeddings measured, and results on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from ..run.files import write_file
from .common import DEVICE, PATH, Command, options

if TYPE_CHECKING:
    from ..analysis import Invariance
    from ..fewshot import LabelledSet, Results

MEASURING = options(
    click.option(
        "--model", "models", multiple=True, help="Bundled name, checkpoint folder or hub id; may be repeated."
    ),
    click.option(
        "-o", "--out", "outputs", multiple=True, type=PATH, metavar="OUT",
        help="Where to write the results, .json, .csv, .md or .txt; may be repeated.",
    ),
    click.option("--plot", type=PATH, help="A picture of them: png, svg or pdf."),
    DEVICE,
    click.option("--batch-size", default=16, show_default=True, help="Windows at once through the encoder."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
)  # fmt: skip


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
@MEASURING
def fewshot_command(**options: Any) -> None:
    """Few-shot accuracy on each FOLDER, one folder a class, with 95% intervals over clips.

    At least --n-way of the classes need --n-shot and --n-query files together, so 2 each by default.

    Invariant, variant and concatenated embeddings, the features before the heads and a log-mel baseline (mean and
    standard deviation of each mel band) stand side by side, all on the same episodes. Features are computed once and
    kept for the next call. Options that take names may be repeated or hold several parted by commas.
    """
    from ..fewshot import CompareConfig, EpisodeConfig, compare
    from ..fewshot.features import FEATURES

    call = SimpleNamespace(**options)
    _check_outputs(call)
    drawn = call.n_query, call.episodes, call.seed, call.sampler
    config = CompareConfig(
        _names(call.features) or FEATURES,
        _names(call.classifiers) or ("sgd", "logistic"),
        [EpisodeConfig(call.n_way, n_shot, *drawn) for n_shot in _integers(call.shots, "--n-shot")],
        **{name: options[name] for name in ("scaling", "weights", "on_error")},
    )
    results = compare(
        _sets(call),
        _names(call.models) or (None,),
        config,
        device=call.device,
        batch_size=call.batch_size,
        cache=False if call.no_cache else call.cache or True,
        progress=not call.quiet,
    )
    _show(results, call.weights, call.show_classes)
    _save(call, results)


def _sets(call: SimpleNamespace) -> list[LabelledSet]:
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
        named = ", ".join(datasets)
        raise ConfigError(f"--window {call.window:g} with --dataset {named}: its windows are as published")
    how = {"label_field": call.label_field, "table": table, "window_seconds": call.window}
    published = [prepare(name, root, call.split, call.split_file) for name, root in zip(datasets, roots, strict=True)]
    return published + [read_set(folder, **how) for folder in folders]


def _show(results: Results, weights: bool, show_classes: bool) -> None:
    from ..fewshot import results as tables

    for name, facts in results.datasets.items():
        note = f" ({facts['note']})" if facts["note"] else ""
        click.echo(f"{name}: {facts['classes']} classes, {facts['clips']:,} files{note}")
    for settings in dict.fromkeys(tables.describe(row.result.settings) for row in results):
        click.echo(f"{settings}; accuracy in % ± 95% interval over clips")
    click.echo(tables.aligned(results.table()))
    if weights:
        click.echo("\nshare of the classifier's weight norm on each branch")
        click.echo(tables.aligned(tables.weight_shares(results.rows)))
    if show_classes:
        for heading, table in tables.per_class(results.rows).items():
            click.echo(f"\naccuracy of each class: {heading}")
            click.echo(tables.aligned(table))


@click.command("invariance", cls=Command, short_help="How far transformations move each embedding.")
@click.argument("folder", type=PATH)
@click.option("--clips", default=500, show_default=True, help="At most so many files, drawn at random.")
@click.option("--draws", default=1, show_default=True, help="Transformed copies of each, by each transformation.")
@click.option("--seed", default=42, show_default=True, help="Of the draws of files and transformations.")
@click.option("--layer", default="head", show_default=True, help="head, or pooled: before it.")
@click.option("--shrinkage", type=float, help="Share of the identity in the covariance.  [default: Ledoit-Wolf's]")
@click.option("--published", is_flag=True, help="Pitch shift through the published fine STFT, much slower.")
@MEASURING
def invariance_command(folder: Path, **options: Any) -> None:
    """Distance between the embeddings of clips of FOLDER and of their transformed copies.

    For each of the seven transformations of training and each branch: the distance relative to that between different
    clips (0 is invariant, 1 is as far as another clip), the paper's Mahalanobis distance, and the cosine. No labels are
    needed, but at least 30 files, and 100 for a verdict to be trusted.
    """
    from ..analysis import InvarianceConfig, invariance
    from ..fewshot.results import aligned

    call = SimpleNamespace(**options)
    _check_outputs(call)
    config = InvarianceConfig(**{field.name: options[field.name] for field in fields(InvarianceConfig)})
    found = invariance(folder, _names(call.models) or (None,), config, device=call.device, progress=not call.quiet)
    click.echo(
        f"{folder}: {found.settings['clips']} clips, {config.draws} copies by each transformation, seed "
        f"{config.seed}, {config.layer} features"
    )
    click.echo("means; Mahalanobis ± 95% interval over clips")
    click.echo(aligned(found.table()))
    for line in found.conclusions():
        click.echo(line)
    _save(call, found)


@click.command("report", cls=Command, short_help="Files of results to one HTML page.")
@click.argument("results", nargs=-1, required=True, type=PATH, metavar="RESULTS...")
@click.option("-o", "--out", "output", required=True, type=PATH, help="Where to write, report.html.")
@click.option("--title", default="mtslvr results", show_default=True, help="Above the page.")
def report_command(results: tuple[Path, ...], output: Path, title: str) -> None:
    """Put RESULTS, json files of `mtslvr fewshot` and `mtslvr invariance`, on one page that needs nothing else."""
    from ..analysis import report
    from ..fewshot.results import check_output

    check_output(output, (".html", ".htm"))
    _write(output, report(results, title))


def _names(values: Sequence[str]) -> tuple[str, ...]:
    """Options that may be repeated, or hold several parted by commas; each once."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{option} {text}: must be whole numbers parted by commas, like 1,5,10") from None


def _check_outputs(call: SimpleNamespace) -> None:
    from ..fewshot.results import check_output

    for path in call.outputs:
        check_output(path)
    if call.plot is not None:
        from ..analysis.pictures import check_picture

        check_picture(call.plot)


def _save(call: SimpleNamespace, measured: Results | Invariance) -> None:
    """Write the results to each output, and where one is asked for their picture."""
    from ..fewshot.results import render

    for path in call.outputs:
        _write(path, render(measured, path.suffix.lower()))
    if call.plot is not None:
        from ..analysis import pictures

        pictures.save(pictures.draw(measured), call.plot)
        click.echo(f"wrote {call.plot}", err=True)


def _write(path: Path, text: str) -> None:
    write_file(path, text.encode())
    click.echo(f"wrote {path}", err=True)
