"""`mtslvr-embed` (also `mtslvr embed`): files and folders of audio to one file of embeddings."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import EXIT_INTERRUPTED, EXIT_NO_AUDIO, EXIT_SOME_FAILED, Command, Failure

if TYPE_CHECKING:
    from ..extract import FileEmbeddings

EXIT_CODES = """\b
Exit codes: 0 every file embedded, 1 some files failed and the rest is written, 2 wrong usage,
3 weights unavailable, 4 no audio found, 130 interrupted (what was finished is written).
"""


@click.command(
    "embed",
    cls=Command,
    epilog=EXIT_CODES,
    short_help="Embed files and folders of audio.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where to write, OUT.npz.")
@click.option("--model", help="Bundled name, checkpoint folder or hub id.  [default: the bundled weights]")
@click.option(
    "--features",
    type=click.Choice(["invariant", "variant", "concat"]),
    default="concat",
    show_default=True,
    help="Contrastive features, augmentation-prediction features, or both.",
)
@click.option(
    "--layer",
    type=click.Choice(["head", "pooled"]),
    default="head",
    show_default=True,
    help="Read after the linear head (500 a task) or before it (512 a task).",
)
@click.option("--window", type=float, metavar="SECONDS", help="Length of a window.  [default: the model's, 5]")
@click.option("--hop", type=float, metavar="SECONDS", help="From one window to the next.  [default: the window]")
@click.option(
    "--pool",
    type=click.Choice(["mean", "none"]),
    default="mean",
    show_default=True,
    help="One row a file (mean over windows) or one row a window.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--batch-size", default=16, show_default=True, help="Windows at once through the encoder.")
@click.option("--threads", default=2, show_default=True, help="Files decoded side by side.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.version_option(package_name="mtslvr", prog_name="mtslvr-embed")
def embed_command(
    inputs: tuple[str, ...],
    output: Path,
    model: str | None,
    features: str,
    layer: str,
    window: float | None,
    hop: float | None,
    pool: str,
    device: str,
    batch_size: int,
    threads: int,
    quiet: bool,
) -> None:
    """Embed every INPUT, a file or a folder searched recursively, into one OUT.npz.

    The file holds embeddings (rows, dim) float32, paths, start and end in seconds, and settings as JSON. A file
    that cannot be read is reported and skipped.
    """
    from ..audio import find_audio
    from ..config import Features, Layer
    from ..errors import AudioError
    from ..extract import ExtractConfig, Source, extract
    from ..hub import load
    from ..windows import Pool
    from ..writer import check_output

    check_output(output)
    config = ExtractConfig(Features(features), Layer(layer), Pool(pool), window, hop, batch_size, threads)
    found, unusable = [], []
    for given in inputs:
        try:
            found.append(given)
            find_audio([given])
        except AudioError as error:
            found.pop()
            unusable.append(str(error))
            click.echo(f"skipped {error}", err=True)
    files = find_audio(found)
    if not files:
        told = "" if unusable else ": no file with a known suffix (wav, flac, ogg, opus, mp3, aiff)"
        raise Failure(f"{', '.join(inputs)}: no audio found{told}", EXIT_NO_AUDIO)
    encoder = load(model, device=device)
    settings = {
        "model": model or "default",
        "features": features,
        "layer": layer,
        "pool": pool,
        "window_seconds": window or encoder.config.window_seconds,
        "hop_seconds": hop or window or encoder.config.window_seconds,
        "encoder": encoder.config.to_dict(),
    }
    names = [file.name for file in files]
    table = _Table()
    try:
        results = extract((Source(file.path) for file in files), encoder, config)
        for result in _progress(results, len(files), quiet):
            if result.error is not None:
                unusable.append(str(result.error))
                _say(f"skipped {result.error}")
            else:
                table.add(names[result.index], result)
    except KeyboardInterrupt:
        table.write(output, {**settings, "complete": False})
        raise Failure(f"interrupted; {table.files} of {len(files)} files are in {output}", EXIT_INTERRUPTED) from None
    table.write(output, {**settings, "complete": True})
    if not table.rows:
        click.echo(f"no embeddings, {output} is not written", err=True)
    elif not quiet:
        hours = table.seconds / 3600
        click.echo(f"{table.files} files, {hours:.2f} h of audio, {table.rows} rows in {output}", err=True)
    if unusable:
        raise Failure(f"{len(unusable)} of {len(files) + len(inputs) - len(found)} inputs failed", EXIT_SOME_FAILED)


class _Table:
    """Rows as they come."""

    def __init__(self) -> None:
        self.embeddings: list[Any] = []
        self.names: list[str] = []
        self.spans: list[Any] = []
        self.files = 0

    def add(self, name: str, result: FileEmbeddings) -> None:
        self.embeddings.append(result.embeddings)
        self.names += [name] * len(result.embeddings)
        self.spans.append(result.spans)
        self.files += 1

    @property
    def rows(self) -> int:
        return len(self.names)

    @property
    def seconds(self) -> float:
        return sum(float(spans[-1, 1]) for spans in self.spans)

    def write(self, output: Path, settings: dict[str, Any]) -> None:
        import numpy as np

        from ..writer import write_npz

        if not self.names:
            return
        spans = np.concatenate(self.spans)
        write_npz(
            output,
            embeddings=np.concatenate(self.embeddings),
            paths=self.names,
            start=spans[:, 0],
            end=spans[:, 1],
            settings=settings,
        )


def _progress(results: Iterable[FileEmbeddings], total: int, quiet: bool) -> Iterator[FileEmbeddings]:
    from tqdm import tqdm

    yield from tqdm(results, total=total, unit="file", desc="embedding", disable=quiet, file=sys.stderr)


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


def main() -> None:
    """Entry point of `mtslvr-embed`."""
    embed_command()
