"""What a run of `mtslvr-embed` tells: how far it is, what went wrong, what it did; `run` counts by it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from ..run.files import ERRORS, guarded
from ..run.job import Plan, Step
from ..run.shards import Shard
from ..run.state import FileEntry
from .common import EXIT_SOME_FAILED, Failure, counted, echo, printable

_EVERY = 10.0  # seconds between lines where stderr is no terminal
_FROM = 5.0  # seconds after which a time left is told,
_SHARE = 0.01  # once so much of the bytes that are left is embedded
_UNITS = ((3600, "h"), (60, "min"), (1, "s"))


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
        """Seconds of audio embedded in one second."""
        return self.audio_seconds / self.seconds if self.seconds else 0.0

    def text(self, output: str) -> str:
        """One line of it."""
        incomplete = f" ({self.incomplete} incomplete)" if self.incomplete else ""
        parts = [f"{counted(self.done, 'file')} embedded{incomplete}"]
        parts += [f"{self.skipped} already there"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        unit, name = next((pair for pair in _UNITS if self.audio_seconds >= pair[0]), _UNITS[-1])
        length = f"{self.audio_seconds / unit:.1f} {name} of audio"
        parts += [f"{length} at {self.speed:.1f} times real time"] if self.done else []
        return f"{', '.join(parts)}; {counted(self.rows, 'row')} in {output}"


class Progress:
    """How far a run over these files is: a bar on a terminal, else a line now and then.

    The time left is told by the bytes that are left, once there is something to go by.
    """

    def __init__(self, files: Sequence[FileEntry], quiet: bool = False) -> None:
        self._total, self._quiet = counted(len(files), "file"), quiet
        self._left = sum(max(file.size, 0) for file in files)  # bytes
        self._files, self._bytes, self._seconds = 0, 0, 0.0  # done, and of it embedded
        self._started = time.monotonic()
        self._due = self._started + _EVERY
        self._end = 0.0  # when all is done, as it was foreseen after the last file
        self._said = self._told = ""
        self.bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/" + self._total + "{postfix}"
            self.bar = tqdm(total=len(files), desc="embedding", file=sys.stderr, bar_format=form, dynamic_ncols=True)

    def advance(self, step: Step) -> None:
        """Count what is done with a file, the one that goes on or else the next."""
        now = time.monotonic()
        took = max(now - self._started, 1e-6)
        self._seconds += step.seconds
        done = step.entry is not None or step.error is not None
        if done:
            size = max(step.file.size, 0)
            self._files += 1
            self._left -= size
            self._bytes += size if step.entry is not None else 0
            if took >= _FROM and self._bytes > self._left * _SHARE:
                self._end = now + took * self._left / self._bytes
        speed = f", {self._seconds / took:.1f} times real time" if self._seconds else ""
        told = f", {timedelta(seconds=round(max(self._end - now, 0)))} left" if self._end else ""
        self._said = speed + told
        if self.bar is not None:
            self.bar.set_postfix_str(self._said.removeprefix(", "), refresh=False)
            self.bar.update(done)
        elif (done and self._files == 1) or now >= self._due:
            self._line()

    def close(self) -> None:
        """The last word."""
        if self.bar is not None:
            self.bar.close()
        elif self._files or self._seconds:
            self._line()

    def _line(self) -> None:
        self._due = time.monotonic() + _EVERY
        line = f"embedding: {self._files}/{self._total}{self._said}"
        if not self._quiet and line != self._told:
            echo(line, err=True)
            self._told = line


@dataclass
class Report:
    """Tells of a run: lines on standard error, OUT.errors.jsonl, the summary; the fields are the command's options."""

    output: str
    target: Path | None  # None is standard output
    shard: Shard | None = None
    stop: bool = False  # at the first failure
    dry_run: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    summary: Summary = field(default_factory=Summary)
    _progress: Progress | None = field(default=None, init=False)
    _log: Path | None = field(default=None, init=False)

    def say(self, line: str) -> None:
        """Print a line beside the progress, whatever is quiet."""
        if self._progress is None or self._progress.bar is None:
            echo(line, err=True)
        else:
            self._progress.bar.write(printable(line), file=sys.stderr)

    def inform(self, line: str) -> None:
        """Print a line unless the run is quiet."""
        if not self.quiet:
            self.say(line)

    def fail(self, path: str, stage: str, message: str) -> None:
        """Count, note and tell an input that gets no embedding."""
        self.summary.failed += 1
        self._note(path, stage, message)
        self.say(f"{'stopped at' if self.stop else 'failed'} {message}")

    def follow(self, steps: Iterable[Step], files: Sequence[FileEntry]) -> bool:
        """Have these files embedded, telling how far it is; False where the first failure ended the run."""
        started = time.monotonic()
        self._progress = progress = Progress(files, self.quiet)
        try:
            for step in steps:
                self._tell_step(step)
                progress.advance(step)
                if step.error is not None and self.stop:
                    return False
            return True
        finally:
            self.summary.seconds = time.monotonic() - started
            progress.close()
            self._progress = None

    def _tell_step(self, step: Step) -> None:
        """Count, note and tell what was done with an input, and what was noticed of it."""
        summary, path, entry = self.summary, step.file.path, step.entry
        summary.audio_seconds += step.seconds
        if step.error is not None:
            self.fail(path, "decode", str(step.error))
        elif entry is not None:
            summary.done += 1
            summary.rows += entry.rows
            summary.above_half += step.notes.above_half
            if step.notes.incomplete:
                summary.incomplete += 1
                self._note(path, "warning", step.notes.incomplete)
                self.say(f"incomplete {path}: {step.notes.incomplete}")
            if self.verbose:
                self.say(f"{entry.name}: {entry.seconds:.1f} s, rows {entry.rows}")

    def _count(self, plan: Plan) -> None:
        """Count what earlier runs have done."""
        self.summary.skipped, self.summary.kept = len(plan.done), len(plan.kept)

    def begin(self, missing: Sequence[tuple[str, str]], plan: Plan) -> None:
        """Count and note what is known before the first file is read: missing inputs, and what earlier runs found."""
        self._count(plan)
        self._log = Path(f"{self.target}{ERRORS}")
        with guarded(self._log):
            self._log.unlink(missing_ok=True)
        for path, message in missing:
            self._note(path, "find", message)
        for entry in plan.done:
            if entry.note:
                self._note(entry.path, "warning", entry.note)

    def _note(self, path: str, stage: str, message: str) -> None:
        """A line of OUT.errors.jsonl, which is there only where an input failed or is incomplete."""
        if self._log is not None:
            line = json.dumps({"file": path, "stage": stage, "message": message}) + "\n"
            with guarded(self._log), open(self._log, "ab", buffering=0) as log:
                log.write(line.encode())

    def dry(self, plan: Plan) -> None:
        """List what a run would embed."""
        self._count(plan)
        self.summary.done = len(plan.todo)
        if not self.as_json:
            for file in plan.todo:
                echo(file.path)
        changed = f" ({plan.changed} of them changed)" if plan.changed else ""
        files = f"{counted(len(plan.todo), 'file')} to embed{changed}, {len(plan.done)} already there"
        self.inform(f"dry run: {files}; nothing is written")

    def finish(self, settings: dict[str, Any], inputs: int) -> None:
        """Tell what was done with so many inputs; a Failure where some of them failed."""
        errors = str(self._log) if self._log is not None and self._log.exists() else None
        if self.as_json:
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
        if not self.dry_run:
            self._tell(settings, inputs)
        if failed := self.summary.failed:
            listed = f", listed in {errors}" if errors else ""
            raise Failure(f"{failed} of {counted(inputs, 'input')} failed{listed}", EXIT_SOME_FAILED)

    def _tell(self, settings: dict[str, Any], inputs: int) -> None:
        summary = self.summary
        if summary.rows:
            self.inform(summary.text(self.output))
        elif self.target:
            nothing = "no embeddings" if inputs else f"shard {self.shard} has none of the files"
            there = "holds none" if self.shard and inputs else "stays as it was"
            self.inform(f"{nothing}, {self.output} {there if self.target.exists() else 'is not written'}")
        if summary.kept:
            self.inform(f"rows of {counted(summary.kept, 'file')} of earlier runs not among these inputs are kept")
        if summary.above_half:
            half = settings["encoder"]["frontend"]["sample_rate"] / 2000
            loud = counted(summary.above_half, "file")
            self.inform(f"{loud} with sound above {half:g} kHz, which the encoder does not hear")
