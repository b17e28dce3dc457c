"""The training loop, top to bottom: clips in, a run directory with losses, state and checkpoint folder out."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import checkpoint
from ..encoder import Encoder
from ..errors import TrainingError
from .config import TrainConfig
from .data import Batch, PackedClips, StepBatches, pack
from .objective import Losses, Objective

CONFIG, STATE, LOSSES, ENVIRONMENT, CLIPS, EXPORT = (
    "config.json",
    "state.pt",
    "losses.csv",
    "environment.json",
    "clips",
    "checkpoint",
)
_COLUMNS = ("step", "joint", "contrastive", "predictive", "learning_rate", "clips_per_second")


@dataclass(frozen=True)
class StepReport:
    """One line of losses.csv."""

    step: int
    joint: float
    contrastive: float
    predictive: float
    learning_rate: float
    clips_per_second: float


def train(
    config: TrainConfig,
    run: str | os.PathLike[str],
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
        run: directory of the run; made where missing.
        data: folders of audio; packed once into `run`. Not needed to resume.
        resume: go on from the last saved state; every later loss equals that of an uninterrupted run.
        init: another run directory: encoder and heads start from its last state instead of at random, the optimiser
            anew. Recorded in environment.json.
        stop_after: end once this many steps of the schedule are done and saved; None goes to `config.steps`.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        workers: processes that prepare batches.
        save_every: steps between saved states, each with its exported checkpoint folder.
        on_step: called after each step.
    Returns:
        The exported checkpoint folder, `run/checkpoint`.
    Raises:
        TrainingError: unwritable or used run directory, no audio, fewer clips than a batch, a state of another
            config, CUDA asked for and absent, or a loss that is no finite number.
    """
    folder = Path(run)
    target = select_device(device)
    prepare(folder, config, resume)
    clips = load_clips(folder, data, config)
    batches = StepBatches(clips, config)

    torch.manual_seed(config.seed)
    objective = make_objective(config).to(target)
    objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    if init is not None and not resume:
        record(folder, init=str(init), init_steps=restore(Path(init), objective, None, target))
    start = restore(folder, objective, optimizer, target) if resume else 0
    last = config.steps if stop_after is None else min(stop_after, config.steps)
    truncate_losses(folder / LOSSES, start)

    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        persistent_workers=False,
    )
    print_line(f"{len(clips)} clips, {clips.hours:.2f} h; {config.steps} steps of {config.batch_size} on {target}")
    progress = tqdm(total=config.steps, initial=start, unit="step", desc="training", mininterval=2.0)
    with open(folder / LOSSES, "a", newline="") as file, progress:
        writer = csv.writer(file)
        began = time.perf_counter()
        for step, batch in enumerate(loader, start):
            rate = learning_rate(step, config)
            losses = optimise(objective, optimizer, batch.to(target), rate, config)
            now = time.perf_counter()
            report = StepReport(
                step,
                losses.joint.item(),
                losses.contrastive.item(),
                losses.predictive.item(),
                rate,
                config.batch_size / (now - began),
            )
            began = now
            check_finite(report, folder)
            writer.writerow([getattr(report, column) for column in _COLUMNS])
            file.flush()
            progress.set_postfix_str(
                f"contrastive {report.contrastive:.3f} predictive {report.predictive:.3f} "
                f"{report.clips_per_second:.0f} clips/s"
            )
            progress.update()
            if (step + 1) % save_every == 0 or step + 1 == last:
                save_state(folder, objective, optimizer, step + 1)
                checkpoint.save(objective.encoder, folder / EXPORT)
            if on_step is not None:
                on_step(report)
    return folder / EXPORT


def optimise(
    objective: Objective, optimizer: torch.optim.Optimizer, batch: Batch, rate: float, config: TrainConfig
) -> Losses:
    """One optimiser step; returns its losses, detached."""
    objective.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    frontend = objective.encoder.frontend
    with torch.no_grad():
        spectrograms = frontend(batch.view1), frontend(batch.view2)
    device_type = batch.view1.device.type
    with torch.autocast(device_type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        losses: Losses = objective(*spectrograms, batch.augmentation_labels)
    optimizer.zero_grad(set_to_none=True)
    losses.joint.backward()  # type: ignore[no-untyped-call]
    if config.gradient_clip:
        nn.utils.clip_grad_norm_(objective.parameters(), config.gradient_clip)
    if math.isfinite(losses.joint.item()):  # the weights stay those of the last good step
        optimizer.step()
    return Losses(losses.joint.detach(), losses.contrastive.detach(), losses.predictive.detach())


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
        temperature=config.temperature,
        separate_views=config.separate_views,
        labels=len(config.augment.transformations),
    )


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


