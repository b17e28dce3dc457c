import hashlib
import zlib

import fill_rule
import numpy as np
import pytest
import torch

CHECKS = [
    ("conv1.weight", (64, 3, 7, 7), 3410522421, (0.0148019781, 0.0634329095, -0.207910508), -16.619251),
    ("bn1.weight", (64,), 3268608973, (1.23299289, 1.33582008, 1.14670467), 66.969962),
    ("bn1.bias", (64,), 4268867389, (-0.18383351, 0.101909421, 0.00335418666), -0.135090),
    ("bn1.running_mean", (64,), 1962805491, (-0.124226898, 0.253940225, 0.037687026), 1.504856),
    ("bn1.running_var", (64,), 2953957760, (0.801354647, 1.10078967, 1.02737939), 63.219890),
    ("fc_layers.0.weight", (500, 512), 782933670, (0.0496516563, -0.0582647361, 0.0878982842), -18.697442),
    ("fc_layers.0.bias", (500,), 1273496361, (0.153749585, 0.207900658, 0.00779926404), -1.778673),
    (
        "layer2.0.conv1.parallel_conv.1.conv.weight",
        (128, 64, 1, 1),
        59673175,
        (-0.09790124, -0.347644955, -0.0585538335),
        7.485343,
    ),
]
HASHES = {
    "none_c3": "643de45df15a8504e3fd6cd8801bd9c64dedf6412fc244da3ece14f8c0b0d394",
    "series_c3_s2": "c0020c067b18c2f3af7d32d3aa602778763dbc47e7e97c5d695f13aad54eccca",
    "parallel_c3_s2": "42fc98825a4c8efbb5a9a012d63eced3ca45ed4594d8562748b4541ad9771559",
}


@pytest.mark.parametrize(("key", "shape", "crc", "first", "total"), CHECKS, ids=[c[0] for c in CHECKS])
def test_tensor_check_values(key, shape, crc, first, total):
    tensor = fill_rule.fill_tensor(key, shape)
    assert zlib.crc32(key.encode()) == crc
    assert tensor.dtype == torch.float32 and tensor.shape == shape
    np.testing.assert_allclose(tensor.flatten()[:3], first, rtol=2e-8)
    assert tensor.double().sum().item() == pytest.approx(total, abs=5e-7)


@pytest.mark.parametrize("variant", HASHES)
def test_state_dict_hash_in_manifest_order(variant):
    keys = fill_rule.manifest()["variants"][variant]["keys"]
    state = fill_rule.fill_state_dict(keys)
    assert [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in state.items()] == keys
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values()))
    assert digest.hexdigest() == HASHES[variant]


@pytest.mark.parametrize("name", ["w5", "w1", "w3p2", "w10", "w12p3"])
def test_waves_equal_golden(name):
    golden = np.load(fill_rule.GOLDEN / "golden_embeddings.npz")
    wave = fill_rule.wave(name)
    mean, std, peak, length = golden[f"wave/{name}/stats"]
    assert wave.dtype == np.float32 and wave.shape == (int(length),)
    np.testing.assert_allclose(wave[:64], golden[f"wave/{name}/head"], atol=1e-6)
    np.testing.assert_allclose(
        [wave.mean(dtype=float), wave.std(dtype=float, ddof=1), np.abs(wave).max()],
        [mean, std, peak],
        atol=1e-6,
    )
    if f"wave/{name}/full" in golden:
        np.testing.assert_allclose(wave, golden[f"wave/{name}/full"], atol=1e-6)
