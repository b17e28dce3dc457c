"""One call of `mtslvr-embed`: which weights, from which inputs, to which output; joins `job` and the terminal."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import EXIT_INTERRUPTED, EXIT_NO_AUDIO, EXIT_SOME_FAILED, Failure
from .inputs import Inputs, gather
from .summary import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..nn.encoder import Encoder
    from ..run.extract import ExtractConfig
    from ..run.job import Plan
    from ..run.recorder import Recorder
    from ..run.state import State


@dataclass(frozen=True)
class Weights:
    """Which encoder, and what it runs on; the arguments of `hub.load`."""

    model: str | None
    device: str
    dtype: str

    def find(self, local_files_only: bool) -> Path:
        """The folder of the checkpoint, once it is sure that this machine can run it.

        Raises:
            ConfigError: it cannot.
            HubError: see `hub.find`.
        """
        from ..models.hub import find, resolve

        resolve(self.device, self.dtype)
        return find(self.model, local_files_only=local_files_only)

    def name(self, folder: Path) -> str:
        """What the settings of an output call the encoder of `folder`."""
        from ..models.hub import DEFAULT_MODEL

        name = self.model or DEFAULT_MODEL
        return os.path.abspath(folder) if folder == Path(os.path.expanduser(name)) else name

    def describe(self, folder: Path, config: ExtractConfig) -> dict[str, Any]:
        """The settings of what is embedded with the checkpoint in `folder`."""
        from ..run.job import describe

        return describe(self.name(folder), folder, config, dtype=self.dtype)

    def load(self, folder: Path) -> Encoder:
        """The encoder, ready for its first batch."""
        from ..models.hub import load

        share_memory_pools()
        return load(folder, device=self.device, dtype=self.dtype)


@dataclass(frozen=True)
class Run:
    """One call of the command.

    Attributes:
        weights: which encoder.
        config: how files become embeddings.
        form: of the output.
        overwrite: whatever an earlier run left.
        whole: count recordings that are cut short as broken.
        report: where the output is, and what is told.
    """

    weights: Weights
    config: ExtractConfig
    form: str
    overwrite: bool
    whole: bool
    report: Report

    def start(self, found: Inputs) -> None:
        """Embed, write, tell."""
        from ..config import EncoderConfig
        from ..run.extract import check_windows

        weights, report = self.weights, self.report
        folder = weights.find(local_files_only=report.dry_run)
        name = weights.name(folder)
        settings = {**weights.describe(folder, self.config), "format": self.form}
        encoder = EncoderConfig.from_dict(settings["encoder"])
        check_windows(encoder, self.config)
        if report.shard is not None:
            settings["shard"] = report.shard.describe(found.names)
        if report.verbose:
            report.say(f"model {name}, sha256 {settings['model_sha256']}, in {folder}")
        if report.target is None:
            self._to_stdout(found, folder)
        else:
            width = encoder.embedding_dim(self.config.features, self.config.layer)
            self._to_file(found, folder, settings, width, report.target)
        report.finish(settings, len(found.files) + len(found.missing))

    def _to_file(self, found: Inputs, folder: Path, settings: dict[str, Any], width: int, target: Path) -> None:
        from ..run.job import ErrorLog, make_plan
        from ..run.recorder import Recorder

        report, summary = self.report, self.report.summary
        if report.dry_run:
            state, retry = self._earlier(target, settings)
            return report.dry(make_plan(report.output, found.files, state, retry=retry))
        with Recorder(target, settings, width, overwrite=self.overwrite) as recorder:
            plan = make_plan(report.output, found.files, recorder.state, retry=self._retry(recorder.state))
            encoder = self.weights.load(folder) if plan.todo else None
            report.open_log(ErrorLog(target), plan)
            summary.skipped, summary.kept = len(plan.done), len(plan.kept)
            if plan.todo or plan.moved or recorder.relisted or recorder.state.complete is None:
                self._go_on(plan, recorder, encoder)
            else:
                summary.rows = sum(entry.rows for entry in recorder.state.entries.values())
                summary.complete = True

    def _earlier(self, target: Path, settings: dict[str, Any]) -> tuple[State | None, bool]:
        """What a real run would find, without writing; and whether it would try again what failed."""
        from ..run.store import earlier_state

        state = earlier_state(target, settings, overwrite=self.overwrite)
        return state, self._retry(state)

    def _retry(self, state: State | None) -> bool:
        """An interrupted run goes on as if it had not been; a finished one tries again what failed."""
        return self.report.stop or state is None or state.complete is not None

    def _go_on(self, plan: Plan, recorder: Recorder, encoder: Encoder | None) -> None:
        summary = self.report.summary
        recorder.begin(plan.moved)
        try:
            complete = encoder is None or self._embed(plan, recorder, encoder)
        except KeyboardInterrupt:
            rows = recorder.export(plan.order, complete=False)
            self._interrupted(rows, recorder, len(plan.order))
        summary.rows = recorder.export(plan.order, complete=complete)
        summary.complete = complete

    def _embed(self, plan: Plan, recorder: Recorder, encoder: Encoder) -> bool:
        from ..run.job import embed_files

        report, summary = self.report, self.report.summary
        config = self.config.for_output()
        with report.embedding(plan.todo) as progress:
            for step in embed_files(plan, recorder, encoder, config, stop=report.stop, whole=self.whole):
                finished = step.entry is not None or step.error is not None
                summary.audio_seconds += step.seconds
                if step.error is not None:
                    report.skip(step.file.path, "decode", str(step.error))
                elif step.entry is not None:
                    summary.done += 1
                    report.warn(step.file.path, step.notes)
                    if report.verbose:
                        report.say(f"{step.entry.name}: {step.entry.seconds:.1f} s, rows {step.entry.rows}")
                rest = None if finished else functools.partial(length, step.file.path)
                progress.advance(step.seconds, step.file.size, rest)
                if step.error is not None and report.stop:
                    return False
        return True

    def _interrupted(self, rows: int, recorder: Recorder, files: int) -> None:
        finished = sum(not entry.error for entry in recorder.state.entries.values())
        said = f"{finished} of {files} files are in {self.report.output}" if rows else "no file was finished"
        raise Failure(f"interrupted; {said}, and the same command goes on from there", EXIT_INTERRUPTED)

    def _to_stdout(self, found: Inputs, folder: Path) -> None:
        from ..run.export import csv_lines, encode, jsonl_lines
        from ..run.extract import Source, extract
        from ..run.job import make_plan, stat

        report, summary = self.report, self.report.summary
        if report.dry_run:
            return report.dry(make_plan(report.output, found.files, None, retry=True))
        encoder = self.weights.load(folder)
        lines: Callable[..., Iterable[str]] = csv_lines if self.form == "csv" else jsonl_lines
        files = [stat(file) for file in found.files]
        sources, config = (Source(file.path, whole=self.whole) for file in found.files), self.config.for_output()
        try:
            with report.embedding(files) as progress:
                for result in extract(sources, encoder, config):
                    file, seconds = files[result.index], float(result.spans[-1, 1]) if len(result.spans) else 0.0
                    progress.advance(seconds, file.size)
                    summary.audio_seconds += seconds
                    if result.error is not None:
                        report.skip(file.path, "decode", str(result.error))
                        if report.stop:
                            return
                        continue
                    names = [file.name] * len(result.embeddings)
                    self._put(encode(lines(names, result.embeddings, result.spans, header=summary.done == 0)))
                    summary.done += 1
                    report.warn(file.path, result.notes)
                    summary.rows += len(names)
        except KeyboardInterrupt:
            raise Failure(f"interrupted after {summary.rows} rows", EXIT_INTERRUPTED) from None
        summary.complete = True

    def _put(self, data: bytes) -> None:
        out = sys.stdout.buffer
        try:
            out.write(data)
            out.flush()
        except BrokenPipeError:
            # Or Python complains again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            said = f"stdout was closed by its reader after {self.report.summary.rows} rows"
            raise Failure(f"{said}; to keep what is embedded, write to a file", EXIT_SOME_FAILED) from None


def find_inputs(arguments: Sequence[str], stdin: str, report: Report) -> Inputs:
    """The audio files of all arguments, or the shard's part of them; what is not there is told.

    Raises:
        ConfigError: see `gather`.
        Failure: no audio, or something is not there and the first failure ends the run.
    """
    everything = gather(arguments, stdin)
    found = everything if report.shard is None else everything.part(report.shard)
    for path, message in found.missing:
        if report.stop:
            raise Failure(f"{message}; nothing is embedded (--on-error stop)", EXIT_SOME_FAILED)
        report.skip(path, "find", message)
    if everything.left_out and not report.quiet:
        report.say(everything.left_out)
    if not everything.files:
        told = "" if everything.missing else ": no file with a known suffix (wav, flac, ogg, opus, mp3, aiff ...)"
        raise Failure(f"{', '.join(arguments)}: no audio found{told}", EXIT_NO_AUDIO)
    if found.repeated and not report.quiet:
        report.say(f"{found.repeated} files are named more than once; each is embedded once")
    return found


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
        # soundfile encodes text strictly, and a name on Linux may be any bytes.
        return float(soundfile.info(os.fsencode(path) if os.name == "posix" else path).duration)
    except (OSError, RuntimeError):
        return float("inf")
