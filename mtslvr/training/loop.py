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
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..errors import TrainingError, one_line
from ..models import checkpoint
from ..models.hub import computes_bfloat16
from ..nn.encoder import Encoder
from . import distributed, run
from .config import TrainConfig
from .objective import Losses, Objective
from .views import Batch, StepBatches
from .whiten import finish

LOSS_NAMES = tuple(field.name for field in dataclasses.fields(Losses))
VALIDATION_BATCHES = 50  # at the most, in one pass


@dataclass(frozen=True)
class StepReport:
    """One line of losses.csv; losses are means over processes."""

    step: int
    joint: float
    contrastive: float
    predictive: float
    learning_rate: float
    clips_per_second: float


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
    """Train one encoder; as one of several processes where torchrun started it.

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
            another config, other data than the run began with, no space, CUDA asked for and absent, a batch that does
            not split into the processes, or a loss that is no finite number.
    """
    folder = Path(folder)
    target = distributed.join(select_device(device))
    rows = distributed.share(config.batch_size)
    distributed.on_first(lambda: run.check(folder, config, resume))
    torch.manual_seed(config.seed)
    objective = make_objective(config).to(target)
    objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    state = run.load_state(folder, target) if resume else None
    if resume and state is None:  # it died before its first state
        init = run.recorded(folder).get("init")
    facts: dict[str, Any] = {"dtype": "bfloat16" if half(config.dtype, target) else "float32"}
    if init is not None and state is None:
        facts.update(init=str(init), init_steps=initialise(objective, Path(init), target))
    distributed.on_first(lambda: run.collect(folder, data, config, resume, facts))
    clips = run.open_clips(folder, config)
    batches = StepBatches(clips, config, rows=rows)
    validation = StepBatches(clips, config, validation=True, rows=rows) if config.validate_every else None
    if config.sync_batch_norm:
        distributed.synchronise_norms(objective, target)
    average = average_of(objective.encoder, config)
    optimizer = make_optimizer(objective, config)
    progress = restore(state, objective, optimizer, average, folder)
    distributed.on_first(lambda: run.begin(folder, config))
    last = config.steps if stop_after is None else min(stop_after, config.steps)

    first = distributed.rank() == 0
    if first:
        run.print_line(
            f"{len(clips)} clips, {clips.hours:.2f} h; {config.steps} steps of {config.batch_size} on {target}"
            + (f" in {distributed.size()} processes" if distributed.size() > 1 else "")
        )
    log = (
        run.Log(folder, run.LOSSES, [f.name for f in dataclasses.fields(StepReport)][1:], progress.step)
        if first
        else None
    )
    validation_log = (
        run.Log(folder, run.VALIDATION, LOSS_NAMES, progress.step + 1) if first and validation is not None else None
    )
    bar = tqdm(
        total=config.steps, initial=progress.step, unit="step", desc="training", mininterval=2.0, disable=not first
    )
    parallel = data_parallel(objective, config)
    began = time.perf_counter()
    with bar:
        for batch in batches_from(batches, range(progress.step, last), target, workers):
            step = progress.step
            rate = learning_rate(step, config)
            losses = optimise(parallel, optimizer, batch, rate, config)
            now = time.perf_counter()
            named = dict(zip(LOSS_NAMES, losses.tolist(), strict=True))
            report = StepReport(step, **named, learning_rate=rate, clips_per_second=config.batch_size / (now - began))
            began = now
            check_finite(report, folder)
            if average is not None:
                average.update_parameters(objective.encoder)
            if log is not None:
                log.write(dataclasses.asdict(report))
            bar.set_postfix_str(
                f"contrastive {report.contrastive:.3f} predictive {report.predictive:.3f} "
                f"{report.clips_per_second:.0f} clips/s"
            )
            bar.update()
            progress = dataclasses.replace(progress, step=step + 1)
            if validation is not None and (step + 1) % config.validate_every == 0:
                found = validate(objective, average, validation, target, config)
                progress = progress.after(found[LOSS_NAMES.index("joint")].item())
                if validation_log is not None:
                    validation_log.write({"step": step + 1, **dict(zip(LOSS_NAMES, found.tolist(), strict=True))})
                if first and progress.waited == 0:
                    checkpoint.save(exported(objective, average), folder / run.EXPORT)
            ends = step + 1 == last or progress.exhausted(config)
            if first and ((step + 1) % save_every == 0 or ends):
                run.save_state(folder, state_of(objective, optimizer, average, progress))
                if validation is None:
                    checkpoint.save(exported(objective, average), folder / run.EXPORT)
            if on_step is not None:
                on_step(report)
            if ends:
                break
    for opened in (log, validation_log):
        if opened is not None:
            opened.close()
    if progress.step == config.steps or progress.exhausted(config):
        distributed.on_first(lambda: finish(folder, config, target))
    return folder / run.EXPORT


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        best: lowest validation loss so far.
        waited: validation passes since then.
    """

    step: int = 0
    best: float = math.inf
    waited: int = 0

    def after(self, loss: float) -> Progress:
        """With one more validation loss."""
        if loss < self.best:
            return dataclasses.replace(self, best=loss, waited=0)
        return dataclasses.replace(self, waited=self.waited + 1)

    def exhausted(self, config: TrainConfig) -> bool:
        """Whether the patience of the config is used up."""
        return 0 < config.patience <= self.waited


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
    objective: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, rate: float, config: TrainConfig
) -> Tensor:
    """One optimiser step; returns its losses in the order of `LOSS_NAMES`, means over processes."""
    objective.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    losses = compute(objective, batch, config)
    optimizer.zero_grad(set_to_none=True)
    losses.joint.backward()  # type: ignore[no-untyped-call]
    found = distributed.mean(torch.stack([getattr(losses, name).detach() for name in LOSS_NAMES]))
    if math.isfinite(found[0].item()):  # else the weights stay those of the last good step
        optimizer.step()
    return found


def compute(objective: nn.Module, batch: Batch, config: TrainConfig) -> Losses:
    """The losses of one batch."""
    inner = objective.module if isinstance(objective, DistributedDataParallel) else objective
    assert isinstance(inner, Objective)
    with torch.no_grad():
        spectrograms = inner.encoder.frontend(batch.views.flatten(0, 1)).unflatten(0, batch.views.shape[:2])
    with torch.autocast(batch.views.device.type, torch.bfloat16, enabled=half(config.dtype, batch.views.device)):
        losses: Losses = objective(spectrograms, batch.targets)
    return losses


def half(dtype: str, device: torch.device) -> bool:
    """Whether a step on `device` is computed in bfloat16."""
    return dtype == "bfloat16" or (dtype == "auto" and computes_bfloat16(device))


@torch.no_grad()
def validate(
    objective: Objective, average: AveragedModel | None, batches: StepBatches, device: torch.device, config: TrainConfig
) -> Tensor:
    """Mean losses over the clips held out, by the encoder that the run exports, in evaluation mode.

    The same crops and transformations each time, drawn apart from those of training.
    """
    trained, objective.encoder = objective.encoder, exported(objective, average)
    objective.eval()
    try:
        number = min(VALIDATION_BATCHES, batches.batches_an_epoch)
        found = [compute(objective, batches[i].to(device), config) for i in range(number)]
    finally:
        objective.encoder = trained
    rows = [torch.stack([getattr(losses, name) for name in LOSS_NAMES]) for losses in found]
    return distributed.mean(torch.stack(rows).mean(dim=0))


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


def data_parallel(objective: Objective, config: TrainConfig) -> nn.Module:
    """Average gradients over processes, where there are several."""
    if distributed.size() == 1:
        return objective
    # With one objective off, a path or head of the encoder gets no gradient. Buffers need no broadcast: they are alike
    # by construction, or each process keeps its own and the first one's are saved.
    idle = config.contrastive == "none" or not config.augmentation_weight
    return DistributedDataParallel(objective, broadcast_buffers=False, find_unused_parameters=idle)


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

    Training heads that the other run lacks start at random, and so does the encoder's head that reads the mel bands of
    another front end.

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
    head, ours = f"encoder.heads.{len(objective.encoder.heads) - 1}.weight", objective.state_dict()
    if objective.encoder.config.spectral_statistics and head in weights and weights[head].shape != ours[head].shape:
        run.print_line(f"{source}: head of {weights[head].shape[1]} features; a new one of {ours[head].shape[1]}")
        weights = {**weights, head: ours[head]}
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
