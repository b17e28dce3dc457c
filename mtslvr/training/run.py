"""A run directory: its config, environment, packed clips, losses and states; used by `loop` and `whiten`."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..errors import TrainingError
from .config import TrainConfig
from .data import PackedClips, is_packed, pack

CONFIG, STATE, LOSSES, VALIDATION, ENVIRONMENT, CLIPS, EXPORT, EVENTS = (
    "config.json",
    "state.pt",
    "losses.csv",
    "validation.csv",
    "environment.json",
    "clips",
    "checkpoint",
    "tensorboard",
)


def prepare(folder: Path, config: TrainConfig, resume: bool, init: str | os.PathLike[str] | None = None) -> None:
    """Start a run directory, or check that an existing one is of the same config.

    Args:
        folder: of the run.
        config: the recipe.
        resume: whether it is there already.
        init: where a new run's weights start from, for the record.

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
        saved = json.loads(json.dumps(TrainConfig.from_dict(saved).to_dict()))  # one of before a setting existed
        changed = [k for k in ours if saved.get(k) != ours[k]]
        if changed:
            told = ", ".join(f"{k} was {saved.get(k)!r}, now {ours[k]!r}" for k in changed)
            raise TrainingError(f"{folder}: resume with another config ({told}); use the same one or a new --out")
        return
    if path.exists():
        raise TrainingError(f"{folder}: holds a run already; go on with --resume or choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        started = {} if init is None else {"init": str(init)}
        write_json(folder / ENVIRONMENT, {**environment(), **started})
        write_json(path, config.to_dict())  # last: with it the folder is a run
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
    """The CPU's name, as far as the system tells, with family and model: virtual machines shorten names."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    fields = ("model name", "cpu family", "model")
    name, family, model = (re.search(rf"^{field}\s*: (.+)$", text, re.MULTILINE) for field in fields)
    if not name:
        return platform.processor() or platform.machine()
    return f"{name[1]} (family {family[1]}, model {model[1]})" if family and model else name[1]


def record(folder: Path, **facts: Any) -> None:
    """Add facts to environment.json."""
    write_json(folder / ENVIRONMENT, {**recorded(folder), **facts})


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file; it is whole or the previous one, whenever the process dies."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(part, path)


def recorded(folder: Path) -> dict[str, Any]:
    """The facts in environment.json."""
    facts: dict[str, Any] = json.loads((folder / ENVIRONMENT).read_text())
    return facts


def load_clips(folder: Path, data: Sequence[str | os.PathLike[str]], config: TrainConfig) -> PackedClips:
    """The run's packed clips: those that `data` names, or packed from its folders the first time.

    Unreadable files are listed in unreadable.txt.
    """
    packed = folder / CLIPS
    if len(data) == 1 and is_packed(Path(data[0])):
        record(folder, clips=str(Path(data[0]).resolve()))
    elif not is_packed(packed) and data:
        failed = pack(data, packed, config.encoder.frontend.sample_rate)
        if failed:
            (folder / "unreadable.txt").write_text("\n".join(failed) + "\n")
            print_line(f"skipped {len(failed)} unreadable files, listed in {folder / 'unreadable.txt'}")
    elsewhere = recorded(folder).get("clips")
    if elsewhere is None and not is_packed(packed):
        raise TrainingError(f"{packed}: no packed clips and no --data; name the folders of audio")
    clips = PackedClips.open(packed if elsewhere is None else Path(elsewhere))
    if clips.sample_rate != config.encoder.frontend.sample_rate:
        raise TrainingError(
            f"{clips.folder}: packed at {clips.sample_rate} Hz, the encoder takes "
            f"{config.encoder.frontend.sample_rate}; pack again with mtslvr pack --sample-rate"
        )
    return clips


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run; the file is whole or the previous one, whenever the process dies."""
    part = folder / (STATE + ".part")
    with open(part, "wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / STATE)


def load_state(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The last saved state; None where none was saved yet."""
    path = folder / STATE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


class Log:
    """Named numbers of a step, to a CSV file and, where tensorboard is installed, to its event files.

    Args:
        folder: of the run.
        name: of the CSV file in it.
        columns: of that file after "step".
        start: lines of this step and later ones are dropped: they are computed again.
    """

    def __init__(self, folder: Path, name: str, columns: Sequence[str], start: int) -> None:
        self.columns = ("step", *columns)
        self.prefix = Path(name).stem
        truncate(folder / name, self.columns, start)
        self.file = open(folder / name, "a", newline="")  # noqa: SIM115  # closed in close()
        self.events = _event_writer(folder / EVENTS, start)

    def write(self, values: Mapping[str, float]) -> None:
        """Add the line of one step; the file has it before this returns."""
        csv.writer(self.file).writerow([values[column] for column in self.columns])
        self.file.flush()
        if self.events is not None:
            for column in self.columns[1:]:
                self.events.add_scalar(f"{self.prefix}/{column}", values[column], int(values["step"]))

    def close(self) -> None:
        """Both files."""
        self.file.close()
        if self.events is not None:
            self.events.close()


def _event_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # tensorboard is not installed
        return None
    return SummaryWriter(str(folder), purge_step=start)


def truncate(path: Path, columns: Sequence[str], start: int) -> None:
    """Keep the lines of steps before `start`, so that each step has one line; a torn last line goes, too."""
    rows = [row for row in csv.reader(path.read_text().splitlines())][1:] if path.exists() else []
    kept = [row for row in rows if len(row) == len(columns) and int(row[0]) < start]
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="") as file:
        csv.writer(file).writerows([columns, *kept])
    os.replace(part, path)


def print_line(text: str) -> None:
    """A line on stderr that does not break a progress bar."""
    tqdm.write(text, file=sys.stderr)
