"""An embeddings file to a map of its rows, as a picture or a page; `mtslvr plot` calls it. Needs the extra [plot]."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..fewshot.classifiers import directions
from ..fewshot.results import check_output
from ..run.files import write_file
from ..run.table import EmbeddingTable
from .pictures import COLOURS, SUFFIXES, literal, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGES = (".html", ".htm")
_LEGEND = 30  # classes that a legend of a picture has room for
_MARKERS = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross"}
Array = npt.NDArray[Any]

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
_PLAY = """
const player = document.querySelector('#sound audio'), told = document.querySelector('#sound span');
document.getElementById('{plot_id}').on('plotly_click', (event) => {
  const point = event.points[0], address = point.customdata;
  told.textContent = (address ? '' : 'no sound for ') + point.hovertext;
  if (!address) return;
  player.src = address;
  player.play();
});
"""


@dataclass(frozen=True, eq=False)
class Map:
    """What is drawn."""

    points: Array  # (n, 2)
    labels: Sequence[str]  # n classes, each with a colour and marker of its own; all empty for none
    names: Sequence[str]  # n texts for the page, of files
    title: str
    axes: tuple[str, str]
    sounds: Sequence[str] = ()  # n addresses that the page plays, empty where there is none; or none at all


def check_plot(path: Path, method: str) -> None:
    """Find out before the work starts that a map can be made and written, or raise a ConfigError."""
    check_output(path, SUFFIXES + PAGES)
    needed = [("plotly" if path.suffix.lower() in PAGES else "matplotlib", "plot"), ("sklearn", "plot")]
    needed += [("umap", "umap")] if method == "umap" else []
    for module, extra in needed:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"{path}: {module} is not installed; pip install 'mtslvr[{extra}]'")


def project(embeddings: Array, method: str = "pca") -> Array:
    """Rows (n, D), brought to length 1, to coordinates (n, 2): "pca", or "umap" by cosine with a fixed seed."""
    if len(embeddings) < (4 if method == "umap" else 2):
        raise ConfigError(f"{len(embeddings)} rows: too few for a map by {method}; embed more files")
    if method == "pca":
        from sklearn.decomposition import PCA

        return np.asarray(PCA(2, svd_solver="covariance_eigh").fit_transform(directions(embeddings)))
    import umap

    # Its spectral start needs more rows than dimensions to spare.
    start = "random" if len(embeddings) < 10 else "spectral"
    neighbours = min(15, len(embeddings) - 1)
    reducer = umap.UMAP(n_neighbors=neighbours, metric="cosine", init=start, random_state=42, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(reducer.fit_transform(embeddings))


def clusters(embeddings: Array, count: int) -> list[str]:
    """Group rows, brought to length 1, by k-means: "cluster 1" is the largest."""
    from sklearn.cluster import KMeans

    if not 2 <= count <= len(embeddings):
        raise ConfigError(f"clusters={count}: must be from 2 to the number of rows, {len(embeddings)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer different rows than clusters
        found = KMeans(count, n_init=4, random_state=42).fit_predict(directions(embeddings))
    places = np.argsort(np.argsort(-np.bincount(found, minlength=count), kind="stable")) + 1
    return [f"cluster {places[i]}" for i in found]


def read_labels(table: EmbeddingTable, labels: str) -> list[str]:
    """A class for each row: "by-folder", "none", or by a csv of file and label, with a header."""
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
    rows = zip(table.paths, table.start, table.end, strict=True)
    return [f"{path} {start:.2f} to {end:.2f} s" for path, start, end in rows]


def sounds(table: EmbeddingTable, folder: Path, page: Path) -> list[str]:
    """The address of each row's sound in a folder, as seen from a page; empty where the file is not there."""
    found = {path: (folder / path).is_file() for path in dict.fromkeys(table.paths)}
    if not any(found.values()):
        raise ConfigError(
            f"{folder}: holds none of the {len(found)} files, {table.paths[0]} for one; name their folder"
        )
    addresses = {path: quote(os.path.relpath(folder / path, page.parent).replace(os.sep, "/")) for path in found}
    rows = zip(table.paths, table.start, table.end, strict=True)
    return [f"{addresses[path]}#t={start:.2f},{end:.2f}" if found[path] else "" for path, start, end in rows]


