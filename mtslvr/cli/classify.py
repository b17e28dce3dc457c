"""`mtslvr classify`: labelled examples to labels with times of any recordings; `mtslvr.classify` without a terminal."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..errors import ConfigError
from .common import EXIT_SOME_FAILED, Command, Failure, echo
from .measuring import warnings_as_lines
from .run import Run, Weights, find_inputs
from .summary import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..classify import Classifier
    from ..classify.examples import Examples
    from ..classify.output import LabelFormat
    from ..classify.predict import Found
    from ..run.table import EmbeddingTable

_TABLES = (".npz", ".npy", ".parquet", ".csv", ".jsonl")
_PATH = click.Path(path_type=Path)
EXIT_CODES = """\b
Exit codes: 0 labels written, 1 some recordings failed and the labels of the rest are written, 2 wrong usage or
examples, 3 weights unavailable, 4 no audio found, 130 interrupted (the same command goes on).
"""


@click.command("classify", cls=Command, epilog=EXIT_CODES, short_help="From labelled examples to labels with times.")
@click.argument("examples", type=_PATH)
@click.argument("recordings", nargs=-1, type=click.Path())
@click.option("-o", "--output", type=_PATH, metavar="OUT", help="Where the labels go.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet", "audacity", "raven"]),
    help="What to write. audacity and raven: a file a recording in the folder OUT, or one selection table OUT.txt for "
    "all.  [default: the suffix of OUT]",
)
@click.option(
    "--window",
    type=float,
    metavar="SECONDS",
    help="Length of a window.  [default: the examples' median, from 0.5 s on]",
)
@click.option("--hop", type=float, metavar="SECONDS", help="From one window to the next.  [default: half the window]")
@click.option("--threshold", default=0.5, show_default=True, help="Probability from which a window is labelled.")
@click.option("--top-k", default=1, show_default=True, metavar="K", help="Classes that a window, or file, may have.")
@click.option("--min-duration", default=0.0, metavar="SECONDS", help="Leave out shorter events.  [default: 0]")
@click.option("--merge-gap", default=0.0, metavar="SECONDS", help="Join events no further apart.  [default: 0]")
@click.option("--no-reject", is_flag=True, help="Label also windows that are far from all examples.")
@click.option("--per-file", is_flag=True, help="A row a recording with its best classes, in place of events.")
@click.option("--save", type=_PATH, metavar="FILE", help="Keep the classifier, as birds.mtslvr.")
@click.option("--suggest", type=click.IntRange(min=1), metavar="N", help="Cut out the N windows to label next.")
@click.option("--suggest-to", type=_PATH, metavar="DIR", help="Where these go.  [default: OUT.suggestions]")
@click.option("--report", "page", type=_PATH, metavar="HTML", help="A page to judge the result by eye and ear.")
@click.option(
    "--embeddings",
    "stored",
    type=_PATH,
    metavar="FILE",
    help="Where the windows' embeddings are kept for the next call.  [default: OUT.embeddings.npy]",
)
@click.option(
    "--audio",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the recordings of an embeddings file are now.  [default: where they were embedded]",
)
@click.option("--model", help="Bundled name, checkpoint folder or hub id.  [default: the bundled weights]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--overwrite", is_flag=True, help="Embed everything anew.")
@click.option(
    "--on-error", type=click.Choice(["skip", "stop"]), default="skip", show_default=True, help="As in mtslvr-embed."
)
@click.option(
    "--on-truncated",
    type=click.Choice(["embed", "error"]),
    default="embed",
    show_default=True,
    help="As in mtslvr-embed.",
)
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
def classify_command(**options: Any) -> None:
    """Learn classes of sound from a few labelled EXAMPLES, and label RECORDINGS with start, end, class and score.

    EXAMPLES is a folder with a folder of clips a class (one named background or _noise is what is not to be labelled);
    a table of labels: csv with file, start, end, label, a Raven selection table or an Audacity label track; or a
    classifier that --save kept. RECORDINGS are files and folders as for mtslvr-embed, of any length, or one file of
    embeddings that mtslvr-embed --pool none wrote.

    Which of the embeddings, invariant, variant or both, the task wants is found from the examples. OUT.csv, OUT.jsonl
    or OUT.parquet has a row an event. The embeddings are kept beside OUT: with more examples or another threshold the
    same command takes seconds.
    """
    from ..classify import EventConfig
    from ..classify.output import check_file
    from ..classify.predict import predict_table
    from ..models.hub import parse_device

    call = SimpleNamespace(**options)
    config = EventConfig(call.threshold, call.top_k, call.min_duration, call.merge_gap)
    parse_device(call.device)
    if call.save is not None:
        check_file(call.save)
    if not call.recordings:
        if call.save is None or call.output is not None:
            raise click.UsageError("no RECORDINGS to label; without them give --save alone, to keep the classifier")
        _learn(call, {})
        return
    if call.output is None:
        raise click.UsageError("no OUT for the labels; give -o labels.csv")
    call.suggest_to = call.suggest_to or call.output.with_name(f"{call.output.name}.suggestions")
    call.stored = call.stored or call.output.with_name(f"{call.output.name}.embeddings.npy")
    form = _check_outputs(call)
    classifier, table, path_of, names, failure = (_from_table if _is_table(call) else _from_audio)(call, form)
    found = predict_table(
        classifier, table, config, path_of=path_of, only=names, reject=not call.no_reject, doubts=call.suggest or 0
    )
    _write(call, form, found, classifier)
    if failure is not None:
        raise failure


def _is_table(call: SimpleNamespace) -> bool:
    [first, *more] = call.recordings
    return not more and Path(first).suffix.lower() in _TABLES and not os.path.isdir(first)


def _is_classifier(path: Path) -> bool:
    """Whether a file is safetensors, by its first bytes: the length of a header, which is JSON."""
    try:
        with open(path, "rb") as file:
            return file.read(9)[7:9] == b"\0{"
    except OSError:
        return path.suffix == ".mtslvr"


def _check_outputs(call: SimpleNamespace) -> LabelFormat:
    from ..analysis.labels_page import check_page
    from ..classify.output import check_folder, check_labels_output

    form = check_labels_output(call.output, call.form, per_file=call.per_file)
    places = {os.path.realpath(x) for x in (call.output, call.save, call.page) if x is not None}
    ours = {os.path.realpath(x) for x in (call.examples, *call.recordings)}
    if places & ours:
        raise ConfigError(f"{(places & ours).pop()}: is both read and to be written; choose another name")
    within = [x for x in (call.output, call.suggest_to) if call.examples.resolve() in x.resolve().parents]
    if within:
        raise ConfigError(f"{within[0]}: is within EXAMPLES, whose part it would be next time; choose another place")
    if call.audio is not None and not _is_table(call):
        raise ConfigError(f"--audio {call.audio}: is for an embeddings file; RECORDINGS are where they are")
    if call.suggest is not None:
        check_folder(call.suggest_to)
        if any(call.suggest_to.glob("*.wav")):
            raise ConfigError(
                f"{call.suggest_to}: has clips already; move them to their classes or away, or give --suggest-to"
            )
    if call.page is not None:
        check_page(call.page)
    return form


def _learn(call: SimpleNamespace, stored: Mapping[str, Any], recordings: Iterable[str] = ()) -> Classifier:
    """The classifier, made with the settings of embeddings that are there already, where the options say no other.

    Args:
        call: the options.
        stored: settings of the embeddings; empty where there are none.
        recordings: paths of those to be labelled, which tables of examples may name.
    """
    from ..classify import Classifier
    from ..classify.classifier import fit_examples

    if _is_classifier(call.examples):
        classifier = Classifier.load(call.examples)
        _check_given(call, "window", classifier.settings, call.examples)
    else:
        classifier = fit_examples(_collect(call, stored, recordings))
    if not call.quiet:
        for line in (*_described(classifier), _windows(call, classifier.settings, stored)):
            echo(line, err=True)
    if call.save is not None:
        classifier.save(call.save)
    return classifier


def _collect(call: SimpleNamespace, stored: Mapping[str, Any], recordings: Iterable[str]) -> Examples:
    from ..classify.examples import collect

    window = stored.get("window_seconds") if call.window is None else call.window
    hop = stored.get("hop_seconds") if call.hop is None else call.hop
    features, layer = stored.get("features", "concat"), stored.get("layer", "head")
    model = call.model or stored.get("model")
    try:
        with warnings_as_lines():
            return collect(
                call.examples, None, model, window, hop, call.device, features=features, layer=layer,
                recordings=recordings,
            )  # fmt: skip
    except ConfigError as error:
        summary, *faults = str(error).split("\n")
        for fault in faults:
            echo(fault, err=True)
        raise ConfigError(summary) from error


def _check_given(call: SimpleNamespace, name: str, settings: Mapping[str, Any], source: Path) -> None:
    """Refuse an option --window or --hop that says other than what is there already."""
    given, there = getattr(call, name), settings.get(f"{name}_seconds")
    if given is not None and there is not None and given != there:
        raise ConfigError(
            f"--{name} {given:g}: {source} is made with a {name} of {there:g} s; leave --{name} out, or make it anew"
        )


def _described(classifier: Classifier) -> Iterator[str]:
    """Lines for people: classes, which features were tried and how they did, and what scores are worth."""
    figures = classifier.figures
    counts = ", ".join(f"{name} ({count})" for name, count in figures["classes"].items())
    yield f"examples: {counts}, of {figures['recordings']} recordings"
    if figures["candidates"]:
        yield f"{'features':32} accuracy  log loss"
    for found in figures["candidates"]:
        mark = "  <- chosen" if found["share"] == classifier.share else ""
        yield f"{found['features']:32} {found['accuracy']:7.1%} {found['log_loss']:9.3f}{mark}"
    yield f"features: {figures['features']} ({figures['reason']})"
    measured = sum(map(sum, figures["confusion"]))
    worth = f"calibrated on {measured} examples" if measured else "not calibrated, there being nothing to do it on"
    yield f"scores: {worth}"


def _windows(call: SimpleNamespace, ours: Mapping[str, Any], stored: Mapping[str, Any]) -> str:
    """A line for people: how long windows are and how far apart, and what says so."""
    told = []
    for name, default in {"window": "the examples' median", "hop": "half the window"}.items():
        given, key = getattr(call, name), f"{name}_seconds"
        if given is not None:
            value, source = given, f"--{name}"
        elif key in stored:
            value, source = stored[key], "as the recordings are embedded"
        else:
            value, source = ours[key], "the classifier's" if _is_classifier(call.examples) else default
        told.append(f"{name}: {value:g} s ({source})")
    return ", ".join(told)


class Windows(NamedTuple):
    """Embedded recordings and what labels them.

    Attributes:
        classifier: made with the settings of the table.
        table: the embeddings.
        path_of: gives the path of a recording by its name in the table.
        names: of the recordings to be labelled; None is all.
        failure: to be raised once the rest is labelled.
    """

    classifier: Classifier
    table: EmbeddingTable
    path_of: Callable[[str], str]
    names: set[str] | None = None
    failure: Failure | None = None


def _from_table(call: SimpleNamespace, form: LabelFormat) -> Windows:
    """What RECORDINGS has, one file of embeddings."""
    from ..classify.output import check_one_track
    from ..run.table import read_table

    source = Path(call.recordings[0])
    table = read_table(source)
    if not len(table.paths):
        raise ConfigError(f"{source}: holds no windows; embed recordings with mtslvr-embed --pool none")
    if table.settings.get("pool") != "none":
        raise ConfigError(f"{source}: has a row a file; write a row a window with mtslvr-embed --pool none")
    names = list(dict.fromkeys(table.paths))
    check_one_track(call.output, form, len(names))
    for option in ("window", "hop"):
        _check_given(call, option, table.settings, source)
    path_of = _path_of(source, call.audio)
    classifier = _learn(call, table.settings, map(path_of, names))
    classifier.check_settings(table.settings, str(source))
    return Windows(classifier, table, path_of)


def _from_audio(call: SimpleNamespace, form: LabelFormat) -> Windows:
    """Embed all windows of the recordings, but for those that an earlier call has embedded."""
    from ..audio.windows import Pool
    from ..classify.output import check_one_track
    from ..config import Features, Layer
    from ..run.extract import ExtractConfig
    from ..run.files import check_output, parse_format
    from ..run.store import read_state
    from ..run.table import read_table

    target = check_output(call.stored)
    report = Report(str(call.stored), target, None, call.on_error, False, False, call.quiet, False)
    inputs = find_inputs(call.recordings, "auto", report)
    check_one_track(call.output, form, len(inputs.files))
    state = None if call.overwrite else read_state(target)
    earlier = {} if state is None else state.settings
    classifier = _learn(call, earlier, [str(file.path) for file in inputs.files])
    ours = classifier.settings
    hop = earlier.get("hop_seconds", ours["hop_seconds"]) if call.hop is None else call.hop
    config = ExtractConfig(Features(ours["features"]), Layer(ours["layer"]), Pool.NONE, ours["window_seconds"], hop)
    weights = Weights(call.model or ours["model"], call.device, "float32")
    classifier.check_settings(weights.describe(weights.find(False), config), ", ".join(call.recordings))
    form_of_table = parse_format(call.stored).value
    run = Run(weights, config, form_of_table, call.overwrite, call.on_truncated == "error", report)
    failure = None
    try:
        run.start(inputs)
    except Failure as error:
        if error.exit_code != EXIT_SOME_FAILED or report.stop or not target.exists():
            raise
        failure = error
    names = {file.name for file in inputs.files}
    return Windows(classifier, read_table(call.stored), _path_of(call.stored), names, failure)


def _path_of(source: Path, audio: Path | None = None) -> Callable[[str], str]:
    """What gives the path of a recording by its name in the embeddings `source`."""
    from ..run.files import resolve
    from ..run.store import read_state

    state = read_state(resolve(source))
    paths = {} if state is None else {entry.name: entry.path for entry in state.entries.values()}
    return lambda name: paths.get(name, name) if audio is None else str(audio / name)


def _write(call: SimpleNamespace, form: LabelFormat, found: Found, classifier: Classifier) -> None:
    from ..analysis.labels_page import page
    from ..classify.clips import write_clips
    from ..classify.output import write_file, write_labels, write_rows
    from ..classify.predict import file_rows, spread

    def say(line: str) -> None:
        if not call.quiet:
            echo(line, err=True)

    if call.per_file:
        write_rows(call.output, form, *file_rows(found, call.top_k))
        say(f"{len(found.recordings)} rows, one a recording; {call.output} has them")
    else:
        write_labels(call.output, form, found.events, found.recordings)
        say(f"{len(found.events)} events in {len(found.recordings)} recordings; {call.output} has them")
    if call.page is not None:
        write_file(call.page, page(classifier, found, call.threshold))
        say(f"wrote {call.page}")
    if call.suggest is not None:
        by_name = {recording.name: recording for recording in found.recordings}
        clips = write_clips(spread(found.doubts, call.suggest), by_name, call.suggest_to)
        for clip in clips:
            say(f"  {clip}")
        say(f"{len(clips)} windows to label are in {call.suggest_to}: move each into its class's folder and run again")
