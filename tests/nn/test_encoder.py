import copy
import dataclasses

import fill_rule
import numpy as np
import pytest
import torch
from fill_rule import GOLDEN_VARIANTS, golden_rows, mostly_slow, relative
from narrow import cut_widths
from torch.utils.flop_counter import FlopCounterMode

import mtslvr
from mtslvr.audio import windows
from mtslvr.config import EncoderConfig, Features, FrontendConfig, Layer, Normalization, Phase, Rows
from mtslvr.errors import AudioError, ConfigError
from mtslvr.models import official
from mtslvr.nn.encoder import Embeddings, Encoder, exact_float32
from mtslvr.nn.frontend import spectral_statistics, standardize
from mtslvr.nn.resnet import FoldedConv

ALL_VARIANTS = list(fill_rule.manifest()["variants"])
# golden/README.md, "three ways to compare", in parts of max|row|; ways 1 and 2 are free of the phase of frame 0.
WELL_CONDITIONED = 1e-5


def inputs(rows):
    """(clip, norm) of the golden rows in order, each once: its rows follow one another."""
    return list(dict.fromkeys(tuple(row.split("|")[:2]) for row in rows))


def golden_embeddings(golden, variant):
    if f"emb/{variant}/out" in golden:
        return [golden[f"emb/{variant}/out"]] * 2
    return [golden[f"emb/{variant}/task{task}"] for task in (0, 1)]


def noise(rows, length):
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(0))


def both(embeddings):
    return [embeddings.invariant.numpy(), embeddings.variant.numpy()]


@pytest.fixture(scope="module")
def folded(official_encoder):
    """variant -> folded encoder; the last one is kept, for the variants come in order."""
    last = {}

    def get(variant):
        if variant not in last:
            last.clear()
            last[variant] = official_encoder(variant).fold()
        return last[variant]

    return get


# Golden embeddings, by variant so that each is filled and folded once


@pytest.mark.parametrize("variant", [v for v in GOLDEN_VARIANTS if "_s1t2" not in v and "_c1" not in v])
@torch.inference_mode()
def test_way_1_encoder_only(golden, official_encoder, folded, variant):
    spectrogram = torch.from_numpy(golden["spec/w5@5s/raw/full"])[None]
    rows = golden_rows(golden, variant)
    row = rows.index("w5@5s|raw|0")
    for encoder in (official_encoder(variant), folded(variant)):
        for found, expected in zip(
            both(encoder.encode_spectrogram(spectrogram)), golden_embeddings(golden, variant), strict=True
        ):
            assert relative(found, expected[row : row + 1]) <= WELL_CONDITIONED


@pytest.mark.parametrize("variant", mostly_slow(GOLDEN_VARIANTS))
@torch.inference_mode()
def test_way_2_whole_chain(golden, pieces, official_encoder, variant):
    """Way 3, with the phase of frame 0 as it comes, is that of converted checkpoints."""
    rows, encoder = golden_rows(golden, variant), official_encoder(variant)
    encoded = []
    for clip, norm in inputs(rows):
        spectrogram = encoder.frontend(pieces(clip, norm))
        if encoder.config.frontend.channels == 3:
            spectrogram[:, 2, :, 0] = torch.from_numpy(golden[f"spec/{clip}/{norm}/phase_frame0"])
        encoded.append(both(encoder.encode_spectrogram(spectrogram)))
    found = [np.concatenate(parts) for parts in zip(*encoded, strict=True)]
    for ours, expected in zip(found, golden_embeddings(golden, variant), strict=True):
        assert len(expected) == len(rows)
        assert relative(ours, expected) <= WELL_CONDITIONED
    key = f"emb/{variant}/all_sample_norm_only"
    if key in golden:
        sample = ["|sample|" in row for row in rows]
        assert relative(np.concatenate(found, axis=1)[sample], golden[key]) <= WELL_CONDITIONED


# Golden activations, module by module


