"""Embeddings to a map in two dimensions, as a picture or a page; `mtslvr plot` calls it. Needs the extra [plot]."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..run.files import atomic, guarded, resolve
from ..run.table import EmbeddingTable

PICTURES, PAGES = (".png", ".svg", ".pdf"), (".html",)
_BLOCK = 8192  # rows at once
_LEGEND = 30  # classes that a legend has room for
_MARKERS = "osD^vP"


def check_plot(path: str | os.PathLike[str], method: str) -> Path:
    """Find out before the work starts that a map can be made and written.

    Raises:
        ConfigError: an unknown suffix, a missing folder, or a library that is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in PICTURES + PAGES:
        raise ConfigError(f"{path}: unknown format {suffix!r}; end the name in {', '.join(PICTURES + PAGES)}")
    needed = [("plotly", "plot")] if suffix in PAGES else [("matplotlib", "plot")]
    needed += [("umap", "umap")] if method == "umap" else []
    for module, extra in needed:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"{path}: {module} is not installed; pip install 'mtslvr[{extra}]'")
    return resolve(path)


def project(embeddings: npt.NDArray[np.float32], method: str = "pca") -> npt.NDArray[np.float64]:
    """Two coordinates a row, from rows brought to length 1.

    Args:
        embeddings: (n, D).
        method: "pca", or "umap" by cosine with a fixed seed.
    Returns:
        (n, 2).
    Raises:
        ConfigError: fewer than two rows, or three for UMAP.
    """
    if len(embeddings) < (4 if method == "umap" else 2):
        raise ConfigError(f"{len(embeddings)} rows: too few for a map by {method}; embed more files")
    return _umap(embeddings) if method == "umap" else _pca(embeddings)


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    rows64 = np.asarray(rows, np.float64)
    unit: npt.NDArray[np.float64] = rows64 / np.maximum(np.linalg.norm(rows64, axis=1, keepdims=True), 1e-30)
    return unit


def _pca(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    width = embeddings.shape[1]
    total, squares = np.zeros(width), np.zeros((width, width))
    for first in range(0, len(embeddings), _BLOCK):
        rows = _unit(embeddings[first : first + _BLOCK])
        total += rows.sum(axis=0)
        squares += rows.T @ rows
    mean = total / len(embeddings)
    _, vectors = np.linalg.eigh(squares / len(embeddings) - np.outer(mean, mean))
    axes = vectors[:, [-1, -2]] if width > 1 else np.array([[1.0, 0.0]])
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)  # the sign is free: make it one
    blocks = (_unit(embeddings[i : i + _BLOCK]) - mean for i in range(0, len(embeddings), _BLOCK))
    return np.concatenate([block @ axes for block in blocks])


