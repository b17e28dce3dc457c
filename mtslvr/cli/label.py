"""What `mtslvr classify` does: options checked, a classifier learned, recordings embedded, labels written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from ..audio.find import FoundAudio, Search
from ..audio.load import Excerpt
from ..classify import Classifier, EventConfig, output
from ..classify.classifier import SUFFIX, fit_examples
from ..classify.examples import collect
from ..classify.output import LabelFormat
from ..classify.predict import Found, file_rows, predict_table, spread
from ..config import EncoderConfig
from ..errors import ConfigError
from ..models.hub import parse_device
from ..run.extract import ExtractConfig, check_windows
from ..run.files import parse_format, resolve, sidecar, write_file
from ..run.job import make_plan
from ..run.state import earlier_state, read_state
from ..run.table import read_table
from .common import EXIT_SOME_FAILED, Failure, counted, echo
from .inputs import find_inputs
from .run import Run
from .summary import Report

_TABLES = (".npz", ".npy", ".parquet", ".csv", ".jsonl")


def label(call: SimpleNamespace) -> None:
    """Do what a call of the command says, by its options."""
    config = EventConfig(call.threshold, call.top_k, call.min_duration, call.merge_gap)
    parse_device(call.device)
    sizes = {"window_seconds": call.window, "hop_seconds": call.hop, "batch_size": call.batch_size}
    excerpt = Excerpt("mix" if call.channel is None else call.channel)
    check_windows(EncoderConfig(), ExtractConfig(**sizes, threads=call.threads, excerpt=excerpt))
    if not call.recordings and (call.save is None or call.output is not None):
        raise click.UsageError("no RECORDINGS to label; without them give --save alone, to keep the classifier")
    if call.recordings and call.output is None:
        raise click.UsageError("no OUT for the labels; give -o labels.csv")
    if call.suggest_to is not None and call.suggest is None:
        raise click.UsageError(f"--suggest-to {call.suggest_to}: is for --suggest N; give both")
    _check_inputs(call)
    if not call.recordings:
        _check_places(call)
        learn(call, {}).save(call.save)
        return
    form = output.check_labels_output(call.output, call.form, per_file=call.per_file)
    if call.suggest is not None and call.suggest_to is None:
        call.suggest_to = sidecar(call.output, ".suggestions")
    _check_places(call)
    find = functools.partial(predict_table, config=config, reject=not call.no_reject, doubts=call.suggest or 0)
    classifier, found, failure = (from_table if _tables(call) else from_audio)(call, find)
    _write(call, form, found, classifier)
    if failure is not None:
        raise failure


def _tables(call: SimpleNamespace) -> list[str]:
    named = [x for x in call.recordings if Path(x).suffix.lower() in _TABLES and not x.startswith("@")]
    return [x for x in named if not os.path.isdir(x)]


def _check_inputs(call: SimpleNamespace) -> None:
    if not os.path.exists(call.examples):
        raise ConfigError(f"EXAMPLES {str(call.examples)!r}: no such file or folder; check the path")
    if (tables := _tables(call)) and len(call.recordings) > 1:
        raise ConfigError(f"{tables[0]}: an embeddings file among several RECORDINGS; give it alone")
    fixed = {"embeddings": call.stored, "window": call.window, "hop": call.hop, "dtype": call.dtype}
    if tables and (given := [name for name, value in fixed.items() if value is not None]):
        raise ConfigError(f"--{given[0]} {fixed[given[0]]}: is for audio, and {tables[0]} is embedded; leave it out")
    if call.audio is not None and call.recordings and not tables:
        raise ConfigError(f"--audio {call.audio}: is for an embeddings file; RECORDINGS are where they are")


def _check_places(call: SimpleNamespace) -> None:
    """Refuse to write where it cannot be, over what is read or of another kind, and among the examples."""
    examples, *recordings = (os.path.realpath(x) for x in (call.examples, *call.recordings))
    for path in (call.output, call.save, call.page, call.stored, call.suggest_to):
        place = None if path is None else os.path.realpath(path)
        if place == examples or (place in recordings and not os.path.isdir(path)):  # tracks may lie beside recordings
            raise ConfigError(f"{path}: is both read and to be written; choose another name")
        if place is not None and Path(examples) in Path(place).parents:
            raise ConfigError(f"{path}: is within EXAMPLES, whose part it would be next time; choose another place")
    if call.save is not None:
        if call.save.suffix != SUFFIX:
            raise ConfigError(f"{call.save}: end the name of a classifier in {SUFFIX}")
        resolve(call.save, writable=True)
    if call.page is not None:
        from ..analysis.labels_page import check_page

        check_page(call.page)
    if call.suggest_to is not None:
        output.check_folder(call.suggest_to)
        clips = call.suggest_to.resolve()
        if {str(x) for x in (clips, *clips.parents)}.intersection(recordings):
            told = "is within RECORDINGS, whose part it would be next time; give --suggest-to"
            raise ConfigError(f"{call.suggest_to}: {told}")
        if any(call.suggest_to.glob("*.wav")):
            told = "has clips already; move them to their classes or away, or give --suggest-to"
            raise ConfigError(f"{call.suggest_to}: {told}")


def from_table(call: SimpleNamespace, find: Callable[..., Found]) -> tuple[Classifier, Found, None]:
    """What is found in RECORDINGS, one file of embeddings, by which classifier."""
    source = Path(call.recordings[0])
    table = read_table(source)
    if not len(table.paths):
        raise ConfigError(f"{source}: holds no windows; embed recordings with mtslvr-embed --pool none")
    if (pool := table.settings.get("pool")) != "none":
        told = "does not say how it was made" if pool is None else "has a row a file"
        raise ConfigError(f"{source}: {told}; write a row a window with mtslvr-embed --pool none")
    path_of = _path_of(source, call.audio)
    recordings = [FoundAudio(Path(path_of(name)), name) for name in dict.fromkeys(table.paths)]
    classifier = learn(call, table.settings, recordings)
    classifier.check_settings(table.settings, str(source))
    return classifier, find(classifier, table, path_of=path_of), None


def from_audio(call: SimpleNamespace, find: Callable[..., Found]) -> tuple[Classifier, Found, Failure | None]:
    """What is found in RECORDINGS, by which classifier, and an error to be raised once that is written.

    All windows are embedded, but for those that an earlier call has embedded.
    """
    stored = call.stored or sidecar(call.output, ".embeddings.npy")
    target, stored_form = resolve(stored, writable=True), parse_format(stored)
    report = Report(str(stored), target, stop=call.on_error == "stop", quiet=call.quiet)
    inputs, names = find_inputs(call.recordings, "auto", report)
    earlier = _earlier_settings(target)
    classifier = learn(call, earlier, inputs.files)
    ours = classifier.settings
    hop = earlier.get("hop_seconds", ours["hop_seconds"]) if call.hop is None else call.hop
    windows = ours["window_seconds"], hop, call.batch_size, call.threads
    excerpt = Excerpt(ours.get("channel", "mix"))
    how = ExtractConfig.parse(ours["features"], ours["layer"], "none", *windows, fixed_batches=True, excerpt=excerpt)
    weights = call.model or ours["model"], call.device, call.dtype or earlier.get("dtype", "float32")
    run = Run(*weights, how, stored_form, False, call.on_truncated == "error", report)
    _, settings = run.find()
    classifier.check_settings(settings, ", ".join(call.recordings))
    settings["format"] = stored_form.value
    if call.overwrite:  # embeddings as well, but for those that would be the same
        run = dataclasses.replace(run, overwrite=_knows_all(stored, settings, inputs) is None)
    elif not earlier and call.stored is None:  # another call in the same folder may have embedded all inputs
        others = sorted(stored.parent.glob("*.embeddings.npy"))
        stored = next((other for other in others if _knows_all(other, settings, inputs)), stored)
        report.output, report.target = str(stored), resolve(stored, writable=True)
    failure = None
    try:
        run.start(inputs)
    except Failure as error:
        if error.exit_code != EXIT_SOME_FAILED or report.stop or not resolve(stored).exists():
            raise
        failure = error
    table = read_table(stored)
    if failure is not None and set(names).isdisjoint(table.paths):  # it has others, of earlier calls
        raise failure
    return classifier, find(classifier, table, path_of=_path_of(stored), only=set(names)), failure


def _earlier_settings(target: Path) -> Mapping[str, Any]:
    """What the embeddings were made with that an earlier call has left; nothing where there are none."""
    with contextlib.suppress(ConfigError):  # told when the run starts
        state = read_state(target)
        if state is not None and (state.complete is None or target.exists()):
            return state.settings
    return {}


def _knows_all(stored: Path, settings: Mapping[str, Any], inputs: Search) -> bool | None:
    """Whether earlier calls have embedded, or tried to, all inputs there; None where this call cannot go on with it."""
    with contextlib.suppress(ConfigError):  # made otherwise, or of other files with the same names
        if (state := earlier_state(resolve(stored), settings)) is not None:
            todo = make_plan(str(stored), inputs.files, state).todo
            return {file.path for file in todo} <= state.entries.keys()
    return None


def _path_of(source: Path, audio: Path | None = None) -> Callable[[str], str]:
    """What gives the path of a recording by its name in the embeddings `source`."""
    if audio is not None:
        return lambda name: str(audio / name)
    state = read_state(resolve(source))
    paths = {} if state is None else {entry.name: entry.path for entry in state.entries.values()}
    return lambda name: paths.get(name, name)


def learn(call: SimpleNamespace, stored: Mapping[str, Any], recordings: Sequence[FoundAudio] = ()) -> Classifier:
    """The classifier, made as the embeddings that are `stored` where the options say no other.

    Tables of examples may name the `recordings` that are to be labelled.
    """
    if kept := call.examples.suffix == SUFFIX:
        if call.window is not None:
            raise ConfigError(f"--window {call.window:g}: {call.examples} has its own; leave it out, or make it anew")
        classifier = Classifier.load(call.examples)
        if call.channel is not None:  # which one is a matter of the recordings
            classifier = dataclasses.replace(classifier, settings={**classifier.settings, "channel": call.channel})
    else:
        _say(call, f"embedding the examples in {call.examples} ...")
        given = {"model": call.model, "window_seconds": call.window, "hop_seconds": call.hop, "channel": call.channel}
        how = {name: stored[name] for name in (*given, "features", "layer") if name in stored}
        how |= {name: value for name, value in given.items() if value is not None}
        classifier = fit_examples(collect(call.examples, device=call.device, recordings=recordings, **how))
    told = f"classifier: {call.examples}: {', '.join(classifier.classes)}; by {classifier.figures['features']}"
    for line in [told] if kept else _described(classifier):
        _say(call, line)
    hop = stored.get("hop_seconds", classifier.settings["hop_seconds"]) if call.hop is None else call.hop
    _say(call, f"window: {classifier.settings['window_seconds']:g} s, hop: {hop:g} s")
    return classifier


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
    if not figures["candidates"]:
        yield "scores: not calibrated, there being nothing to do it on"


def _write(call: SimpleNamespace, form: LabelFormat, found: Found, classifier: Classifier) -> None:
    if call.per_file:
        files = {call.output: output.table_bytes(form, *file_rows(found, call.top_k))}
        told = f"{counted(len(found.recordings), 'row')}, one a recording"
    else:
        files = output.label_files(call.output, form, found.events, found.recordings)
        told = f"{counted(len(found.events), 'event')} in {counted(len(found.recordings), 'recording')}"
    output.write_label_files(files, overwrite=call.overwrite)
    _say(call, f"{told}; {call.output} has them")
    if call.save is not None:
        classifier.save(call.save)
    if not found.events:
        remedies = "try a lower --threshold, --no-reject or more examples"
        _say(call, f"nothing is labelled: {remedies}; --report shows the scores")
    if call.page is not None:
        from ..analysis.labels_page import page

        _say(call, f"making the report {call.page} ...")
        write_file(call.page, page(classifier, found, call.threshold).encode("utf-8", "surrogateescape"))
        _say(call, f"wrote {call.page}")
    if call.suggest is not None:
        by_name = {recording.name: recording for recording in found.recordings}
        clips = output.write_clips(spread(found.doubts, call.suggest), by_name, call.suggest_to)
        for clip in clips:
            _say(call, f"  {clip}")
        told = "move each into its class's folder and run again with --overwrite"
        _say(call, f"windows to label: {len(clips)}, in {call.suggest_to}; {told}")


def _say(call: SimpleNamespace, line: str) -> None:
    if not call.quiet:
        echo(line, err=True)