def watched(encoder, task):
    """Official module name -> our module, and whether its input is meant."""

    def module(official_key):
        return encoder.get_submodule(official.rename_official(official_key).rpartition(".")[0])

    found = {
        "conv1": (module("conv1.weight"), False),
        "bn1": (module("bn1.weight"), False),
        "maxpool": (encoder.trunk.layer1[0], True),
        "layer1": (encoder.trunk, False),
        "layer2": (encoder.branches.layer2[1], False),
        "layer3": (encoder.branches.layer3[1], False),
        "layer4": (encoder.branches.layer4[1], False),
        f"end_bns.{task}": (encoder.branches, False),
        "avgpool": (encoder.heads[task if len(encoder.heads) > 1 else 0], True),
    }
    if not len(encoder.branches.end_norms):
        del found[f"end_bns.{task}"]
    return found


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
@torch.inference_mode()
def test_stages_equal_golden(golden, pieces, official_encoder, variant):
    encoder = official_encoder(variant)
    spectrogram = encoder.frontend(pieces("w5@5s", "sample"))
    if encoder.config.frontend.channels == 3:
        spectrogram[:, 2, :, 0] = torch.from_numpy(golden["spec/w5@5s/sample/phase_frame0"])
    checked = set()
    for task in range(encoder.config.outputs):
        branch = min(task, encoder.config.tasks - 1)
        seen, handles = {}, []
        for name, (module, is_input) in watched(encoder, task).items():

            def keep(module, given, output, seen=seen, name=name, is_input=is_input):
                seen.setdefault(name, (given[0] if is_input else output).clone())

            handles.append(module.register_forward_hook(keep))
        encoder.heads[task if len(encoder.heads) > 1 else 0](
            encoder.branches(encoder.trunk(spectrogram), branch).mean(dim=(2, 3))
        )
        for handle in handles:
            handle.remove()
        # The official ReLU works in place, so what was recorded there of the batch norm is rectified.
        seen["bn1"] = seen["bn1"].relu()
        for name, value in seen.items():
            key = f"act/{variant}/task{task}/{name}"
            flat = value.contiguous().flatten().double().numpy()
            strided = flat[:: max(1, flat.size // 16)][:16]
            found = np.array([flat.mean(), flat.std(ddof=1), np.abs(flat).max(), *strided])
            expected = golden[key]
            assert expected.shape == (19,)
            assert np.abs(found - expected).max() <= WELL_CONDITIONED * expected[2], key
            checked.add(key)
    assert checked == {key for key in golden if key.startswith(f"act/{variant}/")}


# Folding


@pytest.mark.parametrize("variant", ALL_VARIANTS)
@torch.inference_mode()
def test_folded_equals_unfolded(pieces, official_encoder, folded, variant):
    encoder, plain = official_encoder(variant), folded(variant)
    spectrogram = encoder.frontend(pieces("w5@5s", "sample"))
    expected, found = encoder.encode_spectrogram(spectrogram), plain.encode_spectrogram(spectrogram)
    for ours, theirs in zip(both(found), both(expected), strict=True):
        assert ours.shape == (1, encoder.embedding_dim("invariant"))
        assert relative(ours, theirs) <= 1e-5


def test_a_folded_encoder_says_that_it_cannot_be_trained(encoder, unfolded_encoder):
    with pytest.raises(ConfigError, match=r"folded, so it cannot be trained; load it with .*fold=False"):
        encoder.train()
    probe = torch.nn.Sequential(encoder.fold(), torch.nn.Linear(3, 2))
    assert probe.train().training and not probe.eval()[0].training  # a frozen part of another module may be anything
    trained = copy.deepcopy(unfolded_encoder)
    assert trained.train() is trained and trained.training and trained.trunk.training
    assert not trained.train(False).training and trained.train(True).training and not trained.eval().training


def test_folding_leaves_the_original_untouched(unfolded_encoder):
    encoder = copy.deepcopy(unfolded_encoder).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    plain = encoder.fold()
    assert plain.folded and not plain.training and encoder.training and not encoder.folded
    convolutions = [module for module in plain.modules() if isinstance(module, FoldedConv)]
    assert len(convolutions) == 17  # the stem and two in each of eight blocks
    assert all(conv.weights[0].is_contiguous(memory_format=torch.channels_last) for conv in convolutions)
    assert not any(p.requires_grad for p in plain.parameters())
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    after = encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.requires_grad for p in encoder.parameters())


# What comes out


@pytest.mark.parametrize(
    ("variant", "head", "pooled"),
    [
        ("none_c3", (1000, 1000), (512, 512)),
        ("split_c3_s2", (500, 1000), (512, 512)),
        ("parallel_c3_s2", (500, 1000), (512, 1024)),
        ("bn_c3_s1t2", (1000, 2000), (512, 1024)),
    ],
)
@torch.inference_mode()
def test_embeddings_of_both_layers(folded, variant, head, pooled):
    encoder = folded(variant)
    x = noise(2, 4000)
    for layer, (single, concat) in {"head": head, "pooled": pooled}.items():
        e = encoder(x, layer)
        assert e.invariant.shape == e.variant.shape == (2, single) == (2, encoder.embedding_dim("variant", layer))
        assert e.concat.shape == (2, concat) == (2, encoder.embedding_dim(layer=layer))
        assert (e.variant is e.invariant) == (concat == single)
        for features in Features:  # alone each is the same
            found = encoder.embedding(x, features.value, layer)
            assert torch.equal(found, e.select(features))
            assert torch.equal(encoder.embedding(encoder.normalize(x), features, layer, normalized=True), found)
    both = encoder(x), encoder(x, Layer.POOLED)
    for features in Features:
        assert torch.equal(encoder.project(both[1].select(features), features), both[0].select(features))


@pytest.mark.parametrize("before", [True, False])
def test_convolutions_on_a_gpu_keep_float32(monkeypatch, before):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    with exact_float32(torch.device("cuda")):
        assert torch.backends.cudnn.allow_tf32 is False
    with exact_float32(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 is before


def test_gradients_reach_every_weight(monkeypatch):
    cut_widths(monkeypatch.setattr)
    encoder = Encoder(EncoderConfig()).train()
    encoder(noise(4, 16000)).concat.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


# Normalisation


def test_standardize_equals_numpy():
    x = fill_rule.matrix("standardize", (4, 5000)) * np.float32([[1], [1e-6], [1e4], [3]])
    x += np.float32([[0], [0], [5e3], [300]])
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / wide.std(1, ddof=1, keepdims=True)
    np.testing.assert_allclose(standardize(torch.from_numpy(x)).numpy(), expected, rtol=0, atol=1e-6)
    constant = torch.tensor([0.0, 0.1, -1e30, 1e-38])[:, None].expand(4, 1000)
    assert torch.count_nonzero(standardize(constant)) == 0


@pytest.mark.parametrize("mode", Normalization, ids=lambda mode: mode.value)
def test_normalize_follows_the_config(unfolded_encoder, mode):
    encoder = copy.copy(unfolded_encoder)
    encoder.config = dataclasses.replace(encoder.config, normalization=mode, global_mean=-0.01, global_std=0.2)
    x = 0.3 * noise(3, 16000) + 0.05
    found = encoder.normalize(x)
    if mode in (Normalization.WINDOW, Normalization.FILE):  # a row counts as a file
        rows = [windows.standardize(row, *windows.moments([row])) for row in x.numpy()]
        np.testing.assert_allclose(found.numpy(), rows, rtol=0, atol=2e-6)
    expected = {"none": (0.05, 0.3), "global": (0.3, 1.5)}.get(mode.value, (0.0, 1.0))
    assert (found.mean().item(), found.std().item()) == pytest.approx(expected, abs=0.02)


@torch.inference_mode()
def test_loudness_and_offset_do_not_matter_and_silence_is_finite(official_encoder, encoder):
    x = noise(1, 16000)
    expected = encoder(x).concat.numpy()
    assert relative(encoder(0.01 * x + 3).concat.numpy(), expected) <= 1e-4
    silence = torch.stack([torch.zeros(16000), torch.full((16000,), 0.1)])
    for silent in (official_encoder("parallel_c3_s2"), encoder):
        assert torch.isfinite(silent(silence).concat).all()


# Heads that read more than means


def test_spectral_statistics_equal_a_loop_over_the_bands():
    spectrogram = torch.randn(2, 3, 128, 9, generator=torch.Generator().manual_seed(0))
    found = spectral_statistics(spectrogram)
    assert found.shape == (2, 384)
    for band in (0, 57, 127):
        row = spectrogram[1, 0, band].numpy() / 32
        expected = row.mean(), row.std(), np.abs(np.diff(row)).mean()
        np.testing.assert_allclose(found[1, [band, 128 + band, 256 + band]], expected, rtol=1e-5)
    assert torch.isfinite(spectral_statistics(spectrogram[..., :1])).all()
    other_layout = spectrogram.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(spectral_statistics(other_layout), found)


@torch.inference_mode()
def test_heads_that_read_rows_and_statistics():
    rows = {"invariant_rows": Rows((2, 4), (1, 3), means=True), "variant_rows": Rows(layer4=(3, 4))}
    frontend = FrontendConfig(epsilon=1e-3, phase=Phase.STABLE)
    encoder = Encoder(EncoderConfig(frontend, window_seconds=1.0, spectral_statistics=True, **rows)).fold()
    x = noise(2, 16000)
    spectrogram = encoder.frontend(encoder.normalize(x))
    shared = encoder.trunk(spectrogram)
    (third, fourth), (_, last) = (encoder.branches.stages(shared, task) for task in (0, 1))
    assert (third.shape[1:3], fourth.shape[1:3]) == ((256, 8), (512, 4))
    read = third[:, :, 2:4], fourth[:, :, 1:3]
    invariant = [x.amax(dim=3).flatten(1) for x in read] + [x.mean(dim=3).flatten(1) for x in read]
    variant = [last[:, :, 3].amax(dim=2), spectral_statistics(spectrogram)]
    found = encoder(x, "pooled")
    torch.testing.assert_close(found.invariant, torch.cat(invariant, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.variant, torch.cat(variant, dim=1), rtol=1e-4, atol=1e-5)
    assert encoder.config.pooled_blocks == ((512, 1024, 512, 1024), (512, 384))
    for layer, widths in (("head", (500, 500, 1000)), ("pooled", (3072, 896, 3968))):
        assert tuple(encoder.embedding_dim(f, layer) for f in ("invariant", "variant", "concat")) == widths
    assert torch.equal(encoder.embedding(x, "invariant"), encoder(x).invariant)


# Plain torch


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"spectral_statistics": True, "invariant_rows": Rows((2, 4), (1, 3)), "variant_rows": Rows((0, 8))}],
    ids=["published", "ours"],
)
@torch.inference_mode()
def test_a_row_does_not_depend_on_its_batch_or_on_threads(encoder, changes):
    if changes:
        encoder = Encoder(dataclasses.replace(encoder.config, **changes)).fold()
    x, threads = noise(20, 8000), torch.get_num_threads()
    whole = encoder(x).concat.numpy()
    for size in (1, 2, 5, 17):
        found = torch.cat([encoder(part).concat for part in x.split(size)])
        # torch convolves a single small image in another way.
        assert relative(found.numpy(), whole) <= (1e-6 if size > 1 else 3e-6), size
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert relative(encoder(x).concat.numpy(), whole) <= 1e-6
    finally:
        torch.set_num_threads(threads)


