"""`mtslvr-embed` (also `mtslvr embed`) and `mtslvr merge`: audio to one output of embeddings; next: `run`."""

from __future__ import annotations

import glob
import os
from types import SimpleNamespace
from typing import Any

import click

from .common import EMBEDDING, FORMATS, LAYER, Command, check_stdout, choice, counted, echo
from .process import embed as main  # noqa: F401  # the program

EXIT_CODES = """\b
Exit codes: 0 every file embedded, 1 some files failed and the rest is written, 2 wrong usage,
3 weights unavailable, 4 no audio found, 130 interrupted, 143 ended by SIGTERM (what was finished is written).
"""


@click.command(
    "embed", cls=Command, epilog=EXIT_CODES, short_help="Embed files and folders of audio.",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())
@click.option(
    "-o", "--out", "output", required=True, type=click.Path(), metavar="OUT",
    help="Where to write; - is standard output.",
)  # fmt: skip
@click.option("--format", "form", type=FORMATS, help="[default: the suffix of OUT; jsonl to standard output]")
@choice(
    "--features",
    ["concat", "invariant", "variant"],
    "Both, invariant (contrastive) or variant (augmentation prediction).",
)
@LAYER
@click.option("--window", type=float, metavar="SECONDS", help="Length of a window.  [default: the model's, 5]")
@click.option("--hop", type=float, metavar="SECONDS", help="From one window to the next.  [default: the window]")
@choice("--pool", ["mean", "none"], "One row a file (mean over windows) or one row a window.")
@EMBEDDING
@click.option(
    "--shard", metavar="I/N",
    help="Embed part I of N of the files only, into OUT-0000I-of-0000N; slurm takes both from a Slurm job. "
    "`mtslvr merge OUT` joins the parts.",
)  # fmt: skip
@choice("--stdin", ["auto", "audio", "list"], "What the input - is; auto tells audio by its first bytes.")
@click.option("--overwrite", is_flag=True, help="Start anew, whatever an earlier run left.")
@click.option("--dry-run", is_flag=True, help="List the files that would be embedded, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; errors only.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each file.")
@click.version_option(package_name="mtslvr", prog_name="mtslvr-embed")
def embed_command(inputs: tuple[str, ...], output: str, form: str | None, shard: str | None, **options: Any) -> None:
    """Embed every INPUT, a file or a folder searched recursively, into one output.

    An INPUT of the form @list.txt names a list of paths, one a line, with comments after #; - reads such a list, or
    the audio of one file, from standard input.

    OUT.npz, OUT.npy (with OUT.npy.index.csv), OUT.parquet, OUT.csv and OUT.jsonl hold a row a file, or a window:
    its file, start and end in seconds, and the embedding, with the settings beside. A file that cannot be read is
    reported and noted in OUT.errors.jsonl, and the others are embedded.

    Files that are in OUT already are left alone: the same command goes on with an interrupted run, and embeds what
    is new or changed after a finished one.
    """
    from ..audio.load import Excerpt
    from ..run.extract import ExtractConfig
    from ..run.files import STDOUT, parse_format, resolve
    from ..run.shards import Shard
    from .inputs import find_inputs
    from .run import Run
    from .summary import Report

    call = SimpleNamespace(**options)
    part = None if shard is None else Shard.parse(shard)
    output = output if part is None or output == STDOUT else part.output(output)
    chosen = parse_format(output, form)
    target = None if output == STDOUT else resolve(output, writable=not call.dry_run)
    windows = call.window, call.hop, call.batch_size, call.threads
    excerpt = Excerpt("mix" if call.channel is None else call.channel)
    config = ExtractConfig.parse(call.features, call.layer, call.pool, *windows, fixed_batches=True, excerpt=excerpt)
    report = Report(output, target, part, call.on_error == "stop", call.dry_run, call.as_json, call.quiet, call.verbose)
    if target is None or call.dry_run or call.as_json:
        check_stdout()
    found, names = find_inputs(inputs, call.stdin, report)
    weights = call.model, call.device, call.dtype or "float32"
    Run(*weights, config, chosen, call.overwrite, call.on_truncated == "error", report).start(found, names)


@click.command("merge", cls=Command, short_help="Join the outputs of mtslvr-embed --shard.")
@click.argument("output", metavar="OUT", type=click.Path())
@click.argument("parts", nargs=-1, metavar="PART...", type=click.Path())
@click.option("--format", "form", type=FORMATS, help="[default: the suffix of OUT]")
@click.option("--allow-missing", is_flag=True, help="Go on without shards that are missing or were interrupted.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@click.option("-q", "--quiet", is_flag=True, help="No summary; errors only.")
def merge_command(
    output: str, parts: tuple[str, ...], form: str | None, allow_missing: bool, overwrite: bool, quiet: bool
) -> None:
    """Join the outputs of shards to OUT, which equals the output of one run over all files.

    Each PART is a file or a pattern; without any, those beside OUT are taken: for OUT.npz, OUT-00001-of-00008.npz and
    so on. Parts may be of another format than OUT.
    """
    from ..run.shards import merge

    named: list[str] = []
    for part in parts:
        found = [] if os.path.exists(part) else sorted(glob.glob(part))  # a pattern that no shell has expanded
        named += found or [part]
    merged = merge(output, named, form=form, allow_missing=allow_missing, overwrite=overwrite)
    if not quiet:
        said = [f"{counted(merged.files, 'file')} of {counted(merged.parts, 'part')}"]
        said += [f"{merged.failed} failed"] if merged.failed else []
        said += [f"listed in {output}.errors.jsonl"] if os.path.exists(f"{output}.errors.jsonl") else []
        said += [f"{counted(len(merged.missing), 'shard')} missing"] if merged.missing else []
        echo(f"{', '.join(said)}; {counted(merged.rows, 'row')} in {output}", err=True)
