import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

import mtslvr
from mtslvr.cli.main import main
from mtslvr.config import AdapterKind, Rows
from mtslvr.training.config import HeadsConfig, TrainConfig, encoder_config
from mtslvr.training.loop import train
from mtslvr.training.whiten import disturbed, noise_vocode, whiten_heads, whitening

pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_whitening_brings_variances_within_clips_to_a_power(power):
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 4).double())[0]
    clip = torch.randn(4000, 4, dtype=torch.float64) * torch.tensor([5.0, 1.0, 1.0, 0.5]) @ turn
    # What a clip is and what each of two crops adds have covariances of their own.
    first, second = clip + 3 + torch.randn(2, 4000, 4, dtype=torch.float64) * torch.tensor([0.1, 3.0, 0.5, 0.2])
    weight, bias = whitening(first, second, 4, power, 0.0)
    before, after = ((x - y).T.cov() / 2 for x, y in ((first, second), (first @ weight.T, second @ weight.T)))
    expected, found = torch.linalg.eigvalsh(before) ** (1 - power), torch.linalg.eigvalsh(after)
    torch.testing.assert_close(found / found.sum(), expected / expected.sum(), rtol=1e-6, atol=1e-9)
    weight, bias = whitening(first, second, 7, power, 0.1)
    rows = torch.cat([first, second]) @ weight.T + bias
    covariance = rows.T.cov()
    torch.testing.assert_close(covariance, torch.diag(covariance.diag()), rtol=0, atol=1e-9)
    assert covariance.diag().tolist() == sorted(covariance.diag().tolist(), reverse=True)
    torch.testing.assert_close(rows.mean(0), torch.zeros(7).double(), rtol=0, atol=1e-9)
    assert rows.square().sum(1).mean().item() == pytest.approx(1.0, rel=1e-3)
    assert weight[:4].all() and not weight[4:].any()  # there are 4 features


def fresh_encoder(**changes):
    torch.manual_seed(0)
    return mtslvr.Encoder(dataclasses.replace(encoder_config(AdapterKind.BN), head_dim=8, **changes)).eval()


def test_heads_are_replaced_and_the_rest_stays():
    encoder = fresh_encoder()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    pairs = [torch.randn(2, 30, 1600) for _ in range(2)]
    whiten_heads(encoder, pairs, HeadsConfig(ridge=0.1, variant_scale=0.5))
    after = encoder.state_dict()
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed == {f"heads.{i}.{leaf}" for i in range(2) for leaf in ("weight", "bias")}
    with torch.inference_mode():
        embeddings = [encoder.fold().encode(crops) for pair in pairs for crops in pair]
    lengths = [torch.cat([getattr(e, n) for e in embeddings]).square().sum(1).mean() for n in ("invariant", "variant")]
    torch.testing.assert_close(torch.stack(lengths), torch.tensor([1.0, 0.25]), rtol=0.1, atol=0)


def heads_of(crops, how, **changes):
    encoder = fresh_encoder(**changes)
    whiten_heads(encoder, crops, how)
    return [head.weight for head in encoder.heads]


def test_disturbed_crops_are_for_the_invariant_head_and_each_head_has_its_own_ridge():
    crops = torch.randn(2, 60, 1600, generator=torch.Generator().manual_seed(0))
    disturbing = torch.cat([crops, crops[1:] + 0.5 * torch.randn(1, 60, 1600)])
    one, other = (heads_of([rows[:, :30], rows[:, 30:]], HeadsConfig(ridge=0.1)) for rows in (crops, disturbing))
    assert not torch.allclose(one[0], other[0], rtol=0.01, atol=0.01) and torch.equal(one[1], other[1])
    rows = Rows((2, 3), (1, 2))
    ridges = (HeadsConfig(ridge=0.1, variant_ridge=ridge) for ridge in (0.1, 1.0))
    one, other = (heads_of([crops], how, invariant_rows=rows) for how in ridges)
    assert [weight.shape for weight in one] == [(8, 32), (8, 16)]
    assert torch.equal(one[0], other[0]) and not torch.allclose(one[1], other[1], rtol=0.01)
    with torch.no_grad():
        pooled = torch.cat([fresh_encoder(invariant_rows=rows).encode(x, "pooled").invariant for x in crops])
    scales = [(pooled[:, block] @ one[0][:, block].T).var(dim=0).sum() for block in (slice(16), slice(16, 32))]
    assert max(scales) < 20 * min(scales)  # neither stage is drowned by the other


