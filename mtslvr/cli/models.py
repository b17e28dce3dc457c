"""`mtslvr models`, `download`, `push`, `convert` and `export`: checkpoints listed, fetched, checked and turned."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..config import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, Normalization
from ..errors import CheckpointError, ConfigError, HubError
from .common import LAYER, PATH, Command, check_stdout, choice, echo

HINT = """\
few-shot: accuracy in % of N classes (way) from M examples a class (shot), with both embeddings and logistic
regression, or where a card has none such, its first figure of the data set.
`mtslvr models NAME` shows a model's card; with --json, all figures, too."""
CONVERTED_CARD = """---
library_name: mtslvr
pipeline_tag: feature-extraction
---
# {}, converted

Converted locally from an official MT-SLVR checkpoint, which carries no licence: for your own use.
"""
FILES = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME)
CACHE_DIR = click.option("--cache-dir", type=PATH, help="Of the hub.  [default: HF_HOME's]")


@click.command("models", cls=Command, short_help="List the models on this machine, or show one.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@CACHE_DIR
def models_command(name: str | None, as_json: bool, cache_dir: Path | None) -> None:
    """List the models that are bundled or in the hub's cache; with NAME show one and its card.

    NAME is a name of the list or a checkpoint folder. The hub is not asked.
    """
    from ..models.registry import models

    check_stdout()
    rows = models(cache_dir)
    if name is not None:
        model = _find_model(name, cache_dir, rows)
        shown = json.dumps(model, indent=2) if as_json else _details(model)
    elif as_json:
        shown = json.dumps([{key: row[key] for key in row if key != "card"} for row in rows], indent=2)
    else:
        blocks = ["\n".join(_facts(row, most=2)) for row in rows]
        shown = "\n\n".join([*blocks, HINT]) if rows else "no models; get one with `mtslvr download org/name`"
    for line in shown.split("\n"):  # cards come from hubs
        echo(line)


def _find_model(name: str, cache_dir: Path | None, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The model that `name` means, in the list or a folder; the hub is not asked."""
    from ..models.hub import find
    from ..models.registry import read_model

    try:
        folder = find(name, cache_dir=cache_dir, local_files_only=True)
    except HubError as error:
        raise HubError(f"{error}. Models here: {', '.join(row['name'] for row in rows) or 'none'}") from None
    sources = {Path(row["folder"]).resolve(): row["source"] for row in rows}
    return read_model(name, sources.get(folder.resolve(), "folder"), folder)


def _facts(row: dict[str, Any], most: int) -> list[str]:
    """Lines of what is known of a model, with `most` names of its training data."""
    trained = row["training_data"]
    more = f" and {len(trained) - most} more" if len(trained) > most else ""
    told = {
        "source": row["source"],
        "adapter": row["adapter"] or "-",
        "features": ", ".join(f"{name} {width}" for name, width in row["dims"].items()) or "-",
        "size": f"{row['size_bytes'] / 1e6:.1f} MB",
        "licence": row["licence"] or "none given",
        "trained on": ", ".join(trained[:most]) + more or "not told",
        "problem": row["problem"],
        "few-shot": _headline(row["few_shot"]),
    }
    lines = [row["name"]]
    for key, value in told.items():
        lines += _wrapped(f"  {key:10}  {value}") if value else []
    return lines


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 100, subsequent_indent=" " * 14, break_on_hyphens=False)


def _details(row: dict[str, Any]) -> str:
    """All that is known of one model, its card last."""
    lines = _facts(row, most=len(row["training_data"]))
    lines.insert(2, f"  folder      {row['folder']}")
    if row["sample_rate"]:
        lines.insert(3, f"  input       {row['sample_rate']} Hz, windows of {row['window_seconds']:g} s")
    return "\n".join([*lines, "", row["card"]] if row["card"] else lines)


def _headline(figures: Sequence[dict[str, Any]]) -> str:
    """A figure a data set: of concatenated features, logistic regression and one example a class, else the first."""

    def fits(figure: dict[str, Any]) -> int:
        metric = figure["metric"]
        return 2 * ("concat" in metric and "logistic" in metric) + _shots(figure).endswith(" 1-shot")

    best: dict[str, dict[str, Any]] = {}
    for figure in sorted(figures, key=fits, reverse=True):
        best.setdefault(figure["dataset_id"] or figure["dataset"], figure)
    told: dict[str, list[str]] = {}
    for dataset, figure in sorted(best.items(), key=lambda item: figures.index(item[1])):
        told.setdefault(_shots(figure), []).append(f"{dataset} {figure['value']}")
    return "; ".join(f"{shots}: " * bool(shots) + ", ".join(sets) for shots, sets in told.items()) or "not told"


def _shots(figure: dict[str, Any]) -> str:
    """`5-way 1-shot`, of the metric, or of the task where the metric does not say it."""
    found = re.search(r"\d+-way \d+-shot", figure["metric"]) or re.search(r"\d+-way \d+-shot", figure["task"])
    return found[0] if found else ""


@click.command("download", cls=Command, short_help="Download a model, for use without network.")
@click.argument("name")
@click.option("--to", type=PATH, metavar="DIR", help="Also copy it into this folder.")
@CACHE_DIR
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
        _copy(folder, to)
    click.echo(to or folder)


def _copy(folder: Path, to: Path) -> None:
    """Copy the files of a checkpoint into a folder that has no other one."""
    from ..models.checkpoint import sha256
    from ..run.files import guarded

    names = [name for name in FILES if (folder / name).exists()]
    with guarded(to):
        for name in names:
            if (to / name).exists() and sha256(to / name) != sha256(folder / name):
                raise ConfigError(f"{to / name}: of another checkpoint; choose an empty folder")
        to.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(folder / name, to / name)


@click.command(
    "push", cls=Command, checkpoint_is_input=True, short_help="Check a checkpoint folder before it is published."
)
@click.argument("folder", type=PATH)
@click.argument("repo", metavar="org/name")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push_command(folder: Path, repo: str, private: bool) -> None:
    """Check that FOLDER can be published as the repository org/name of the hub.

    The checkpoint must load and its model card must say enough. Nothing is sent: the last line printed is the
    command that sends it, `hf upload` of the Hugging Face hub's own tool, which is installed with mtslvr.
    """
    from ..models.checkpoint import sha256

    _check_publishable(folder, repo)
    for name in FILES:
        click.echo(f"{name}  {(folder / name).stat().st_size} bytes  sha256 {sha256(folder / name)}")
    include = [word for name in FILES for word in ("--include", name)]
    click.echo("checked, and nothing was sent. After `hf auth login`, this publishes it:", err=True)
    click.echo(shlex.join(["hf", "upload", repo, str(folder), ".", *include, *["--private"] * private]))


def _check_publishable(folder: Path, repo: str) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    from ..models import checkpoint
    from ..models.registry import read_card

    try:
        hf_hub_url(repo, CONFIG_NAME)  # Checks the name.
        if "/" not in repo:
            raise HFValidationError("no organisation or user before a '/'")
    except HFValidationError as error:
        raise HubError(f"{repo!r}: not a repository id ({error}); give 'org/name'") from None
    checkpoint.load(folder)
    card = read_card(folder)
    wanted = {
        "a licence (license:)": card.licence,
        "library_name: mtslvr": card.library == "mtslvr",
        "the training data (datasets:)": card.training_data,
        "measured results (model-index:)": card.figures,
        "a text": card.text,
    }
    if missing := [what for what, there in wanted.items() if not there]:
        raise CheckpointError(
            f"{folder / CARD_NAME}: the model card lacks {'; '.join(missing)}. Nothing should be published "
            "without these: complete the card (benchmarks/model_card.py writes one)"
        )


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

    from ..models.official import convert_official

    if (global_mean is None) != (global_std is None):
        raise ConfigError("--global-mean and --global-std belong together; give both or neither")
    statistics = None if global_mean is None or global_std is None else (global_mean, global_std)
    encoder = convert_official(checkpoint, normalization=Normalization(normalization), statistics=statistics)
    # Full precision: rounding to float16 would move the published embeddings.
    encoder.save(out_dir, dtype=torch.float32, card=CONVERTED_CARD.format(checkpoint.name))
    config = encoder.config
    click.echo(
        f"{out_dir}: adapter {config.adapter.value}, {config.frontend.channels} channels, {config.heads} heads of "
        f"{config.head_dim}, normalization {config.normalization.value}"
    )


@click.command("export", cls=Command, short_help="Export a model to ONNX.")
@click.argument("model")
@click.argument("out", metavar="OUT.onnx", type=PATH)
@click.option(
    "--input", "kind", type=click.Choice(["waveform", "spectrogram"]), default="waveform", show_default=True,
    help="What the file takes: mono float32 samples, or the front end's output.",
)  # fmt: skip
@LAYER
@click.option("--window", type=float, metavar="SECONDS", help="The length that it takes.  [default: the model's]")
@click.option("--overwrite", is_flag=True, help="Replace OUT.onnx where it exists.")
def export_command(model: str, out: Path, kind: str, layer: str, window: float | None, overwrite: bool) -> None:
    """Write MODEL, a bundled name, checkpoint folder or hub id, as OUT.onnx with both embeddings as outputs.

    Weights are folded and float32, the batch is free. Where onnxruntime is installed, embeddings of noise, silence
    and loud noise are compared with torch's first, and a file that differs by more than 1e-4 is not written.
    """
    from ..models.checkpoint import sha256
    from ..models.hub import find, load
    from ..models.registry import read_card
    from ..onnx import TOLERANCE, check_target, export

    check_target(out, overwrite=overwrite)
    folder = find(model)
    name = folder.resolve().name if folder == Path(model).expanduser() else model
    facts = {"model": name, "model_sha256": sha256(folder / WEIGHTS_NAME)}
    if licence := read_card(folder).licence:
        facts["licence"] = licence
    encoder = load(folder, device="cpu")
    worst = export(encoder, out, input=kind, layer=layer, window_seconds=window, facts=facts, overwrite=overwrite)
    if worst is None:
        said = "not checked: onnxruntime is not installed (pip install 'mtslvr[onnx]')"
    else:
        said = f"checked: differs from torch by {worst:.1e} of the largest number at most ({TOLERANCE:.0e} is allowed)"
    click.echo(f"{out}: {out.stat().st_size / 1e6:.0f} MB; {said}")
