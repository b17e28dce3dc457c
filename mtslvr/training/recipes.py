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
    """A row of the paper's tables, for SimCLR or SimSiam.

    CONTRASTIVE and PREDICTION train one objective, MT_SIMPLE both on one output, MT_SPLIT on two heads of a shared
    network, the others on two paths that adapters keep apart.
    """

    CONTRASTIVE = "contrastive-only"
    PREDICTION = "prediction-only"
    MT_SIMPLE = "mt-simple"
    MT_SPLIT = "mt-split"
    MT_BN = "mt-bn"
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
    config = TrainConfig(
        encoder=encoder,
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
    return dataclasses.replace(config, **system.objectives(contrastive))


def own(system: System, contrastive: str = "simclr") -> TrainConfig:
    """A system in this project's recipe, the defaults of `TrainConfig`.

    MT_SPLIT keeps the heads of training, which share a path.

    Raises:
        ConfigError: a contrastive objective other than "simclr" and "simsiam".
    """
    heads = None if system is System.MT_SPLIT else HeadsConfig()
    config = TrainConfig(encoder=system.encoder, heads=heads)
    return dataclasses.replace(config, **system.objectives(contrastive))