def prepare(folder: Path, config: TrainConfig, resume: bool) -> None:
    """Start a run directory, or check that an existing one is of the same config.

    Raises:
        TrainingError: used directory without `resume`, another config with it, or not writable.
    """
    path = folder / CONFIG
    if resume:
        try:
            saved = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path}: no run to resume ({error}); start one without --resume") from None
        ours = json.loads(json.dumps(config.to_dict()))
        changed = [k for k in ours if saved.get(k) != ours[k]]
        if changed:
            told = ", ".join(f"{k} was {saved.get(k)!r}, now {ours[k]!r}" for k in changed)
            raise TrainingError(f"{folder}: resume with another config ({told}); use the same one or a new --out")
        return
    if path.exists():
        raise TrainingError(f"{folder}: holds a run already; go on with --resume or choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        (folder / ENVIRONMENT).write_text(json.dumps(environment(), indent=2) + "\n")
    except OSError as error:
        raise TrainingError(f"{folder}: cannot write the run directory ({error}); choose another --out") from None


def environment() -> dict[str, Any]:
    """Versions, machine and git revision, for the record of a run."""
    try:
        here = Path(__file__).parent
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    return {
        "mtslvr": metadata.version("mtslvr"),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_revision": revision,
    }


def cpu_model() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def load_clips(folder: Path, data: Sequence[str | os.PathLike[str]], config: TrainConfig) -> PackedClips:
    """The run's packed clips; packs them from `data` the first time and lists unreadable files in unreadable.txt."""
    packed = folder / CLIPS
    if not (packed / "clips.json").exists():
        if not data:
            raise TrainingError(f"{packed}: no packed clips and no --data; name the folders of audio")
        failed = pack(data, packed, config.encoder.frontend.sample_rate)
        if failed:
            (folder / "unreadable.txt").write_text("\n".join(failed) + "\n")
            print_line(f"skipped {len(failed)} unreadable files, listed in {folder / 'unreadable.txt'}")
    return PackedClips.open(packed)


def save_state(folder: Path, objective: Objective, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the state after `step` steps; the file is whole or the previous one, whenever the process dies."""
    state = {"step": step, "objective": objective.state_dict(), "optimizer": optimizer.state_dict()}
    part = folder / (STATE + ".part")
    with open(part, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / STATE)


def restore(folder: Path, objective: Objective, optimizer: torch.optim.Optimizer | None, device: torch.device) -> int:
    """Load the last saved state; returns the number of steps done (0 where none was saved yet).

    Without an optimiser this starts a run from another one's weights, which must be there and fit.

    Raises:
        TrainingError: no state to start from, or that of another network.
    """
    path = folder / STATE
    if not path.exists():
        if optimizer is None:
            raise TrainingError(f"{path}: no state to start from; --init takes a run directory with saved steps")
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    try:
        objective.load_state_dict(state["objective"])
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{path}: not the state of this network ({reason}); use the encoder of that run") from None
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def record(folder: Path, **facts: Any) -> None:
    """Add facts to environment.json."""
    path = folder / ENVIRONMENT
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}, indent=2) + "\n")


def truncate_losses(path: Path, steps: int) -> None:
    """Drop the lines of steps that will be done again, so that losses.csv has each step once."""
    rows = [row for row in csv.reader(path.read_text().splitlines())][1:] if path.exists() else []
    kept = [row for row in rows if len(row) == len(_COLUMNS) and int(row[0]) < steps]
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="") as file:
        csv.writer(file).writerows([_COLUMNS, *kept])
    os.replace(part, path)


def check_finite(report: StepReport, folder: Path) -> None:
    """Stop a run whose loss is no number any more.

    Raises:
        TrainingError: names step, losses and the state to go on from.
    """
    if not math.isfinite(report.joint):
        raise TrainingError(
            f"step {report.step}: joint loss {report.joint} (contrastive {report.contrastive}, predictive "
            f"{report.predictive}); the last good state is {folder / STATE}; lower learning_rate or set gradient_clip"
        )


def print_line(text: str) -> None:
    """A line on stderr that does not break a progress bar."""
    tqdm.write(text, file=sys.stderr)
