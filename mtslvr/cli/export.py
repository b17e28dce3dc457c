"""`mtslvr export`: a model to one ONNX file."""

from __future__ import annotations

from pathlib import Path

import click

from .common import PATH, Command, choice


@click.command("export", cls=Command, short_help="Export a model to ONNX.")
@click.argument("model")
@click.argument("out", metavar="OUT.onnx", type=PATH)
@click.option(
    "--input", "kind", type=click.Choice(["waveform", "spectrogram"]), default="waveform", show_default=True,
    help="What the file takes: mono float32 samples, or the front end's output.",
)  # fmt: skip
@choice("--layer", ["head", "pooled"], "Read after the linear head (500 a task) or before it (512 as published).")
@click.option("--window", type=float, metavar="SECONDS", help="The length that it takes.  [default: the model's]")
@click.option("--overwrite", is_flag=True, help="Replace OUT.onnx where it exists.")
def export_command(model: str, out: Path, kind: str, layer: str, window: float | None, overwrite: bool) -> None:
    """Write MODEL, a bundled name, checkpoint folder or hub id, as OUT.onnx with both embeddings as outputs.

    Weights are folded and float32, the batch is free. Where onnxruntime is installed, embeddings of noise, silence
    and loud noise are compared with torch's first, and a file that differs by more than 1e-4 is not written.
    """
    from ..models.checkpoint import WEIGHTS_NAME, sha256
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
