"""Training configs and the paper's systems."""

import dataclasses
import json
import re

import narrow
import pytest

from mtslvr.config import AdapterKind, Normalization
from mtslvr.errors import ConfigError
from mtslvr.nn.encoder import Encoder
from mtslvr.training.config import HeadsConfig, TrainConfig, encoder_config
from mtslvr.training.objective import Objective
from mtslvr.training.recipes import System, own, published


def config(**changes):
    return TrainConfig(**{"steps": 20, "batch_size": 4, "crop_seconds": 0.5, "crops": 2, **changes})


def test_config_round_trips_through_json_and_refuses_unknown_keys():
    ours = config(temperature=0.2, contrastive="simsiam")
    assert TrainConfig.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours
    with pytest.raises(ConfigError, match="unknown key 'temperatur'"):
        TrainConfig.from_dict({"temperatur": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "batch_size=1"),
        ({"contrastive": "moco"}, "contrastive='moco': unknown; use one of simclr, simsiam, none"),
        ({"validate_every": 5}, "validate_every=5 with validation_fraction=0.0: set both"),
        ({"patience": 3}, "patience=3: waits for validation; set validate_every"),
        ({"mix_probability": 1.5}, "mix_probability=1.5: must be a number from 0.0 to 1.0"),
        ({"contrastive": "none", "augmentation_weight": 0.0}, "nothing to train"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**changes)


def test_changes_build_on_the_recipe_that_they_change():
    recipe = published(System.MT_BN)
    changed = recipe.changed({"steps": 7, "encoder": {"frontend": {"n_mels": 64}}, "augment": {"fade_fraction": 0.25}})
    assert (changed.steps, changed.encoder.frontend.n_mels, changed.augment.fade_fraction) == (7, 64, 0.25)
    assert dataclasses.replace(changed, steps=recipe.steps, encoder=recipe.encoder, augment=recipe.augment) == recipe
    assert changed.encoder.adapter is AdapterKind.BN and changed.encoder.normalization is Normalization.GLOBAL
    heads = own(System.MT_PARALLEL).changed({"heads": {"ridge": 0.5, "invariant_rows": None}}).heads
    assert heads == HeadsConfig(ridge=0.5, invariant_rows=None)
    assert own(System.MT_PARALLEL).changed({"heads": None}).heads is None
    with pytest.raises(ConfigError, match="expected an object, got list"):
        recipe.changed([])


def test_the_defaults_are_the_recipe():
    assert own(System.MT_PARALLEL) == TrainConfig() == TrainConfig.from_dict({})


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"clip": 3}, "training config: HeadsConfig.* 'clip'"),
        ({"ridge": -1}, "heads.ridge=-1: must be a number from 0.0"),
        ({"clips": 1536}, "1536 clips for 1536 features: too few; use more clips"),
        ({"variant_rows": {"layer4": [0, 9]}}, "variant_rows="),
    ],
)
def test_heads_that_cannot_be_are_refused_before_training(heads, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict({"heads": heads})
    split = encoder_config(AdapterKind.SPLIT)
    with pytest.raises(ConfigError, match="2 heads for 1 paths: each needs one of its own; set heads to null"):
        TrainConfig(encoder=split)


@pytest.mark.parametrize("data", [[1], {"augment": 3}, {"augment": {"pitches": 1}}])
def test_a_recipe_of_the_wrong_form_is_refused(data):
    with pytest.raises(ConfigError, match="training config: "):
        TrainConfig.from_dict(data)


@pytest.mark.parametrize(("make", "contrastive"), [(own, "simclr"), (published, "simsiam")])
@pytest.mark.parametrize("system", list(System))
def test_every_system_of_the_paper_is_a_config(system, make, contrastive, monkeypatch):
    narrow.cut_widths(monkeypatch.setattr)
    config = make(system, contrastive)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    objective = Objective(Encoder(config.encoder), config)
    assert (objective.augmentation_head is None) == (system is System.CONTRASTIVE)
    assert (objective.projector is None) == (system is System.PREDICTION)
    assert (objective.predictor is not None) == (contrastive == "simsiam" and system is not System.PREDICTION)
    kind = {"mt-split": "split", "mt-bn": "bn", "mt-series": "series", "mt-parallel": "parallel"}
    assert config.encoder.adapter is AdapterKind(kind.get(system.value, "none"))


# Trainable weights that METHOD.md counts for the released networks, 3 channels.
@pytest.mark.parametrize(
    ("system", "weights"),
    [("mt-simple", 11_689_512), ("mt-split", 11_689_512), ("mt-bn", 11_524_904), ("mt-series", 14_308_648),
     ("mt-parallel", 13_949_736)],
)  # fmt: skip
def test_published_systems_have_the_published_number_of_weights(system, weights):
    encoder = Encoder(published(System(system)).encoder)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == weights


def test_published_settings_are_the_papers():
    config = published(System.MT_PARALLEL)
    assert (config.optimizer, config.learning_rate, config.weight_decay) == ("adam", 5e-5, 1e-6)
    assert (config.batch_size, config.steps, config.temperature, config.augmentation_weight) == (100, 50_000, 0.07, 1.0)
    assert config.encoder.normalization is Normalization.GLOBAL and config.separate_views
    assert config.encoder.frontend.epsilon == 2.220446049250313e-16
    assert len(config.augment.transformations) == 7 and config.augment.pitch_hop_length == 7


def test_another_contrastive_objective_is_refused():
    with pytest.raises(ConfigError, match="contrastive='none': the paper's systems have simclr or simsiam"):
        own(System.MT_PARALLEL, "none")
