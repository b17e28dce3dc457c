"""`mtslvr classify`: labelled examples to labels with times of any recordings; `mtslvr.classify` without a terminal."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from .common import EMBEDDING, PATH, Command

EXIT_CODES = """\b
Exit codes: 0 labels written, 1 some recordings failed and the labels of the rest are written, 2 wrong usage or
examples, 3 weights unavailable, 4 no audio found, 130 interrupted (the same command goes on),
143 ended by SIGTERM (likewise).
"""


class _Named(click.Path):
    """The path of an output: names that are its own and more go beside it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse one that has no name, or a long one."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.name in ("", "..") or len(os.fsencode(path.name)) > 200:
            self.fail("a name of 1 to 200 bytes is expected, other than . and ..; choose another", param, ctx)
        return path


_OUT = _Named()


@click.command("classify", cls=Command, epilog=EXIT_CODES, short_help="From labelled examples to labels with times.")
@click.argument("examples", type=PATH)
@click.argument("recordings", nargs=-1, type=click.Path())
@click.option("-o", "--out", "output", type=_OUT, metavar="OUT", help="Where the labels go.")
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl", "parquet", "audacity", "raven"]),
    help="What to write. audacity and raven: a file a recording in the folder OUT, or one selection table OUT.txt for "
    "all.  [default: the suffix of OUT]",
)  # fmt: skip
@click.option("--window", type=float, metavar="SECONDS", help="Length.  [default: the examples' median, from 0.5 s on]")
@click.option("--hop", type=float, metavar="SECONDS", help="From one window to the next.  [default: half the window]")
@click.option("--threshold", default=0.5, show_default=True, help="Probability from which a window is labelled.")
@click.option("--top-k", default=1, show_default=True, metavar="K", help="Classes that a window, or file, may have.")
@click.option("--min-duration", default=0.0, metavar="SECONDS", help="Leave out shorter events.  [default: 0]")
@click.option("--merge-gap", default=0.0, metavar="SECONDS", help="Join events no further apart.  [default: 0]")
@click.option("--no-reject", is_flag=True, help="Label also windows that resemble no class.")
@click.option("--per-file", is_flag=True, help="A row a recording with its best classes, in place of events.")
@click.option("--save", type=_OUT, metavar="FILE", help="Keep the classifier, as birds.mtslvr.")
@click.option("--suggest", type=click.IntRange(min=1), metavar="N", help="Cut out the N windows to label next.")
@click.option("--suggest-to", type=_OUT, metavar="DIR", help="Where these go.  [default: OUT.suggestions]")
@click.option("--report", "page", type=_OUT, metavar="HTML", help="A page to judge the result by eye and ear.")
@click.option(
    "--embeddings", "stored", type=_OUT, metavar="FILE",
    help="Where the windows' embeddings are kept.  [default: OUT.embeddings.npy, or another such file beside it that "
    "has all RECORDINGS]",
)  # fmt: skip
@click.option(
    "--audio", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
    help="Where the recordings of an embeddings file are now.  [default: where they were embedded]",
)  # fmt: skip
@EMBEDDING
@click.option("--overwrite", is_flag=True, help="Embed everything anew, and write over labels changed since.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def classify_command(**options: Any) -> None:
    """Learn classes of sound from a few labelled EXAMPLES, and label RECORDINGS with start, end, class and score.

    EXAMPLES is a folder with a folder of clips a class (one named background or _noise is what is not to be labelled);
    a table of labels: csv with file, start, end, label, a Raven selection table or an Audacity label track; or a
    classifier that --save kept. RECORDINGS are files and folders as for mtslvr-embed, of any length, or one file of
    embeddings that mtslvr-embed --pool none wrote.

    Which of the embeddings, invariant, variant or both, the task wants is found from the examples. OUT.csv, OUT.jsonl
    or OUT.parquet has a row an event. The embeddings are kept beside OUT: with more examples or another threshold the
    same command takes seconds.
    """
    from .label import label

    label(SimpleNamespace(**options))
