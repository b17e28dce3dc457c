"""What `mtslvr classify` does: options checked, recordings embedded, labels written; `learn` makes the classifier."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click

from ..audio.find import AUDIO_SUFFIXES, Search
from ..audio.load import Excerpt
from ..classify import Classifier, EventConfig, output, predict
from ..classify.classifier import HEADER_KEY
from ..classify.clips import write_clips
from ..classify.output import LabelFormat
from ..classify.predict import Found, file_rows, predict_table, spread
from ..config import EncoderConfig
from ..errors import ConfigError
from ..models.hub import parse_device
from ..run.extract import ExtractConfig, check_windows
from ..run.files import parse_format, resolve, sidecar, write_file
from ..run.job import make_plan
from ..run.state import FileEntry, earlier_state, read_state
from ..run.table import EmbeddingTable, read_table
from .common import EXIT_SOME_FAILED, Failure, counted, echo
from .inputs import find_inputs
from .learn import STORED, check_given, learn
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
    if call.suggest is not None and call.output is not None:
        call.suggest_to = call.suggest_to or sidecar(call.output, ".suggestions")
    _check_written(call)
    if not call.recordings:
        learn(call, {})
        return
    form = _check_outputs(call)
    classifier, table, path_of, names, failure = (from_table if _tables(call) else from_audio)(call, form)
    found = predict_table(
        classifier, table, config, path_of=path_of, only=names, reject=not call.no_reject, doubts=call.suggest or 0
    )
    _write(call, form, found, classifier)
    if failure is not None:
        raise failure


def _tables(call: SimpleNamespace) -> list[str]:
    named = [x for x in call.recordings if Path(x).suffix.lower() in _TABLES and not x.startswith("@")]
    return [x for x in named if not os.path.isdir(x)]


def _check_inputs(call: SimpleNamespace) -> None:
    absent = [x for x in call.recordings if x != "-" and not x.startswith("@") and not os.path.lexists(x)]
    if not os.path.exists(call.examples):
        named = ", ".join([f"EXAMPLES {str(call.examples)!r}", *(f"RECORDINGS {x!r}" for x in absent)])
        raise ConfigError(f"{named}: no such file or folder; check the path{'s' if absent else ''}")
    if (tables := _tables(call)) and len(call.recordings) > 1:
        raise ConfigError(f"{tables[0]}: an embeddings file among several RECORDINGS; give it alone")
    if tables and call.stored is not None:
        raise ConfigError(f"--embeddings {call.stored}: is for audio; the embeddings of RECORDINGS are there already")
    if call.audio is not None and call.recordings and not tables:
        raise ConfigError(f"--audio {call.audio}: is for an embeddings file; RECORDINGS are where they are")


def _check_written(call: SimpleNamespace) -> None:
    """Refuse to write over what is read, any audio or other files, twice in a place, and among the examples."""
    stored = call.stored
    if stored is None and call.output is not None and not _tables(call):
        stored = sidecar(call.output, ".embeddings.npy")
    written = [x for x in (call.output, call.save, call.page, stored, call.suggest_to) if x is not None]
    places = [os.path.realpath(x) for x in written]
    read = [os.path.realpath(x) for x in (call.examples, *call.recordings)]
    for path, place in zip(written, places, strict=True):
        faults = {
            "is audio": os.path.isfile(path) and path.suffix.lower() in AUDIO_SUFFIXES,
            # Tracks may lie beside their recordings.
            "is both read and to be written": place in read and not (os.path.isdir(path) and place != read[0]),
            "is to be written twice": places.count(place) > 1,
        }
        if told := [fault for fault, there in faults.items() if there]:
            raise ConfigError(f"{path}: {told[0]}; choose another name")
        if call.examples.resolve() in path.resolve().parents:
            raise ConfigError(f"{path}: is within EXAMPLES, whose part it would be next time; choose another place")
    if call.save is not None:
        output.check_file(call.save, "classifier", HEADER_KEY)


def _check_outputs(call: SimpleNamespace) -> LabelFormat:
    form = output.check_labels_output(call.output, call.form, per_file=call.per_file)
    if call.output.is_dir() and call.output.resolve() in call.examples.resolve().parents:
        raise ConfigError(f"{call.output}: has EXAMPLES in it, which tracks may replace; choose another folder")
    if (clips := call.suggest_to) is not None:
        output.check_folder(clips)
        above = [clips.resolve(), *clips.resolve().parents]
        if any(Path(x).resolve() in above for x in call.recordings):
            raise ConfigError(f"{clips}: is within RECORDINGS, whose part it would be next time; give --suggest-to")
        if any(clips.glob("*.wav")):
            told = "has clips already; move them to their classes or away, or give --suggest-to"
            raise ConfigError(f"{clips}: {told}")
    if call.page is not None:
        from ..analysis.labels_page import check_page

        check_page(call.page)
    return form


def _write(call: SimpleNamespace, form: LabelFormat, found: Found, classifier: Classifier) -> None:
    def say(line: str) -> None:
        if not call.quiet:
            echo(line, err=True)

    output.check_labels_kept(call.output, form, [x.name for x in found.recordings], overwrite=call.overwrite)
    if call.per_file:
        output.write_rows(call.output, form, *file_rows(found, call.top_k))
        say(f"{counted(len(found.recordings), 'row')}, one a recording; {call.output} has them")
    else:
        output.write_labels(call.output, form, found.events, found.recordings)
        events, recordings = counted(len(found.events), "event"), counted(len(found.recordings), "recording")
        say(f"{events} in {recordings}; {call.output} has them")
    if not found.events:
        remedies = {"lower --threshold": call.threshold, "lower --min-duration": call.min_duration}
        remedies |= {"try --no-reject": not call.no_reject, "give more examples": True}
        told = ", or ".join(remedy for remedy, helps in remedies.items() if helps)
        say(f"nothing is labelled: {told}; --report shows the scores")
    if call.page is not None:
        from ..analysis.labels_page import page

        say(f"making the report {call.page} ...")
        write_file(call.page, page(classifier, found, call.threshold).encode("utf-8", "surrogateescape"))
        say(f"wrote {call.page}")
    if call.suggest is not None:
        by_name = {recording.name: recording for recording in found.recordings}
        clips = write_clips(spread(found.doubts, call.suggest), by_name, call.suggest_to)
        for clip in clips:
            say(f"  {clip}")
        few = "" if len(clips) == call.suggest else f", all apart that are in doubt (no class above {predict.SURE})"
        place = f", in {call.suggest_to}; move each into its class's folder and run again" if clips else ""
        say(f"windows to label: {len(clips)}{few}{place}")


class Windows(NamedTuple):
    """Embedded recordings and what labels them."""

    classifier: Classifier  # made with the settings of the table
    table: EmbeddingTable
    path_of: Callable[[str], str]  # gives the path of a recording by its name in the table
    names: set[str] | None = None  # of the recordings to be labelled; None is all
    failure: Failure | None = None  # to be raised once the rest is labelled


def from_table(call: SimpleNamespace, form: LabelFormat) -> Windows:
    """What RECORDINGS has, one file of embeddings."""
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
    output.check_labels_kept(call.output, form, names, overwrite=call.overwrite)
    for option in STORED:
        check_given(call, option, table.settings, source)
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
    stored = call.stored or sidecar(call.output, ".embeddings.npy")
    target, stored_form = resolve(stored, writable=True), parse_format(stored)
    report = Report(str(stored), target, stop=call.on_error == "stop", quiet=call.quiet)
    inputs, names = find_inputs(call.recordings, "auto", report)
    output.check_labels_kept(call.output, form, names, overwrite=call.overwrite)
    state = None if call.overwrite else read_state(target)
    if state is not None and state.complete is not None and not target.exists():  # finished, and then deleted
        state = None
    earlier = {} if state is None else state.settings
    classifier = learn(call, earlier, [str(file.path) for file in inputs.files])
    ours = classifier.settings
    hop = earlier.get("hop_seconds", ours["hop_seconds"]) if call.hop is None else call.hop
    windows, excerpt = (ours["window_seconds"], hop, call.batch_size, call.threads), Excerpt(ours.get("channel", "mix"))
    config = ExtractConfig.parse(ours["features"], ours["layer"], "none", *windows, fixed_batches=True, excerpt=excerpt)
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
    table = read_table(stored)
    if failure is not None and set(names).isdisjoint(table.paths):  # it has others, of earlier calls
        raise failure
    return Windows(classifier, table, _path_of(_entries(stored)), set(names), failure)


def _embedded_beside(stored: Path, settings: Mapping[str, Any], inputs: Search) -> Path:
    """Finished embeddings of all inputs that a call with another output has left in the same folder, else `stored`."""
    for other in sorted(stored.parent.glob("*.embeddings.npy")):
        with contextlib.suppress(ConfigError):  # made otherwise
            state = earlier_state(resolve(other), {**settings, "format": "npy"})
            if state is not None and state.complete is not None:
                todo = {file.path for file in make_plan(str(other), inputs.files, state).todo}
                if todo <= state.entries.keys():  # of which some have changed or failed
                    return other
    return stored


def _entries(source: Path) -> Iterable[FileEntry]:
    """The recordings of the embeddings `source`, as they were embedded; none where that is not known."""
    state = read_state(resolve(source))
    return () if state is None else state.entries.values()


def _path_of(entries: Iterable[FileEntry], audio: Path | None = None) -> Callable[[str], str]:
    """What gives the path of a recording by its name."""
    paths = {entry.name: entry.path for entry in entries}
    return lambda name: paths.get(name, name) if audio is None else str(audio / name)
