"""What one call of `mtslvr classify` labels with, and the embedded recordings that it labels."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError
from .common import EXIT_SOME_FAILED, Failure, counted, echo
from .inputs import find_inputs
from .run import Run
from .summary import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..audio.find import Search
    from ..classify import Classifier
    from ..classify.examples import Examples
    from ..classify.output import LabelFormat
    from ..run.state import FileEntry
    from ..run.table import EmbeddingTable

_STORED = {"window": "window_seconds", "hop": "hop_seconds", "channel": "channel", "dtype": "dtype"}


class Windows(NamedTuple):
    """Embedded recordings and what labels them."""

    classifier: Classifier  # made with the settings of the table
    table: EmbeddingTable
    path_of: Callable[[str], str]  # gives the path of a recording by its name in the table
    names: set[str] | None = None  # of the recordings to be labelled; None is all
    failure: Failure | None = None  # to be raised once the rest is labelled


def from_table(call: SimpleNamespace, form: LabelFormat) -> Windows:
    """What RECORDINGS has, one file of embeddings."""
    from ..classify.output import check_labels_kept
    from ..run.table import read_table

    source = Path(call.recordings[0])
    table = read_table(source)
    if not len(table.paths):
        raise ConfigError(f"{source}: holds no windows; embed recordings with mtslvr-embed --pool none")
    if "pool" not in table.settings:
        told = "does not say how it was made; keep beside it what mtslvr-embed wrote there, or embed again"
        raise ConfigError(f"{source}: {told} with --pool none")
    if table.settings["pool"] != "none":
        raise ConfigError(f"{source}: has a row a file; write a row a window with mtslvr-embed --pool none")
    names = list(dict.fromkeys(table.paths))
    if nameless := [name for name in names if "\0" in name or Path(name).name in ("", "..")]:
        raise ConfigError(f"{source}: has rows of {nameless[0]!r}, which is no name of a file; embed it again")
    check_labels_kept(call.output, form, names, overwrite=call.overwrite)
    for option in _STORED:
        _check_given(call, option, table.settings, source)
    entries = _entries(source)
    path_of = _path_of(entries, call.audio)
    there = [entry for entry in entries if entry.rows and os.path.isfile(entry.path)]
    found = [(entry, os.stat(entry.path)) for entry in there]
    if changed := [x.path for x, stat in found if (x.size, x.mtime_ns) != (stat.st_size, stat.st_mtime_ns)]:
        others = f" and {len(changed) - 1} more" if changed[1:] else ""
        echo(f"warning: {changed[0]}{others} changed after being embedded: times are of the old audio", err=True)
    classifier = learn(call, table.settings, map(path_of, names))
    classifier.check_settings(table.settings, str(source))
    return Windows(classifier, table, path_of)


def from_audio(call: SimpleNamespace, form: LabelFormat) -> Windows:
    """Embed all windows of the recordings, but for those that an earlier call has embedded."""
    from ..audio.load import Excerpt
    from ..audio.windows import Pool
    from ..classify.output import check_labels_kept
    from ..config import Features, Layer
    from ..run.extract import ExtractConfig
    from ..run.files import parse_format, resolve
    from ..run.state import read_state
    from ..run.table import read_table

    stored = call.stored or call.output.with_name(f"{call.output.name}.embeddings.npy")
    target, stored_form = resolve(stored, writable=True), parse_format(stored)
    report = Report(str(stored), target, on_error=call.on_error, quiet=call.quiet)
    inputs, names = find_inputs(call.recordings, "auto", report)
    check_labels_kept(call.output, form, names, overwrite=call.overwrite)
    state = None if call.overwrite else read_state(target)
    if state is not None and state.complete is not None and not target.exists():  # finished, and then deleted
        state = None
    earlier = {} if state is None else state.settings
    classifier = learn(call, earlier, [str(file.path) for file in inputs.files])
    ours = classifier.settings
    hop = earlier.get("hop_seconds", ours["hop_seconds"]) if call.hop is None else call.hop
    kinds, excerpt = (Features(ours["features"]), Layer(ours["layer"])), Excerpt(ours.get("channel", "mix"))
    sizes = ours["window_seconds"], hop, call.batch_size, call.threads
    config = ExtractConfig(*kinds, Pool.NONE, *sizes, excerpt=excerpt)
    weights = call.model or ours["model"], call.device, call.dtype or earlier.get("dtype", "float32")
    run = Run(*weights, config, stored_form, call.overwrite, call.on_truncated == "error", report)
    _, settings = run.find()
    classifier.check_settings(settings, ", ".join(call.recordings))
    if state is None and call.stored is None and not call.overwrite:
        stored = _embedded_beside(stored, settings, inputs)
        report.output, report.target = str(stored), resolve(stored, writable=True)
    failure = None
    try:
        run.start(inputs)
    except Failure as error:
        if error.exit_code != EXIT_SOME_FAILED or report.stop or not resolve(stored).exists():
            raise
        failure = error
    return Windows(classifier, read_table(stored), _path_of(_entries(stored)), set(names), failure)


def _embedded_beside(stored: Path, settings: Mapping[str, Any], inputs: Search) -> Path:
    """Finished embeddings of all inputs that a call with another output has left in the same folder, else `stored`."""
    from ..run.files import resolve
    from ..run.job import make_plan
    from ..run.state import earlier_state

    for other in sorted(stored.parent.glob("*.embeddings.npy")):
        with contextlib.suppress(ConfigError):  # made otherwise
            state = earlier_state(resolve(other), {**settings, "format": "npy"})
            finished = state is not None and state.complete is not None
            if finished and not make_plan(str(other), inputs.files, state, retry=False).todo:
                return other
    return stored


def _entries(source: Path) -> Iterable[FileEntry]:
    """The recordings of the embeddings `source`, as they were embedded; none where that is not known."""
    from ..run.files import resolve
    from ..run.state import read_state

    state = read_state(resolve(source))
    return () if state is None else state.entries.values()


def _path_of(entries: Iterable[FileEntry], audio: Path | None = None) -> Callable[[str], str]:
    """What gives the path of a recording by its name."""
    paths = {entry.name: entry.path for entry in entries}
    return lambda name: paths.get(name, name) if audio is None else str(audio / name)


def learn(call: SimpleNamespace, stored: Mapping[str, Any], recordings: Iterable[str] = ()) -> Classifier:
    """The classifier, made as the embeddings that are `stored` where the options say no other.

    `recordings` are the paths of those to be labelled, which tables of examples may name.
    """
    from ..classify import Classifier
    from ..classify.classifier import fit_examples

    kept = _is_classifier(call.examples)
    if kept:
        classifier = Classifier.load(call.examples)
        _check_given(call, "window", classifier.settings, call.examples)
        if call.channel is not None:  # which one is a matter of the recordings
            classifier = replace(classifier, settings={**classifier.settings, "channel": call.channel})
    else:
        classifier = fit_examples(_collect(call, stored, recordings))
    if not call.quiet:
        told = f"classifier: {call.examples}: {', '.join(classifier.classes)}; by {classifier.figures['features']}"
        for line in [told] if kept else _described(classifier):
            echo(line, err=True)
        echo(_window_line(call, classifier.settings, stored, kept), err=True)
    if call.save is not None:
        classifier.save(call.save)
    return classifier


def _collect(call: SimpleNamespace, stored: Mapping[str, Any], recordings: Iterable[str]) -> Examples:
    from ..classify.examples import collect

    if not call.quiet:
        echo(f"embedding the examples in {call.examples} ...", err=True)
    given = {"model": call.model, "window_seconds": call.window, "hop_seconds": call.hop, "channel": call.channel}
    how = {name: stored[name] for name in (*given, "features", "layer") if name in stored}
    how |= {name: value for name, value in given.items() if value is not None}
    try:
        return collect(call.examples, device=call.device, recordings=recordings, **how)
    except ConfigError as error:
        summary, *faults = str(error).split("\n")
        for fault in faults:
            echo(fault, err=True)
        told = f"{summary.removesuffix(':')}, told above; nothing is labelled" if faults else summary
        raise ConfigError(told) from error


def _check_given(call: SimpleNamespace, name: str, settings: Mapping[str, Any], source: Path) -> None:
    """Refuse an option that says other than what is there already."""
    from ..run.state import DEFAULTS

    given, there = getattr(call, name), settings.get(_STORED[name], DEFAULTS.get(name))
    if given is not None and there is not None and given != there:
        told, of = (f"{given:g}", f"{there:g} s") if isinstance(given, float) else (given, there)
        raise ConfigError(
            f"--{name} {told}: {source} is made with a {name} of {of}; leave --{name} out, or make it anew"
        )


def _described(classifier: Classifier) -> Iterator[str]:
    """Lines for people: classes, which features were tried and how they did, and what scores are worth."""
    figures = classifier.figures
    counts = ", ".join(f"{name} {count}" for name, count in figures["classes"].items())
    yield f"examples: {counts}; from {counted(figures['recordings'], 'recording')}"
    if figures["candidates"]:
        yield f"{'features':32} accuracy  log loss"
    for found in figures["candidates"]:
        mark = "  <- chosen" if found["share"] == classifier.share else ""
        yield f"{found['features']:32} {found['accuracy']:7.1%} {found['log_loss']:9.3f}{mark}"
    yield f"features: {figures['features']} ({figures['reason']})"
    rows = zip(figures["classes"].items(), figures["confusion"], strict=True)
    left = {name: count - sum(row) for (name, count), row in rows if sum(row) < count}
    if not figures["candidates"]:
        yield "scores: not calibrated, there being nothing to do it on"
    elif left:
        told = ", ".join(f"{count} of {name}" for name, count in left.items())
        yield f"not held out: {told}; of each class two recordings are needed, and 400 windows in all are measured"


def _window_line(call: SimpleNamespace, ours: Mapping[str, Any], stored: Mapping[str, Any], kept: bool) -> str:
    """A line for people: how long windows are and how far apart, and what says so."""
    told = []
    for name, default in {"window": "the examples' median", "hop": "half the window"}.items():
        value, source = ours[f"{name}_seconds"], "the classifier's" if kept else default
        if (given := getattr(call, name)) is not None:
            value, source = given, f"--{name}"
        elif f"{name}_seconds" in stored:
            value, source = stored[f"{name}_seconds"], "as the recordings are embedded"
        told.append(f"{name}: {value:g} s ({source})")
    return ", ".join(told)


def _is_classifier(path: Path) -> bool:
    """Whether a file is safetensors, by its first bytes: the length of a header, which is JSON."""
    if path.suffix == ".mtslvr":
        return True
    try:
        with open(path, "rb") as file:
            return file.read(9)[7:9] == b"\0{"
    except OSError:
        return False
