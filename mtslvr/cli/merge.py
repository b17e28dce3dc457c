"""`mtslvr merge`: the outputs of shards to one."""

from __future__ import annotations

import glob
import os

import click

from .common import FORMATS, Command, counted, echo


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
    from ..run.merge import merge

    named = [path for part in parts for path in _expand(part)]
    merged = merge(output, named, form=form, allow_missing=allow_missing, overwrite=overwrite)
    if not quiet:
        said = [f"{counted(merged.files, 'file')} of {counted(merged.parts, 'part')}"]
        said += [f"{merged.failed} failed"] if merged.failed else []
        said += [f"listed in {output}.errors.jsonl"] if os.path.exists(f"{output}.errors.jsonl") else []
        said += [f"{counted(len(merged.missing), 'shard')} missing"] if merged.missing else []
        echo(f"{', '.join(said)}; {counted(merged.rows, 'row')} in {output}", err=True)


def _expand(part: str) -> list[str]:
    """A pattern that no shell has expanded, to files."""
    return (not os.path.exists(part) and sorted(glob.glob(part))) or [part]
