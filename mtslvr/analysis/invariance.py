"""How far each transformation of training moves the embeddings of clips, by branch; next modules: `pictures`, `report`.

The paper calls it learned invariance: the average Mahalanobis distance between the embeddings of a clip and of its
transformed copy. Lower is more invariant.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from ..audio.find import find_audio
from ..audio.load import load_audio
from ..config import Layer, Normalization, parse_enum
from ..errors import AudioError, ConfigError
from ..fewshot.classifiers import directions
from ..fewshot.command import load_encoders
from ..fewshot.results import Table, csv_text, json_text, read_json
from ..nn.encoder import Encoder
from ..nn.frontend import standardize
from ..run.extract import for_inference
from ..run.machine import environment
from ..training.augment import TRANSFORMATIONS, AugmentConfig, augment, check_ranges, draw_parameters

Float64 = npt.NDArray[np.float64]
KIND = "invariance"
FORMAT = 2  # of 1, relative was of Mahalanobis distances
AVERAGE = "average"
LINES = (*TRANSFORMATIONS, AVERAGE)
FEWEST_CLIPS, ENOUGH_CLIPS = 30, 100  # below these it is refused, and not to be trusted
_MOST_IN_PAIRS = 2000  # clips whose distances to one another are taken, memory grows with the square


@dataclass(frozen=True)
class InvarianceConfig:
    """What is measured; ConfigError for a value outside its range."""

    clips: int = 500  # at most so many files, drawn at random
    draws: int = 1  # transformed copies of each clip, by each transformation
    seed: int = 42  # of clips and parameters
    shrinkage: float | None = None  # share of the identity in the covariance; None is Ledoit and Wolf's
    layer: str = "head"  # or "pooled"
    batch_size: int = 16  # windows at once through the encoder
    published: bool = False  # the pitch shift of the published code, with a fine STFT; much slower

    def __post_init__(self) -> None:
        parse_enum(Layer, self.layer, "layer")
        lowest = {"clips": FEWEST_CLIPS, "draws": 1, "batch_size": 1, "seed": 0}
        check_ranges(self, "", {name: (low, 2**32 - 1) for name, low in lowest.items()})
        if self.shrinkage is not None and not 0 < self.shrinkage <= 1:
            raise ConfigError(f"shrinkage={self.shrinkage!r}: must be above 0 and at most 1")


@dataclass(frozen=True)
class InvarianceRow:
    """One branch under one transformation, means over clips.

    `relative` is the Euclidean distance of the embeddings, brought to length 1, divided by the mean distance between
    different clips: 0 is invariant, and at 1 a transformed clip is as far away as another clip.
    """

    model: str
    branch: str  # "invariant" or "variant"; "both" where an encoder has one output
    transformation: str  # of `LINES`
    mahalanobis: float  # distance from original to transformed clip
    ci95: float  # half width of the 95% interval of that mean
    relative: float
    cosine: float  # similarity of original and transformed clip
    shrinkage: float  # share of the identity in the covariance


@dataclass(frozen=True)
class Invariance:
    """All rows of a measurement, with what a reader needs to know of it."""

    rows: list[InvarianceRow]
    settings: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> dict[tuple[str, str], list[InvarianceRow]]:
        """The rows by model and branch, those of each in the order of `LINES`."""
        found: dict[tuple[str, str], list[InvarianceRow]] = defaultdict(list)
        for row in self.rows:
            found[row.model, row.branch].append(row)
        return found

    def to_json(self) -> str:
        """Give the text that `read_invariance` reads."""
        return json_text(KIND, FORMAT, **asdict(self))

    def to_csv(self) -> str:
        """One line a row."""
        return csv_text([each.name for each in fields(InvarianceRow)], map(asdict, self.rows))

    def table(self) -> Table:
        """Transformations down; relative distance, Mahalanobis and cosine a branch across."""
        lines = [["transformation"], *([name] for name in LINES)]
        several = len({row.model for row in self.rows}) > 1
        for (model, branch), rows in self.columns.items():
            lines[0] += [f"{model} {branch} relative" if several else f"{branch} relative", "Mahalanobis", "cosine"]
            for line, row in zip(lines[1:], rows, strict=True):
                line += [f"{row.relative:.3f}", f"{row.mahalanobis:.2f} ± {row.ci95:.2f}", f"{row.cosine:.3f}"]
        return lines

    def conclusions(self) -> list[str]:
        """Say for each model with two branches whether the invariant one is the more invariant, and if that is sure."""
        told = []
        for model in dict.fromkeys(row.model for row in self.rows if row.branch == "invariant"):
            ours, others = ([row.relative for row in self.columns[model, name]] for name in ("invariant", "variant"))
            *nearer, on_average = (one < other for one, other in zip(ours, others, strict=True))
            told.append(
                f"{model}: the invariant branch is {'more' if on_average else 'NOT more'} invariant than the variant "
                f"one: relative distance {ours[-1]:.3f} against {others[-1]:.3f} on average, nearer under "
                f"{sum(nearer)} of {len(nearer)} transformations"
            )
        if told and self.settings["clips"] < ENOUGH_CLIPS:
            told.append(
                f"Not to be trusted: {self.settings['clips']} clips do not tell how embeddings spread; measure on "
                f"{ENOUGH_CLIPS} or more"
            )
        return told


def invariance(
    folder: str | os.PathLike[str],
    models: Sequence[str | None] | Mapping[str, Encoder] = (None,),
    config: InvarianceConfig | None = None,
    *,
    device: str = "auto",
    progress: bool = False,
) -> Invariance:
    """Measure how far each transformation moves the embeddings of a folder's clips.

    The first window of each file is taken, standardised as in training, transformed by one transformation with
    published ranges, and embedded with its original. All models get the same copies.

    Args:
        folder: audio at any depth; no labels are needed.
        models: what `mtslvr.load` takes, None being the bundled weights; or encoders by name.
        config: what is measured.
        device: what `mtslvr.load` takes.
        progress: show a bar on standard error where that is a terminal.
    Raises:
        ConfigError: fewer than 30 clips, models given twice.
        AudioError: no such folder, or a file that cannot be read.
    Source:
        Heggan et al. 2023, section on learned invariance; the covariance and its regularisation are ours, see
        `mahalanobis`.
    """
    config = InvarianceConfig() if config is None else config
    found = [file.path for file in find_audio(folder)]
    if len(found) < FEWEST_CLIPS:
        raise ConfigError(
            f"{folder}: {len(found)} audio files; at least {FEWEST_CLIPS} are needed to tell how embeddings spread, "
            f"and {ENOUGH_CLIPS} to trust the verdict; add files"
        )
    order = np.random.default_rng(config.seed).permutation(len(found))[: config.clips]
    paths = [found[i] for i in sorted(order)]
    rows: list[InvarianceRow] = []
    for name, encoder in load_encoders(models, device).items():
        for branch, (originals, copies) in _embed(paths, encoder, config, progress).items():
            rows += _rows_of(name, branch, originals, copies, config)
    settings = {**asdict(config), "folder": Path(os.path.abspath(folder)).name, "clips": len(paths)}
    return Invariance(rows, settings, environment())


def _embed(
    paths: Sequence[Path], encoder: Encoder, config: InvarianceConfig, progress: bool
) -> dict[str, tuple[Float64, Float64]]:
    """Branch to embeddings of originals (n, D) and copies (7, draws, n, D)."""
    encoder = for_inference(encoder)
    by_training_data = encoder.config.normalization is Normalization.GLOBAL
    # Statistics of the training data are applied once, before the transformation as in training.
    normalize, encode = (encoder.normalize, encoder.encode) if by_training_data else (standardize, encoder)
    make = AugmentConfig if config.published else AugmentConfig.fast
    ranges = make(sample_rate=encoder.sample_rate)
    generator = torch.Generator().manual_seed(config.seed)
    batches = [paths[i : i + config.batch_size] for i in range(0, len(paths), config.batch_size)]
    parts: list[list[Tensor]] = []
    for batch in tqdm(batches, "transforming", leave=False, disable=not progress or None):
        windows = normalize(torch.stack([_first_window(path, encoder) for path in batch])).to(encoder.device)
        versions = [windows]
        for number in range(len(TRANSFORMATIONS)):
            order = torch.full((len(windows), len(TRANSFORMATIONS)), -1)
            order[:, 0] = number
            for _ in range(config.draws):
                parameters = draw_parameters(generator, len(windows), windows.shape[1], ranges)
                versions.append(augment(windows, order, parameters, ranges))
        with torch.inference_mode():
            encoded = [encode(version, layer=config.layer) for version in versions]
        parts.append([torch.stack([e.invariant for e in encoded]), torch.stack([e.variant for e in encoded])])
    single = encoder.config.embedding_dim(layer=Layer(config.layer)) == parts[0][0].shape[-1]
    found = {}
    for i, name in enumerate(["both"] if single else ["invariant", "variant"]):
        rows = torch.cat([part[i] for part in parts], dim=1).double().cpu().numpy()
        found[name] = rows[0], rows[1:].reshape(len(TRANSFORMATIONS), config.draws, *rows.shape[1:])
    return found


def _first_window(path: Path, encoder: Encoder) -> Tensor:
    wave = load_audio(path, encoder.sample_rate)
    if not wave.any():
        raise AudioError(f"{path}: silent; no transformation can be heard in it, leave it out")
    return torch.from_numpy(np.resize(wave, encoder.config.window_length))


def _rows_of(
    model: str, branch: str, originals: Float64, copies: Float64, config: InvarianceConfig
) -> list[InvarianceRow]:
    # Exactly 0 would leave directions without any spread.
    shrinkage = max(ledoit_wolf(originals), 1e-6) if config.shrinkage is None else config.shrinkage
    distances = mahalanobis(originals, copies, shrinkage)
    one, other = directions(originals), directions(copies)
    cosines = (one * other).sum(axis=-1)
    some = one[:_MOST_IN_PAIRS]
    between = np.sqrt(np.maximum(2 - 2 * some @ some.T, 0))[np.triu_indices(len(some), 1)].mean()
    relative = np.sqrt(np.maximum(2 - 2 * cosines, 0)) / between
    rows = []
    for i, name in enumerate(LINES):
        which = slice(None) if name == AVERAGE else slice(i, i + 1)
        of_clips = distances[which].mean(axis=(0, 1))
        mean, ci95 = float(of_clips.mean()), float(1.96 * of_clips.std() / np.sqrt(len(of_clips)))
        means = float(relative[which].mean()), float(cosines[which].mean())
        rows.append(InvarianceRow(model, branch, name, mean, ci95, *means, shrinkage))
    return rows


def mahalanobis(originals: Float64, copies: Float64, shrinkage: float) -> Float64:
    """Distances (..., n) of copies (..., n, D) from their originals (n, D), in units of the spread of the originals.

    With S the covariance of the originals, the distance is sqrt((z' - z)^T C^-1 (z' - z)) with
    C = (1 - shrinkage) S + shrinkage tr(S) / D I: one covariance for all transformations, regularised because there may
    be fewer clips than dimensions.
    """
    covariance = np.cov(originals.T, bias=True)
    dim = len(covariance)
    scale = np.trace(covariance) / dim
    if not scale > 0:
        raise ConfigError("all embeddings are the same: no distance can be told; are all files silent?")
    root = np.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * scale * np.eye(dim))
    moved = np.linalg.solve(root, (copies - originals).reshape(-1, dim).T)
    distances: Float64 = np.linalg.norm(moved, axis=0).reshape(copies.shape[:-1])
    return distances


def ledoit_wolf(originals: Float64) -> float:
    """The shrinkage, 0 to 1, that brings the covariance of rows (n, D) nearest to that of all clips there could be.

    Source:
        Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", lemma 3.3; as
        `sklearn.covariance.ledoit_wolf_shrinkage`.
    """
    covariance = np.cov(originals.T, bias=True)
    spread = float((covariance**2).sum())
    lengths = ((originals - originals.mean(axis=0)) ** 2).sum(axis=1)
    error = (float((lengths**2).mean()) - spread) / len(originals)
    distance = spread - float(np.trace(covariance)) ** 2 / len(covariance)
    return min(error / distance, 1.0) if distance > 0 else 1.0


def read_invariance(path: str | os.PathLike[str]) -> Invariance:
    """Read a file of `mtslvr invariance -o RESULTS.json`; one that is none is a ConfigError."""
    data = read_json(path, KIND, FORMAT)
    try:
        return Invariance([InvarianceRow(**row) for row in data["rows"]], data["settings"], data["environment"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged results ({type(error).__name__}: {error}); measure again") from None