def draw(path: Path, drawn: Map, offline: bool = False) -> None:
    """Write a map in the format of the suffix; an `offline` page holds plotly, 5 MB, in place of a link to it."""
    if path.suffix.lower() in PAGES:
        write_file(path, _page(drawn, offline))
    else:
        save(_picture(drawn), path)


def _groups(labels: Sequence[str]) -> list[tuple[str, list[int], str, str]]:
    """Label, rows, colour and marker of each class; numbers in labels count as such: dog2 before dog10."""

    def natural(label: str) -> list[tuple[int, str]]:
        return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", label.casefold())]

    groups: dict[str, list[int]] = {label: [] for label in sorted(set(labels), key=natural)}
    for row, label in enumerate(labels):
        groups[label].append(row)
    markers = list(_MARKERS)
    return [
        (label, rows, COLOURS[i % len(COLOURS)], markers[i // len(COLOURS) % len(markers)])
        for i, (label, rows) in enumerate(groups.items())
    ]


def _picture(drawn: Map) -> Figure:
    figure = new_figure(8, 6)
    plot: Any = figure.add_subplot()
    size = float(np.clip(4000 / max(len(drawn.points), 1), 3, 40))
    for label, rows, colour, marker in _groups(drawn.labels):
        x, y = drawn.points[rows].T
        plot.scatter(x, y, s=size, color=colour, marker=marker, alpha=0.8, linewidths=0, label=literal(label) or None)
    handles, texts = plot.get_legend_handles_labels()
    if handles:
        more = f"{len(texts)} classes, the first {_LEGEND}:" if len(texts) > _LEGEND else None
        legend = plot.legend(
            handles[:_LEGEND], texts[:_LEGEND], title=more, title_fontsize=7, fontsize=7 if more else 8,
            loc="upper left", bbox_to_anchor=(1, 1), frameon=False,
        )  # fmt: skip
        for handle in legend.legend_handles:
            handle.set_sizes([30])
    plot.set_title(literal(drawn.title), fontsize=10)
    plot.set(xlabel=drawn.axes[0], ylabel=drawn.axes[1], xticks=[], yticks=[])
    return figure


def _page(drawn: Map, offline: bool) -> bytes:
    from plotly import graph_objects

    figure = graph_objects.Figure()
    kind = graph_objects.Scattergl if len(drawn.points) > 5000 else graph_objects.Scatter
    for label, rows, colour, marker in _groups(drawn.labels):
        x, y = drawn.points[rows].T
        figure.add_trace(
            kind(
                x=x, y=y, mode="markers", name=escape(label, quote=False) or "files",
                hovertext=[escape(drawn.names[row], quote=False) for row in rows],
                hovertemplate="%{hovertext}<extra>%{fullData.name}</extra>" if label else "%{hovertext}<extra></extra>",
                customdata=[drawn.sounds[row] for row in rows] if drawn.sounds else None,
                marker={"color": colour, "symbol": _MARKERS[marker], "size": 8, "opacity": 0.8},
            )
        )  # fmt: skip
    x_axis, y_axis = ({"title": {"text": name}, "showticklabels": False, "zeroline": False} for name in drawn.axes)
    figure.update_layout(
        title={"text": escape(drawn.title, quote=False)}, template="plotly_white", showlegend=any(drawn.labels),
        xaxis=x_axis, yaxis=y_axis, margin={"t": 60, "b": 50},
    )  # fmt: skip
    body = figure.to_html(
        full_html=False, include_plotlyjs=True if offline else "cdn", default_height="100%",
        post_script=_PLAY if drawn.sounds else None, config={"responsive": True},
    )  # fmt: skip
    parts = {"sound": _SOUND if drawn.sounds else "", "map": body, "missing": "" if offline else _MISSING}
    return _PAGE.format(title=escape(drawn.title), **parts).encode("utf-8", "replace")
