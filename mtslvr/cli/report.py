"""`mtslvr report`: files of results to one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from .common import PATH, Command
from .measuring import check_outputs, write_text


@click.command("report", cls=Command, short_help="Files of results to one HTML page.")
@click.argument("results", nargs=-1, required=True, type=PATH, metavar="RESULTS...")
@click.option("-o", "--out", "output", required=True, type=PATH, help="Where to write, report.html.")
@click.option("--title", default="mtslvr results", show_default=True, help="Above the page.")
def report_command(results: tuple[Path, ...], output: Path, title: str) -> None:
    """Put RESULTS, json files of `mtslvr fewshot` and `mtslvr invariance`, on one page that needs nothing else."""
    from ..analysis import report

    check_outputs([output], suffixes=(".html", ".htm"))
    write_text(output, report(results, title))
