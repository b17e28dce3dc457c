"""The paper's systems as training configs, in its recipe and in ours; next: `config`."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from ..config import AdapterKind, EncoderConfig, Normalization
from ..errors import ConfigError
from .augment import AugmentConfig
from .config import HeadsConfig, TrainConfig, encoder_config

# Mean and deviation of the paper's training audio, the balanced AudioSet at 16 kHz.
AUDIOSET_MEAN, AUDIOSET_STD = -0.00029522, 0.11652075


class System(str, enum.Enum):
    """A row of the paper's tables, for SimCLR or SimSiam."""

    CONTRASTIVE = "contrastive-only"
    PREDICTION = "prediction-only"
    MT_SIMPLE = "mt-simple"  # both objectives on one output
    MT_SPLIT = "mt-split"  # on two heads of a shared network
    MT_BN = "mt-bn"  # on two paths that adapters keep apart
    MT_SERIES = "mt-series"
    MT_PARALLEL = "mt-parallel"

    @property
    def encoder(self) -> EncoderConfig:
        """The network, with our front end."""
        kind = self.value.removeprefix("mt-")
        return encoder_config(AdapterKind(kind) if kind in list(AdapterKind) else AdapterKind.NONE)

    def objectives(self, contrastive: str) -> dict[str, Any]:
        """The settings of the losses, with this contrastive one."""
        if contrastive not in ("simclr", "simsiam"):
            raise ConfigError(f"contrastive={contrastive!r}: the paper's systems have simclr or simsiam")
        if self is System.PREDICTION:
            return {"contrastive": "none"}
        return {"contrastive": contrastive, "augmentation_weight": float(self is not System.CONTRASTIVE)}


def published(system: System, contrastive: str = "simclr") -> TrainConfig:
    """A system with the settings of the paper and its released code.

    50,000 steps of 100 whole clips of 10 s ("1000 epochs of 50 batches"), Adam at 5e-5, waveforms normalised by the
    statistics of AudioSet, early stopping on held-out clips. Its learning rate schedule, which was stepped too often by
    mistake, is not copied: this one falls once.

    Raises:
        ConfigError: a contrastive objective other than "simclr" and "simsiam".
    Source:
        Heggan et al. 2023, https://arxiv.org/abs/2305.17191
    """
    encoder = dataclasses.replace(
        system.encoder,
        frontend=EncoderConfig().frontend,
        normalization=Normalization.GLOBAL,
        global_mean=AUDIOSET_MEAN,
        global_std=AUDIOSET_STD,
    )
    return TrainConfig(
        encoder=encoder,
        **system.objectives(contrastive),
        augment=AugmentConfig(),
        predicted_views=2,
        temperature=0.07,
        crops=1,
        mix_probability=0.0,
        equalizer_db=0.0,
        separate_views=True,
        crop_seconds=10.0,
        steps=50_000,
        batch_size=100,
        optimizer="adam",
        learning_rate=5e-5,
        weight_decay=1e-6,
        warmup_steps=0,
        ema_decay=0.0,
        dtype="float32",
        heads=None,
        validation_fraction=0.3,
        validate_every=50,
        patience=100 if system is System.PREDICTION else 50,
    )


def own(system: System, contrastive: str = "simclr") -> TrainConfig:
    """A system in this project's recipe, the defaults of `TrainConfig`; raises as `published`."""
    heads = None if system is System.MT_SPLIT else HeadsConfig()  # its heads share a path
    return TrainConfig(encoder=system.encoder, heads=heads, **system.objectives(contrastive))
