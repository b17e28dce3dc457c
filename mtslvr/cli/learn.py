"""The classifier of one call of `mtslvr classify`, learned or loaded, and what is told of it; next: `label`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..classify import Classifier, Examples
from ..classify.classifier import fit_examples
from ..classify.examples import collect
from ..errors import ConfigError
from ..run.state import DEFAULTS
from .common import counted, echo

STORED = {"window": "window_seconds", "hop": "hop_seconds", "channel": "channel", "dtype": "dtype"}


def learn(call: SimpleNamespace, stored: Mapping[str, Any], recordings: Iterable[str] = ()) -> Classifier:
    """The classifier, made as the embeddings that are `stored` where the options say no other.

    `recordings` are the paths of those to be labelled, which tables of examples may name.
    """
    kept = _is_classifier(call.examples)
    if kept:
        classifier = Classifier.load(call.examples)
        check_given(call, "window", classifier.settings, call.examples)
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
        if not call.quiet:
            echo(f"wrote {call.save}", err=True)
    return classifier


def _collect(call: SimpleNamespace, stored: Mapping[str, Any], recordings: Iterable[str]) -> Examples:
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


def check_given(call: SimpleNamespace, name: str, settings: Mapping[str, Any], source: Path) -> None:
    """Refuse an option that says other than what is there already."""
    given, there = getattr(call, name), settings.get(STORED[name], DEFAULTS.get(name))
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
