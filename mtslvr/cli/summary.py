"""What a run of `mtslvr-embed` tells while it runs and in the end; `run` counts by it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import EXIT_SOME_FAILED, Failure, counted, echo
from .progress import Progress

if TYPE_CHECKING:
    from ..audio.recordings import Notes
    from ..run.job import ErrorLog, Plan
    from ..run.shards import Shard
    from ..run.state import FileStat


@dataclass
class Summary:
    """What a run did."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    kept: int = 0
    incomplete: int = 0
    above_half: int = 0
    rows: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0
    complete: bool = False

    @property
    def speed(self) -> float:
        """Seconds of audio a second."""
        return self.audio_seconds / self.seconds if self.seconds else 0.0

    def text(self, output: str) -> str:
        """One line of it."""
        incomplete = f" ({self.incomplete} incomplete)" if self.incomplete else ""
        parts = [f"{counted(self.done, 'file')} embedded{incomplete}"]
        parts += [f"{self.skipped} already there"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{duration(self.audio_seconds)} of audio at {self.speed:.1f} s a second"] if self.done else []
        return f"{', '.join(parts)}; {counted(self.rows, 'row')} in {output}"


def duration(seconds: float) -> str:
    """Hours, or minutes or seconds where that would be less than one."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


@dataclass
class Report:
    """Tells of a run: lines on standard error, OUT.errors.jsonl, the summary; the fields are the command's options."""

    output: str
    target: Path | None  # None is standard output
    shard: Shard | None
    on_error: str
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool
    summary: Summary = field(default_factory=Summary)
    _progress: Progress | None = field(default=None, init=False)
    _log: ErrorLog | None = field(default=None, init=False)

    @property
    def stop(self) -> bool:
        """Whether the first failure ends the run."""
        return self.on_error == "stop"

    def say(self, line: str) -> None:
        """Print a line beside the progress, whatever is quiet."""
        echo(line, err=True) if self._progress is None else self._progress.say(line)

    def inform(self, line: str) -> None:
        """Print a line unless the run is quiet."""
        if not self.quiet:
            self.say(line)

    def loading(self, model: str) -> None:
        """Tell a person what the next seconds are for."""
        if sys.stderr.isatty():
            self.inform(f"loading {model} ...")

    def skip(self, path: str, stage: str, message: str) -> None:
        """Count, note and tell an input that gets no embedding."""
        self.summary.failed += 1
        if self._log is not None:
            self._log.add(path, stage, message)
        self.say(f"{'stopped at' if self.stop else 'skipped'} {message}")

    def warn(self, path: str, notes: Notes) -> None:
        """Count, note and tell what was noticed about an input that is embedded."""
        self.summary.above_half += notes.above_half
        if notes.incomplete:
            self.summary.incomplete += 1
            if self._log is not None:
                self._log.add(path, "warning", notes.incomplete)
            self.say(f"incomplete {path}: {notes.incomplete}")

    def open_log(self, log: ErrorLog, missing: Sequence[tuple[str, str]], plan: Plan) -> None:
        """Note what is known before the first file is read: inputs that are not there, and what earlier runs found."""
        self._log = log
        for path, message in missing:
            log.add(path, "find", message)
        for entry in plan.failed:
            log.add(entry.path, "decode", entry.error)
        for path, note in plan.noted:
            log.add(path, "warning", note)
        self.summary.failed += len(plan.failed)

    @contextmanager
    def embedding(self, files: Sequence[FileStat]) -> Iterator[Progress]:
        """Show progress on these files, and take the time."""
        started = time.monotonic()
        self._progress = Progress(len(files), sum(max(file.size, 0) for file in files), self.quiet)
        try:
            yield self._progress
        finally:
            self.summary.seconds = time.monotonic() - started
            self._progress.close()
            self._progress = None

    def dry(self, plan: Plan) -> None:
        """List what a run would embed."""
        self.summary.skipped, self.summary.kept = len(plan.done), len(plan.kept)
        self.summary.failed += len(plan.failed)
        self.summary.done = len(plan.todo)
        if not self.as_json:
            for file in plan.todo:
                echo(file.path)
        changed = f" ({plan.changed} of them changed)" if plan.changed else ""
        files = f"{counted(len(plan.todo), 'file')} to embed{changed}, {len(plan.done)} already there"
        self.inform(f"dry run: {files}; nothing is written")

    def finish(self, settings: dict[str, Any], inputs: int) -> None:
        """Tell what was done with so many inputs; a Failure where some of them failed."""
        log = f"{self.target}.errors.jsonl"
        errors = log if self.target and not self.dry_run and os.path.exists(log) else None
        if self.as_json:
            self._print_json(settings, errors)
        if not self.dry_run:
            self._tell(settings, inputs)
        if failed := self.summary.failed:
            listed = f", listed in {errors}" if errors else ""
            raise Failure(f"{failed} of {counted(inputs, 'input')} failed{listed}", EXIT_SOME_FAILED)

    def _print_json(self, settings: dict[str, Any], errors: str | None) -> None:
        report = {
            "output": self.output,
            "dry_run": self.dry_run,
            **vars(self.summary),
            "audio_hours": self.summary.audio_seconds / 3600,
            "audio_seconds_per_second": self.summary.speed,
            "errors": errors,
            "shard": None if self.shard is None else str(self.shard),
            "settings": settings,
        }
        click.echo(json.dumps(report), err=self.target is None and not self.dry_run)

    def _tell(self, settings: dict[str, Any], inputs: int) -> None:
        summary = self.summary
        if summary.rows:
            self.inform(summary.text(self.output))
        elif self.target:
            nothing = "no embeddings" if inputs else f"shard {self.shard} has none of the files"
            there = "holds none" if self.shard and inputs else "stays as it was"
            self.inform(f"{nothing}, {self.output} {there if self.target.exists() else 'is not written'}")
        if summary.kept:
            kept = f"{counted(summary.kept, 'file')} of earlier runs not among these inputs"
            self.inform(f"rows of {kept} are kept (--overwrite leaves them out)")
        if summary.above_half:
            half = settings["encoder"]["frontend"]["sample_rate"] / 2000
            loud = f"{counted(summary.above_half, 'file')} with sound above {half:g} kHz"
            self.inform(f"{loud}, which the encoder does not hear: embeddings tell nothing of it")
