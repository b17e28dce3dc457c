"""What a run trains, a step at a time: objective, optimiser, running mean, and how far they are; next: `loop`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import TrainingError, one_line
from ..models import checkpoint
from ..models.hub import computes_bfloat16
from ..nn.encoder import Encoder
from . import run
from .config import TrainConfig
from .objective import Losses, Objective
from .views import Batch, StepBatches

VALIDATION_BATCHES = 50  # at the most, in one pass


class Trainer:
    """Network and optimiser of a run, with fresh weights; messages name its `folder`."""

    def __init__(self, config: TrainConfig, device: torch.device, folder: Path = Path()) -> None:
        self.config, self.device, self.folder = config, device, folder
        self.step = 0  # steps done
        self.best, self.waited = math.inf, 0  # lowest validation loss, and passes since then
        torch.manual_seed(config.seed)
        self.objective = Objective(Encoder(config.encoder), config).to(device)
        self.objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.average: AveragedModel | None = None
        if config.ema_decay:
            update = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.objective.encoder, multi_avg_fn=update, use_buffers=True)
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer: torch.optim.Optimizer = kind(
            self.objective.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        parts: dict[str, Any] = {"objective": self.objective, "optimizer": self.optimizer, "average": self.average}
        self.parts = {name: part for name, part in parts.items() if part is not None}  # what a state holds

    @property
    def ended(self) -> bool:
        """Whether the schedule or the patience has."""
        return self.step == self.config.steps or 0 < self.config.patience <= self.waited

    @property
    def exported(self) -> Encoder:
        """The encoder that a run gives away."""
        encoder = self.objective.encoder if self.average is None else self.average.module
        assert isinstance(encoder, Encoder)
        return encoder

    def losses(self, batch: Batch) -> Losses:
        """Those of one batch."""
        with torch.no_grad():
            spectrograms = self.objective.encoder.frontend(batch.views.flatten(0, 1))
            spectrograms = spectrograms.unflatten(0, batch.views.shape[:2])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half(self.config, self.device)):
            losses: Losses = self.objective(spectrograms, batch.targets)
        return losses

    def optimise(self, batch: Batch) -> tuple[dict[str, float], float]:
        """Make one step; gives its losses by name and its learning rate.

        Raises:
            TrainingError: the loss is no number; the weights stay as they were.
        """
        self.objective.train()
        rate = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses.joint.backward()  # type: ignore[no-untyped-call]
        found = values_of(losses)
        if not math.isfinite(found["joint"]):
            told = ", ".join(f"{name} loss {value}" for name, value in found.items())
            state = self.folder / run.STATE
            raise TrainingError(f"step {self.step}: {told}; the last good state is {state}; lower learning_rate")
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.objective.encoder)
        self.step += 1
        return found, rate

    @torch.no_grad()
    def validate(self, batches: StepBatches) -> dict[str, float]:
        """Mean losses of the exported encoder over the same crops and transformations of clips held out each time."""
        trained, self.objective.encoder = self.objective.encoder, self.exported
        self.objective.eval()
        try:
            number = min(VALIDATION_BATCHES, len(batches.members) // self.config.batch_size)
            found = [values_of(self.losses(batches[i].to(self.device))) for i in range(number)]
        finally:
            self.objective.encoder = trained
        means = {name: sum(values[name] for values in found) / number for name in found[0]}
        better = means["joint"] < self.best
        self.best, self.waited = (means["joint"], 0) if better else (self.best, self.waited + 1)
        return means

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        state: dict[str, Any] = {"step": self.step, "best": self.best, "waited": self.waited}
        return state | {name: part.state_dict() for name, part in self.parts.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state; that of another network is a TrainingError."""
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.step, self.best, self.waited = state["step"], state["best"], state["waited"]
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise TrainingError(
                f"{self.folder / run.STATE}: not the state of this run ({one_line(error)}); put the run's own there, "
                "or delete it to begin again from step 0"
            ) from None

    def initialise(self, source: Path) -> None:
        """Start from the encoder of a checkpoint folder, or of a run; heads that read other features stay random."""
        encoder = self.objective.encoder
        weights = checkpoint.load(source / run.EXPORT if (source / run.EXPORT).is_dir() else source).state_dict()
        ours = encoder.state_dict()
        other = [k for k in weights if k.startswith("heads.") and k in ours and weights[k].shape != ours[k].shape]
        if other:
            run.print_line(f"{source}: its heads read other features; new ones start at random ({', '.join(other)})")
        try:
            encoder.load_state_dict({**weights, **{key: ours[key] for key in other}})
        except RuntimeError as error:
            raise TrainingError(
                f"{source}: weights of another network ({one_line(error)}); give the config that it was trained with"
            ) from None


def values_of(losses: Losses) -> dict[str, float]:
    """Numbers by their names."""
    return dict(zip(vars(losses), torch.stack([*vars(losses).values()]).tolist(), strict=True))


def half(config: TrainConfig, device: torch.device) -> bool:
    """Whether a step on `device` is computed in bfloat16.

    Not on a CPU where the last stage reads a single column: torch 2.13 leaves whatever was in memory in the gradient of
    a bfloat16 kernel with stride 2 where no input reaches.
    """
    frames = 1 + config.crop_length // config.encoder.frontend.hop_length
    if device.type == "cpu" and frames <= 16:
        return False
    return config.dtype == "bfloat16" or (config.dtype == "auto" and computes_bfloat16(device))


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine down to 0 at `config.steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
