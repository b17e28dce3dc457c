"""Points of `project` to a map, as a picture or a page; `mtslvr plot` calls it. Needs the extra [plot]."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..run.files import atomic, guarded, resolve, wrong_suffix
from ..run.table import EmbeddingTable
from .pictures import COLOURS, SUFFIXES, literal, new_figure

PAGES = (".html", ".htm")
_LEGEND = 30  # classes that a legend of a picture has room for
_MARKERS = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross"}
Float64 = npt.NDArray[np.float64]

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>html,body{{margin:0;height:100%;overflow:hidden;font:14px system-ui,sans-serif}}
body{{display:flex;flex-direction:column}}body>div{{flex:1;min-height:0}}
#sound{{flex:none;display:flex;gap:1rem;align-items:center;padding:.3rem .8rem}}
#sound audio{{flex:0 1 18rem;min-width:8rem;height:2.2rem}}
#sound span{{flex:1 0 10rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}}
@media(max-width:700px){{.modebar{{display:none}}}}</style></head>
<body>{sound}{map}{missing}</body></html>
"""
_MISSING = """<noscript>JavaScript draws this map, and is switched off here.</noscript>
<script>if (!window.Plotly) document.body.innerHTML = '<p style="margin:2rem;max-width:40rem">Plotly draws this map. \
The page loads it from cdn.plot.ly, which cannot be reached. Open the page where there is a network, or write it again \
with <code>mtslvr plot --offline</code>, which puts plotly into the page.</p>'</script>"""
_SOUND = '<p id="sound" style="margin:0"><audio controls></audio><span>Click a point to hear it.</span></p>'
_NARROW = """
const map = document.getElementById('{plot_id}');
const narrow = {'legend.orientation': 'h', 'legend.y': -0.13, 'margin.l': 30, 'margin.r': 20};
if (window.innerWidth < 700) Plotly.relayout(map, narrow);
"""
_PLAY = """
const player = document.querySelector('#sound audio'), told = document.querySelector('#sound span');
map.on('plotly_click', (event) => {
  const point = event.points[0], address = point.customdata;
  told.textContent = (address ? '' : 'no sound for ') + point.hovertext;
  if (!address) return;
  player.src = address;
  player.play();
});
"""


@dataclass(frozen=True, eq=False)
class Map:
    """What is drawn.

    Attributes:
        points: (n, 2).
        labels: n classes, each with a colour and marker of its own; all empty for none.
        names: n texts for the page, of files.
        title: above the map.
        axes: names of the two.
        sounds: n addresses that the page plays, empty where there is none; no entries for a page without sound.
    """

    points: Float64
    labels: Sequence[str]
    names: Sequence[str]
    title: str
    axes: tuple[str, str]
    sounds: Sequence[str] = ()


