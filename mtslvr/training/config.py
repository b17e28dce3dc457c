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
    shifts of at most ±4 semitones, since larger ones move formants. The configs of the bundled weights are in
    benchmarks/recipes.

    Attributes:
        encoder: what is trained.
        augment: the seven transformations.
        contrastive: "simclr", "simsiam" or "none" (augmentation prediction only).
        augmentation_weight: lambda of the joint loss; 0 trains the contrastive objective only.
        temperature: of NT-Xent.
        spared_negatives: share of the other clips' views, the most similar ones, that the contrastive loss on invariant
            embeddings does not push away.
        crops: 1 takes both views from the same crop, as published; 2 augments each of two crops twice, so a step has
            four views a clip.
        neighbour_probability, neighbours: share of the clips whose second crop comes from another clip: one of its
            mutual nearest neighbours, among this many nearest ones by the embeddings that the run starts from; needs
            two crops and weights to start from.
        variant_weight: of the contrastive loss on the variant embeddings, see `Objective`; needs two crops.
        mix_probability, mix_snr_db: share of the crops that get another clip as background, and at which
            signal-to-background ratio, lowest and highest.
        equalizer_db: strength of a random smooth frequency response, as of another microphone, that views with the same
            first index share: the deviation of its level in dB; 0 is none.
        vocode_probability: share of the views that are resynthesised from noise with the envelopes of narrow bands, as
            whispered: pitch and harmonics go, formants and rhythm stay.
        source_balance: 0 draws every clip once an epoch, 1 draws every source alike often (the first folder of a
            clip's name is its source), between them the square root for 0.5.
        ema_decay: of the running mean of the weights, which is what a run exports; 0 exports the weights.
        only: "invariant" trains the contrastive objective and all weights but the variant path's own; "variant" then
            the variant path's adapters, norms and head alone, on shared weights that stay as they are; "" all at once.
        predicted_views: 2 predicts the transformations of both views of a crop, as published; 1 of the first alone, so
            the variant path sees half as many views and a step takes less time.
        separate_views: one forward pass a view, each with its own batch statistics, as published; one pass over
            both is faster and its batch norm sees twice the samples.
        sync_batch_norm: in several processes, batch norms see the batches of all; without it each sees its own, which
            is faster and no longer the step of one process.
        steps, batch_size: optimiser steps, clips a step, in all processes together.
        crop_seconds: length of the random crop that both views come from.
        optimizer: "adamw", or "adam" as published (weight decay as L2).
        learning_rate, weight_decay, warmup_steps: linear warm-up, then cosine to 0 at `steps`.
        gradient_clip: largest gradient norm; 0 is no limit.
        dtype: "bfloat16" (autocast) or "float32".
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
    variant_weight: float = 0.0
    temperature: float = 0.5
    spared_negatives: float = 0.0
    crops: int = 1
    neighbour_probability: float = 0.0
    neighbours: int = 5
    mix_probability: float = 0.0
    mix_snr_db: tuple[float, float] = (0.0, 20.0)
    equalizer_db: float = 0.0
    vocode_probability: float = 0.0
    source_balance: float = 0.0
    ema_decay: float = 0.0
    only: str = ""
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
    gradient_clip: float = 0.0
    dtype: str = "bfloat16"
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
        _check_range("neighbours", self.neighbours, 1, 1000, int)
        _check_range("predicted_views", self.predicted_views, 1, 2, int)
        for name, low, high in (
            ("augmentation_weight", 0.0, 1e6),
            ("temperature", 1e-3, 1e3),
            ("crop_seconds", 0.1, 600.0),
            ("learning_rate", 0.0, 1e3),
            ("weight_decay", 0.0, 1e3),
            ("gradient_clip", 0.0, 1e9),
            ("variant_weight", 0.0, 1e6),
            ("mix_probability", 0.0, 1.0),
            ("spared_negatives", 0.0, 0.9),
            ("neighbour_probability", 0.0, 1.0),
            ("vocode_probability", 0.0, 1.0),
            ("source_balance", 0.0, 1.0),
            ("equalizer_db", 0.0, 40.0),
            ("ema_decay", 0.0, 0.999999),
            ("validation_fraction", 0.0, 0.9),
        ):
            _check_range(name, getattr(self, name), low, high, (int, float))
        _check_choice("contrastive", self.contrastive, CONTRASTIVE)
        _check_choice("only", self.only, ("", "invariant", "variant"))
        if self.only and self.encoder.tasks < 2:
            raise ConfigError(f"only={self.only!r}: the encoder has one path; use an adapter, or train all")
        _check_choice("optimizer", self.optimizer, ("adamw", "adam"))
        _check_choice("dtype", self.dtype, ("bfloat16", "float32"))
        if self.contrastive == "none" and self.augmentation_weight == 0:
            raise ConfigError("contrastive='none' with augmentation_weight=0: nothing to train; set one of them")
        if bool(self.validate_every) != bool(self.validation_fraction):
            raise ConfigError(
                f"validate_every={self.validate_every} with validation_fraction={self.validation_fraction}: set both "
                "or neither"
            )
        if self.patience and not self.validate_every:
            raise ConfigError(f"patience={self.patience}: waits for validation; set validate_every and its fraction")
        if self.variant_weight and self.crops == 1:
            raise ConfigError(f"variant_weight={self.variant_weight}: compares two crops, and crops=1; set crops to 2")
        if self.variant_weight and self.predicted_views == 1:
            raise ConfigError(f"variant_weight={self.variant_weight}: compares both views; set predicted_views to 2")
        if self.neighbour_probability and self.crops == 1:
            raise ConfigError(
                f"neighbour_probability={self.neighbour_probability}: is of second crops, and crops=1; set crops=2"
            )
        if self.neighbour_probability and self.variant_weight:
            raise ConfigError(
                f"neighbour_probability={self.neighbour_probability} with variant_weight={self.variant_weight}: the "
                "latter takes both crops for the same clip; set one of them to 0"
            )
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


def _check_range(name: str, value: Any, low: float, high: float, kind: type | tuple[type, ...]) -> None:
    number: Any = value
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= number <= high:
        raise ConfigError(f"training config: {name}={value!r}: must be a number from {low} to {high}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"training config: {name}={value!r}: unknown; use one of {', '.join(choices)}")
