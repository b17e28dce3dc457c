"""One call of `mtslvr-embed`: from which inputs, with which weights, to which output; joins `job` and the terminal."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audio.find import Search
from ..config import EncoderConfig
from ..models import hub
from ..nn.encoder import Encoder
from ..run.extract import ExtractConfig
from ..run.files import Format
from ..run.job import Plan, describe, embed_files, make_plan, stat, stream_files
from ..run.recorder import Recorder
from ..run.state import earlier_state
from .common import EXIT_INTERRUPTED, Failure, counted
from .summary import Report


@dataclass(frozen=True)
class Run:
    """One call of the command."""

    model: str | None  # the first three are the arguments of `hub.load`
    device: str
    dtype: str
    config: ExtractConfig
    form: Format  # of the output
    overwrite: bool  # whatever an earlier run left
    whole: bool  # count recordings that are cut short as broken
    report: Report  # where the output is, and what is told

    def find(self) -> tuple[Path, dict[str, Any]]:
        """The folder of the checkpoint, once it is sure that this machine can run it, and the settings of the rows."""
        hub.resolve(self.device, self.dtype)
        folder = hub.find(self.model, local_files_only=self.report.dry_run)
        return folder, describe(self.model, folder, self.config, dtype=self.dtype)

    def start(self, found: Search, names: Sequence[str] = ()) -> None:
        """Embed, write, tell; of a shard with the `names` of the files of all."""
        report, target = self.report, self.report.target
        folder, settings = self.find()
        settings["format"] = self.form.value
        encoder = EncoderConfig.from_dict(settings["encoder"])
        if report.shard is not None:
            settings["shard"] = report.shard.describe(names)
        if report.verbose:
            report.say(f"model {settings['model']}, sha256 {settings['model_sha256']}, in {folder}")
        if report.dry_run:
            state = None if target is None else earlier_state(target, settings, overwrite=self.overwrite)
            report.dry(make_plan(report.output, found.files, state))
        elif target is None:
            self._to_stdout(found, folder, settings["model"])
        else:
            width = encoder.embedding_dim(self.config.features, self.config.layer)
            self._to_file(found, folder, settings, width, target)
        report.finish(settings, len(found.files) + len(found.unlisted))

    def _to_stdout(self, found: Search, folder: Path, model: str) -> None:
        encoder, files = self._load(folder, model), [stat(file) for file in found.files]
        try:
            steps = stream_files(files, sys.stdout.buffer, self.form, encoder, self.config, self.whole)
            self.report.summary.complete = self.report.follow(steps, files)
        except KeyboardInterrupt:
            rows = counted(self.report.summary.rows, "row")
            raise Failure(f"interrupted after {rows}", EXIT_INTERRUPTED) from None

    def _to_file(self, found: Search, folder: Path, settings: dict[str, Any], width: int, target: Path) -> None:
        summary = self.report.summary
        with Recorder(target, settings, width, overwrite=self.overwrite) as recorder:
            plan = make_plan(self.report.output, found.files, recorder.state)
            encoder = self._load(folder, settings["model"]) if plan.todo else None
            self.report.begin(found.unlisted, plan)
            summary.complete = True  # where nothing is to be embedded
            if plan.todo or plan.moved or recorder.relisted or recorder.state.complete is None:
                self._go_on(plan, recorder, encoder)
            else:
                summary.rows = sum(entry.rows for entry in recorder.state.entries.values())

    def _go_on(self, plan: Plan, recorder: Recorder, encoder: Encoder | None) -> None:
        report = self.report
        recorder.begin(plan.moved)
        try:
            if encoder is not None:
                steps = embed_files(plan, recorder, encoder, self.config, stop=report.stop, whole=self.whole)
                report.summary.complete = report.follow(steps, plan.todo)
        except KeyboardInterrupt:
            rows = recorder.export(plan.order, complete=False)
            finished = sum(not entry.error for entry in recorder.state.entries.values())
            there = f"{finished} of {counted(len(plan.order), 'file')} in {report.output}"
            said = there if rows else "no file was finished"
            raise Failure(f"interrupted; {said}; the same command goes on from there", EXIT_INTERRUPTED) from None
        report.summary.rows = recorder.export(plan.order, complete=report.summary.complete)

    def _load(self, folder: Path, model: str) -> Encoder:
        if sys.stderr.isatty():
            self.report.inform(f"loading {model} ...")
        _share_memory_pools()
        return hub.load(folder, device=self.device, dtype=self.dtype)


def _share_memory_pools() -> None:
    """Have all threads of this process allocate from two pools: glibc gives each its own, and keeps what all once held.

    Of the C library's allocators other ones have no such call, or ignore it.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX
