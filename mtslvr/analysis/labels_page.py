"""A page by which a person judges labels: what the cross-validation found, scores, and hits to see and hear."""

from __future__ import annotations

import base64
import importlib.util
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from ..classify.classifier import Classifier
from ..classify.clips import audio_bytes, read_clip
from ..classify.labels import Label
from ..classify.output import Recording, check_file
from ..classify.predict import BINS, Found, spread
from ..errors import AudioError, ConfigError
from .pictures import new_figure
from .report import html_page, html_picture, html_table

MOST_HITS = 12  # that are played, of the best, the least certain and those to label each
MOST_CLASSES = 36  # that have a best hit, where there are more classes than that
LONGEST = 4.0  # seconds of one
AROUND = 0.5  # seconds that are shown and played before and after it
_TITLE = "Labels"
_RATE = 24_000  # enough to hear by
_WINDOW = 512  # samples of a spectrogram's column
_STYLE = """
.hits{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1rem;padding:0}
.hits figure{margin:0;border:1px solid #ddd;border-radius:6px;padding:.5rem;overflow-wrap:anywhere}
.hits img{width:100%;margin:0;display:block}.hits audio{width:100%;height:2.2rem;margin-top:.4rem}
figcaption{font-size:.88rem}td.text{white-space:normal;overflow-wrap:anywhere;min-width:4rem}
.confusion td{text-align:center}.confusion th{border-bottom:1px solid #e5e5e5;font-weight:400}
.confusion th.text{position:sticky;left:0;background:#fff;white-space:normal;overflow-wrap:anywhere;min-width:7rem}
.confusion th.turned{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;max-height:12rem;overflow:hidden;
text-overflow:ellipsis;padding:.7rem .1rem}
"""


