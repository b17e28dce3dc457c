"""A run directory: its config, environment, packed clips, losses and states; used by `loop` and `whiten`.

What cannot be read or written, or is of another run, raises TrainingError; what was there is as it was.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pickle
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tqdm import tqdm

from ..errors import TrainingError, one_line
from ..run.files import atomic, remove_parts
from ..run.machine import environment
from .config import TrainConfig
from .data import PackedClips, is_packed, pack

CONFIG, ENVIRONMENT, LOSSES, VALIDATION = "config.json", "environment.json", "losses.csv", "validation.csv"
_MEASURED = ("step", "joint", "contrastive", "predictive")
COLUMNS = {LOSSES: (*_MEASURED, "learning_rate", "clips_per_second"), VALIDATION: _MEASURED}
STATE = "state.pt"
CLIPS, EXPORT, EVENTS = "clips", "checkpoint", "tensorboard"  # folders


def check(folder: Path, config: TrainConfig, resume: bool) -> None:
    """See that a run may start in a folder, or go on there with this config."""
    if not resume:
        if (folder / CONFIG).exists():
            raise TrainingError(f"{folder}: holds a run already; go on with --resume or choose another --out")
        return
    saved = read_config(folder).to_dict()
    changed = [f"{k} was {saved[k]!r}, now {v!r}" for k, v in config.to_dict().items() if saved[k] != v]
    if changed:
        raise TrainingError(
            f"{folder}: resume with another config ({', '.join(changed)}); use the same one or a new --out"
        )


def read_config(folder: Path) -> TrainConfig:
    """The config of a run."""
    try:
        return TrainConfig.from_dict(json.loads((folder / CONFIG).read_text()))
    except (OSError, ValueError) as error:
        told = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise TrainingError(f"{folder / CONFIG}: no training run ({told}); give a run directory") from None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file; it is whole or the previous one, whenever the process dies."""
    with replacing(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all of it is on the disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            yield file
    except (OSError, RuntimeError) as error:  # torch.save raises the latter where the disk is full
        raise TrainingError(
            f"{path}: cannot write it in the run directory ({one_line(error)}); what was there is as it was: free "
            "space and go on with --resume, or choose another --out"
        ) from None


def recorded(folder: Path) -> dict[str, Any]:
    """The facts in environment.json; none where it is missing."""
    path = folder / ENVIRONMENT
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        facts = error
    if not isinstance(facts, dict):
        raise TrainingError(f"{path}: not readable ({facts!r}); delete it and resume with the run's --data")
    return facts


def collect(
    folder: Path, data: Sequence[str | os.PathLike[str]], config: TrainConfig, resume: bool, start: Mapping[str, Any]
) -> PackedClips:
    """The packed clips of a run, and a record of them in environment.json; `start` is recorded of a new one, too.

    A packed folder that has moved is found again by `data`. Unreadable files are listed in unreadable.txt.
    """
    facts = recorded(folder) if resume else {**environment(), **start}
    names = [str(Path(path).resolve()) for path in data]
    if not data and not resume:
        raise TrainingError(f"{folder}: no --data for a new run; name folders of audio, or packed clips")
    if len(data) == 1 and is_packed(Path(data[0])):
        facts["clips"] = names[0]
    elif not resume:
        failed = pack(data, folder / CLIPS, config.encoder.frontend.sample_rate)
        if failed:
            (folder / "unreadable.txt").write_text("\n".join(failed) + "\n")
            print_line(f"skipped {len(failed)} unreadable files, listed in {folder / 'unreadable.txt'}")
    elif data and names != facts.get("data", names):
        raise TrainingError(
            f"{folder}: --resume with other --data ({', '.join(names)}; the run has {', '.join(facts['data'])}); leave "
            "--data out, or start a new run with another --out"
        )
    clips = open_clips(folder, facts, config)
    if facts.setdefault("fingerprint", clips.fingerprint()) != clips.fingerprint():
        raise TrainingError(
            f"{clips.folder}: other clips than those that {folder} began with; give the packed folder with those as "
            "--data, or start a new run with another --out"
        )
    write_json(folder / ENVIRONMENT, {"data": names, **facts})
    return clips


def open_clips(folder: Path, facts: Mapping[str, Any], config: TrainConfig) -> PackedClips:
    """The packed clips of a run whose environment.json holds `facts`."""
    clips = PackedClips.open(Path(facts.get("clips", folder / CLIPS)))
    if clips.sample_rate != config.encoder.frontend.sample_rate:
        raise TrainingError(
            f"{clips.folder}: packed at {clips.sample_rate} Hz, the encoder takes "
            f"{config.encoder.frontend.sample_rate}; pack again with mtslvr pack --sample-rate"
        )
    return clips


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run; it is whole or the previous one, whenever the process dies."""
    with replacing(folder / STATE) as file:
        torch.save(dict(state), file)


def load_state(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The last saved state; None where none was saved yet."""
    remove_parts([folder / STATE])  # of a process that was killed as it saved
    # 0.2 had a second file, and dying between the two left that alone.
    path = next((folder / name for name in (STATE, "state-previous.pt") if (folder / name).exists()), None)
    if path is None:
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if isinstance(state, dict) and isinstance(state.get("step"), int) and "objective" in state:
            return state
        reason = "it holds something else"
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = one_line(error) or type(error).__name__
    raise TrainingError(
        f"{path}: not the state of a run ({reason}); put a copy in its place, or delete it to begin again from step 0"
    )


class Progress:
    """Where a run tells of itself: csv files, TensorBoard's events where it is installed, and a bar.

    Lines of `step` and later ones are dropped: they are computed again.
    """

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        self.folder, self.step = folder, step
        self.events: Any = None
        for name, first in ((LOSSES, step), (VALIDATION, step + 1)):  # a validation counts the steps done
            truncate(folder / name, first)
        with contextlib.suppress(ImportError):  # tensorboard is not installed
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / EVENTS), purge_step=step)
        self.bar = tqdm(total=steps, initial=step, unit="step", desc="training", mininterval=2.0)
        self.began = time.perf_counter()

    def report(self, losses: dict[str, float], rate: float, batch_size: int) -> dict[str, float]:
        """Tell of one step, which ends now."""
        now = time.perf_counter()
        speed = batch_size / (now - self.began)
        report = {"step": self.step, **losses, "learning_rate": rate, "clips_per_second": speed}
        self.began, self.step = now, self.step + 1
        self.write(LOSSES, report)
        told = "contrastive {contrastive:.3f} predictive {predictive:.3f} {clips_per_second:.0f} clips/s"
        self.bar.set_postfix_str(told.format(**report))
        self.bar.update()
        return report

    def write(self, name: str, values: Mapping[str, float]) -> None:
        """Add a line to a csv file; the file has it before this returns."""
        path, columns = self.folder / name, COLUMNS[name]
        try:
            with open(path, "a", newline="") as file:
                writer = csv.DictWriter(file, columns)
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(values)
        except OSError as error:
            raise TrainingError(f"{path}: {error}; free space, then go on with --resume") from None
        if self.events is not None:
            for column in columns[1:]:
                self.events.add_scalar(f"{path.stem}/{column}", values[column], int(values["step"]))

    def close(self) -> None:
        """Events and bar."""
        self.bar.close()
        if self.events is not None:
            self.events.close()


def truncate(path: Path, start: int) -> None:
    """Keep the lines of steps before `start`, so that each step has one line; what is torn goes, too."""
    if path.exists():
        columns = COLUMNS[path.name]
        rows = [line.split(",") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        kept = [row for row in rows if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) < start]
        with replacing(path) as file:
            file.write("".join(",".join(row) + "\r\n" for row in (columns, *kept)).encode())


def print_line(text: str) -> None:
    """A line on stderr that does not break a progress bar."""
    tqdm.write(text, file=sys.stderr)
