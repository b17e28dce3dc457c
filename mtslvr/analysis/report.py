"""Files of results to one HTML page that needs nothing else: tables, pictures, settings, versions."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..fewshot import results as fewshot
from . import pictures
from .invariance import KIND as INVARIANCE
from .invariance import Invariance, read_invariance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root{color-scheme:light}
body{font:16px/1.5 system-ui,sans-serif;color:#1d1d1f;background:#fff;max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.25rem;margin-top:2.2rem;border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:1.4rem 0 .4rem}p,li{max-width:46rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #e5e5e5;white-space:nowrap}
th{font-weight:600;border-bottom:2px solid #999}.text{text-align:left}
img{max-width:100%;height:auto;margin:.6rem 0}details{margin:.8rem 0}summary{cursor:pointer}
.small{color:#555;font-size:.88rem}
"""
_FEWSHOT_TEXT = (
    "Each episode draws a few classes, learns a classifier from a few labelled files of each (the supports) and "
    "labels other files of the same classes (the queries). Accuracy is the mean over episodes in percent, with half "
    "the width of its 95% interval: how far it would move with other clips of the same classes. All features see the "
    "same clips and episodes, so a difference between two is surer than their intervals. <em>invariant</em> features "
    "were trained to ignore pitch shift, fades, noise, time stretch, masking and time shift, <em>variant</em> ones to "
    "tell them, <em>concat</em> is both, <em>pooled</em> is both before the last layer, <em>log-mel</em> the mean and "
    "deviation of each mel band."
)
_SHARE_TEXT = (
    "How much of a linear classifier's weights on concat is on each branch: the norm of those weights over the sum of "
    "the norms on both, averaged over episodes."
)
_INVARIANCE_TEXT = (
    "Each clip is changed by one transformation of the training and embedded beside its original. The Mahalanobis "
    "distance of the two is in units of the spread of all clips; <em>relative</em> is the distance of the two, brought "
    "to length 1, over the mean distance between different clips: 0 is invariant, and at 1 the changed clip is as far "
    "away as another clip."
)


def report(sources: Sequence[str | os.PathLike[str]], title: str = "mtslvr results") -> str:
    """Put files of results on one page.

    Args:
        sources: json files of `mtslvr fewshot -o` and `mtslvr invariance -o`.
        title: of the page.
    Returns:
        HTML with its pictures and style inside.
    Raises:
        ConfigError: a file that is no results, or matplotlib is not installed.
    """
    if not sources:
        raise ConfigError("no files of results given")
    parts, environments = [f"<h1>{escape(title)}</h1>"], []
    for source in sources:
        kind, name = fewshot.read_json(source)["kind"], Path(source).name
        if kind not in (fewshot.KIND, INVARIANCE):
            raise ConfigError(f"{source}: kind {kind!r}: expected {fewshot.KIND!r} or {INVARIANCE!r}")
        found = fewshot.read_results(source) if kind == fewshot.KIND else read_invariance(source)
        if not found.rows:
            raise ConfigError(f"{name}: holds no measurements")
        parts.append(_fewshot(found, name) if isinstance(found, fewshot.Results) else _invariance(found, name))
        environments.append({"results": name, **found.environment})
    keys = list(dict.fromkeys(key for values in environments for key in values))
    lines = [keys, *([values.get(key, "") for key in keys] for values in environments)]
    parts.append(f"<h2>Versions and machines</h2>{html_table(lines)}")
    return html_page(title, "".join(parts))


def html_page(title: str, body: str, style: str = "") -> str:
    """A page of its own, with `style` added to that of all pages."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}{style}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _fewshot(results: fewshot.Results, name: str) -> str:
    rows = results.rows
    datasets = [["dataset", "classes", "clips", "variable lengths", "note"]]
    for dataset, facts in results.datasets.items():
        how = "one window a support, majority of a query's windows" if facts["pieces"] else "mean over windows"
        datasets.append([dataset, f"{facts['classes']:,}", f"{facts['clips']:,}", how, str(facts.get("note") or "")])
    settings = [(f"{row.features}, {row.classifier}", row.result.settings) for row in rows]
    said = dict.fromkeys(f"{what}: {fewshot.describe(how)}, scaling {how['scaling']}" for what, how in settings)
    parts = [
        f"<h2>Few-shot accuracy: {escape(name)}</h2><p>{_FEWSHOT_TEXT}</p>",
        html_table(datasets),
        html_table(results.table()),
        html_picture(pictures.draw(results), "Accuracy with 95% intervals over clips"),
        _details("Settings", "<br>".join(map(escape, said))),
    ]
    if any(row.result.weight_share for row in rows):
        parts.append(f"<h3>Feature selection</h3><p>{_SHARE_TEXT}</p>{html_table(fewshot.weight_shares(rows))}")
    for heading, table in fewshot.per_class(rows).items():
        parts.append(_details(f"Accuracy of each class: {heading}", html_table(table)))
    return "".join(parts)


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _invariance(measured: Invariance, name: str) -> str:
    said = "{clips} clips of {folder}, {draws} copies by each transformation, seed {seed}, {layer} features."
    parts = [
        f"<h2>Learned invariance: {escape(name)}</h2><p>{_INVARIANCE_TEXT}</p>",
        *(f"<p>{escape(line)}</p>" for line in (said.format(**measured.settings), *measured.conclusions())),
        html_picture(pictures.draw(measured), "Relative distance and cosine by transformation and branch"),
        html_table(measured.table()),
    ]
    return "".join(parts)


def html_table(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head; columns that hold no numbers stand to the left."""
    text = [not all(line[j][:1] in "0123456789-" for line in lines[1:]) for j in range(len(lines[0]))]
    rows = []
    for tag, line in zip(["th", *["td"] * len(lines)], lines, strict=False):
        cells = zip(line, text, strict=True)
        rows.append("".join(f"<{tag}{' class=text' * left}>{escape(cell)}</{tag}>" for cell, left in cells))
    return f'<div class="wide"><table>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'


def html_picture(figure: Figure, alt: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(pictures.svg(figure).encode()).decode()
    return f'<p><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}"></p>'