def test_disturbed_crops_keep_level_and_clip():
    t = torch.arange(16000) / 16000
    crops = torch.stack([(2 * torch.pi * f * t).sin() for f in (200, 900, 3000)])
    vocoded, equalised, background = disturbed(crops, torch.Generator().manual_seed(0), 16000)
    assert (F.cosine_similarity(vocoded, crops).abs() < 0.9).all()
    level = crops.square().mean(dim=1)
    torch.testing.assert_close(vocoded.square().mean(dim=1), level)
    torch.testing.assert_close(equalised.square().mean(dim=1), level)
    power = torch.fft.rfft(equalised).abs().square()
    assert all(power[i, f] > 0.99 * power[i].sum() for i, f in enumerate((200, 900, 3000)))
    power = torch.fft.rfft(background).abs().square()
    assert all((power[i, [200, 900, 3000]] > 0.001 * power[i].sum()).sum() == 2 for i in range(3))


@pytest.mark.parametrize("length", [16000, 1, 65])
def test_noise_vocoding_keeps_the_envelope_and_drops_the_pitch(length):
    t = torch.arange(16000) / 16000
    voice = (2 * torch.pi * 120 * torch.arange(1, 30)[:, None] * t).cos().sum(dim=0)  # harmonics 120 Hz apart
    gated = torch.where(t < 0.5, torch.zeros(()), torch.sin(2 * torch.pi * 3000 * t))
    views = torch.stack([voice, gated, torch.zeros(16000)])[:, :length]
    found = noise_vocode(views, torch.arange(3), 16000)
    assert found.shape == views.shape and found.isfinite().all()
    alone = noise_vocode(views[1:2], torch.tensor([1]), 16000)  # depends on a row's seed alone
    torch.testing.assert_close(alone, found[1:2])
    if length < 16000:
        return
    assert found[1, : 8000 - 256].abs().max() == 0 and found[1, 8256:].square().mean() > 0.3
    spectrum = torch.fft.rfft(found[:2], dim=1).abs().square()
    assert spectrum[1, 2800:3200].sum() > 0.95 * spectrum[1].sum()
    assert spectrum[0, :3600].sum() > 0.95 * spectrum[0].sum()
    before = torch.fft.rfft(voice).abs().square()
    assert before[120:3600:120].sum() / before.sum() > 0.95
    assert spectrum[0, 120:3480:120].sum() / spectrum[0].sum() < 0.05


def test_a_run_ends_with_the_heads_of_its_config_and_they_can_be_made_anew_by_the_command(clips_folder, tmp_path):
    run, out, rows = tmp_path / "run", tmp_path / "out", {"layer3": (2, 3), "layer4": (1, 2)}
    changes = {"steps": 1, "batch_size": 5, "crop_seconds": 0.1, "warmup_steps": 0, "dtype": "float32"}
    changes["encoder"] = {"head_dim": 8, "frontend": {"n_mels": 64}}
    changes["augment"] = {"stretch_n_fft": 512, "stretch_hop_length": 128}
    changes["heads"] = {"clips": 212, "crop_seconds": 0.1, "invariant_rows": rows}
    config = TrainConfig().changed(changes)
    train(config, run, [clips_folder], workers=0, device="cpu")
    encoder = mtslvr.load(run / "checkpoint")
    assert encoder.config.spectral_statistics and encoder.embedding_dim("variant", "pooled") == 16 + 3 * 64
    assert encoder.config.invariant_rows == Rows((2, 3), (1, 2)) and encoder.config.variant_rows is None
    assert mtslvr.embed(np.random.default_rng(0).standard_normal(8000), 16000, encoder=encoder).shape == (16,)
    before = (run / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    train(config, run, workers=0, device="cpu", resume=True)  # nothing is left to do
    assert (run / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before

    for options, message in (
        ("--clips 208", "208 clips for 208 features: too few"),
        ("--invariant-rows middle", "--invariant-rows middle: expected a text such as"),
        ("--invariant-rows layer4=2:1", "0 <= first <= end"),
        ("--clips 20 --invariant-rows none --no-disturb --no-spectral-statistics --variant-rows none", ""),
    ):
        assert not out.exists()
        result = CliRunner().invoke(main, ["whiten", str(run), str(out), *options.split()])
        assert result.exit_code == (2 if message else 0) and message in result.output, result.output
    made = mtslvr.load(out).config
    assert (made.invariant_rows, made.spectral_statistics) == (None, False)  # what the network read in training
