"""A run directory: its config, environment, packed clips, losses and states; used by `loop` and `whiten`.

What cannot be read or written, or is of another run, raises TrainingError; what was there is as it was.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tqdm import tqdm

from ..errors import TrainingError, one_line
from ..run.machine import environment
from .config import TrainConfig
from .data import PackedClips, is_packed, pack

CONFIG, ENVIRONMENT, LOSSES, VALIDATION = "config.json", "environment.json", "losses.csv", "validation.csv"
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
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter where the disk is full
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
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


class Log:
    """Named numbers of a step, to a CSV file and, where tensorboard is installed, to its event files.

    Args:
        folder: of the run.
        name: of the CSV file in it.
        columns: of that file, "step" first.
        start: lines of this step and later ones are dropped: they are computed again.
    """

    def __init__(self, folder: Path, name: str, columns: Sequence[str], start: int) -> None:
        self.columns, self.prefix = columns, Path(name).stem
        self.events: Any = None
        truncate(folder / name, columns, start)
        self.file = open(folder / name, "a", newline="")  # noqa: SIM115  # closed in close()
        with contextlib.suppress(ImportError):  # tensorboard is not installed
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / EVENTS), purge_step=start)

    def write(self, values: Mapping[str, float]) -> None:
        """Add the line of one step; the file has it before this returns."""
        try:
            csv.writer(self.file).writerow([values[column] for column in self.columns])
            self.file.flush()
        except OSError as error:
            raise TrainingError(f"{self.file.name}: {error}; free space, then go on with --resume") from None
        if self.events is not None:
            for column in self.columns[1:]:
                self.events.add_scalar(f"{self.prefix}/{column}", values[column], int(values["step"]))

    def close(self) -> None:
        """Both files."""
        with contextlib.suppress(OSError):  # what could not be written has been told
            self.file.close()
        if self.events is not None:
            self.events.close()


def truncate(path: Path, columns: Sequence[str], start: int) -> None:
    """Keep the lines of steps before `start`, so that each step has one line; what is torn goes, too."""
    lines = path.read_bytes().decode("utf-8", "replace").replace("\0", " ").splitlines() if path.exists() else []
    rows = [row for row in csv.reader(lines) if len(row) == len(columns) and re.fullmatch("[0-9]+", row[0])]
    with replacing(path) as file:
        text = io.TextIOWrapper(file, newline="", write_through=True)
        csv.writer(text).writerows([columns, *(row for row in rows if int(row[0]) < start)])
        text.detach()


def print_line(text: str) -> None:
    """A line on stderr that does not break a progress bar."""
    tqdm.write(text, file=sys.stderr)
