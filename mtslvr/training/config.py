"""What a training run is, as one frozen dataclass stored in its run directory; next: `loop`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import AdapterKind, EncoderConfig, FrontendConfig, Normalization, Phase, Rows
from ..errors import ConfigError
from .augment import AugmentConfig, Pitch, check_ranges

CHOICES = {
    "contrastive": ("simclr", "simsiam", "none"),
    "optimizer": ("adamw", "adam"),
    "dtype": ("auto", "bfloat16", "float32"),
}
# Settings that earlier versions wrote, with the values that change nothing.
GONE: dict[str, tuple[Any, ...]] = {"sync_batch_norm": (False, True), "prediction": ("presence",)}


def own_augmentations(**changes: Any) -> AugmentConfig:
    """The transformations of our recipe, with `changes`; pitch shifts beyond 4 semitones would move formants."""
    return AugmentConfig.fast(**{"pitch": Pitch.SEMITONES, "pitch_semitones": 4.0, **changes})


def encoder_config(adapter: AdapterKind) -> EncoderConfig:
    """The encoder that one of the paper's systems trains, with our front end; none is MT-Simple or one objective."""
    single = adapter is AdapterKind.NONE
    return EncoderConfig(
        frontend=FrontendConfig(epsilon=1e-3, phase=Phase.STABLE),
        adapter=adapter,
        tasks=1 if adapter in (AdapterKind.NONE, AdapterKind.SPLIT) else 2,
        heads=1 if single else 2,
        head_dim=1000 if single else 500,
        normalization=Normalization.WINDOW,
    )


