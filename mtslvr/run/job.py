"""Many files to one output: plan against what earlier runs have finished, embed what is left, commit each batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from ..audio.find import FoundAudio
from ..audio.recordings import Notes
from ..errors import AudioError, ConfigError
from ..models import checkpoint
from ..models.hub import DEFAULT_MODEL
from ..nn.encoder import Encoder
from .export import header, lines
from .extract import ExtractConfig, Source, check_windows, encode_batches, extract
from .files import Format
from .recorder import Recorder, guarded_rows
from .state import DEFAULTS, FileEntry, State
from .table import FORMAT_VERSION


def describe(
    model: str | os.PathLike[str] | None, folder: Path, config: ExtractConfig, *, dtype: str = "float32"
) -> dict[str, Any]:
    """The settings that go with an output: everything that its rows depend on; `hub.find` gave the model's `folder`."""
    name = os.fspath(model or DEFAULT_MODEL)
    encoder = checkpoint.read_config(folder / checkpoint.CONFIG_NAME)
    window, hop = check_windows(encoder, config)
    others = {"dtype": dtype, "channel": config.excerpt.channel}
    return {
        "format_version": FORMAT_VERSION,
        "mtslvr": metadata.version("mtslvr"),
        "model": os.path.abspath(folder) if folder == Path(name).expanduser() else name,
        "model_sha256": checkpoint.sha256(folder / checkpoint.WEIGHTS_NAME),
        "features": config.features.value,
        "layer": config.layer.value,
        "pool": config.pool.value,
        "window_seconds": window,
        "hop_seconds": hop,
        "encoder": encoder.to_dict(),
        **{key: value for key, value in others.items() if value != DEFAULTS[key]},
    }


@dataclass
class Plan:
    """What a run has to do."""

    todo: list[FileEntry] = field(default_factory=list)  # an unfinished one first
    order: list[str] = field(default_factory=list)  # paths of all inputs
    done: list[FileEntry] = field(default_factory=list)  # embedded by an earlier run
    changed: int = 0  # of `todo`, embedded by an earlier run, and others now
    kept: list[FileEntry] = field(default_factory=list)  # with rows, and no inputs any more
    moved: list[FileEntry] = field(default_factory=list)  # of `done`, with another path or name than before


def make_plan(output: str, files: Sequence[FoundAudio], state: State | None) -> Plan:
    """Compare the inputs with what earlier runs have finished; what failed there is tried again."""
    entries = {} if state is None else state.entries
    by_name = {entry.name: entry for entry in entries.values()}
    plan, ours = Plan(), set()
    for file in files:
        found = stat(file)
        plan.order.append(found.path)
        entry = entries.get(found.path)
        if entry is None and (named := by_name.get(found.name)) is not None and named.unchanged(found):
            entry = None if os.path.lexists(named.path) else named  # moved here
        ours.add(found.path if entry is None else entry.path)
        changed = entry is not None and not entry.unchanged(found)
        if entry is None or changed or entry.error:
            plan.todo.append(found)
            plan.changed += changed
        else:
            plan.done.append(dataclasses.replace(entry, path=found.path, name=found.name))
            plan.moved += [plan.done[-1]] if plan.done[-1] != entry else []
    plan.kept = [entry for path, entry in entries.items() if entry.rows and path not in ours]
    names = {entry.name: entry.path for entry in plan.kept}
    for entry in (*plan.todo, *plan.done):
        if entry.name in names:
            raise ConfigError(
                f"{entry.path}: would go by the name {entry.name!r}, which {names[entry.name]} has in {output} since "
                "an earlier run; embed their common folder in one run, choose another -o, or start anew with "
                "--overwrite"
            )
    unfinished = None if state is None or state.open is None else state.open.path
    plan.todo.sort(key=lambda file: file.path != unfinished)
    return plan


def stat(file: FoundAudio) -> FileEntry:
    """An input as it is now."""
    path = os.path.abspath(file.path)
    try:
        found = os.stat(path)
    except OSError:  # said when it is read
        return FileEntry(path, file.name, -1, -1, -1)
    return FileEntry(path, file.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class Step:
    """What is done with one input's part of a batch; complete once it has an entry or an error."""

    file: FileEntry
    seconds: float  # of audio that were encoded
    entry: FileEntry | None
    error: AudioError | None
    notes: Notes


def embed_files(
    plan: Plan, recorder: Recorder, encoder: Encoder, config: ExtractConfig, *, stop: bool = False, whole: bool = False
) -> Iterator[Step]:
    """Embed what a plan has to do; every batch is committed before its steps are told.

    With `stop` the first input that fails is the last, and the next run tries it again; with `whole` one fails where
    audio is missing that its header claims.
    """
    skip = recorder.resume(plan.todo[0] if plan.todo else None)
    sources = (Source(file.path, skip=skip if i == 0 else 0, whole=whole) for i, file in enumerate(plan.todo))
    reached = 0.0  # in the file under way
    for parts in encode_batches(sources, encoder, config):
        steps = []
        with guarded_rows(recorder.target):
            for part in parts:
                file, entry, error, seconds = plan.todo[part.index], None, part.error, 0.0
                if len(part.spans):
                    start, end = float(part.spans[0, 0]), float(part.spans[-1, 1])
                    seconds, reached = end - (reached or start), end
                if part.last:
                    reached = 0.0
                if part.error is None:
                    entry = recorder.add(
                        file, part.embeddings, part.spans, part.last, part.source.notes.incomplete or ""
                    )
                elif not stop and recorder.fail(file, str(error)):
                    error = AudioError(f"{error} (the output keeps what an earlier run made of it)")
                steps.append(Step(file, seconds, entry, error, part.source.notes))
                if part.error is not None and stop:
                    break
            recorder.commit()
        yield from steps
        if stop and steps[-1].error is not None:
            return


def stream_files(
    files: Sequence[FileEntry], output: BinaryIO, form: Format, encoder: Encoder, config: ExtractConfig, whole: bool
) -> Iterator[Step]:
    """Embed files, the rows of each written once it is finished, as csv or jsonl; see `embed_files`."""
    output.write(header(form, encoder.embedding_dim(config.features, config.layer)))
    for result in extract((Source(file.path, whole=whole) for file in files), encoder, config):
        file, entry = files[result.index], None
        seconds = float(result.spans[-1, 1]) if len(result.spans) else 0.0
        if result.error is None:
            output.writelines(lines(form, [([file.name] * len(result.spans), result.spans, result.embeddings)]))
            output.flush()
            entry = dataclasses.replace(file, rows=len(result.spans), seconds=seconds)
        yield Step(file, seconds, entry, result.error, result.notes)