def check_plot(path: str | os.PathLike[str], method: str, clusters: bool) -> None:
    """Find out before the work starts that a map can be made and written.

    Raises:
        ConfigError: an unknown suffix, a missing folder, or a library that is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES + PAGES:
        raise wrong_suffix(path, SUFFIXES + PAGES)
    needed = [("plotly", "plot")] if suffix in PAGES else [("matplotlib", "plot")]
    needed += [("umap", "umap")] if method == "umap" else []
    needed += [("sklearn", "plot")] if clusters else []
    for module, extra in needed:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"{path}: {module} is not installed; pip install 'mtslvr[{extra}]'")
    resolve(path)


def read_labels(table: EmbeddingTable, labels: str) -> list[str]:
    """A class for each row.

    Args:
        table: from `read_table`.
        labels: "by-folder", "none", or a csv of file and label, with a header.
    Raises:
        ConfigError: a csv that cannot be read or lacks a file.
    """
    if labels == "none":
        return [""] * len(table.paths)
    if labels == "by-folder":
        return [str(PurePosixPath(path).parent) for path in table.paths]
    try:
        with open(labels, encoding="utf-8", newline="") as file:
            found = {row["file"]: row["label"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError) as error:
        said = f"no column {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        remedy = "give by-folder, none, or the csv"
        raise ConfigError(f"labels={labels}: no csv with the columns file and label ({said}); {remedy}") from None
    missing = sorted(set(table.paths) - set(found))
    if missing:
        first = ", ".join(missing[:3])
        raise ConfigError(f"{labels}: lacks {len(missing)} files, {first} among them; add them, or use by-folder")
    return [found[path] for path in table.paths]


def row_names(table: EmbeddingTable) -> list[str]:
    """A text for each row: its file, and where in it where files have several rows."""
    if len(set(table.paths)) == len(table.paths):
        return list(table.paths)
    digits = 0 if all(math.isclose(s, round(s)) for s in table.start[:100]) else 2
    rows = zip(table.paths, table.start, table.end, strict=True)
    return [f"{path} {start:.{digits}f} to {end:.{digits}f} s" for path, start, end in rows]


def sounds(table: EmbeddingTable, folder: Path, page: Path) -> list[str]:
    """The address of each row's sound, as seen from a page; empty where the file is not there.

    Args:
        table: from `read_table`.
        folder: that its files are relative to.
        page: where it will lie.
    Raises:
        ConfigError: none of the files is there.
    """
    found = {path: (folder / path).is_file() for path in dict.fromkeys(table.paths)}
    if not any(found.values()):
        raise ConfigError(
            f"{folder}: holds none of the {len(found)} files, {table.paths[0]} for one; name their folder"
        )
    addresses = {path: quote(os.path.relpath(folder / path, page.parent).replace(os.sep, "/")) for path in found}
    rows = zip(table.paths, table.start, table.end, strict=True)
    return [f"{addresses[path]}#t={start:.2f},{end:.2f}" if found[path] else "" for path, start, end in rows]


def draw(path: str | os.PathLike[str], drawn: Map, offline: bool = False) -> None:
    """Write a map.

    Args:
        path: .png, .svg, .pdf or .html.
        drawn: what.
        offline: put plotly into the page, 5 MB, instead of a link to it.
    Raises:
        ConfigError: cannot be written.
    """
    target = resolve(path)
    suffix = target.suffix.lower()
    data = _page(drawn, offline) if suffix in PAGES else _picture(drawn, suffix[1:])
    with guarded(path), atomic(target) as file:
        file.write(data)


def _groups(labels: Sequence[str]) -> dict[str, list[int]]:
    """Label to its rows; numbers in labels count as such: dog2 before dog10."""

    def natural(label: str) -> list[tuple[int, str]]:
        return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", label.casefold())]

    groups: dict[str, list[int]] = {label: [] for label in sorted(set(labels), key=natural)}
    for row, label in enumerate(labels):
        groups[label].append(row)
    return groups


def _look(i: int) -> tuple[str, str]:
    """Colour and marker of the class at a place: once all colours are used, they come again with another marker."""
    return COLOURS[i % len(COLOURS)], list(_MARKERS)[i // len(COLOURS) % len(_MARKERS)]


def _picture(drawn: Map, suffix: str) -> bytes:
    import io

    figure = new_figure(8, 6)
    plot: Any = figure.add_subplot()
    groups = _groups(drawn.labels)
    size = float(np.clip(4000 / max(len(drawn.points), 1), 3, 40))
    for i, (label, rows) in enumerate(groups.items()):
        (colour, marker), (x, y) = _look(i), drawn.points[rows].T
        plot.scatter(x, y, s=size, color=colour, marker=marker, alpha=0.8, linewidths=0, label=literal(label) or None)
    if any(groups):
        handles, texts = plot.get_legend_handles_labels()
        more = f"{len(texts)} classes, the first {_LEGEND}:" if len(texts) > _LEGEND else None
        legend = plot.legend(
            handles[:_LEGEND], texts[:_LEGEND], title=more, title_fontsize=7, fontsize=7 if more else 8,
            loc="upper left", bbox_to_anchor=(1, 1), frameon=False,
        )  # fmt: skip
        for handle in legend.legend_handles:
            handle.set_sizes([30])
    plot.set_title(literal(drawn.title), fontsize=10)
    plot.set(xlabel=drawn.axes[0], ylabel=drawn.axes[1], xticks=[], yticks=[])
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=150)
    return buffer.getvalue()


def _page(drawn: Map, offline: bool) -> bytes:
    from plotly import graph_objects

    groups = _groups(drawn.labels)
    figure = graph_objects.Figure()
    kind = graph_objects.Scattergl if len(drawn.points) > 5000 else graph_objects.Scatter
    for i, (label, rows) in enumerate(groups.items()):
        (colour, marker), (x, y) = _look(i), drawn.points[rows].T
        figure.add_trace(
            kind(
                x=x, y=y, mode="markers", name=escape(label, quote=False) or "files",
                hovertext=[escape(drawn.names[row], quote=False) for row in rows],
                hovertemplate="%{hovertext}<extra>%{fullData.name}</extra>" if label else "%{hovertext}<extra></extra>",
                customdata=[drawn.sounds[row] for row in rows] if drawn.sounds else None,
                marker={"color": colour, "symbol": _MARKERS[marker], "size": 8, "opacity": 0.8},
            )
        )  # fmt: skip
    figure.update_layout(
        title={"text": escape(drawn.title, quote=False)}, template="plotly_white", showlegend=any(groups),
        margin={"t": 60, "b": 50}, xaxis={"title": {"text": drawn.axes[0]}}, yaxis={"title": {"text": drawn.axes[1]}},
    )  # fmt: skip
    figure.update_xaxes(showticklabels=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, zeroline=False)
    body = figure.to_html(
        full_html=False, include_plotlyjs=True if offline else "cdn", default_height="100%",
        post_script=_NARROW + (_PLAY if drawn.sounds else ""), config={"responsive": True},
    )  # fmt: skip
    parts = {"sound": _SOUND if drawn.sounds else "", "map": body, "missing": "" if offline else _MISSING}
    page = _PAGE.format(title=escape(drawn.title), **parts)
    return page.encode("utf-8", "replace")
