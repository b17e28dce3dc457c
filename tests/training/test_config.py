import dataclasses
import json

import pytest

from mtslvr.config import AdapterKind, Normalization
from mtslvr.errors import ConfigError
from mtslvr.nn.encoder import Encoder
from mtslvr.training.config import HeadsConfig, TrainConfig, encoder_config
from mtslvr.training.objective import Objective
from mtslvr.training.recipes import System, own, published


def test_settings_that_cannot_be_are_named():
    for changes, message in (
        ({"batch_size": 1}, "batch_size=1"),
        ({"contrastive": "moco"}, "contrastive='moco': unknown; use one of simclr, simsiam, none"),
        ({"validate_every": 5}, "validate_every=5 with validation_fraction=0.0: set both"),
        ({"patience": 3}, "patience=3: waits for validation; set validate_every"),
        ({"mix_probability": 1.5}, "mix_probability=1.5: must be a number from 0.0 to 1.0"),
        ({"contrastive": "none", "augmentation_weight": 0.0}, "nothing to train"),
        ({"heads": {"clip": 3}}, "training config: HeadsConfig.* 'clip'"),
        ({"heads": {"ridge": -1}}, "heads.ridge=-1: must be a number from 0.0"),
        ({"heads": {"clips": 1536}}, "1536 clips for 1536 features: too few; use more clips"),
        ({"heads": {"variant_rows": {"layer4": [0, 9]}}}, "variant_rows="),
        ({"encoder": encoder_config(AdapterKind.SPLIT).to_dict()}, "2 heads for 1 paths: each needs one of its own"),
        ({"temperatur": 1}, "training config: unknown key 'temperatur'"),
        ([1], "training config: expected an object"),
        ({"augment": 3}, "training config: "),
        ({"augment": {"pitches": 1}}, "training config: .*pitches"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainConfig.from_dict(changes)


def test_changes_build_on_the_recipe_that_they_change():
    with pytest.raises(ConfigError, match="contrastive='none': the paper's systems have simclr or simsiam"):
        own(System.MT_PARALLEL, "none")
    recipe = published(System.MT_BN)
    changed = recipe.changed({"steps": 7, "encoder": {"frontend": {"n_mels": 64}}, "augment": {"fade_fraction": 0.25}})
    assert (changed.steps, changed.encoder.frontend.n_mels, changed.augment.fade_fraction) == (7, 64, 0.25)
    assert dataclasses.replace(changed, steps=recipe.steps, encoder=recipe.encoder, augment=recipe.augment) == recipe
    assert changed.encoder.adapter is AdapterKind.BN and changed.encoder.normalization is Normalization.GLOBAL
    assert own(System.MT_PARALLEL) == TrainConfig() == TrainConfig.from_dict({})
    heads = own(System.MT_PARALLEL).changed({"heads": {"ridge": 0.5, "invariant_rows": None}}).heads
    assert heads == HeadsConfig(ridge=0.5, invariant_rows=None)
    assert own(System.MT_PARALLEL).changed({"heads": None}).heads is None


@pytest.mark.parametrize(("make", "contrastive"), [(own, "simclr"), (published, "simsiam")])
@pytest.mark.parametrize("system", list(System))
def test_every_system_of_the_paper_is_a_config(system, make, contrastive, narrow_encoders, monkeypatch):
    config = make(system, contrastive)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    objective = Objective(Encoder(config.encoder), config)
    assert (objective.augmentation_head is None) == (system is System.CONTRASTIVE)
    assert (objective.projector is None) == (system is System.PREDICTION)
    assert (objective.predictor is not None) == (contrastive == "simsiam" and system is not System.PREDICTION)
    kind = system.value.removeprefix("mt-")
    assert config.encoder.adapter.value == (kind if kind in ("split", "bn", "series", "parallel") else "none")
    monkeypatch.undo()
    weights = {"mt-split": 11_689_512, "mt-parallel": 13_949_736}  # with 3 channels, as the paper's code counts them
    if make is published and system.value in weights:
        assert sum(p.numel() for p in Encoder(config.encoder).parameters()) == weights[system.value]
