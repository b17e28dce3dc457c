"""Heads that whiten the pooled features."""

import dataclasses

import pytest
import torch

import mtslvr
from mtslvr.config import AdapterKind
from mtslvr.errors import TrainingError
from mtslvr.training.config import encoder_config
from mtslvr.training.whiten import whiten, whiten_heads, whitening


@pytest.mark.parametrize(("power", "exponent"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_whitening_brings_variances_to_a_power_and_removes_correlation(power, exponent):
    torch.manual_seed(0)
    scales = torch.tensor([5.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    features = torch.randn(4000, 4, dtype=torch.float64) * scales @ torch.linalg.qr(torch.randn(4, 4).double())[0] + 3
    weight, bias = whitening(features, 3, power, 0.0)
    found = features @ weight.T + bias
    variances = torch.linalg.eigvalsh(features.T.cov()).flip(0)[:3]
    torch.testing.assert_close(found.T.cov(), torch.diag(variances**exponent), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-9)


def test_heads_are_replaced_and_the_rest_stays():
    torch.manual_seed(0)
    encoder = mtslvr.Encoder(dataclasses.replace(encoder_config(AdapterKind.BN), head_dim=8)).eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    batches = [torch.randn(130, 1600) for _ in range(4)]
    whiten_heads(encoder, batches, 1.0, 0.0)
    after = encoder.state_dict()
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed == {f"heads.{i}.{leaf}" for i in range(2) for leaf in ("weight", "bias")}
    with torch.inference_mode():
        embeddings = [encoder.fold().encode(batch) for batch in batches]
    for name in ("invariant", "variant"):
        rows = torch.cat([getattr(e, name) for e in embeddings]).double()
        torch.testing.assert_close(rows.T.cov(), torch.eye(8).double(), rtol=0, atol=2e-2)


def test_too_few_crops_and_shared_heads_are_refused():
    encoder = mtslvr.Encoder(encoder_config(AdapterKind.BN)).eval()
    with pytest.raises(TrainingError, match="4 crops for 512 features: too few"):
        whiten_heads(encoder, [torch.randn(4, 1600)], 0.5, 0.01)
    shared = dataclasses.replace(encoder_config(AdapterKind.BN), heads=1, head_dim=1000)
    with pytest.raises(TrainingError, match="1 heads for 2 paths"):
        whiten_heads(mtslvr.Encoder(shared).eval(), [torch.randn(4, 1600)], 0.5, 0.01)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no training run"):
        whiten(tmp_path, tmp_path / "out")
