"""One call of `mtslvr-embed`: what to do, doing it, telling about it; joins `job` and the terminal."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USAGE, Failure
from .inputs import Inputs
from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..encoder import Encoder
    from ..extract import ExtractConfig
    from ..job import ErrorLog, Plan
    from ..recordings import Notes
    from ..shards import Shard
    from ..writer import FileStat, Recorder, State


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
class Run:
    """One call of the command."""

    output: str
    target: Path | None
    form: str
    model: str | None
    device: str
    config: ExtractConfig
    engine: str
    dtype: str
    overwrite: bool
    on_error: str
    on_truncated: str
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool
    shard: Shard | None = None
    summary: Summary = field(default_factory=Summary)

    @property
    def stop(self) -> bool:
        """Whether the first failure ends the run."""
        return self.on_error == "stop"

    def failed_early(self, message: str) -> None:
        """An input that does not exist."""
        self.summary.failed += 1
        if self.stop:
            raise Failure(f"{message}; nothing is embedded (--on-error stop)", EXIT_SOME_FAILED)
        click.echo(f"skipped {message}", err=True)

    def start(self, found: Inputs) -> None:
        """Embed, write, tell."""
        from ..hub import DEFAULT_MODEL, find
        from ..job import describe

        folder = find(self.model, local_files_only=self.dry_run)
        name = self.model or DEFAULT_MODEL
        if folder == Path(os.path.expanduser(name)):
            name = os.path.abspath(folder)
        settings = {**describe(name, folder, self.config, dtype=self.dtype, engine=self.engine), "format": self.form}
        if self.shard is not None:
            settings["shard"] = self.shard.describe(found.names)
        if self.verbose:
            click.echo(f"model {name}, sha256 {settings['model_sha256']}, in {folder}", err=True)
        if self.target is None:
            self._to_stdout(found, folder)
        else:
            self._to_file(found, folder, settings, self.target)
        self._tell(settings, len(found.files) + len(found.missing))

    def _to_file(self, found: Inputs, folder: Path, settings: dict[str, Any], target: Path) -> None:
        from ..config import EncoderConfig
        from ..job import make_plan
        from ..writer import Recorder

        if self.dry_run:
            state, retry = self._earlier(target, settings)
            return self._dry(make_plan(self.output, found.files, state, retry=retry))
        width = EncoderConfig.from_dict(settings["encoder"]).embedding_dim(self.config.features, self.config.layer)
        with Recorder(target, settings, width, overwrite=self.overwrite) as recorder:
            plan = make_plan(self.output, found.files, recorder.state, retry=self._retry(recorder.state))
            log = self._log(target, found, plan)
            self.summary.skipped, self.summary.kept = len(plan.done), len(plan.kept)
            if plan.todo or plan.moved or recorder.relisted or recorder.state.complete is None:
                self._go_on(plan, recorder, folder, log)
            else:
                self.summary.rows = sum(entry.rows for entry in recorder.state.entries.values())
                self.summary.complete = True

    def _earlier(self, target: Path, settings: dict[str, Any]) -> tuple[State | None, bool]:
        """What a real run would find, without writing; and whether it would try again what failed."""
        from ..writer import check_earlier, read_state

        state = None if self.overwrite else read_state(target)
        if not self.overwrite:
            check_earlier(target, state, settings)
        if state is not None and state.complete is not None and not target.exists():
            state = None
        return state, self._retry(state)

    def _retry(self, state: State | None) -> bool:
        """An interrupted run goes on as if it had not been; a finished one tries again what failed."""
        return self.stop or state is None or state.complete is not None

    def _log(self, target: Path, found: Inputs, plan: Plan) -> ErrorLog:
        from ..job import ErrorLog

        log = ErrorLog(target)
        for path, message in found.missing:
            log.add(path, "find", message)
        for entry in plan.failed:
            log.add(entry.path, "decode", entry.error)
        for path, note in plan.noted:
            log.add(path, "warning", note)
        self.summary.failed += len(plan.failed)
        return log

    def _go_on(self, plan: Plan, recorder: Recorder, folder: Path, log: ErrorLog) -> None:
        encoder = self._encoder(folder) if plan.todo else None
        recorder.begin()
        for old, file in plan.moved:
            recorder.rename(old, file)
        try:
            complete = encoder is None or self._embed(plan, recorder, encoder, log)
        except KeyboardInterrupt:
            recorder.recover()
            rows = recorder.export(plan.order, complete=False)
            self._interrupted(rows, recorder, len(plan.order))
        self.summary.rows = recorder.export(plan.order, complete=complete)
        self.summary.complete = complete

    def _encoder(self, folder: Path) -> Encoder:
        from ..extract import warm_up
        from ..hub import load

        share_memory_pools()
        encoder = load(folder, device=self.device, dtype=self.dtype, engine=self.engine)
        if encoder.engine is not None:  # which has a network to compile
            warm_up(encoder, self.config.on(encoder.device))
        return encoder

    def _embed(self, plan: Plan, recorder: Recorder, encoder: Encoder, log: ErrorLog) -> bool:
        from ..job import embed_files

        progress, started = self._progress(plan.todo), time.monotonic()
        config = self.config.on(encoder.device)
        try:
            whole = self.on_truncated == "error"
            for step in embed_files(plan, recorder, encoder, config, stop=self.stop, whole=whole):
                finished = step.entry is not None or step.error is not None
                self.summary.audio_seconds += step.seconds
                if step.error is not None:
                    self.summary.failed += 1
                    log.add(step.file.path, "decode", str(step.error))
                    progress.say(f"{'stopped at' if self.stop else 'skipped'} {step.error}")
                elif step.entry is not None:
                    self.summary.done += 1
                    self._note(step.file.path, step.notes, progress, log)
                    if self.verbose:
                        progress.say(f"{step.entry.name}: {step.entry.seconds:.1f} s, rows {step.entry.rows}")
                rest = None if finished else functools.partial(length, step.file.path)
                progress.advance(step.seconds, step.file.size, rest)
                if step.error is not None and self.stop:
                    return False
        finally:
            self.summary.seconds = time.monotonic() - started
            progress.close()
        return True

    def _note(self, path: str, notes: Notes, progress: Progress, log: ErrorLog | None = None) -> None:
        """Tell what was noticed about a file that is embedded."""
        self.summary.above_half += notes.above_half
        if notes.incomplete:
            self.summary.incomplete += 1
            progress.say(f"incomplete {path}: {notes.incomplete}")
            if log is not None:
                log.add(path, "warning", notes.incomplete)

    def _progress(self, files: Sequence[FileStat]) -> Progress:
        return Progress(len(files), sum(max(file.size, 0) for file in files), self.quiet)

    def _interrupted(self, rows: int, recorder: Recorder, files: int) -> None:
        finished = sum(not entry.error for entry in recorder.state.entries.values())
        said = f"{finished} of {files} files are in {self.output}" if rows else "no file was finished"
        raise Failure(f"interrupted; {said}, and the same command goes on from there", EXIT_INTERRUPTED)

    def _to_stdout(self, found: Inputs, folder: Path) -> None:
        from ..extract import Source, extract
        from ..job import make_plan, stat
        from ..writer.export import csv_lines, encode, jsonl_lines

        if self.dry_run:
            return self._dry(make_plan(self.output, found.files, None, retry=True))
        encoder = self._encoder(folder)
        lines: Callable[..., Iterable[str]] = csv_lines if self.form == "csv" else jsonl_lines
        header = True
        files = [stat(file) for file in found.files]
        progress, started = self._progress(files), time.monotonic()
        config = self.config.on(encoder.device)
        try:
            whole = self.on_truncated == "error"
            for result in extract((Source(file.path, whole=whole) for file in found.files), encoder, config):
                file, seconds = files[result.index], float(result.spans[-1, 1]) if len(result.spans) else 0.0
                progress.advance(seconds, file.size)
                self.summary.audio_seconds += seconds
                if result.error is not None:
                    self.summary.failed += 1
                    progress.say(f"{'stopped at' if self.stop else 'skipped'} {result.error}")
                    if self.stop:
                        return
                    continue
                names = [file.name] * len(result.embeddings)
                self._put(encode(lines(names, result.embeddings, result.spans, header=header)))
                header = False
                self.summary.done += 1
                self._note(file.path, result.notes, progress)
                self.summary.rows += len(names)
        except KeyboardInterrupt:
            raise Failure(f"interrupted after {self.summary.rows} rows", EXIT_INTERRUPTED) from None
        finally:
            self.summary.seconds = time.monotonic() - started
            progress.close()
        self.summary.complete = True

    def _put(self, data: bytes) -> None:
        out = sys.stdout.buffer
        try:
            out.write(data)
            out.flush()
        except BrokenPipeError:
            # Or Python complains again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            said = f"stdout was closed by its reader after {self.summary.rows} rows"
            raise Failure(f"{said}; to keep what is embedded, write to a file", EXIT_SOME_FAILED) from None
        except OSError as error:
            said = f"stdout cannot be written after {self.summary.rows} rows ({error.strerror})"
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Failure(f"{said}; write where there is space", EXIT_USAGE) from None

    def _dry(self, plan: Plan) -> None:
        self.summary.skipped, self.summary.kept = len(plan.done), len(plan.kept)
        self.summary.failed += len(plan.failed)
        if not self.as_json:
            for file in plan.todo:
                click.echo(os.fsencode(file.path))  # names may be any bytes
        if not self.quiet:
            changed = f" ({plan.changed} of them changed)" if plan.changed else ""
            said = f"dry run: {len(plan.todo)} files to embed{changed}, {len(plan.done)} already there"
            click.echo(f"{said}; nothing is written", err=True)
        self.summary.done = len(plan.todo)

    def _tell(self, settings: dict[str, Any], inputs: int) -> None:
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
                click.echo(summary.text(self.output), err=True)
            elif self.target:
                told = "no embeddings" if inputs else f"shard {self.shard} has none of the files"
                written = "holds none" if self.target.exists() else "is not written"
                click.echo(f"{told}, {self.output} {written}", err=True)
            if summary.kept:
                said = f"{summary.kept} files of earlier runs are not among these inputs; their rows are kept"
                click.echo(f"{said} (--overwrite leaves them out)", err=True)
            if summary.above_half:
                half = settings["encoder"]["frontend"]["sample_rate"] / 2000
                said = f"{summary.above_half} files have content above {half:g} kHz"
                click.echo(f"{said}, of which nothing counts: the encoder hears up to there", err=True)
        if summary.failed:
            listed = f", listed in {errors}" if errors else ""
            raise Failure(f"{summary.failed} of {inputs} inputs failed{listed}", EXIT_SOME_FAILED)


def share_memory_pools() -> None:
    """Have all threads of this process allocate from two pools: glibc gives each its own, and keeps what all once held.

    Of the C library's allocators other ones have no such call, or ignore it.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX


@functools.lru_cache(maxsize=1)
def length(path: str) -> float:
    """Seconds of audio by the head of a file, for an estimate; endless where it does not tell."""
    import soundfile

    try:
        return float(soundfile.info(os.fsencode(path)).duration)  # whose own encoding fails for names that are no text
    except (OSError, RuntimeError):
        return float("inf")
