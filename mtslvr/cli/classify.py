"""`mtslvr classify`: labelled examples to labels with times of any recordings; `mtslvr.classify` without a terminal."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from .common import EMBEDDING, PATH, Command, counted, echo
from .learn import from_audio, from_table, learn

if TYPE_CHECKING:
    from ..classify import Classifier
    from ..classify.output import LabelFormat
    from ..classify.predict import Found

_TABLES = (".npz", ".npy", ".parquet", ".csv", ".jsonl")
EXIT_CODES = """\b
Exit codes: 0 labels written, 1 some recordings failed and the labels of the rest are written, 2 wrong usage or
examples, 3 weights unavailable, 4 no audio found, 130 interrupted (the same command goes on),
143 ended by SIGTERM (likewise).
"""


class _Named(click.Path):
    """The path of an output: names that are its own and more go beside it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse one that has no name, or a long one."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.name in ("", "..") or len(os.fsencode(path.name)) > 200:
            self.fail("a name of 1 to 200 bytes is expected, other than . and ..; choose another", param, ctx)
        return path


_OUT = _Named()


@click.command("classify", cls=Command, epilog=EXIT_CODES, short_help="From labelled examples to labels with times.")
@click.argument("examples", type=PATH)
@click.argument("recordings", nargs=-1, type=click.Path())
@click.option("-o", "--out", "output", type=_OUT, metavar="OUT", help="Where the labels go.")
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl", "parquet", "audacity", "raven"]),
    help="What to write. audacity and raven: a file a recording in the folder OUT, or one selection table OUT.txt for "
    "all.  [default: the suffix of OUT]",
)  # fmt: skip
@click.option("--window", type=float, metavar="SECONDS", help="Length.  [default: the examples' median, from 0.5 s on]")
@click.option("--hop", type=float, metavar="SECONDS", help="From one window to the next.  [default: half the window]")
@click.option("--threshold", default=0.5, show_default=True, help="Probability from which a window is labelled.")
@click.option("--top-k", default=1, show_default=True, metavar="K", help="Classes that a window, or file, may have.")
@click.option("--min-duration", default=0.0, metavar="SECONDS", help="Leave out shorter events.  [default: 0]")
@click.option("--merge-gap", default=0.0, metavar="SECONDS", help="Join events no further apart.  [default: 0]")
@click.option("--no-reject", is_flag=True, help="Label also windows that resemble no class.")
@click.option("--per-file", is_flag=True, help="A row a recording with its best classes, in place of events.")
@click.option("--save", type=_OUT, metavar="FILE", help="Keep the classifier, as birds.mtslvr.")
@click.option("--suggest", type=click.IntRange(min=1), metavar="N", help="Cut out the N windows to label next.")
@click.option("--suggest-to", type=_OUT, metavar="DIR", help="Where these go.  [default: OUT.suggestions]")
@click.option("--report", "page", type=_OUT, metavar="HTML", help="A page to judge the result by eye and ear.")
@click.option(
    "--embeddings", "stored", type=_OUT, metavar="FILE",
    help="Where the windows' embeddings are kept.  [default: OUT.embeddings.npy, or another such file beside it that "
    "has all RECORDINGS]",
)  # fmt: skip
@click.option(
    "--audio", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
    help="Where the recordings of an embeddings file are now.  [default: where they were embedded]",
)  # fmt: skip
@EMBEDDING
@click.option("--overwrite", is_flag=True, help="Embed everything anew, and write over labels changed since.")
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
    from ..audio.load import Excerpt
    from ..classify import EventConfig
    from ..classify.predict import predict_table
    from ..config import EncoderConfig
    from ..models.hub import parse_device
    from ..run.extract import ExtractConfig, check_windows

    call = SimpleNamespace(**options)
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
        call.suggest_to = call.suggest_to or call.output.with_name(f"{call.output.name}.suggestions")
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
    from ..audio.find import AUDIO_SUFFIXES
    from ..classify.classifier import HEADER_KEY
    from ..classify.output import check_file

    stored = call.stored
    if stored is None and call.output is not None and not _tables(call):
        stored = call.output.with_name(f"{call.output.name}.embeddings.npy")
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
        check_file(call.save, "classifier", HEADER_KEY)


def _check_outputs(call: SimpleNamespace) -> LabelFormat:
    from ..analysis.labels_page import check_page
    from ..classify.output import check_folder, check_labels_output

    form = check_labels_output(call.output, call.form, per_file=call.per_file)
    if call.output.is_dir() and call.output.resolve() in call.examples.resolve().parents:
        raise ConfigError(f"{call.output}: has EXAMPLES in it, which tracks may replace; choose another folder")
    if (clips := call.suggest_to) is not None:
        check_folder(clips)
        above = [clips.resolve(), *clips.resolve().parents]
        if any(Path(x).resolve() in above for x in call.recordings):
            raise ConfigError(f"{clips}: is within RECORDINGS, whose part it would be next time; give --suggest-to")
        if any(clips.glob("*.wav")):
            told = "has clips already; move them to their classes or away, or give --suggest-to"
            raise ConfigError(f"{clips}: {told}")
    if call.page is not None:
        check_page(call.page)
    return form


def _write(call: SimpleNamespace, form: LabelFormat, found: Found, classifier: Classifier) -> None:
    from ..analysis.labels_page import page
    from ..classify.clips import write_clips
    from ..classify.output import check_labels_kept, write_file, write_labels, write_rows
    from ..classify.predict import file_rows, spread

    def say(line: str) -> None:
        if not call.quiet:
            echo(line, err=True)

    check_labels_kept(call.output, form, [x.name for x in found.recordings], overwrite=call.overwrite)
    if call.per_file:
        write_rows(call.output, form, *file_rows(found, call.top_k))
        say(f"{counted(len(found.recordings), 'row')}, one a recording; {call.output} has them")
    else:
        write_labels(call.output, form, found.events, found.recordings)
        events, recordings = counted(len(found.events), "event"), counted(len(found.recordings), "recording")
        say(f"{events} in {recordings}; {call.output} has them")
    if not found.events:
        remedies = {"lower --threshold": call.threshold, "lower --min-duration": call.min_duration}
        remedies |= {"try --no-reject": not call.no_reject, "give more examples": True}
        told = ", or ".join(remedy for remedy, helps in remedies.items() if helps)
        say(f"nothing is labelled: {told}; --report shows the scores")
    if call.page is not None:
        say(f"making the report {call.page} ...")
        write_file(call.page, page(classifier, found, call.threshold).encode("utf-8", "surrogateescape"))
        say(f"wrote {call.page}")
    if call.suggest is not None:
        by_name = {recording.name: recording for recording in found.recordings}
        clips = write_clips(spread(found.doubts, call.suggest), by_name, call.suggest_to)
        for clip in clips:
            say(f"  {clip}")
        say(f"windows to label: {len(clips)}, in {call.suggest_to}; move each into its class's folder and run again")
