"""Many files to one output, in steps that survive whatever ends the run; joins `extract` and `writer`.

What the command line does, without its terminal: plan against what earlier runs have finished, embed what is left,
commit each batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ..audio.load import FoundAudio
from ..audio.recordings import Notes
from ..config import EncoderConfig
from ..errors import AudioError, ConfigError
from ..models import checkpoint
from ..nn.encoder import Encoder
from .extract import ExtractConfig, Part, Source, encode_batches
from .files import guarded, sidecar
from .recorder import Recorder, guarded_rows
from .state import DEFAULTS, FileEntry, FileStat, State
from .table import FORMAT_VERSION


def describe(
    name: str,
    folder: Path,
    config: ExtractConfig,
    encoder: EncoderConfig | None = None,
    *,
    dtype: str = "float32",
) -> dict[str, Any]:
    """The settings that go with an output: everything that its rows depend on.

    Args:
        name: of the model, as given.
        folder: of its checkpoint.
        config: how files become embeddings.
        encoder: None reads it from `folder`.
        dtype: of `mtslvr.load`; stored where it is not float32.
    Raises:
        CheckpointError: no checkpoint.
    """
    encoder = encoder or checkpoint.read_config(folder / checkpoint.CONFIG_NAME)
    window = encoder.window_seconds if config.window_seconds is None else config.window_seconds
    return {
        "format_version": FORMAT_VERSION,
        "mtslvr": metadata.version("mtslvr"),
        "model": name,
        "model_sha256": checkpoint.sha256(folder / checkpoint.WEIGHTS_NAME),
        "features": config.features.value,
        "layer": config.layer.value,
        "pool": config.pool.value,
        "window_seconds": window,
        "hop_seconds": window if config.hop_seconds is None else config.hop_seconds,
        "encoder": encoder.to_dict(),
        **({} if dtype == DEFAULTS["dtype"] else {"dtype": dtype}),
        **({} if config.excerpt.channel == DEFAULTS["channel"] else {"channel": config.excerpt.channel}),
    }


@dataclass
class Plan:
    """What a run has to do.

    Attributes:
        todo: inputs to embed, an unfinished one first.
        order: paths of all inputs, in the order of the output.
        done: inputs that an earlier run has embedded.
        changed: how many of `todo` an earlier run has embedded, and they are others now.
        noted: path and note of those of `done` of which something is to be known.
        failed: inputs that failed before the run was interrupted; not tried again.
        kept: rows of an earlier run's files that are not among the inputs.
        moved: finished inputs that go by another path or name now: the old path and what they are now.
    """

    todo: list[FileStat] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    done: list[FileStat] = field(default_factory=list)
    changed: int = 0
    noted: list[tuple[str, str]] = field(default_factory=list)
    failed: list[FileEntry] = field(default_factory=list)
    kept: list[FileEntry] = field(default_factory=list)
    moved: list[tuple[str, FileStat]] = field(default_factory=list)


def make_plan(output: str, files: Sequence[FoundAudio], state: State | None, *, retry: bool) -> Plan:
    """Compare the inputs with what is finished.

    Args:
        output: what errors call it.
        files: from `find_audio`.
        state: what earlier runs have finished.
        retry: try again what failed before.
    Raises:
        ConfigError: a name that two inputs would share.
    """
    entries = {} if state is None else state.entries
    by_name = {entry.name: entry for entry in entries.values()}
    plan = Plan()
    for file in files:
        found = stat(file)
        plan.order.append(found.path)
        entry = entries.get(found.path)
        if entry is None and (named := by_name.get(found.name)) is not None and named.moved(found):
            entry = named
        if entry is None or not entry.unchanged(found) or (entry.error and retry):
            plan.todo.append(found)
            plan.changed += entry is not None and not entry.unchanged(found)
        elif entry.error:
            plan.failed.append(entry)
        else:
            plan.done.append(found)
            plan.noted += [(found.path, entry.note)] if entry.note else []
            if (entry.path, entry.name) != (found.path, found.name):
                plan.moved.append((entry.path, found))
    _check_names(output, plan, entries)
    unfinished = None if state is None else state.open
    plan.todo.sort(key=lambda file: unfinished is None or file.path != unfinished.path)
    return plan


def stat(file: FoundAudio) -> FileStat:
    """An input as it is now."""
    path = os.path.abspath(file.path)
    try:
        found = os.stat(path)
    except OSError:  # said when it is read
        return FileStat(path, file.name, -1, -1)
    return FileStat(path, file.name, found.st_size, found.st_mtime_ns)


def _check_names(output: str, plan: Plan, entries: Mapping[str, FileEntry]) -> None:
    """Find the rows that are kept, and see that no new one goes by the name of one of them."""
    ours = {*plan.order, *(old for old, _ in plan.moved)}
    plan.kept = [entry for entry in entries.values() if entry.rows and entry.path not in ours]
    kept = {entry.name: entry.path for entry in plan.kept}
    for file in (*plan.todo, *plan.done):
        if file.name in kept:
            raise ConfigError(
                f"{file.path}: would go by the name {file.name!r}, which {kept[file.name]} has in {output} since an "
                "earlier run; embed their common folder in one run, choose another -o, or start anew with --overwrite"
            )


@dataclass(frozen=True)
class Step:
    """What is done with one input's part of a batch.

    Attributes:
        file: the input.
        seconds: of audio that were encoded.
        entry: the input's rows, once it is finished.
        error: why it has none.
        notes: what was noticed while the input was read, once it is finished.
    """

    file: FileStat
    seconds: float
    entry: FileEntry | None = None
    error: AudioError | None = None
    notes: Notes = field(default_factory=Notes)


def embed_files(
    plan: Plan,
    recorder: Recorder,
    encoder: Encoder,
    config: ExtractConfig,
    *,
    stop: bool = False,
    whole: bool = False,
) -> Iterator[Step]:
    """Embed what a plan has to do; every batch is committed before its steps are told.

    Args:
        plan: from `make_plan`, of the recorder's state.
        recorder: after `begin`.
        encoder: from `mtslvr.load`.
        config: how files become embeddings.
        stop: end after the first input that fails, which the next run tries again.
        whole: an input fails where audio is missing that its header claims.
    Raises:
        ConfigError: window or hop outside their range, disk full; what is finished is kept.
    """
    skip = recorder.resume(plan.todo[0] if plan.todo else None)
    sources = (Source(file.path, skip=skip if i == 0 else 0, whole=whole) for i, file in enumerate(plan.todo))
    reached = 0.0
    for parts in encode_batches(sources, encoder, config):
        steps = []
        for part in parts:
            file = plan.todo[part.index]
            seconds, reached = _covered(part, reached)
            entry = None
            with guarded_rows(recorder.target):
                if part.error is None:
                    note = part.notes.incomplete or ""
                    entry = recorder.add(file, part.embeddings, part.spans, part.last, note)
                elif not stop:
                    recorder.fail(file, str(part.error))
            steps.append(Step(file, seconds, entry, part.error, part.notes))
            if part.error is not None and stop:
                break
        with guarded_rows(recorder.target):
            recorder.commit()
        yield from steps
        if stop and steps[-1].error is not None:
            return


def _covered(part: Part, reached: float) -> tuple[float, float]:
    """Seconds of audio that a part adds, and where in its file it ends."""
    if len(part.spans) == 0:
        return 0.0, 0.0 if part.last else reached
    start, end = float(part.spans[0, 0]), float(part.spans[-1, 1])
    return end - (min(reached, end) if start > 0 and reached > 0 else start), 0.0 if part.last else end


class ErrorLog:
    """OUT.errors.jsonl: a line for each input that failed or is incomplete; no file where none is.

    Args:
        target: the output.
    """

    def __init__(self, target: Path) -> None:
        self.path = sidecar(target, ".errors.jsonl")
        with guarded(self.path):
            self.path.unlink(missing_ok=True)

    def add(self, file: str, stage: str, message: str) -> None:
        """Note an input, where it failed ("find" or "decode"), or "warning" where it did not, and why."""
        line = json.dumps({"file": file, "stage": stage, "message": message}) + "\n"
        with guarded(self.path), open(self.path, "ab", buffering=0) as log:
            log.write(line.encode())
