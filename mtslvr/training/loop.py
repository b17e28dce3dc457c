"""The training loop, top to bottom: clips in, a run directory with losses, state and checkpoint folder out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..models import checkpoint
from ..models.hub import parse_device
from . import run
from .config import TrainConfig
from .data import PackedClips
from .trainer import Trainer, half
from .views import Batch, StepBatches
from .whiten import check_crops, finish


def train(
    config: TrainConfig,
    folder: str | os.PathLike[str],
    data: Sequence[str | os.PathLike[str]] = (),
    *,
    resume: bool = False,
    init: str | os.PathLike[str] | None = None,
    stop_after: int | None = None,
    device: str = "auto",
    workers: int = 1,
    save_every: int = 100,
    on_step: Callable[[dict[str, float]], None] | None = None,
) -> Path:
    """Train one encoder.

    Args:
        config: the recipe.
        folder: directory of the run; made where missing.
        data: one folder that `pack` wrote; or folders of audio and packed ones, packed once into the run directory.
            Not needed to resume.
        resume: go on from the last saved state; every later loss equals that of an uninterrupted run.
        init: a checkpoint folder, or another run directory for its checkpoint: the encoder starts from there instead of
            at random. Recorded in environment.json.
        stop_after: end once this many steps of the schedule are done and saved; None goes to `config.steps`.
        device: what `mtslvr.load` takes.
        workers: processes that prepare batches on the CPU; on CUDA the device itself does.
        save_every: steps between saved states, each with its exported checkpoint folder.
        on_step: called after each step with its line of losses.csv.
    Returns:
        The exported checkpoint folder, `checkpoint` in the run directory.
    Raises:
        TrainingError: unwritable or used run directory, no audio, fewer clips than a batch, a broken state or one of
            another config, other data than the run began with, no space, or a loss that is no finite number.
        ConfigError: no such device.
    """
    folder = Path(folder)
    run.check(folder, config, resume)
    trainer = Trainer(config, parse_device(device), folder)
    clips = prepare(trainer, data, resume, init)
    batches = StepBatches(clips, config)
    validation = StepBatches(clips, config, validation=True) if config.validate_every else None
    run.write_json(folder / run.CONFIG, config.to_dict())  # a run, now that all that can be checked before is checked
    told = f"{config.steps} steps of {config.batch_size} on {trainer.device}"
    run.print_line(f"{len(clips)} clips, {clips.hours:.2f} h; {told}")
    steps = range(trainer.step, config.steps if stop_after is None else min(stop_after, config.steps))
    with closing(run.Progress(folder, trainer.step, config.steps)) as progress:
        for batch in batches_from(batches, steps, trainer.device, workers):
            report = progress.report(*trainer.optimise(batch), config.batch_size)
            if validation is not None and trainer.step % config.validate_every == 0:
                progress.write(run.VALIDATION, {"step": trainer.step, **trainer.validate(validation)})
                if trainer.waited == 0:
                    checkpoint.save(trainer.exported, folder / run.EXPORT)
            ends = trainer.step == steps.stop or trainer.ended
            if trainer.step % save_every == 0 or ends:
                run.save_state(folder, trainer.state())
                if validation is None:
                    checkpoint.save(trainer.exported, folder / run.EXPORT)
            if on_step is not None:
                on_step(report)
            if ends:
                break
    if trainer.ended:
        finish(folder, config, trainer.device)
    return folder / run.EXPORT


def prepare(
    trainer: Trainer, data: Sequence[str | os.PathLike[str]], resume: bool, init: str | os.PathLike[str] | None
) -> PackedClips:
    """Give a trainer the weights that its run begins or goes on with, and return the clips."""
    config, folder, device = trainer.config, trainer.folder, trainer.device
    state = run.load_state(folder, device) if resume else None
    if resume and state is None:  # it died before its first state
        init = run.recorded(folder).get("init")
    facts: dict[str, Any] = {"dtype": "bfloat16" if half(config, device) else "float32"}
    if state is not None:
        trainer.restore(state)
    elif init is not None:
        trainer.initialise(Path(init))
        facts["init"] = str(init)
    clips = run.collect(folder, data, config, resume, facts)
    if config.heads is not None:
        check_crops(clips, config.heads)
    return clips


def batches_from(batches: StepBatches, steps: range, device: torch.device, workers: int) -> Iterator[Batch]:
    """The batches of `steps` on `device`: made there on a GPU, by worker processes on a CPU."""
    if device.type == "cuda":
        on_device = batches.on(device)
        yield from (on_device[step] for step in steps)
        return
    ahead = 4 if workers else None
    yield from DataLoader(batches, batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=ahead)
