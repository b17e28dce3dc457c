"""`mtslvr classify`: labelled examples to labels with times of any recordings; `mtslvr.classify` without a terminal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from .common import EXIT_SOME_FAILED, Command, Failure, echo
from .measuring import warnings_as_lines
from .run import Run, Weights, find_inputs
from .summary import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..classify import Classifier, EventConfig
    from ..classify.output import LabelFormat
    from ..classify.predict import Found
    from ..run.table import EmbeddingTable

_TABLES = (".npz", ".npy", ".parquet", ".csv", ".jsonl")
EXIT_CODES = """\b
Exit codes: 0 labels written, 1 some recordings failed and the labels of the rest are written, 2 wrong usage or
examples, 3 weights unavailable, 4 no audio found, 130 interrupted (the same command goes on).
"""


@click.command("classify", cls=Command, epilog=EXIT_CODES, short_help="From labelled examples to labels with times.")
@click.argument("examples", type=click.Path(path_type=Path))
@click.argument("recordings", nargs=-1, type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="Where the labels go.")
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
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help="Keep the classifier, as birds.mtslvr.")
@click.option("--suggest", type=click.IntRange(min=1), metavar="N", help="Cut out the N windows to label next.")
@click.option(
    "--suggest-to", type=click.Path(path_type=Path), metavar="DIR", help="Where these go.  [default: OUT.suggestions]"
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path),
    metavar="HTML",
    help="A page to judge the result by eye and ear.",
)
@click.option(
    "--embeddings",
    "stored",
    type=click.Path(path_type=Path),
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
    _Call(**options).start()


@dataclass(frozen=True)
class _Call:
    """One call of the command; attributes as its options."""

    examples: Path
    recordings: tuple[str, ...]
    output: Path | None
    form: str | None
    window: float | None
    hop: float | None
    threshold: float
    top_k: int
    min_duration: float
    merge_gap: float
    no_reject: bool
    per_file: bool
    save: Path | None
    suggest: int | None
    suggest_to: Path | None
    page: Path | None
    stored: Path | None
    audio: Path | None
    model: str | None
    device: str
    overwrite: bool
    on_error: str
    on_truncated: str
    quiet: bool

    def start(self) -> None:
        """Check, learn, embed, label."""
        from ..classify import EventConfig
        from ..classify.output import check_file
        from ..models.hub import parse_device
        from ..run.table import read_table

        config = EventConfig(self.threshold, self.top_k, self.min_duration, self.merge_gap)
        parse_device(self.device)
        if self.save is not None:
            check_file(self.save)
        if not self.recordings:
            if self.save is None or self.output is not None:
                raise click.UsageError("no RECORDINGS to label; without them give --save alone, to keep the classifier")
            self._learn({})
            return
        if self.output is None:
            raise click.UsageError("no OUT for the labels; give -o labels.csv")
        form = self._check_outputs(self.output)
        failure = None
        if self._is_table():
            source = Path(self.recordings[0])
            table = read_table(source)
            if not len(table.paths):
                raise ConfigError(f"{source}: holds no windows; embed recordings with mtslvr-embed --pool none")
            if table.settings.get("pool") != "none":
                raise ConfigError(f"{source}: has a row a file; write a row a window with mtslvr-embed --pool none")
            classifier = self._learn(table.settings, map(self._path_of(source), dict.fromkeys(table.paths)))
            classifier.check_settings(table.settings, str(source))
            names = None
        else:
            source = self.stored or self.output.with_name(f"{self.output.name}.embeddings.npy")
            names, classifier, failure = self._embed(source)
            table = read_table(source)
        found = self._label(classifier, table, config, source, names)
        self._write(self.output, form, found, classifier)
        if failure is not None:
            raise failure

    def _is_table(self) -> bool:
        [first, *more] = self.recordings
        return not more and Path(first).suffix.lower() in _TABLES and not os.path.isdir(first)

    def _check_outputs(self, output: Path) -> LabelFormat:
        from ..analysis.labels_page import check_page
        from ..classify.output import check_folder, check_labels_output

        form = check_labels_output(output, self.form, per_file=self.per_file)
        places = {os.path.realpath(x) for x in (output, self.save, self.page) if x is not None}
        ours = {os.path.realpath(x) for x in (str(self.examples), *self.recordings)}
        if places & ours:
            raise ConfigError(f"{(places & ours).pop()}: is both read and to be written; choose another name")
        within = [x for x in (output, self._suggestions(output)) if self.examples.resolve() in x.resolve().parents]
        if within:
            raise ConfigError(
                f"{within[0]}: is within EXAMPLES, whose part it would be next time; choose another place"
            )
        if self.suggest is not None:
            folder = self._suggestions(output)
            check_folder(folder)
            if any(folder.glob("*.wav")):
                raise ConfigError(
                    f"{folder}: has clips already; move them to their classes or away, or give --suggest-to"
                )
        if self.page is not None:
            check_page(self.page)
        return form

    def _suggestions(self, output: Path) -> Path:
        return self.suggest_to or output.with_name(f"{output.name}.suggestions")

    def _learn(self, settings: Mapping[str, Any], recordings: Iterable[str] = ()) -> Classifier:
        """The classifier, made with the settings of embeddings that are there already, where the options say no other.

        Args:
            settings: of the embeddings; empty where there are none.
            recordings: paths of those to be labelled, which tables of examples may name.
        """
        from ..classify import Classifier
        from ..classify.classifier import fit_examples
        from ..classify.examples import collect

        if _is_classifier(self.examples):
            classifier = Classifier.load(self.examples)
        else:
            with warnings_as_lines():
                examples = collect(
                    self.examples,
                    None,
                    self.model or settings.get("model"),
                    settings.get("window_seconds") if self.window is None else self.window,
                    settings.get("hop_seconds") if self.hop is None else self.hop,
                    self.device,
                    features=settings.get("features", "concat"),
                    layer=settings.get("layer", "head"),
                    recordings=recordings,
                )
            classifier = fit_examples(examples)[0]
        if not self.quiet:
            for line in (*classifier.describe(), self._windows(classifier.settings, settings)):
                echo(line, err=True)
        if self.save is not None:
            classifier.save(self.save)
        return classifier

    def _windows(self, ours: Mapping[str, Any], stored: Mapping[str, Any]) -> str:
        """A line for people: how long windows are and how far apart, and what says so."""
        made = {"window": "the examples' median", "hop": "half the window"}
        told = []
        for name, default in made.items():
            given, key = getattr(self, name), f"{name}_seconds"
            if key in stored and (given is None or self._is_table()):
                value, source = stored[key], "as the recordings are embedded"
            elif given is not None:
                value, source = given, f"--{name}"
            else:
                value, source = ours[key], "the classifier's" if _is_classifier(self.examples) else default
            told.append(f"{name}: {value:g} s ({source})")
        return ", ".join(told)

    def _embed(self, source: Path) -> tuple[set[str], Classifier, Failure | None]:
        """Embed all windows of the recordings into `source`, but for those that are there.

        Returns:
            The names of the recordings there, the classifier, and what is to be raised once the rest is labelled.
        """
        from ..audio.windows import Pool
        from ..config import Features, Layer
        from ..run.extract import ExtractConfig
        from ..run.files import check_output, parse_format
        from ..run.store import read_state

        target = check_output(source)
        report = Report(str(source), target, None, self.on_error, False, False, self.quiet, False)
        inputs = find_inputs(self.recordings, "auto", report)
        state = None if self.overwrite else read_state(target)
        earlier = {} if state is None else state.settings
        classifier = self._learn(earlier, [str(file.path) for file in inputs.files])
        ours = classifier.settings
        window = ours["window_seconds"] if self.window is None else self.window
        hop = earlier.get("hop_seconds", ours["hop_seconds"]) if self.hop is None else self.hop
        config = ExtractConfig(Features(ours["features"]), Layer(ours["layer"]), Pool.NONE, window, hop)
        weights = Weights(self.model or ours["model"], self.device, "float32")
        classifier.check_settings(weights.describe(weights.find(False), config), ", ".join(self.recordings))
        run = Run(weights, config, parse_format(source).value, self.overwrite, self.on_truncated == "error", report)
        failure = None
        try:
            run.start(inputs)
        except Failure as error:
            if error.exit_code != EXIT_SOME_FAILED or report.stop or not target.exists():
                raise
            failure = error
        return {file.name for file in inputs.files}, classifier, failure

    def _path_of(self, source: Path) -> Callable[[str], str]:
        """What gives the path of a recording by its name in the embeddings `source`."""
        from ..run.files import resolve
        from ..run.store import read_state

        state = read_state(resolve(source))
        paths = {} if state is None else {entry.name: entry.path for entry in state.entries.values()}

        def path_of(name: str) -> str:
            return paths.get(name, name) if self.audio is None else str(self.audio / name)

        return path_of

    def _label(
        self,
        classifier: Classifier,
        table: EmbeddingTable,
        config: EventConfig,
        source: Path,
        names: set[str] | None,
    ) -> Found:
        from ..classify.predict import predict_table

        return predict_table(
            classifier,
            table,
            config,
            path_of=self._path_of(source),
            only=names,
            reject=not self.no_reject,
            doubts=self.suggest or 0,
        )

    def _write(self, output: Path, form: LabelFormat, found: Found, classifier: Classifier) -> None:
        from ..analysis.labels_page import page
        from ..classify.clips import write_clips
        from ..classify.output import write_file, write_labels, write_rows
        from ..classify.predict import file_rows, spread

        if self.per_file:
            write_rows(output, form, *file_rows(found, self.top_k))
            self._say(f"{len(found.recordings)} rows, one a recording; {output} has them")
        else:
            write_labels(output, form, found.events, found.recordings)
            self._say(f"{len(found.events)} events in {len(found.recordings)} recordings; {output} has them")
        by_name = {recording.name: recording for recording in found.recordings}
        if self.suggest is not None:
            folder = self._suggestions(output)
            places = spread(found.doubts, self.suggest)
            clips = write_clips(places, by_name, folder)
            for clip in clips:
                self._say(f"  {clip}")
            self._say(f"{len(clips)} windows to label are in {folder}: move each into its class's folder and run again")
        if self.page is not None:
            write_file(self.page, page(classifier, found, self.threshold))
            self._say(f"wrote {self.page}")

    def _say(self, line: str) -> None:
        if not self.quiet:
            echo(line, err=True)


def _is_classifier(path: Path) -> bool:
    """Whether a file is safetensors, by its first bytes: the length of a header, which is JSON."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return path.suffix == ".mtslvr"
    return head[7:9] == b"\0{"
