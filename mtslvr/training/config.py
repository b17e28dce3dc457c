"""What a training run is, as one frozen dataclass stored in its run directory; next: `loop`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import AdapterKind, EncoderConfig, FrontendConfig, Normalization, Phase, Rows
from ..errors import ConfigError
from .augment import AugmentConfig, Pitch

CONTRASTIVE = ("simclr", "simsiam", "none")


def own_augmentations(**changes: Any) -> AugmentConfig:
    """The transformations of our recipe, with `changes`; pitch shifts beyond 4 semitones would move formants."""
    return AugmentConfig.fast(**{"pitch": Pitch.SEMITONES, "pitch_semitones": 4.0, **changes})


def encoder_config(adapter: AdapterKind, window_seconds: float = 5.0) -> EncoderConfig:
    """The encoder that one of the paper's systems trains, with our front-end settings.

    none shares everything (MT-Simple, or a single objective); split shares all but the heads.
    """
    single = adapter is AdapterKind.NONE
    return EncoderConfig(
        frontend=FrontendConfig(epsilon=1e-3, phase=Phase.STABLE),
        adapter=adapter,
        tasks=1 if adapter in (AdapterKind.NONE, AdapterKind.SPLIT) else 2,
        heads=1 if single else 2,
        head_dim=1000 if single else 500,
        window_seconds=window_seconds,
        normalization=Normalization.WINDOW,
    )


@dataclass(frozen=True)
class HeadsConfig:
    """The heads that a trained network is given for use, see `whiten`; the defaults are those of our recipe.

    Attributes:
        clips: how many clips to take two random crops of, without augmentation; more than a head reads numbers.
        crop_seconds: length of these crops.
        source_balance: how to draw the clips, see `TrainConfig`.
        power: 0 only rotates, 1 makes crops of a clip differ alike in every direction.
        ridge, variant_ridge: added to each variance within clips, as a share of their mean; of each head.
        variant_scale: root mean square length of the variant embeddings over that of the invariant ones: how much each
            counts in distances between concatenated embeddings.
        spectral_statistics: let the variant head of two paths read them, too, see `EncoderConfig`.
        invariant_rows, variant_rows: what the heads read, see `EncoderConfig`; None is what they read in training.
        disturb: compare the first crop of a clip, for the invariant head, also with the second one vocoded by noise,
            equalised, and with another clip as background.
    """

    clips: int = 4096
    crop_seconds: float = 2.5
    source_balance: float = 0.5
    power: float = 1.0
    ridge: float = 1.0
    variant_ridge: float = 0.1
    variant_scale: float = 1.0
    spectral_statistics: bool = True
    invariant_rows: Rows | None = field(default_factory=lambda: Rows((2, 4), (1, 3)))
    variant_rows: Rows | None = None
    disturb: bool = True

    def __post_init__(self) -> None:
        _check_ranges(
            self,
            {"clips": (2, 10**9)},
            {
                "crop_seconds": (0.1, 600.0),
                "source_balance": (0.0, 1.0),
                "power": (0.0, 10.0),
                "ridge": (0.0, 1e9),
                "variant_ridge": (0.0, 1e9),
                "variant_scale": (0.0, 1e6),
            },
            "heads.",
        )

    def encoder(self, config: EncoderConfig) -> EncoderConfig:
        """The config of the encoder with these heads.

        Raises:
            ConfigError: rows that the network has not, paths that share a head, or fewer clips than a head reads.
        """
        if config.heads != config.tasks:
            raise ConfigError(
                f"{config.heads} heads for {config.tasks} paths: each needs one of its own; set heads to null"
            )
        changes: dict[str, Any] = (
            {"spectral_statistics": True} if self.spectral_statistics and config.tasks == 2 else {}
        )
        for name in ("invariant_rows", "variant_rows"):
            if (rows := getattr(self, name)) is not None:
                changes[name] = rows
        changed = dataclasses.replace(config, **changes)
        for blocks in changed.pooled_blocks:
            if self.clips <= sum(blocks):
                raise ConfigError(f"{self.clips} clips for {sum(blocks)} features: too few; use more clips")
        return changed

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HeadsConfig:
        """The config of plain JSON types; a partial one keeps the defaults.

        Raises:
            ConfigError: unknown key or a value outside its range.
        """
        try:
            rows = {k: Rows(**data[k]) for k in ("invariant_rows", "variant_rows") if isinstance(data.get(k), Mapping)}
            return cls(**{**data, **rows})
        except TypeError as error:
            raise ConfigError(f"training config: heads: {error}") from None


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are our recipe; `recipes` has it and the paper's for each of the paper's systems.

    What each choice measured in short runs is in benchmarks/ABLATION.md.

    Attributes:
        encoder: what is trained.
        augment: the seven transformations.
        contrastive: "simclr", "simsiam" or "none" (augmentation prediction only).
        augmentation_weight: lambda of the joint loss; 0 trains the contrastive objective only.
        prediction: what the variant embedding is trained to tell: "presence", which transformations a view had, as
            published (both views of a clip have the same ones, each with parameters of its own); or "difference", how
            much more of each the first view has than the second, each having its own.
        predicted_views: 2 predicts the transformations of both views, as published; 1 of the first alone, so the
            variant path sees half as many views and a step takes less time.
        temperature: of NT-Xent; published is 0.07, which pushes away other clips of the same kind.
        crops: 1 takes both views from the same crop, as published; 2 takes each from its own.
        mix_probability, mix_snr_db: share of the views that get another clip as background, each its own, and at which
            signal-to-background ratio, lowest and highest.
        equalizer_db: strength of a random smooth frequency response of each view, as of another microphone: the
            deviation of its level in dB; 0 is none.
        source_balance: 0 draws every clip once an epoch, 1 draws every source alike often (the first folder of a
            clip's name is its source), between them the square root for 0.5.
        separate_views: one forward pass a view, each with its own batch statistics, as published; one pass over
            both is faster and its batch norm sees twice the samples.
        sync_batch_norm: in several processes, batch norms see the batches of all; without it each sees its own, which
            is faster and no longer the step of one process.
        crop_seconds: length of the random crops.
        steps, batch_size: optimiser steps, clips a step, in all processes together.
        optimizer: "adamw", or "adam" as published (weight decay as L2).
        learning_rate, weight_decay, warmup_steps: linear warm-up, then cosine to 0 at `steps`.
        ema_decay: of the running mean of the weights, which is what a run exports; 0 exports the weights.
        dtype: "bfloat16" (autocast), "float32", or "auto": bfloat16 where the processor has such arithmetic.
        heads: that a run whose schedule ended gives its encoder; None leaves those that were trained.
        validation_fraction: share of the clips held out from training.
        validate_every: steps between passes over the clips held out; 0 is never. The run then exports the checkpoint of
            its lowest validation loss.
        patience: passes without a lower validation loss after which a run stops; 0 goes on to `steps`.
        seed: every batch is a pure function of seed and step, so a resumed run repeats exactly.
    """

    encoder: EncoderConfig = field(default_factory=lambda: encoder_config(AdapterKind.PARALLEL))
    augment: AugmentConfig = field(default_factory=own_augmentations)
    contrastive: str = "simclr"
    augmentation_weight: float = 1.0
    prediction: str = "presence"
    predicted_views: int = 1
    temperature: float = 0.4
    crops: int = 2
    mix_probability: float = 0.25
    mix_snr_db: tuple[float, float] = (5.0, 20.0)
    equalizer_db: float = 2.0
    source_balance: float = 0.0
    separate_views: bool = False
    sync_batch_norm: bool = True
    crop_seconds: float = 1.008  # 32 frames, which every stage halves evenly
    steps: int = 16_000  # 2 million clips
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    ema_decay: float = 0.999
    dtype: str = "auto"
    heads: HeadsConfig | None = field(default_factory=HeadsConfig)
    validation_fraction: float = 0.0
    validate_every: int = 0
    patience: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        if isinstance(self.mix_snr_db, list):  # as JSON gives it
            object.__setattr__(self, "mix_snr_db", tuple(self.mix_snr_db))
        counts = {name: (0, 10**9) for name in ("warmup_steps", "validate_every", "patience")}
        _check_ranges(
            self,
            {**counts, "steps": (1, 10**9), "batch_size": (2, 10**9), "crops": (1, 2), "predicted_views": (1, 2)},
            {
                "augmentation_weight": (0.0, 1e6),
                "temperature": (1e-3, 1e3),
                "mix_probability": (0.0, 1.0),
                "equalizer_db": (0.0, 40.0),
                "source_balance": (0.0, 1.0),
                "crop_seconds": (0.1, 600.0),
                "learning_rate": (0.0, 1e3),
                "weight_decay": (0.0, 1e3),
                "ema_decay": (0.0, 0.999999),
                "validation_fraction": (0.0, 0.9),
            },
        )
        _check_choice("contrastive", self.contrastive, CONTRASTIVE)
        _check_choice("prediction", self.prediction, ("presence", "difference"))
        _check_choice("optimizer", self.optimizer, ("adamw", "adam"))
        _check_choice("dtype", self.dtype, ("auto", "bfloat16", "float32"))
        if self.contrastive == "none" and self.augmentation_weight == 0:
            raise ConfigError("contrastive='none' with augmentation_weight=0: nothing to train; set one of them")
        if bool(self.validate_every) != bool(self.validation_fraction):
            raise ConfigError(
                f"validate_every={self.validate_every} with validation_fraction={self.validation_fraction}: set both "
                "or neither"
            )
        if self.patience and not self.validate_every:
            raise ConfigError(f"patience={self.patience}: waits for validation; set validate_every and its fraction")
        if self.prediction == "difference" and self.predicted_views == 1:
            raise ConfigError("prediction='difference': compares both views; set predicted_views to 2")
        if self.augment.sample_rate != self.encoder.frontend.sample_rate:
            raise ConfigError(
                f"augment.sample_rate={self.augment.sample_rate}: must equal the encoder's "
                f"{self.encoder.frontend.sample_rate} Hz"
            )
        if self.heads is not None:
            self.heads.encoder(self.encoder)

    @property
    def crop_length(self) -> int:
        """Length of a crop in samples."""
        return round(self.crop_seconds * self.encoder.frontend.sample_rate)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the inverse of `from_dict`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["encoder"] = self.encoder.to_dict()
        for name in ("augment", "heads"):
            inner = getattr(self, name)
            values[name] = None if inner is None else json.loads(json.dumps(dataclasses.asdict(inner)))
        return values

    def changed(self, changes: Mapping[str, Any]) -> TrainConfig:
        """This config with `changes`, of the form of `to_dict` and with no more keys than differ.

        Raises:
            ConfigError: see `from_dict`.
        """
        return TrainConfig.from_dict(_merged(self.to_dict(), changes))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """The config that `to_dict` wrote; a partial one keeps the defaults.

        Raises:
            ConfigError: unknown key or a value outside its range.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"training config: expected an object, got {type(data).__name__}")
        values = dict(data)
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            told = ", ".join(map(repr, unknown))
            raise ConfigError(f"training config: unknown key {told}; known: {', '.join(sorted(known))}")
        if "encoder" in values:
            values["encoder"] = EncoderConfig.from_dict(values["encoder"])
        if values.get("heads") is not None:
            values["heads"] = HeadsConfig.from_dict(values["heads"])
        if "augment" in values:
            try:
                values["augment"] = own_augmentations(**values["augment"])
            except TypeError as error:
                raise ConfigError(f"training config: augment: {error}") from None
        return cls(**values)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(changes, Mapping):
        raise ConfigError(f"training config: expected an object, got {type(changes).__name__}")
    merged = dict(values)
    for key, value in changes.items():
        inner = isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
        merged[key] = _merged(values[key], value) if inner else value
    return merged


Ranges = Mapping[str, tuple[float, float]]


def _check_ranges(config: Any, integers: Ranges, numbers: Ranges, prefix: str = "") -> None:
    for kind, ranges in ((int, integers), ((int, float), numbers)):
        for name, (low, high) in ranges.items():
            value = getattr(config, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"training config: {prefix}{name}={value!r}: must be a number from {low} to {high}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"training config: {name}={value!r}: unknown; use one of {', '.join(choices)}")
