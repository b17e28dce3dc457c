import copy
import dataclasses
from collections import defaultdict
from functools import lru_cache

import fill_rule
import numpy as np
import pytest
import torch
from fill_rule import GOLDEN_VARIANTS, golden_rows, mostly_slow, relative
from torch.utils.flop_counter import FlopCounterMode

import mtslvr
from mtslvr.audio import windows
from mtslvr.config import EncoderConfig, Features, FrontendConfig, Normalization, Phase, Rows
from mtslvr.errors import AudioError, ConfigError
from mtslvr.nn.encoder import Embeddings, Encoder, exact_float32
from mtslvr.nn.frontend import spectral_statistics, standardize
from mtslvr.nn.resnet import FoldedConv

WELL_CONDITIONED = 1e-5  # in parts of max|row|, with the golden phase of frame 0


def golden_spectrogram(golden, pieces, encoder, clip, norm):
    """Our spectrogram of a golden clip with the golden phase of frame 0, which is rounding noise."""
    spectrogram = encoder.frontend(pieces(clip, norm))
    if encoder.config.frontend.channels == 3:
        spectrogram[:, 2, :, 0] = torch.from_numpy(golden[f"spec/{clip}/{norm}/phase_frame0"])
    return spectrogram


def golden_embeddings(golden, variant):
    """Those of the invariant and of the variant path; one array twice where there is one path."""
    single = f"emb/{variant}/out"
    return [golden[single if single in golden else f"emb/{variant}/task{task}"] for task in (0, 1)]


def noise(rows, length):
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folded(official_encoder):
    """variant -> folded encoder; the last one is kept, for the variants come in order."""
    return lru_cache(1)(lambda variant: official_encoder(variant).fold())