def test_what_a_folded_encoder_computes_is_counted(encoder):
    with FlopCounterMode(display=False) as counter:
        encoder(torch.randn(2, 16000))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert convolutions == pytest.approx(2 * 0.49e9, rel=0.02)


@pytest.mark.parametrize("change", [lambda p: p.data.zero_(), lambda p: p.zero_()], ids=["data", "itself"])
def test_weights_that_change_after_a_call_show_in_the_next(encoder, change):
    changed, x = copy.deepcopy(encoder), noise(2, 4000)
    with torch.no_grad():
        assert changed(x).concat.abs().max() > 0
        for parameter in changed.parameters():
            change(parameter)
        assert torch.count_nonzero(changed(x).concat) == 0


def test_a_hook_on_a_folded_encoder_fires_once_with_the_whole_batch(encoder):
    """And one embedding alone runs one branch."""
    watched, seen = copy.deepcopy(encoder), []
    for module in (watched, watched.trunk, watched.branches, watched.heads[0]):
        module.register_forward_hook(lambda module, inputs, output: seen.append((module, len(inputs[0]))))
    watched(torch.randn(40, 4000))
    expected = [watched.trunk, watched.branches, watched.branches, watched.heads[0], watched]
    assert seen == [(module, 40) for module in expected]
    for features in ("invariant", "variant"):
        seen.clear()
        watched.embedding(torch.randn(3, 4000), features)
        assert [module for module, _ in seen] == [watched.trunk, watched.branches, watched.heads[0]][: len(seen)]
        assert len(seen) == (3 if features == "invariant" else 2)


