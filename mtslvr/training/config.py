"""What a training run is, as one frozen dataclass stored in its run directory; next: `loop`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import AdapterKind, EncoderConfig, FrontendConfig, Normalization, Phase
from ..errors import ConfigError
from .augment import AugmentConfig, Pitch

CONTRASTIVE = ("simclr", "simsiam", "none")


def own_augmentations(**changes: Any) -> AugmentConfig:
    """The transformations of our recipe, with `changes`."""
    return AugmentConfig.fast(**{"pitch": Pitch.SEMITONES, "pitch_semitones": 4.0, **changes})


@dataclass(frozen=True)
class TrainConfig:
    """One training run; `recipes` has the paper's systems, in its settings and in ours.

    The defaults are plain: two views of one crop, softer negatives than published (temperature 0.5 for 0.07), and pitch
    shifts of at most ±4 semitones, since larger ones move formants.

    Attributes:
        encoder: what is trained.
        augment: the seven transformations.
        contrastive: "simclr", "simsiam" or "none" (augmentation prediction only).
        augmentation_weight: lambda of the joint loss; 0 trains the contrastive objective only.
        prediction: what the variant embedding is trained to tell: "presence", which transformations a view had, as
            published (both views of a clip had the same ones, each with parameters of its own); or "difference", how
            much more of each the first view had than the second, each having its own.
        temperature: of NT-Xent.
        crops: 1 takes both views from the same crop, as published; 2 takes each from its own.
        mix_probability, mix_snr_db: share of the views that get another clip as background, each its own, and at which
            signal-to-background ratio, lowest and highest.
        equalizer_db: strength of a random smooth frequency response of each view, as of another microphone: the
            deviation of its level in dB; 0 is none.
        source_balance: 0 draws every clip once an epoch, 1 draws every source alike often (the first folder of a
            clip's name is its source), between them the square root for 0.5.
        ema_decay: of the running mean of the weights, which is what a run exports; 0 exports the weights.
        predicted_views: 2 predicts the transformations of both views, as published; 1 of the first alone, so the
            variant path sees half as many views and a step takes less time.
        separate_views: one forward pass a view, each with its own batch statistics, as published; one pass over
            both is faster and its batch norm sees twice the samples.
        sync_batch_norm: in several processes, batch norms see the batches of all; without it each sees its own, which
            is faster and no longer the step of one process.
        steps, batch_size: optimiser steps, clips a step, in all processes together.
        crop_seconds: length of the random crop that both views come from.
        optimizer: "adamw", or "adam" as published (weight decay as L2).
        learning_rate, weight_decay, warmup_steps: linear warm-up, then cosine to 0 at `steps`.
        dtype: "bfloat16" (autocast), "float32", or "auto": bfloat16 where the processor has such arithmetic.
        validation_fraction: share of the clips held out from training.
        validate_every: steps between passes over the clips held out; 0 is never. The run then exports the checkpoint of
            its lowest validation loss.
        patience: passes without a lower validation loss after which a run stops; 0 goes on to `steps`.
        seed: every batch is a pure function of seed and step, so a resumed run repeats exactly.
    """

    encoder: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(frontend=FrontendConfig(epsilon=1e-3, phase=Phase.STABLE))
    )
    augment: AugmentConfig = field(default_factory=own_augmentations)
    contrastive: str = "simclr"
    augmentation_weight: float = 1.0
    prediction: str = "presence"
    temperature: float = 0.5
    crops: int = 1
    mix_probability: float = 0.0
    mix_snr_db: tuple[float, float] = (0.0, 20.0)
    equalizer_db: float = 0.0
    source_balance: float = 0.0
    ema_decay: float = 0.0
    predicted_views: int = 2
    separate_views: bool = False
    sync_batch_norm: bool = True
    steps: int = 1400
    batch_size: int = 128
    crop_seconds: float = 2.5
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 50
    dtype: str = "auto"
    validation_fraction: float = 0.0
    validate_every: int = 0
    patience: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        if isinstance(self.mix_snr_db, list):  # as JSON gives it
            object.__setattr__(self, "mix_snr_db", tuple(self.mix_snr_db))
        for name, least in (
            ("steps", 1),
            ("batch_size", 2),
            ("warmup_steps", 0),
            ("validate_every", 0),
            ("patience", 0),
        ):
            _check_range(name, getattr(self, name), least, 10**9, int)
        _check_range("crops", self.crops, 1, 2, int)
        _check_range("predicted_views", self.predicted_views, 1, 2, int)
        for name, low, high in (
            ("augmentation_weight", 0.0, 1e6),
            ("temperature", 1e-3, 1e3),
            ("crop_seconds", 0.1, 600.0),
            ("learning_rate", 0.0, 1e3),
            ("weight_decay", 0.0, 1e3),
            ("mix_probability", 0.0, 1.0),
            ("source_balance", 0.0, 1.0),
            ("equalizer_db", 0.0, 40.0),
            ("ema_decay", 0.0, 0.999999),
            ("validation_fraction", 0.0, 0.9),
        ):
            _check_range(name, getattr(self, name), low, high, (int, float))
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

    @property
    def crop_length(self) -> int:
        """Length of a crop in samples."""
        return round(self.crop_seconds * self.encoder.frontend.sample_rate)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the inverse of `from_dict`."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["encoder"] = self.encoder.to_dict()
        values["augment"] = json.loads(json.dumps(dataclasses.asdict(self.augment)))
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
        if "augment" in values:
            try:
                values["augment"] = own_augmentations(**values["augment"])
            except TypeError as error:
                raise ConfigError(f"training config: augment: {error}") from None
        return cls(**values)


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


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(changes, Mapping):
        raise ConfigError(f"training config: expected an object, got {type(changes).__name__}")
    merged = dict(values)
    for key, value in changes.items():
        inner = isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
        merged[key] = _merged(values[key], value) if inner else value
    return merged


def _check_range(name: str, value: Any, low: float, high: float, kind: type | tuple[type, ...]) -> None:
    number: Any = value
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= number <= high:
        raise ConfigError(f"training config: {name}={value!r}: must be a number from {low} to {high}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"training config: {name}={value!r}: unknown; use one of {', '.join(choices)}")
