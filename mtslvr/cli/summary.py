"""What a run of `mtslvr-embed` does, told while it does it and in the end; `run` counts by it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import EXIT_SOME_FAILED, Failure, echo
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
        parts = [f"{self.done} files embedded" + (f" ({self.incomplete} incomplete)" if self.incomplete else "")]
        parts += [f"{self.skipped} already there"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        if self.done:
            parts.append(f"{self.audio_seconds / 3600:.2f} h of audio at {self.speed:.1f} s a second")
        return f"{', '.join(parts)}; {self.rows} rows in {output}"


@dataclass
class Report:
    """Tells of a run: lines on standard error, OUT.errors.jsonl, the summary.

    Attributes:
        output: as given.
        target: where that is; None is standard output.
        shard: which part of the files the run has.
        on_error: "stop" where the first failure ends the run.
        dry_run: nothing is embedded.
        as_json: the summary is JSON on standard output.
        quiet: neither progress nor summary.
        verbose: a line for each file.
    """

    output: str
    target: Path | None
    shard: Shard | None
    on_error: str
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool
    summary: Summary = field(default_factory=Summary)
    _progress: Progress | None = field(default=None, init=False)
    _log: ErrorLog | None = field(default=None, init=False)
    _noted: list[tuple[str, str, str]] = field(default_factory=list, init=False)

    @property
    def stop(self) -> bool:
        """Whether the first failure ends the run."""
        return self.on_error == "stop"

    def say(self, line: str) -> None:
        """Print a line beside the progress, whatever is quiet."""
        echo(line, err=True) if self._progress is None else self._progress.say(line)

    def note(self, path: str, stage: str, message: str) -> None:
        """Put a line into OUT.errors.jsonl, once there is one."""
        if self._log is None:
            self._noted.append((path, stage, message))
        else:
            self._log.add(path, stage, message)

    def skip(self, path: str, stage: str, message: str) -> None:
        """Count, note and tell an input that gets no embedding."""
        self.summary.failed += 1
        self.note(path, stage, message)
        self.say(f"{'stopped at' if self.stop else 'skipped'} {message}")

    def warn(self, path: str, notes: Notes) -> None:
        """Count, note and tell what was noticed about an input that is embedded."""
        self.summary.above_half += notes.above_half
        if notes.incomplete:
            self.summary.incomplete += 1
            self.note(path, "warning", notes.incomplete)
            self.say(f"incomplete {path}: {notes.incomplete}")

    def open_log(self, log: ErrorLog, plan: Plan) -> None:
        """Note what is known before the first file is read.

        Args:
            log: of the output, which no other run writes now.
            plan: has what earlier runs found out, which is noted and not told again.
        """
        self._log = log
        failed = [(entry.path, "decode", entry.error) for entry in plan.failed]
        for line in (*self._noted, *failed, *((path, "warning", note) for path, note in plan.noted)):
            log.add(*line)
        self.summary.failed += len(failed)

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
        if not self.quiet:
            changed = f" ({plan.changed} of them changed)" if plan.changed else ""
            said = f"dry run: {len(plan.todo)} files to embed{changed}, {len(plan.done)} already there"
            self.say(f"{said}; nothing is written")

    def finish(self, settings: dict[str, Any], inputs: int) -> None:
        """Tell what was done.

        Args:
            settings: stored with the output.
            inputs: how many there were, with those that failed.
        Raises:
            Failure: some of them did.
        """
        summary = self.summary
        log = f"{self.target}.errors.jsonl"
        errors = log if self.target and not self.dry_run and os.path.exists(log) else None
        if self.as_json:
            report = {
                "output": self.output,
                "dry_run": self.dry_run,
                **vars(summary),
                "audio_hours": summary.audio_seconds / 3600,
                "audio_seconds_per_second": summary.speed,
                "errors": errors,
                "shard": None if self.shard is None else str(self.shard),
                "settings": settings,
            }
            click.echo(json.dumps(report), err=self.target is None and not self.dry_run)
        if not self.quiet and not self.dry_run:
            if summary.rows:
                self.say(summary.text(self.output))
            elif self.target:
                told = "no embeddings" if inputs else f"shard {self.shard} has none of the files"
                written = "holds none" if self.target.exists() else "is not written"
                self.say(f"{told}, {self.output} {written}")
            if summary.kept:
                said = f"{summary.kept} files of earlier runs are not among these inputs; their rows are kept"
                self.say(f"{said} (--overwrite leaves them out)")
            if summary.above_half:
                half = settings["encoder"]["frontend"]["sample_rate"] / 2000
                said = f"{summary.above_half} files have content above {half:g} kHz"
                self.say(f"{said}, of which nothing counts: the encoder hears up to there")
        if summary.failed:
            listed = f", listed in {errors}" if errors else ""
            raise Failure(f"{summary.failed} of {inputs} inputs failed{listed}", EXIT_SOME_FAILED)