def _umap(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    import warnings

    import umap

    neighbours = min(15, len(embeddings) - 1)
    # Its spectral start needs more rows than dimensions to spare.
    start = "random" if len(embeddings) < 10 else "spectral"
    reducer = umap.UMAP(n_neighbors=neighbours, metric="cosine", init=start, random_state=42, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(reducer.fit_transform(np.asarray(embeddings)), np.float64)


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
        said = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{labels}: not a csv with the columns file and label ({said})") from None
    missing = sorted(set(table.paths) - set(found))
    if missing:
        some = ", ".join(missing[:3])
        raise ConfigError(f"{labels}: lacks {len(missing)} files, {some} among them; add them, or use by-folder")
    return [found[path] for path in table.paths]


def draw(
    path: str | os.PathLike[str],
    points: npt.NDArray[np.float64],
    labels: Sequence[str],
    names: Sequence[str],
    title: str,
    axes: tuple[str, str],
) -> None:
    """Write a map.

    Args:
        path: .png, .svg, .pdf or .html.
        points: (n, 2).
        labels: n classes, each with a colour of its own; all empty for none.
        names: n texts that the page shows on hover.
        title: above the map.
        axes: names of the two.
    Raises:
        ConfigError: cannot be written.
    """
    target = resolve(path)
    drawing = _page if target.suffix.lower() in PAGES else _picture
    data = drawing(target.suffix.lower()[1:], points, labels, names, title, axes)
    with guarded(path), atomic(target) as file:
        file.write(data)


def _picture(
    suffix: str,
    points: npt.NDArray[np.float64],
    labels: Sequence[str],
    names: Sequence[str],
    title: str,
    axes: tuple[str, str],
) -> bytes:
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    plot: Any = figure.add_subplot()
    groups = _groups(labels)
    size = float(np.clip(4000 / max(len(points), 1), 3, 40))
    for i, (label, rows) in enumerate(groups.items()):
        colour, marker = _colours(len(groups))[i], _MARKERS[i % len(_MARKERS) if len(groups) > 10 else 0]
        where = points[rows, 0], points[rows, 1]
        plot.scatter(*where, s=size, color=colour, marker=marker, alpha=0.8, linewidths=0, label=literal(label) or None)
    if any(groups):
        _legend(plot)
    plot.set_title(literal(title), fontsize=10)
    plot.set_xlabel(axes[0])
    plot.set_ylabel(axes[1])
    plot.set_xticks([])
    plot.set_yticks([])
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix)
    return buffer.getvalue()


def literal(text: str) -> str:
    """Text for matplotlib to show as it is: dollar signs begin no formula, and a space stands before an underscore.

    Of labels that begin with an underscore it makes no entry in a legend.
    """
    text = text.encode("utf-8", "replace").decode().replace("$", r"\$")  # names of files may be no text
    return f" {text}" if text.startswith("_") else text


def _legend(plot: Any) -> None:
    handles, texts = plot.get_legend_handles_labels()
    more = f"{len(texts)} classes, the first {_LEGEND}:" if len(texts) > _LEGEND else None
    legend = plot.legend(
        handles[:_LEGEND],
        texts[:_LEGEND],
        title=more,
        title_fontsize=7,
        fontsize=7 if more else 8,
        loc="upper left",
        bbox_to_anchor=(1, 1),
        frameon=False,
    )
    for handle in legend.legend_handles:
        handle.set_sizes([30])


def _page(
    suffix: str,
    points: npt.NDArray[np.float64],
    labels: Sequence[str],
    names: Sequence[str],
    title: str,
    axes: tuple[str, str],
) -> bytes:
    from plotly import graph_objects

    groups = _groups(labels)
    figure = graph_objects.Figure()
    kind = graph_objects.Scattergl if len(points) > 5000 else graph_objects.Scatter
    for i, (label, rows) in enumerate(groups.items()):
        colour = "rgb({},{},{})".format(*(round(255 * part) for part in _colours(len(groups))[i]))
        figure.add_trace(
            kind(
                x=points[rows, 0],
                y=points[rows, 1],
                mode="markers",
                name=_escape(label) or "files",
                text=[_escape(names[row]) for row in rows],
                hovertemplate="%{text}<extra>%{fullData.name}</extra>" if label else "%{text}<extra></extra>",
                marker={"color": colour, "size": 8, "opacity": 0.8},
            )
        )
    figure.update_layout(
        title={"text": _escape(title)},
        template="plotly_white",
        showlegend=any(groups),
        margin={"t": 60, "b": 50},
        xaxis={"title": {"text": axes[0]}, "showticklabels": False, "zeroline": False},
        yaxis={"title": {"text": axes[1]}, "showticklabels": False, "zeroline": False},
    )
    # Whole, so that it opens without network.
    page: str = figure.to_html(include_plotlyjs=True, default_height="96vh")
    return page.encode("utf-8", "replace")


def _groups(labels: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {label: [] for label in sorted(set(labels))}
    for row, label in enumerate(labels):
        groups[label].append(row)
    return groups


def _colours(count: int) -> list[tuple[float, float, float]]:
    """Colours that stay apart: ten well-known ones, or hues around the circle by the golden ratio."""
    # Okabe and Ito's set, which colour-blind readers tell apart, without its black and yellow, and three more.
    known = ["0072B2", "E69F00", "009E73", "CC79A7", "D55E00", "56B4E9", "7F7F7F", "8C564B", "6A3D9A", "B2DF8A"]
    if count <= len(known):
        return [tuple(int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)) for text in known[:count]]  # type: ignore[misc]
    import colorsys

    return [colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.85, (0.9, 0.6)[i % 2]) for i in range(count)]


def _escape(text: str) -> str:
    """Plotly takes a little HTML in its texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def row_names(table: EmbeddingTable) -> list[str]:
    """A text for each row: its file, and where in it where files have several rows."""
    if len(set(table.paths)) == len(table.paths):
        return list(table.paths)
    digits = 0 if all(math.isclose(s, round(s)) for s in table.start[:100]) else 2
    rows = zip(table.paths, table.start, table.end, strict=True)
    return [f"{path} {start:.{digits}f} to {end:.{digits}f} s" for path, start, end in rows]