@pytest.mark.parametrize("variant", mostly_slow(GOLDEN_VARIANTS))
@torch.inference_mode()
def test_embeddings_equal_golden(golden, pieces, official_encoder, variant):
    rows, encoder = golden_rows(golden, variant), official_encoder(variant)
    clips = dict.fromkeys(tuple(row.split("|")[:2]) for row in rows)  # rows of a clip follow one another
    found = [encoder.encode_spectrogram(golden_spectrogram(golden, pieces, encoder, *clip)) for clip in clips]
    for name, expected in zip(("invariant", "variant"), golden_embeddings(golden, variant), strict=True):
        assert relative(torch.cat([getattr(e, name) for e in found]).numpy(), expected) <= WELL_CONDITIONED
    key = f"emb/{variant}/all_sample_norm_only"
    if key in golden:
        sample = torch.cat([e.concat for e in found]).numpy()[["|sample|" in row for row in rows]]
        assert relative(sample, golden[key]) <= WELL_CONDITIONED


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
@torch.inference_mode()
def test_stages_and_heads_equal_golden(golden, pieces, official_encoder, variant):
    encoder = copy.deepcopy(official_encoder(variant))
    trunk, branches = encoder.trunk, encoder.branches
    spectrogram = golden_spectrogram(golden, pieces, encoder, "w5@5s", "sample")
    rows = [row.startswith("w5@5s|sample") for row in golden_rows(golden, variant)]
    stages = {"conv1": trunk.stem.conv, "bn1": trunk.stem.norms[0], "layer1": trunk, "end_bns": branches}
    stages |= {name: getattr(branches, name)[1] for name in ("layer2", "layer3", "layer4")}
    seen, checked = defaultdict(list), set()
    for name, module in stages.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: seen[name].append(output.clone()))
    for name, module in (("maxpool", trunk.layer1[0]), *(("avgpool", head) for head in encoder.heads)):
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].clone()))
    embeddings = encoder.encode_spectrogram(spectrogram)
    seen["bn1"] = [x.relu() for x in seen["bn1"]]  # the official ReLU works in place
    for task, expected in enumerate(golden_embeddings(golden, variant)[: encoder.config.outputs]):
        found = (embeddings.invariant, embeddings.variant)[task].numpy()
        assert relative(found, expected[rows]) <= WELL_CONDITIONED
        for name, values in seen.items():
            if name == "end_bns" and not len(branches.end_norms):
                continue
            key = f"act/{variant}/task{task}/{f'end_bns.{task}' if name == 'end_bns' else name}"
            flat = values[min(task, len(values) - 1)].contiguous().flatten().double().numpy()
            strided = flat[:: max(1, flat.size // 16)][:16]
            found = np.array([flat.mean(), flat.std(ddof=1), np.abs(flat).max(), *strided])
            assert np.abs(found - golden[key]).max() <= WELL_CONDITIONED * golden[key][2], key
            checked.add(key)
    assert checked == {key for key in golden if key.startswith(f"act/{variant}/")}


@pytest.mark.parametrize("variant", fill_rule.manifest()["variants"])
@torch.inference_mode()
def test_folded_equals_unfolded(pieces, official_encoder, folded, variant):
    encoder, plain = official_encoder(variant), folded(variant)
    spectrogram = encoder.frontend(pieces("w5@5s", "sample"))
    expected, found = encoder.encode_spectrogram(spectrogram), plain.encode_spectrogram(spectrogram)
    for name in ("invariant", "variant"):
        assert relative(getattr(found, name).numpy(), getattr(expected, name).numpy()) <= 1e-5


def test_folding_leaves_the_original_as_it_was_and_cannot_be_trained(unfolded_encoder):
    encoder = copy.deepcopy(unfolded_encoder).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    plain = encoder.fold()
    assert plain.folded and encoder.training and not encoder.folded
    assert not any(module.training for module in plain.modules())  # the last batch norms are not folded
    convolutions = [module for module in plain.modules() if isinstance(module, FoldedConv)]
    assert len(convolutions) == 17  # the stem and two in each of eight blocks
    assert all(conv.weights[0].is_contiguous(memory_format=torch.channels_last) for conv in convolutions)
    with torch.inference_mode():
        assert torch.equal(plain(noise(2, 4000)).concat, unfolded_encoder.fold()(noise(2, 4000)).concat)
    for parameter in plain.parameters():
        parameter.zero_()  # an error where gradients are on
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert all(p.requires_grad for p in encoder.parameters())

    with pytest.raises(ConfigError, match=r"folded, so it cannot be trained; load it with .*fold=False"):
        plain.train()
    probe = torch.nn.Sequential(plain, torch.nn.Linear(3, 2))
    assert probe.train().training and not probe.eval()[0].training  # a frozen part of another module may be anything
    assert not encoder.train(False).training and encoder.train() is encoder and encoder.trunk.training
    assert encoder.train(True).training and not encoder.eval().training


WIDTHS = {  # one embedding and both of the head, then of what it reads
    "none_c3": (1000, 1000, 512, 512), "split_c3_s2": (500, 1000, 512, 512),
    "parallel_c3_s2": (500, 1000, 512, 1024), "bn_c3_s1t2": (1000, 2000, 512, 1024),
}  # fmt: skip


@pytest.mark.parametrize("variant", WIDTHS)
@torch.inference_mode()
def test_embeddings_of_both_layers(folded, variant):
    encoder, x, widths = folded(variant), noise(2, 4000), WIDTHS[variant]
    for layer, (single, concat) in {"head": widths[:2], "pooled": widths[2:]}.items():
        e = encoder(x, layer)
        assert e.invariant.shape == e.variant.shape == (2, single) == (2, encoder.embedding_dim("variant", layer))
        assert e.concat.shape == (2, concat) == (2, encoder.embedding_dim(layer=layer))
        assert (e.variant is e.invariant) == (concat == single)
        for features in Features:  # alone each is the same
            found = encoder.embedding(x, features.value, layer)
            assert torch.equal(found, e.select(features))
            assert torch.equal(encoder.embedding(encoder.normalize(x), features, layer, normalized=True), found)
            if layer == "pooled":
                assert torch.equal(encoder.project(found, features), encoder(x).select(features))


def test_convolutions_on_a_gpu_keep_float32(monkeypatch):
    for before in (True, False):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
        with exact_float32(torch.device("cuda")):
            assert torch.backends.cudnn.allow_tf32 is False
        with exact_float32(torch.device("cpu")):
            assert torch.backends.cudnn.allow_tf32 is before


def test_gradients_reach_every_weight_and_the_waveform(narrow_encoders):
    encoder, x = Encoder(EncoderConfig()).train(), noise(4, 16000).requires_grad_()
    encoder(x).concat.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert x.grad.isfinite().all() and (x.grad != 0).any(dim=1).all()


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


@pytest.mark.slow
@pytest.mark.parametrize("rows", [None, Rows((2, 4), (1, 3))], ids=["published", "ours"])
@torch.inference_mode()
def test_a_row_does_not_depend_on_its_batch_or_on_threads(encoder, rows):
    if rows is not None:
        changes = {"spectral_statistics": True, "invariant_rows": rows, "variant_rows": Rows((0, 8))}
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


def test_counters_hooks_and_changed_weights_mean_what_they_do_in_torch(encoder):
    changed, seen = copy.deepcopy(encoder), []
    with FlopCounterMode(display=False) as counter:
        changed(noise(2, 16000))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert convolutions == pytest.approx(2 * 0.49e9, rel=0.02)

    trunk, branches, head = changed.trunk, changed.branches, changed.heads[0]
    for module in (changed, trunk, branches, head):
        module.register_forward_hook(lambda module, inputs, output: seen.append((module, len(inputs[0]))))
    changed(noise(40, 4000))
    changed.embedding(noise(3, 4000), "invariant")
    changed.embedding(noise(3, 4000), "variant")
    expected = [(module, 40) for module in (trunk, branches, branches, head, changed)]
    assert seen == [*expected, *((module, 3) for module in (trunk, branches, head, trunk, branches))]

    for change in (lambda p: p.data.mul_(2), lambda p: p.zero_()):
        before = changed(noise(2, 4000)).concat
        with torch.no_grad():
            for parameter in changed.parameters():
                change(parameter)
        assert not torch.equal(changed(noise(2, 4000)).concat, before)
    assert torch.count_nonzero(changed(noise(2, 4000)).concat) == 0


@pytest.mark.slow
def test_a_folded_encoder_is_compiled_as_one_graph_and_exported_with_a_free_batch(encoder):
    x = noise(2, 8000)
    expected = encoder(x).concat.numpy()
    with torch.no_grad():
        found = torch.compile(encoder, backend="eager", fullgraph=True)(x)
    assert relative(found.concat.numpy(), expected) <= 1e-5
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(encoder, (torch.cat([x, x]),), dynamic_shapes=({0: batch},)).module()
    assert isinstance(program(x), Embeddings)
    assert relative(program(x).concat.numpy(), expected) <= 1e-5


def test_embeddings_are_an_output_of_programs_that_can_be_saved(tmp_path):
    class Twice(torch.nn.Module):
        def forward(self, x):
            return Embeddings(x, 2 * x)

    torch.export.save(torch.export.export(Twice(), (torch.ones(1, 2),)), tmp_path / "x.pt2")
    found = torch.export.load(tmp_path / "x.pt2").module()(torch.ones(1, 2))
    assert isinstance(found, Embeddings) and found.concat.tolist() == [[1, 1, 2, 2]]


@pytest.mark.parametrize("default", [torch.bfloat16, "meta"], ids=str)
def test_a_loaded_encoder_is_the_same_whatever_torchs_defaults_are(tmp_path, narrow_encoders, default):
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


def test_what_is_no_batch_of_waveforms(encoder):
    for given, message in (
        ("dog.wav", r"waveforms of type str: .* go to mtslvr\.embed\(\.\.\., encoder=encoder\)"),
        (np.zeros((1, 16000), np.float32), r"waveforms of type ndarray: .* go to mtslvr\.embed"),
        (torch.zeros(16000), r"waveforms of shape \(16000,\): expected \(batch, samples\)"),
        (torch.zeros(1, 512), r"waveform of 512 samples: .*half an STFT frame \(512 samples\).*embed"),
        (torch.ones(1, 9, dtype=torch.int16), r"waveforms of torch.int16: .* divide 16-bit samples by 32768, or use"),
    ):
        with pytest.raises(AudioError, match=message):
            encoder(given)
    with pytest.raises(AudioError, match=r"shape \(1, 1, 16000\): expected \(batch, samples\)"):
        encoder.encode(torch.zeros(1, 1, 16000))