@pytest.mark.slow
def test_a_folded_encoder_is_compiled_as_one_graph_and_exported_with_a_free_batch(encoder):
    x = noise(2, 8000)
    expected = encoder(x)
    with torch.no_grad():
        found = torch.compile(encoder, backend="eager", fullgraph=True)(x)
    assert relative(found.concat.numpy(), expected.concat.numpy()) <= 1e-5
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(encoder, (torch.cat([x, x]),), dynamic_shapes=({0: batch},)).module()
    assert isinstance(program(x), Embeddings)
    assert relative(program(x).concat.numpy(), expected.concat.numpy()) <= 1e-5


# Input that is not what it seems


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dog.wav", r"waveforms of type str: .* go to mtslvr\.embed\(\.\.\., encoder=encoder\)"),
        (np.zeros((1, 16000), np.float32), r"waveforms of type ndarray: .* go to mtslvr\.embed"),
        (torch.zeros(16000), r"waveforms of shape \(16000,\): expected \(batch, samples\)"),
        (torch.ones(1, 9, dtype=torch.int16), r"waveforms of torch.int16: .* divide 16-bit samples by 32768, or use"),
        (torch.zeros(1, 100), "100 samples: shorter than half an STFT frame"),
    ],
    ids=["str", "array", "rank", "integers", "short"],
)
def test_what_is_no_batch_of_waveforms(encoder, given, message):
    with pytest.raises(AudioError, match=message):
        encoder(given)


@pytest.mark.parametrize("default", [torch.bfloat16, "meta"], ids=str)
def test_a_loaded_encoder_is_the_same_whatever_torchs_defaults_are(tmp_path, monkeypatch, default):
    cut_widths(monkeypatch.setattr)
    Encoder(EncoderConfig(window_seconds=1.0)).save(tmp_path, dtype=torch.float32)
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    expected = mtslvr.embed(wave, 16000, encoder=mtslvr.load(tmp_path, device="cpu"))
    try:
        torch.set_default_device(default) if default == "meta" else torch.set_default_dtype(default)
        found = mtslvr.embed(wave, 16000, encoder=mtslvr.load(tmp_path, device="cpu"))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(found, expected)
