"""The training loop, top to bottom: clips in, a run directory with losses, state and checkpoint folder out."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..errors import TrainingError, one_line
from ..models import checkpoint
from ..models.hub import computes_bfloat16
from ..nn.encoder import Encoder
from . import run
from .config import TrainConfig
from .objective import Losses, Objective
from .views import Batch, StepBatches
from .whiten import check_crops, finish

VALIDATION_BATCHES = 50  # at the most, in one pass


@dataclass(frozen=True)
class StepReport:
    """One line of losses.csv."""

    step: int
    joint: float
    contrastive: float
    predictive: float
    learning_rate: float
    clips_per_second: float


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0  # steps done
    best: float = math.inf  # lowest validation loss so far
    waited: int = 0  # validation passes since then

    def after(self, loss: float) -> Progress:
        """With one more validation loss."""
        if loss < self.best:
            return dataclasses.replace(self, best=loss, waited=0)
        return dataclasses.replace(self, waited=self.waited + 1)

    def ended(self, config: TrainConfig) -> bool:
        """Whether the schedule or the patience has."""
        return self.step == config.steps or 0 < config.patience <= self.waited


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
    on_step: Callable[[StepReport], None] | None = None,
) -> Path:
    """Train one encoder.

    Args:
        config: the recipe.
        folder: directory of the run; made where missing.
        data: one folder that `pack` wrote; or folders of audio and packed ones, packed once into the run directory.
            Not needed to resume.
        resume: go on from the last saved state; every later loss equals that of an uninterrupted run.
        init: another run directory, or a checkpoint folder: the weights start from there instead of at random, the
            optimiser anew. Recorded in environment.json.
        stop_after: end once this many steps of the schedule are done and saved; None goes to `config.steps`.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        workers: processes that prepare batches on the CPU; on CUDA the device itself does.
        save_every: steps between saved states, each with its exported checkpoint folder.
        on_step: called after each step.
    Returns:
        The exported checkpoint folder, `checkpoint` in the run directory.
    Raises:
        TrainingError: unwritable or used run directory, no audio, fewer clips than a batch, a broken state or one of
            another config, other data than the run began with, no space, CUDA asked for and absent, or a loss that is
            no finite number.
    """
    folder, target = Path(folder), select_device(device)
    run.check(folder, config, resume)
    torch.manual_seed(config.seed)
    objective = make_objective(config).to(target)
    objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    state = run.load_state(folder, target) if resume else None
    if resume and state is None:  # it died before its first state
        init = run.recorded(folder).get("init")
    facts: dict[str, Any] = {"dtype": "bfloat16" if half(config.dtype, target) else "float32"}
    if init is not None and state is None:
        facts.update(init=str(init), init_steps=initialise(objective, Path(init), target))
    clips = run.collect(folder, data, config, resume, facts)
    if config.heads is not None:
        check_crops(clips, config.heads)
    batches = StepBatches(clips, config)
    validation = StepBatches(clips, config, validation=True) if config.validate_every else None
    average = average_of(objective.encoder, config)
    optimizer = make_optimizer(objective, config)
    progress = restore(state, objective, optimizer, average, folder)
    run.write_json(folder / run.CONFIG, config.to_dict())  # a run, now that all that can be checked before is checked
    last = config.steps if stop_after is None else min(stop_after, config.steps)

    run.print_line(f"{len(clips)} clips, {clips.hours:.2f} h; {config.steps} steps of {config.batch_size} on {target}")
    log = run.Log(folder, run.LOSSES, [f.name for f in dataclasses.fields(StepReport)][1:], progress.step)
    names = [f.name for f in dataclasses.fields(Losses)]
    validation_log = run.Log(folder, run.VALIDATION, names, progress.step + 1) if validation is not None else None
    began = time.perf_counter()
    with tqdm(total=config.steps, initial=progress.step, unit="step", desc="training", mininterval=2.0) as bar:
        for batch in batches_from(batches, range(progress.step, last), target, workers):
            step, rate = progress.step, learning_rate(progress.step, config)
            joint, contrastive, predictive = optimise(objective, optimizer, batch, rate, config)
            now = time.perf_counter()
            report = StepReport(step, joint, contrastive, predictive, rate, config.batch_size / (now - began))
            began = now
            check_finite(report, folder)
            if average is not None:
                average.update_parameters(objective.encoder)
            log.write(dataclasses.asdict(report))
            bar.set_postfix_str(
                f"contrastive {report.contrastive:.3f} predictive {report.predictive:.3f} "
                f"{report.clips_per_second:.0f} clips/s"
            )
            bar.update()
            progress = dataclasses.replace(progress, step=step + 1)
            if validation is not None and validation_log is not None and (step + 1) % config.validate_every == 0:
                found = validate(objective, average, validation, target, config)
                progress = progress.after(found[0])
                validation_log.write({"step": step + 1, **dict(zip(names, found, strict=True))})
                if progress.waited == 0:
                    checkpoint.save(exported(objective, average), folder / run.EXPORT)
            ends = step + 1 == last or progress.ended(config)
            if (step + 1) % save_every == 0 or ends:
                run.save_state(folder, state_of(objective, optimizer, average, progress))
                if validation is None:
                    checkpoint.save(exported(objective, average), folder / run.EXPORT)
            if on_step is not None:
                on_step(report)
            if ends:
                break
    log.close()
    if validation_log is not None:
        validation_log.close()
    if progress.ended(config):
        finish(folder, config, target)
    return folder / run.EXPORT


def batches_from(batches: StepBatches, steps: range, device: torch.device, workers: int) -> Iterator[Batch]:
    """The batches of `steps` on `device`: made there on a GPU, by worker processes on a CPU."""
    if device.type == "cuda":
        on_device = batches.on(device)
        for step in steps:
            yield on_device[step]
        return
    loader = DataLoader(
        batches, batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=4 if workers else None
    )
    yield from loader


def optimise(
    objective: Objective, optimizer: torch.optim.Optimizer, batch: Batch, rate: float, config: TrainConfig
) -> list[float]:
    """One optimiser step; returns its losses in the order of `Losses`."""
    objective.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    losses = compute(objective, batch, config)
    optimizer.zero_grad(set_to_none=True)
    losses.joint.backward()  # type: ignore[no-untyped-call]
    found = values_of(losses)
    if math.isfinite(found[0]):  # else the weights stay those of the last good step
        optimizer.step()
    return found


def values_of(losses: Losses) -> list[float]:
    """Joint, contrastive and predictive loss."""
    found: list[float] = torch.stack([losses.joint, losses.contrastive, losses.predictive]).tolist()
    return found


def compute(objective: Objective, batch: Batch, config: TrainConfig) -> Losses:
    """The losses of one batch."""
    with torch.no_grad():
        spectrograms = objective.encoder.frontend(batch.views.flatten(0, 1)).unflatten(0, batch.views.shape[:2])
    with torch.autocast(batch.views.device.type, torch.bfloat16, enabled=half(config.dtype, batch.views.device)):
        losses: Losses = objective(spectrograms, batch.targets)
    return losses


def half(dtype: str, device: torch.device) -> bool:
    """Whether a step on `device` is computed in bfloat16."""
    return dtype == "bfloat16" or (dtype == "auto" and computes_bfloat16(device))


@torch.no_grad()
def validate(
    objective: Objective, average: AveragedModel | None, batches: StepBatches, device: torch.device, config: TrainConfig
) -> list[float]:
    """Mean losses over the clips held out, by the encoder that the run exports, in evaluation mode.

    The same crops and transformations each time, drawn apart from those of training.
    """
    trained, objective.encoder = objective.encoder, exported(objective, average)
    objective.eval()
    try:
        number = min(VALIDATION_BATCHES, batches.batches_an_epoch)
        found = [values_of(compute(objective, batches[i].to(device), config)) for i in range(number)]
    finally:
        objective.encoder = trained
    return [sum(values) / number for values in zip(*found, strict=True)]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine down to 0 at `config.steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_objective(config: TrainConfig) -> Objective:
    """Encoder and training heads with fresh weights."""
    return Objective(
        Encoder(config.encoder),
        contrastive=config.contrastive,
        augmentation_weight=config.augmentation_weight,
        prediction=config.prediction,
        temperature=config.temperature,
        separate_views=config.separate_views,
        predicted_views=config.predicted_views,
        labels=len(config.augment.transformations),
    )


def make_optimizer(objective: Objective, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that the config names, over all parameters."""
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(objective.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def select_device(device: str) -> torch.device:
    """The device that `device` names.

    Raises:
        TrainingError: CUDA asked for and absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError(f"device={device!r}: torch {torch.__version__} sees no CUDA device; use --device cpu")
    return torch.device(device)


def average_of(encoder: Encoder, config: TrainConfig) -> AveragedModel | None:
    """The running mean of the encoder's weights and batch statistics, where the config asks for one."""
    if not config.ema_decay:
        return None
    update = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(encoder, multi_avg_fn=update, use_buffers=True)


def exported(objective: Objective, average: AveragedModel | None) -> Encoder:
    """The encoder that a run gives away."""
    encoder = objective.encoder if average is None else average.module
    assert isinstance(encoder, Encoder)
    return encoder


def state_of(
    objective: Objective, optimizer: torch.optim.Optimizer, average: AveragedModel | None, progress: Progress
) -> dict[str, Any]:
    """What `restore` takes."""
    state = {**dataclasses.asdict(progress), "objective": objective.state_dict(), "optimizer": optimizer.state_dict()}
    if average is not None:
        state["average"] = average.state_dict()
    return state


def restore(
    state: dict[str, Any] | None,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    folder: Path,
) -> Progress:
    """Go back to a saved state; to the start where there is none.

    Raises:
        TrainingError: the state of another network.
    """
    if state is None:
        return Progress()
    try:
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        return Progress(state["step"], state["best"], state["waited"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{folder / run.STATE}: not the state of this run ({one_line(error)}); put the run's own there, or delete "
            "it to begin again from step 0"
        ) from None


def initialise(objective: Objective, source: Path, device: torch.device) -> int:
    """Start from other weights: a run's last state (returns its steps), or a checkpoint folder's encoder (returns 0).

    Training heads that the other has not start at random, and so do the encoder's heads where they read other features.

    Raises:
        TrainingError: no state to start from, or that of another network.
    """
    state = run.load_state(source, device)
    if state is not None:
        weights, steps = state["objective"], int(state["step"])
    elif (source / checkpoint.CONFIG_NAME).exists() and (source / checkpoint.WEIGHTS_NAME).exists():
        encoder = checkpoint.load(source)
        weights, steps = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}, 0
    else:
        raise TrainingError(f"{source}: no state to start from; --init takes a run with saved steps or a checkpoint")
    ours = objective.state_dict()
    other = [k for k in weights if k.startswith("encoder.heads.") and k in ours and weights[k].shape != ours[k].shape]
    if other:
        run.print_line(f"{source}: its heads read other features; new ones start at random ({', '.join(other)})")
        weights = {**weights, **{key: ours[key] for key in other}}
    try:
        missing = objective.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{source}: not the state of this network ({str(error).splitlines()[0]})") from None
    if any(key.startswith("encoder.") for key in [*missing.missing_keys, *missing.unexpected_keys]):
        raise TrainingError(f"{source}: not the state of this network; give the config that it was trained with")
    return steps


def check_finite(report: StepReport, folder: Path) -> None:
    """Stop a run whose loss is no number any more.

    Raises:
        TrainingError: names step, losses and the state to go on from.
    """
    if not math.isfinite(report.joint):
        raise TrainingError(
            f"step {report.step}: joint loss {report.joint} (contrastive {report.contrastive}, predictive "
            f"{report.predictive}); the last good state is {folder / run.STATE}; lower learning_rate"
        )