@dataclass(frozen=True)
class HeadsConfig:
    """The heads that a trained network is given for use, see `whiten`; the defaults are those of our recipe."""

    clips: int = 4096  # of each two random crops are compared; more than a head reads numbers
    crop_seconds: float = 2.5
    source_balance: float = 0.5  # how the clips are drawn, see `TrainConfig`
    power: float = 1.0  # 0 only rotates, 1 makes crops of a clip differ alike in every direction
    ridge: float = 1.0  # added to each variance within clips, as a share of their mean
    variant_ridge: float = 0.1  # the same for the variant head
    # Length of variant over invariant embeddings, so how much they count in concat. With 1.0 concat is far behind the
    # invariant half on single examples of sounds and digits.
    variant_scale: float = 0.35
    spectral_statistics: bool = True  # the variant head of two paths reads them, too, see `EncoderConfig`
    # What the heads read, see `EncoderConfig`; None is what they read in training.
    invariant_rows: Rows | None = field(default_factory=lambda: Rows((2, 4), (1, 3)))
    variant_rows: Rows | None = None
    disturb: bool = True  # the invariant head also shrinks what a whisper, an equaliser and a background change

    def __post_init__(self) -> None:
        ranges = {"clips": (2, 10**9), "crop_seconds": (0.1, 600.0), "source_balance": (0.0, 1.0), "power": (0.0, 10.0)}
        ranges |= {"ridge": (0.0, 1e9), "variant_ridge": (0.0, 1e9), "variant_scale": (0.0, 1e6)}
        check_ranges(self, "training config: heads.", ranges)
        for name in ("invariant_rows", "variant_rows"):
            if isinstance(rows := getattr(self, name), Mapping):  # from JSON
                object.__setattr__(self, name, Rows(**rows))

    def encoder(self, config: EncoderConfig) -> EncoderConfig:
        """The config of the encoder with these heads; a ConfigError where it cannot have them."""
        if config.heads != config.tasks:
            raise ConfigError(
                f"{config.heads} heads for {config.tasks} paths: each needs one of its own; set heads to null"
            )
        read = {"invariant_rows": self.invariant_rows, "variant_rows": self.variant_rows}
        changes: dict[str, Any] = {name: rows for name, rows in read.items() if rows is not None}
        if self.spectral_statistics and config.tasks == 2:
            changes["spectral_statistics"] = True
        changed = dataclasses.replace(config, **changes)
        most = max(map(sum, changed.pooled_blocks))
        if self.clips <= most:
            raise ConfigError(f"{self.clips} clips for {most} features: too few; use more clips")
        return changed


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults are our recipe; `recipes` has it and the paper's for each of the paper's systems.

    What each choice measured in short runs is in benchmarks/ABLATION.md.
    """

    encoder: EncoderConfig = field(default_factory=lambda: encoder_config(AdapterKind.PARALLEL))
    augment: AugmentConfig = field(default_factory=own_augmentations)  # the seven transformations
    contrastive: str = "simclr"  # or "simsiam"; "none" is augmentation prediction only
    augmentation_weight: float = 1.0  # lambda of the joint loss; 0 is the contrastive objective only
    predicted_views: int = 1  # 2 as published; with 1 the variant path sees half as many views and a step is shorter
    temperature: float = 0.4  # of NT-Xent; the published 0.07 pushes other clips of the same kind away
    crops: int = 2  # each view has a crop of its own; 1 takes both from the same, as published
    mix_probability: float = 0.25  # of a view to get another clip as background, at a ratio between
    mix_snr_db: tuple[float, float] = (5.0, 20.0)
    equalizer_db: float = 2.0  # deviation of each view's random frequency response, as of another microphone; 0 is none
    source_balance: float = 0.0  # 0 draws every clip once an epoch, 1 every source alike often, 0.5 between them
    separate_views: bool = False  # one pass a view as published; one over both is faster, its batch norms see twice
    crop_seconds: float = 1.008  # 32 frames, which every stage halves evenly
    steps: int = 16_000  # 2 million clips
    batch_size: int = 128
    optimizer: str = "adamw"  # or "adam" as published, weight decay as L2
    learning_rate: float = 1e-3  # after a linear warm-up, then falling as a cosine to 0 at `steps`
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    ema_decay: float = 0.999  # a run exports the running mean of the weights; 0 exports the weights
    dtype: str = "auto"  # bfloat16 (autocast) where the processor has such arithmetic, else float32
    heads: HeadsConfig | None = field(default_factory=HeadsConfig)  # made at the end; None leaves those of training
    validation_fraction: float = 0.0  # share of the clips held out; the checkpoint of their lowest loss is exported
    validate_every: int = 0  # steps between passes over them; 0 is never
    patience: int = 0  # passes without a lower loss after which a run stops; 0 goes on to `steps`
    seed: int = 42  # every batch is a pure function of seed and step, so a resumed run repeats exactly

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "augmentation_weight": (0.0, 1e6),
            "predicted_views": (1, 2),
            "temperature": (1e-3, 1e3),
            "crops": (1, 2),
            "mix_snr_db": (-60.0, 120.0),
            "equalizer_db": (0.0, 40.0),
            "crop_seconds": (0.1, 600.0),
            "steps": (1, 10**9),
            "batch_size": (2, 10**9),
            "ema_decay": (0.0, 0.999999),
            "validation_fraction": (0.0, 0.9),
            **dict.fromkeys(("mix_probability", "source_balance"), (0.0, 1.0)),
            **dict.fromkeys(("learning_rate", "weight_decay"), (0.0, 1e3)),
            **dict.fromkeys(("warmup_steps", "validate_every", "patience"), (0, 10**9)),
        }
        check_ranges(self, "training config: ", ranges)
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(f"training config: {name}={value!r}: unknown; use one of {', '.join(choices)}")
        if self.contrastive == "none" and self.augmentation_weight == 0:
            raise ConfigError("contrastive='none' with augmentation_weight=0: nothing to train; set one of them")
        if bool(self.validate_every) != bool(self.validation_fraction):
            raise ConfigError(
                f"validate_every={self.validate_every} with validation_fraction={self.validation_fraction}: set both "
                "or neither"
            )
        if self.patience and not self.validate_every:
            raise ConfigError(f"patience={self.patience}: waits for validation; set validate_every and its fraction")
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
        values: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(self), "encoder": None}))
        return {**values, "encoder": self.encoder.to_dict()}

    def changed(self, changes: Mapping[str, Any]) -> TrainConfig:
        """This config with `changes`, of the form of `to_dict` and with no more keys than differ."""
        return TrainConfig.from_dict(_merged(self.to_dict(), changes))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """The config that `to_dict` wrote; a partial one keeps the defaults, and a wrong one is a ConfigError."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"training config: expected an object, got {type(data).__name__}")
        values = {key: value for key, value in data.items() if value not in GONE.get(key, ())}
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            told = ", ".join(map(repr, unknown))
            raise ConfigError(f"training config: unknown key {told}; known: {', '.join(sorted(known))}")
        if "encoder" in values:
            values["encoder"] = EncoderConfig.from_dict(values["encoder"])
        try:  # what is no object, or one with an unknown key, is a TypeError
            if "augment" in values:
                values["augment"] = own_augmentations(**values["augment"])
            if values.get("heads") is not None:
                values["heads"] = HeadsConfig(**values["heads"])
        except TypeError as error:
            raise ConfigError(f"training config: {error}") from None
        return cls(**values)


def _merged(value: Any, change: Any) -> Any:
    """The change itself, or of two objects the one with the keys of the other changed."""
    if not (isinstance(value, Mapping) and isinstance(change, Mapping)):
        return change
    return {**value, **{key: _merged(value.get(key), inner) for key, inner in change.items()}}