def check_page(path: Path) -> None:
    """Find out before the work starts that a page can be made and written, else raise a ConfigError."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{path}: unknown format {path.suffix!r}; end the name in .html")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f"{path}: pictures need matplotlib: pip install 'mtslvr[plot]'")
    check_file(path, "report of mtslvr classify", f"<title>{_TITLE}</title>")


def page(classifier: Classifier, found: Found, threshold: float) -> str:
    """HTML with its pictures and sounds inside, some 12 MB at most; windows were labelled from a `threshold` on."""
    recordings = {recording.name: recording for recording in found.recordings}
    seconds = sum(recording.seconds for recording in found.recordings)
    length = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    counts = Counter(event.label for event in found.events)
    said = f"Events: {len(found.events)}. Recordings: {len(found.recordings)}, {length} in all."
    made = classifier.settings
    window, hop, digest = made["window_seconds"], made["hop_seconds"], made["model_sha256"][:12]
    model = f"model {made['model']} (sha256 {digest}), mtslvr {metadata.version('mtslvr')}, {date.today():%Y-%m-%d}"
    best, worst = _best(found.events), sorted(found.events, key=lambda event: event.score)[:MOST_HITS]
    body = [
        f"<h1>Labels</h1><p>{said} A window is labelled where a class has a probability of {threshold:g} or more.</p>",
        html_table([["class", "events"], *([name, str(counts[name])] for name in classifier.positive)]),
        f'<p class="small">Examples in windows of {window:g} s every {hop:g} s, {escape(model)}.</p>',
        *_examples(classifier.figures),
        "<h2>Scores of windows</h2><p>How many windows had which probability of their likeliest class; those near none "
        "of the classes, and silence, count as 0. Where two hills stand apart, the threshold belongs between them.</p>",
        html_picture(_histogram(found.histogram, threshold), "Histogram of window scores"),
        "<h2>Best hits</h2><p>The events with the highest scores, all classes in turn. What is found is between the "
        f"white lines, with {AROUND:g} s before and after; of an event longer than {LONGEST:g} s, its beginning.</p>",
        _hits(best, recordings),
        "<h2>Least certain hits</h2><p>The events with the lowest scores. Where these are wrong, raise the threshold, "
        f"or label some of them and run again.</p>{_hits(worst, recordings)}",
    ]
    if to_label := spread(found.doubts, MOST_HITS):
        said = "The windows whose label would help most, with the likeliest class; --suggest has cut them out."
        body.append(f"<h2>To label next</h2><p>{said}</p>{_hits(to_label, recordings)}")
    return html_page(_TITLE, "".join(body), _STYLE)


def _examples(figures: Mapping[str, Any]) -> Iterator[str]:
    names = list(figures["classes"])
    yield f"<h2>Examples</h2><p>Features: {escape(figures['features'])} ({escape(figures['reason'])}).</p>"
    if not figures["candidates"]:
        return
    lines = [[x["features"], f"{100 * x['accuracy']:.1f}", f"{x['log_loss']:.3f}"] for x in figures["candidates"]]
    yield html_table([["features", "accuracy, %", "log loss"], *lines])
    yield (
        "<h3>What examples are taken for</h3><p>By classifiers that had not seen their recording. A row a class, a "
        "column what it is taken for: blue is right, orange wrong.</p>"
    )
    yield _confusion(names, np.array(figures["confusion"]))
    if figures["doubtful"]:
        yield "<h3>Examples that look mislabelled</h3><p>The surest errors first; listen to these.</p>"
        rows = [[x["clip"], x["label"], x["taken_for"], f"{100 * x['probability']:.0f}"] for x in figures["doubtful"]]
        yield html_table([["example", "labelled", "taken for", "sure, %"], *rows])


def _confusion(names: Sequence[str], counts: npt.NDArray[np.int64]) -> str:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th class="turned" title="{escape(name)}">{escape(name)}</th>' for name in names)
    rows = []
    for i, name in enumerate(names):
        colour = [("0,114,178" if i == j else "213,94,0") for j in range(len(names))]
        cells = (
            f'<td style="background:rgba({colour[j]},{0.5 * shares[i, j]:.2f})">{count or ""}</td>'
            for j, count in enumerate(counts[i])
        )
        rows.append(f'<tr><th class="text">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="wide"><table class="confusion"><tr><th class="text"></th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _histogram(counts: npt.NDArray[np.int64], threshold: float) -> Any:
    figure = new_figure(5.5, 2.6)
    axes = figure.subplots()
    middles = (np.arange(BINS) + 0.5) / BINS
    axes.bar(middles, counts, 0.9 / BINS, color=["#0072B2" if x >= threshold else "#BBBBBB" for x in middles])
    axes.axvline(threshold, color="#D55E00", linestyle="--")
    axes.set(xlim=(0, 1), yscale="symlog", xlabel="probability of the likeliest class", ylabel="windows")
    return figure


def _best(events: Iterable[Label]) -> list[Label]:
    of_class: dict[str, list[Label]] = defaultdict(list)
    for event in sorted(events, key=lambda event: -event.score):
        of_class[event.label].append(event)
    turns = itertools.zip_longest(*(of_class[name] for name in sorted(of_class)))
    most = max(MOST_HITS, min(len(of_class), MOST_CLASSES))
    return [event for turn in turns for event in turn if event is not None][:most]


def _hits(events: Sequence[Label], recordings: Mapping[str, Recording]) -> str:
    hits = "".join(_hit(event, recordings[event.file]) for event in events)
    return f'<div class="hits">{hits}</div>' if hits else "<p>None.</p>"


def _hit(event: Label, recording: Recording) -> str:
    start, end = event.start or 0.0, event.end or 0.0
    score = f"{event.score:.2f}" if event.score < 0.995 else "&gt; 0.99"  # 1.00 would be certain
    caption = f"<b>{escape(event.label)}</b> {score}<br>{escape(event.file)}, {start:.2f} to {end:.2f} s"
    first, last = max(0.0, start - AROUND), min(end, start + LONGEST) + AROUND
    try:
        samples, rate = read_clip(recording, first, last)
    except AudioError:
        told = "The recording is not there to be played; say with --audio where it is."
        return f"<figure><figcaption>{caption}<br>{told}</figcaption></figure>"
    if rate > _RATE:
        samples, rate = soxr.resample(samples, rate, _RATE), _RATE
    image = base64.b64encode(_spectrogram(samples, rate, first, (start, end))).decode()
    sound = base64.b64encode(audio_bytes(samples, rate, "FLAC")).decode()
    return (
        f'<figure><img alt="Spectrogram, 0 to {rate / 2000:g} kHz" src="data:image/jpeg;base64,{image}">'
        f'<audio controls preload="none" src="data:audio/flac;base64,{sound}"></audio>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _spectrogram(samples: npt.NDArray[np.float32], rate: int, first: float, marked: tuple[float, float]) -> bytes:
    """A jpeg of the magnitude in dB, over a range of 70, of what begins at `first` seconds."""
    figure = new_figure(3.0, 1.8)
    axes = figure.subplots()
    padded = np.pad(samples, (0, max(0, _WINDOW - samples.size)))
    last, step = first + padded.size / rate, min(_WINDOW, max(64, padded.size // 500))
    with np.errstate(divide="ignore"):  # samples that are all zero
        power, *_, image = axes.specgram(
            padded, NFFT=_WINDOW, Fs=rate / 1000, noverlap=_WINDOW - step, xextent=(first, last), cmap="magma"
        )
    top = 10 * np.log10(power.max() + 1e-12)
    image.set_clim(top - 70, top)
    for at in marked:
        if first < at < last:
            axes.axvline(at, color="white", linewidth=1.2)
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    axes.tick_params(labelsize=8)
    axes.set(xlim=(first, last), facecolor="black")
    axes.set_xlabel("s", fontsize=8, labelpad=0)
    axes.set_ylabel("kHz", fontsize=8, labelpad=1)
    out = io.BytesIO()
    figure.savefig(out, format="jpeg", dpi=180)
    return out.getvalue()
