"""Files of results to one HTML page that needs nothing else: tables, pictures, settings, versions."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..fewshot.results import KIND as FEWSHOT
from ..fewshot.results import Results, Row, describe, read_json, read_results
from ..fewshot.table import comparison, groups, per_class, weight_shares
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
th{font-weight:600;border-bottom:2px solid #999}.text{text-align:left}.best{font-weight:700;background:#eef6ee}
img{max-width:100%;height:auto;margin:.6rem 0}details{margin:.8rem 0}summary{cursor:pointer}
.small{color:#555;font-size:.88rem}
"""
_FEWSHOT_TEXT = (
    "Each episode draws a few classes, learns a classifier from a few labelled files of each (the supports) and "
    "labels other files of the same classes (the queries). The network is not trained further. Accuracy is the mean "
    "over episodes in percent, with the half width of its 95% interval: how far it would move with other clips of the "
    "same classes. All features see the same clips and episodes, so a difference between two of them is surer than "
    "their intervals. The best of each column is marked. <em>invariant</em> "
    "features were trained to ignore pitch shift, fades, noise, time stretch, masking and time shift, "
    "<em>variant</em> features to tell which were applied, <em>concat</em> is both, <em>pooled</em> is both before "
    "the last layer, and <em>log-mel</em> is a baseline without training: mean and deviation of each mel band."
)
_SHARE_TEXT = (
    "A linear classifier on the concatenated features has weights on both branches. The share of a branch is the norm"
    " of its weights over the sum of the norms on both, averaged over episodes: which branch the task makes use of, "
    "for features scaled as they are."
)
_INVARIANCE_TEXT = (
    "Each clip is changed by one transformation of the training and embedded beside its original. The Mahalanobis "
    "distance between the two measures the move in units of the spread of all clips; <em>relative</em> is the distance "
    "of the two, brought to length 1, over the mean distance between different clips: at 0 the transformation does not "
    "matter, at 1 the changed clip is as far away as another clip. Cosine is the similarity of the two, 1 for the same "
    "direction."
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
    parts, environments = [], []
    for source in sources:
        kind, name = read_json(source)["kind"], Path(source).name
        if kind == FEWSHOT:
            results = read_results(source)
            parts.append(_fewshot(results, name))
            environments.append((name, results.environment))
        elif kind == INVARIANCE:
            measured = read_invariance(source)
            parts.append(_invariance(measured, name))
            environments.append((name, measured.environment))
        else:
            raise ConfigError(f"{source}: kind {kind!r}: expected {FEWSHOT!r} or {INVARIANCE!r}")
    body = "".join([f"<h1>{escape(title)}</h1>", *parts, _environments(environments)])
    return html_page(title, body)


def html_page(title: str, body: str, style: str = "") -> str:
    """A page of its own, with `style` added to that of all pages."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}{style}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def _fewshot(results: Results, name: str) -> str:
    if not results.rows:
        raise ConfigError(f"{name}: holds no measurements")
    rows = results.rows
    parts = [f"<h2>Few-shot accuracy: {escape(name)}</h2><p>{_FEWSHOT_TEXT}</p>", _datasets(results)]
    for kind, shots in dict.fromkeys((row.classifier, row.n_shot) for row in rows):
        mine = [row for row in rows if (row.classifier, row.n_shot) == (kind, shots)]
        said = "; ".join(dict.fromkeys(describe(row.result.settings) for row in mine))
        scaling = ", ".join(f"{k}: {v}" for k, v in _scalings(mine).items())
        parts.append(
            f'<h3>{escape(kind)}, {shots}-shot</h3><p class="small">{escape(said)}. Scaling of rows {scaling}.</p>'
        )
        parts.append(html_table(comparison(mine), marked=True))
    parts.append(html_picture(pictures.accuracy(rows), "Accuracy with 95% intervals over clips"))
    if any(row.result.weight_share for row in rows):
        parts.append(f"<h3>Feature selection</h3><p>{_SHARE_TEXT}</p>{html_table(weight_shares(rows))}")
        parts.append(html_picture(pictures.weight_shares(rows), "Share of the weight norm on each branch"))
    parts += [_classes(heading, mine) for heading, mine in groups(rows).items()]
    return "".join(parts)


def _scalings(rows: Sequence[Row]) -> dict[str, str]:
    """Features to how their rows were scaled, all of them in one word where they agree."""
    found = {row.features: str(row.result.settings.get("scaling")) for row in rows}
    return {"of all features": next(iter(found.values()))} if len(set(found.values())) == 1 else found


def _datasets(results: Results) -> str:
    lines = [["dataset", "classes", "clips", "variable lengths", "note"]]
    for name, facts in results.datasets.items():
        how = "one window a support, majority of a query's windows" if facts["pieces"] else "mean over windows"
        lines.append([name, f"{facts['classes']:,}", f"{facts['clips']:,}", how, str(facts.get("note") or "")])
    return html_table(lines)


def _classes(heading: str, rows: Sequence[Row]) -> str:
    if not any(row.result.per_class for row in rows):
        return ""
    summary = f"Accuracy of each class: {escape(heading)}"
    return f"<details><summary>{summary}</summary>{html_table(per_class(rows))}</details>"


def _invariance(measured: Invariance, name: str) -> str:
    settings = measured.settings
    said = (
        f"{settings['clips']} clips of {settings['folder']}, {settings['draws']} copies by each transformation, seed "
        f"{settings['seed']}, {settings['layer']} features."
    )
    conclusions = "".join(f"<li>{escape(line)}</li>" for line in measured.conclusions())
    return "".join(
        [
            f"<h2>Learned invariance: {escape(name)}</h2><p>{_INVARIANCE_TEXT}</p><p>{escape(said)}</p>",
            f"<ul>{conclusions}</ul>" if conclusions else "",
            html_picture(pictures.heat_map(measured), "Relative distance and cosine by transformation and branch"),
            html_table(measured.table()),
        ]
    )


def _environments(environments: Sequence[tuple[str, dict[str, str]]]) -> str:
    keys = list(dict.fromkeys(key for _, values in environments for key in values))
    lines = [["results", *keys], *([name, *(values.get(key, "") for key in keys)] for name, values in environments)]
    return f"<h2>Versions and machines</h2>{html_table(lines)}"


def html_table(lines: Sequence[Sequence[str]], marked: bool = False) -> str:
    """A table whose first line is its head; `marked` sets the best of each column apart."""
    best = _best(lines) if marked else set()
    numeric = [all(_number(line[j]) is not None or line[j] == "-" for line in lines[1:]) for j in range(len(lines[0]))]
    html = []
    for i, line in enumerate(lines):
        cells = []
        for j, cell in enumerate(line):
            classes = [] if numeric[j] else ["text"]
            classes += ["best"] if (i, j) in best else []
            tag = "td" if i else "th"
            attribute = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<{tag}{attribute}>{escape(cell)}</{tag}>")
        html.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><thead>{html[0]}</thead><tbody>{"".join(html[1:])}</tbody></table></div>'


def _best(lines: Sequence[Sequence[str]]) -> set[tuple[int, int]]:
    """Cells with the highest accuracy of their column."""
    best = set()
    for j in range(len(lines[0])):
        values = {i: _number(line[j]) for i, line in enumerate(lines) if i and " ± " in line[j]}
        known = [value for value in values.values() if value is not None]
        if len(known) > 1:
            best |= {(i, j) for i, value in values.items() if value == max(known)}
    return best


def _number(cell: str) -> float | None:
    try:
        return float(cell.split(" ± ")[0].replace(",", ""))
    except ValueError:
        return None


def html_picture(figure: Figure, alt: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(pictures.svg(figure).encode()).decode()
    return f'<p><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}"></p>'
