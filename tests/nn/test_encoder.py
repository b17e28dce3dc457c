import copy
import dataclasses
import re

import fill_rule
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import mtslvr
from mtslvr.audio import windows
from mtslvr.config import AdapterKind, EncoderConfig, Features, FrontendConfig, Layer, Normalization, Phase, Rows
from mtslvr.errors import AudioError, ConfigError
from mtslvr.models import checkpoint
from mtslvr.nn.adapters import AdaptedConv, FoldedConv
from mtslvr.nn.encoder import Embeddings, Encoder, exact_float32, standardize

ALL_VARIANTS = list(fill_rule.manifest()["variants"])
GOLDEN_VARIANTS = [
    "none_c3",
    "split_c3_s2",
    "bn_c3_s2",
    "series_c3_s2",
    "parallel_c3_s2",
    "parallel_c1_s2",
    "bn_c3_s1t2",
    "series_c3_s1t2",
    "parallel_c3_s1t2",
]
# golden/README.md, "three ways to compare", in parts of max|row|; ways 1 and 2 are free of the phase of frame 0.
WELL_CONDITIONED, AS_IS = 1e-5, 1e-2


def inputs(rows):
    """(clip, norm) of the golden rows in order, each once: its rows follow one another."""
    return list(dict.fromkeys(tuple(row.split("|")[:2]) for row in rows))


def golden_rows(golden, variant):
    key = f"emb/{variant}/rows"
    return golden[key if key in golden else "emb/rows"]


def golden_embeddings(golden, variant):
    if f"emb/{variant}/out" in golden:
        return [golden[f"emb/{variant}/out"]] * 2
    return [golden[f"emb/{variant}/task{task}"] for task in (0, 1)]


def both(embeddings):
    return [embeddings.invariant.numpy(), embeddings.variant.numpy()]


def relative(found, expected):
    """Largest deviation of each row, in parts of the row's largest value."""
    return (np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max()


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


def test_every_variant_with_golden_embeddings_is_tested(golden):
    assert {key.split("/")[1] for key in golden if key.startswith("emb/")} - {"rows"} == set(GOLDEN_VARIANTS)


# Golden embeddings, by variant so that each is filled and folded once


@pytest.mark.parametrize("variant", [v for v in GOLDEN_VARIANTS if "_s1t2" not in v and "_c1" not in v])
@torch.inference_mode()
def test_way_1_encoder_only(golden, official_encoder, folded, variant):
    spectrogram = torch.from_numpy(golden["spec/w5@5s/raw/full"])[None]
    rows = golden_rows(golden, variant).tolist()
    row = rows.index("w5@5s|raw|0")
    for encoder in (official_encoder(variant), folded(variant)):
        for found, expected in zip(
            both(encoder.encode_spectrogram(spectrogram)), golden_embeddings(golden, variant), strict=True
        ):
            assert relative(found, expected[row : row + 1]) <= WELL_CONDITIONED


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
@torch.inference_mode()
def test_ways_2_and_3_whole_chain(golden, pieces, official_encoder, folded, variant):
    rows = golden_rows(golden, variant)
    expected = golden_embeddings(golden, variant)
    published, folded_encoder = official_encoder(variant), folded(variant)
    three = published.config.frontend.channels == 3
    as_is = [published.frontend(pieces(clip, norm)) for clip, norm in inputs(rows)]
    with_golden_phase = [spectrogram.clone() for spectrogram in as_is]
    if three:
        for spectrogram, (clip, norm) in zip(with_golden_phase, inputs(rows), strict=True):
            spectrogram[:, 2, :, 0] = torch.from_numpy(golden[f"spec/{clip}/{norm}/phase_frame0"])
    way_2 = encode_all(published, with_golden_phase)
    way_3 = encode_all(folded_encoder, as_is)
    for task in (0, 1):
        assert len(expected[task]) == len(rows)
        assert relative(way_2[task], expected[task]) <= WELL_CONDITIONED
        assert relative(way_3[task], expected[task]) <= (AS_IS if three else WELL_CONDITIONED)
    key = f"emb/{variant}/all_sample_norm_only"
    if key in golden:
        sample = ["|sample|" in row for row in rows]
        assert relative(np.concatenate(way_2, axis=1)[sample], golden[key]) <= WELL_CONDITIONED


def encode_all(encoder, spectrograms):
    """Both embeddings of all rows in order; spectrograms of one length go through together."""
    rows = [None] * len(spectrograms)
    for frames in {spectrogram.shape[3] for spectrogram in spectrograms}:
        chosen = [i for i, spectrogram in enumerate(spectrograms) if spectrogram.shape[3] == frames]
        sizes = [len(spectrograms[i]) for i in chosen]
        encoded = both(encoder.encode_spectrogram(torch.cat([spectrograms[i] for i in chosen])))
        ends = np.cumsum(sizes)[:-1]
        for i, *parts in zip(chosen, *(np.split(part, ends) for part in encoded), strict=True):
            rows[i] = parts
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


# Golden activations, module by module


def watched(encoder, task):
    """Official module name -> our module, and whether its input is meant."""

    def module(official_key):
        return encoder.get_submodule(checkpoint.rename_official(official_key).rpartition(".")[0])

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
    generator = torch.Generator().manual_seed(0)
    waveforms = torch.cat([pieces("w5@5s", "sample"), torch.randn(1, 80000, generator=generator)])
    spectrogram = encoder.frontend(waveforms)
    expected, found = encoder.encode_spectrogram(spectrogram), plain.encode_spectrogram(spectrogram)
    for ours, theirs in zip(both(found), both(expected), strict=True):
        assert ours.shape == (2, encoder.embedding_dim("invariant"))
        assert relative(ours, theirs) <= 1e-5


@torch.inference_mode()
def test_folded_equals_unfolded_before_the_heads(unfolded_encoder, encoder):
    x = torch.randn(3, 16000, generator=torch.Generator().manual_seed(0))
    expected, found = unfolded_encoder(x, "pooled"), encoder(x, "pooled")
    for ours, theirs in zip(both(found), both(expected), strict=True):
        assert ours.shape == (3, 512)
        assert relative(ours, theirs) <= 1e-5


def test_a_folded_encoder_says_that_it_cannot_be_trained(encoder, unfolded_encoder):
    with pytest.raises(ConfigError, match=r"folded, so it cannot be trained; load it with .*fold=False"):
        encoder.train()
    probe = torch.nn.Sequential(encoder.fold(), torch.nn.Linear(3, 2))
    assert probe.train().training and not probe.eval()[0].training  # a frozen part of another module may be anything
    trained = copy.deepcopy(unfolded_encoder)
    assert trained.train() is trained and trained.training and trained.trunk.training
    assert not trained.train(False).training and trained.train(True).training and not trained.eval().training


@pytest.mark.parametrize(
    "given", ["dog.wav", ["dog.wav"], np.zeros((1, 16000), np.float32)], ids=["str", "list", "array"]
)
def test_what_is_no_tensor_is_sent_to_embed(encoder, given):
    for call in (encoder, encoder.encode):
        with pytest.raises(
            AudioError, match=r"waveforms of type .*: .* go to mtslvr\.embed\(\.\.\., encoder=encoder\)"
        ):
            call(given)


def test_folding_leaves_the_original_untouched(unfolded_encoder):
    encoder = copy.deepcopy(unfolded_encoder).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    plain = encoder.fold()
    assert not plain.training and encoder.training
    assert plain.folded and not encoder.folded
    assert not any(isinstance(m, (AdaptedConv, torch.nn.BatchNorm2d)) for m in plain.trunk.modules())
    assert sum(isinstance(m, FoldedConv) for m in plain.modules()) == 17  # the stem and two in each of eight blocks
    assert not any(p.requires_grad for p in plain.parameters())
    assert all(p.requires_grad for p in encoder.parameters())
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert encoder.config is not None and plain.config == encoder.config


def test_folding_twice_is_folding_once(encoder):
    x = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder.fold()(x).concat, encoder(x).concat)


def test_folded_weights_are_channels_last(encoder):
    weights = [m.weights[0] for m in encoder.modules() if isinstance(m, FoldedConv)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


# What comes out


def test_embeddings_concat_and_select():
    invariant, variant = torch.arange(6.0).reshape(2, 3), torch.arange(4.0).reshape(2, 2)
    two = Embeddings(invariant, variant)
    assert two.concat.tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 2, 3]]
    assert two.select(Features.INVARIANT) is invariant and two.select(Features.VARIANT) is variant
    assert torch.equal(two.select(Features.CONCAT), two.concat)
    one = Embeddings(invariant, invariant)
    assert one.concat is invariant and one.select(Features.CONCAT) is invariant


@pytest.mark.parametrize(
    ("variant", "head", "pooled"),
    [
        ("none_c3", (1000, 1000), (512, 512)),
        ("split_c3_s1", (1000, 1000), (512, 512)),
        ("bn_c3_s1t1", (1000, 1000), (512, 512)),
        ("split_c3_s2", (500, 1000), (512, 512)),
        ("parallel_c3_s2", (500, 1000), (512, 1024)),
        ("parallel_c3_s1t2", (1000, 2000), (512, 1024)),
    ],
)
@torch.inference_mode()
def test_widths(official_encoder, variant, head, pooled):
    encoder = official_encoder(variant)
    x = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    for layer, (single, concat) in {"head": head, "pooled": pooled}.items():
        e = encoder(x, layer)
        assert e.invariant.shape == e.variant.shape == (2, single) == (2, encoder.embedding_dim("variant", layer))
        assert e.concat.shape == (2, concat) == (2, encoder.embedding_dim(layer=layer))
        assert (e.variant is e.invariant) == (concat == single)


@torch.inference_mode()
def test_pooled_is_what_the_heads_read(encoder):
    x = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    head, pooled = encoder(x), encoder(x, layer=Layer.POOLED)
    assert torch.equal(encoder.project(pooled.invariant, "invariant"), head.invariant)
    assert torch.equal(encoder.project(pooled.variant, "variant"), head.variant)
    assert torch.equal(encoder.project(pooled.concat), head.concat)
    assert (pooled.invariant - pooled.variant).abs().max() > 0.1


@torch.inference_mode()
def test_two_tasks_with_one_head_share_it(official_encoder):
    encoder = official_encoder("bn_c3_s1t2")
    x = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    head, pooled = encoder(x), encoder(x, layer="pooled")
    assert torch.equal(encoder.project(pooled.variant, "variant"), head.variant)
    assert not torch.equal(head.invariant, head.variant)


@pytest.mark.parametrize("layer", ["head", "pooled"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"spectral_statistics": True}, {"invariant_rows": Rows((2, 4), (1, 3)), "variant_rows": Rows((0, 8))}],
    ids=["published", "statistics", "rows"],
)
@torch.inference_mode()
def test_a_row_does_not_depend_on_its_batch_or_on_threads(encoder, layer, changes):
    if changes:
        encoder = Encoder(dataclasses.replace(encoder.config, **changes)).eval().fold()
    x = torch.randn(20, 8000, generator=torch.Generator().manual_seed(0))
    whole = encoder(x, layer).concat
    for size in (1, 2, 5, 17):
        found = torch.cat([encoder(part, layer).concat for part in x.split(size)])
        # torch convolves a single small image in another way.
        assert relative(found.numpy(), whole.numpy()) <= (1e-6 if size > 1 else 3e-6), size
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert relative(encoder(x, layer).concat.numpy(), whole.numpy()) <= 1e-6
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("layer", ["head", "pooled"])
@pytest.mark.parametrize("variant", ["parallel_c3_s2", "bn_c3_s1t2", "split_c3_s2", "none_c3"])
@torch.inference_mode()
def test_one_embedding_equals_that_of_both(folded, variant, layer):
    encoder = folded(variant)
    x = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0))
    both = encoder(x, layer)
    for features in Features:
        found = encoder.embedding(x, features.value, layer)
        assert found.shape == (3, encoder.embedding_dim(features, layer))
        assert torch.equal(found, both.select(features))
        assert torch.equal(encoder.embedding(encoder.normalize(x), features, layer, normalized=True), found)


@torch.inference_mode()
def test_one_embedding_runs_one_branch(encoder):
    calls = []
    handle = encoder.branches.register_forward_hook(lambda _module, inputs, _output: calls.append(inputs[1]))
    x = torch.randn(1, 8000)
    for features, tasks in (("invariant", [0]), ("variant", [1]), ("concat", [0, 1])):
        encoder.embedding(x, features)
        assert calls == tasks, features
        calls.clear()
    handle.remove()


@pytest.mark.parametrize("before", [True, False])
def test_convolutions_on_a_gpu_keep_float32(before):
    at_start = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before
    try:
        with exact_float32(torch.device("cuda")):
            assert torch.backends.cudnn.allow_tf32 is False
        assert torch.backends.cudnn.allow_tf32 is before
        with exact_float32(torch.device("cpu")):
            assert torch.backends.cudnn.allow_tf32 is before
    finally:
        torch.backends.cudnn.allow_tf32 = at_start


@torch.inference_mode()
def test_the_trunk_runs_once(unfolded_encoder):
    calls = []
    handle = unfolded_encoder.trunk.register_forward_hook(lambda *_: calls.append(1))
    unfolded_encoder(torch.randn(1, 16000))
    handle.remove()
    assert len(calls) == 1


def test_gradients_reach_every_weight(unfolded_encoder):
    encoder = copy.deepcopy(unfolded_encoder).train()
    encoder(torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))).concat.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.inference_mode()
def test_any_batch_size(encoder):
    x = torch.randn(5, 16000, generator=torch.Generator().manual_seed(0))
    together = encoder(x).concat.numpy()
    assert relative(torch.cat([encoder(row[None]).concat for row in x]).numpy(), together) <= 1e-5
    assert encoder.encode(x[:0]).concat.shape == (0, 1000)


# Normalisation


def test_standardize_equals_numpy():
    x = fill_rule.matrix("standardize", (4, 5000)) * np.float32([[1], [1e-6], [1e4], [3]])
    x += np.float32([[0], [0], [5e3], [300]])
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / wide.std(1, ddof=1, keepdims=True)
    found = standardize(torch.from_numpy(x))
    assert found.dtype is torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


def test_standardize_of_constant_rows_is_zero():
    x = torch.tensor([0.0, 0.1, -1e30, 1e-38])[:, None].expand(4, 1000)
    assert torch.count_nonzero(standardize(x)) == 0


@pytest.mark.parametrize("mode", Normalization, ids=lambda mode: mode.value)
def test_normalize_follows_the_config(unfolded_encoder, mode):
    """The same as `windows.normalize`, a row counting as a file."""
    encoder = copy.copy(unfolded_encoder)
    encoder.config = dataclasses.replace(encoder.config, normalization=mode, global_mean=-0.01, global_std=0.2)
    x = 0.3 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)) + 0.05
    rows = [windows.normalize(row[None].numpy(), mode, -0.01, 0.2) for row in x]
    found = encoder.normalize(x)
    np.testing.assert_allclose(found.numpy(), np.concatenate(rows), rtol=0, atol=2e-6)
    expected = {"none": (0.05, 0.3), "global": (0.3, 1.5)}.get(mode.value, (0.0, 1.0))
    assert (found.mean().item(), found.std().item()) == pytest.approx(expected, abs=0.02)
    with torch.inference_mode():
        assert torch.equal(encoder(x).concat, encoder.encode(found).concat)


@torch.inference_mode()
def test_window_normalization_makes_loudness_and_offset_irrelevant(encoder):
    x = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    expected = encoder(x).concat.numpy()
    assert relative(encoder(0.01 * x).concat.numpy(), expected) <= 1e-4
    assert relative(encoder(x + 3).concat.numpy(), expected) <= 1e-4


@pytest.mark.parametrize("mode", Normalization, ids=lambda mode: mode.value)
@torch.inference_mode()
def test_silence_is_finite(unfolded_encoder, encoder, mode):
    for given in (unfolded_encoder, encoder):
        silent = copy.copy(given)
        silent.config = dataclasses.replace(given.config, normalization=mode)
        x = torch.stack([torch.zeros(16000), torch.full((16000,), 0.1)])
        assert torch.isfinite(silent(x).concat).all()


@torch.inference_mode()
def test_published_front_end_on_silence_is_finite(official_encoder):
    assert torch.isfinite(official_encoder("parallel_c3_s2")(torch.zeros(1, 80000)).concat).all()


# Properties and bad input


def test_properties(unfolded_encoder):
    assert unfolded_encoder.sample_rate == 16000
    assert unfolded_encoder.device == torch.device("cpu")
    config = EncoderConfig(frontend=FrontendConfig(sample_rate=8000, f_max=4000), adapter=AdapterKind.BN)
    with torch.device("meta"):
        assert Encoder(config).sample_rate == 8000
        assert Encoder(config).frontend(torch.zeros(1, 2000, device="cpu")).device.type == "cpu"


@pytest.mark.parametrize("shape", [(16000,), (1, 2, 16000)])
def test_wrong_rank(encoder, shape):
    with pytest.raises(AudioError, match=r"waveforms of shape \(.*16000.*\): expected \(batch, samples\)"):
        encoder(torch.zeros(shape))


def test_too_short(encoder):
    with pytest.raises(AudioError, match="100 samples: shorter than half an STFT frame"):
        encoder(torch.zeros(1, 100))


def test_unknown_layer_and_features(encoder):
    with pytest.raises(ConfigError, match=r"layer='neck': unknown; use one of 'head', 'pooled'"):
        encoder(torch.zeros(1, 16000), layer="neck")
    with pytest.raises(ConfigError, match=r"features='all': unknown; use one of 'invariant', 'variant', 'concat'"):
        encoder.embedding_dim("all")


def with_statistics():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frontend = FrontendConfig(epsilon=1e-3, phase=Phase.STABLE)
        return Encoder(EncoderConfig(frontend=frontend, window_seconds=1.0, spectral_statistics=True)).eval()


def test_spectral_statistics_equal_a_loop_over_the_bands():
    from mtslvr.nn.encoder import spectral_statistics

    torch.manual_seed(0)
    spectrogram = torch.randn(2, 3, 128, 9)
    found = spectral_statistics(spectrogram)
    assert found.shape == (2, 384)
    for band in (0, 57, 127):
        row = spectrogram[1, 0, band].numpy() / 32
        expected = row.mean(), row.std(), np.abs(np.diff(row)).mean()
        np.testing.assert_allclose(found[1, [band, 128 + band, 256 + band]], expected, rtol=1e-5)
    assert torch.isfinite(spectral_statistics(spectrogram[..., :1])).all()
    other_layout = spectrogram.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(spectral_statistics(other_layout), found)


@pytest.mark.parametrize("folded", [False, True])
def test_the_variant_head_reads_statistics_and_the_invariant_one_does_not(folded):
    encoder = with_statistics()
    plain = Encoder(dataclasses.replace(encoder.config, spectral_statistics=False)).eval()
    state = encoder.state_dict()
    narrow = {**state, "heads.1.weight": state["heads.1.weight"][:, :512]}
    plain.load_state_dict(narrow)
    if folded:
        encoder, plain = encoder.fold(), plain.fold()
    waveforms = torch.randn(3, 16000)
    with torch.inference_mode():
        ours, without = encoder(waveforms), plain(waveforms)
        pooled, pooled_without = encoder(waveforms, "pooled"), plain(waveforms, "pooled")
    torch.testing.assert_close(ours.invariant, without.invariant, rtol=0, atol=0)
    torch.testing.assert_close(pooled.variant[:, :512], pooled_without.variant, rtol=0, atol=0)
    extra = pooled.variant[:, 512:] @ state["heads.1.weight"][:, 512:].T
    torch.testing.assert_close(ours.variant, without.variant + extra, rtol=1e-4, atol=1e-4)
    for layer, widths in (("head", (500, 500, 1000)), ("pooled", (512, 896, 1408))):
        assert tuple(encoder.embedding_dim(f, layer) for f in ("invariant", "variant", "concat")) == widths
    assert (pooled.invariant.shape[1], pooled.variant.shape[1], pooled.concat.shape[1]) == (512, 896, 1408)


def test_statistics_survive_saving(tmp_path):
    encoder = with_statistics()
    loaded = checkpoint.load(encoder.save(tmp_path, dtype=torch.float32))
    assert loaded.config == encoder.config
    waveforms = torch.randn(2, 16000)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(waveforms).variant, encoder(waveforms).variant, rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"tasks": 1}, {"heads": 1}, {"adapter": AdapterKind.SPLIT, "tasks": 1}])
def test_statistics_need_two_paths_and_heads(changes):
    with pytest.raises(
        ConfigError, match=r"spectral_statistics=True: must be .* false without two tasks and two heads"
    ):
        EncoderConfig(spectral_statistics=True, **changes)


@pytest.mark.parametrize("folded", [False, True])
@torch.inference_mode()
def test_heads_that_read_rows(folded):
    rows = {"invariant_rows": Rows((2, 4), (1, 3)), "variant_rows": Rows(layer4=(3, 4))}
    config = dataclasses.replace(with_statistics().config, **rows)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = Encoder(config).eval()
    encoder = encoder.fold() if folded else encoder
    x = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    found, spectrogram = encoder(x, "pooled"), encoder.frontend(encoder.normalize(x))
    for task, pooled in enumerate((found.invariant, found.variant)):
        third = encoder.shared(spectrogram)
        for block in (*encoder.branches.layer2, *encoder.branches.layer3):
            third = block(third, task)
        fourth = encoder.branches(encoder.shared(spectrogram), task)
        assert (third.shape[1:3], fourth.shape[1:3]) == ((256, 8), (512, 4))
        read = [(fourth, channel, 3) for channel in range(512)]
        if task == 0:
            read = [(third, channel, row) for channel in range(256) for row in (2, 3)]
            read += [(fourth, channel, row) for channel in range(512) for row in (1, 2)]
        expected = [[float(max(x[i, channel, row])) for x, channel, row in read] for i in range(2)]
        torch.testing.assert_close(pooled[:, : len(read)], torch.tensor(expected), rtol=1e-5, atol=1e-6)
        assert pooled.shape[1] == len(read) + 384 * task
    for layer, widths in (("head", (500, 500, 1000)), ("pooled", (1536, 896, 2432))):
        assert tuple(encoder.embedding_dim(f, layer) for f in ("invariant", "variant", "concat")) == widths
    assert torch.equal(encoder.embedding(x, "invariant"), encoder(x).invariant)


@torch.inference_mode()
def test_means_of_rows_follow_their_maxima():
    rows, x = Rows((2, 4), (1, 3)), torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    encoder = Encoder(EncoderConfig(invariant_rows=rows)).eval()
    both = Encoder(EncoderConfig(invariant_rows=dataclasses.replace(rows, means=True))).eval()
    both.trunk, both.branches = encoder.trunk, encoder.branches
    maxima, found = encoder(x, "pooled").invariant, both(x, "pooled").invariant
    assert both.config.pooled_blocks == ((512, 1024, 512, 1024), (512,)) and found.shape == (2, 3072)
    torch.testing.assert_close(found[:, :1536], maxima)
    third, fourth = both.branches.stages(both.shared(both.frontend(both.normalize(x))), 0, (1, 3))
    means = torch.cat([third[:, :, 2:4].mean(dim=3).flatten(1), fourth.mean(dim=3).flatten(1)], dim=1)
    torch.testing.assert_close(found[:, 1536:], means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2])
@torch.inference_mode()
def test_rows_of_one_path_or_one_head(heads):
    rows = Rows((2, 3))
    one = Encoder(EncoderConfig(adapter=AdapterKind.SPLIT, tasks=1, heads=heads, invariant_rows=rows)).eval().fold()
    two = Encoder(EncoderConfig(tasks=2, heads=1, invariant_rows=rows, variant_rows=rows)).eval().fold()
    for encoder in (one, two):
        assert {head.in_features for head in encoder.heads} == {256}
        assert encoder(torch.zeros(1, 16000)).concat.shape == (1, encoder.embedding_dim())


def test_weights_that_no_head_reads_have_gradients():
    with torch.random.fork_rng():
        config = EncoderConfig(adapter=AdapterKind.SPLIT, tasks=1, heads=1, invariant_rows=Rows((2, 3)))
        encoder = Encoder(config).train()
    encoder(torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))).invariant.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert not any(p.grad.any() for p in encoder.branches.layer4.parameters())


def test_rows_survive_saving(tmp_path):
    with torch.random.fork_rng():
        encoder = Encoder(EncoderConfig(invariant_rows=Rows((2, 4), (1, 3)))).eval()
    loaded = checkpoint.load(encoder.save(tmp_path, dtype=torch.float32))
    assert loaded.config == encoder.config and loaded.config.invariant_rows == Rows((2, 4), (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), encoder.parameters(), strict=True))


def test_rows_from_text():
    assert Rows.parse("layer3=2:4,layer4=1:3") == Rows((2, 4), (1, 3))
    assert Rows.parse(" layer4=0:4 ") == Rows((0, 0), (0, 4))
    assert Rows.parse("layer4=0:4, means") == Rows((0, 0), (0, 4), means=True)
    for text in ("", "2:4", "layer3=2-4", "layer3=2:4layer4=1:3", "layer5=0:1", "layer3=0:1,layer3=1:2"):
        with pytest.raises(ConfigError, match=re.escape(f"rows={text!r}: expected a text such as")):
            Rows.parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rows(), r"rows=.*: must be one row at least"),
        (lambda: Rows.parse("layer3=2:2"), r"rows=.*: must be one row at least"),
        (lambda: Rows((4, 2)), r"rows.layer3=\(4, 2\): must be two whole numbers, 0 <= first <= end"),
        (lambda: Rows(layer4=(0, True)), r"rows.layer4=\(0, True\): must be two whole numbers"),
        (lambda: Rows(layer4=7), r"rows.layer4=7: must be two whole numbers"),
        (lambda: Rows((0, 1), means=1), r"rows.means=1: must be true or false"),
        (lambda: EncoderConfig(invariant_rows=(2, 4)), r"invariant_rows=\(2, 4\): must be a Rows or None"),
        (
            lambda: EncoderConfig(variant_rows=Rows((0, 9))),
            r"variant_rows=.*: must be within 8 rows of layer3 and 4 of layer4, as 128 mel bands give",
        ),
        (
            lambda: EncoderConfig(FrontendConfig(n_mels=40), invariant_rows=Rows(layer4=(0, 3))),
            r"invariant_rows=.*: must be within 3 rows of layer3 and 2 of layer4, as 40 mel bands give",
        ),
        (
            lambda: EncoderConfig(adapter=AdapterKind.SPLIT, tasks=1, variant_rows=Rows((0, 1))),
            r"variant_rows=.*: must be None with one path",
        ),
        (lambda: EncoderConfig(heads=1, invariant_rows=Rows((0, 1))), r"variant_rows=None: must be invariant_rows"),
        (
            lambda: EncoderConfig.from_dict({"format_version": 1, "invariant_rows": [2, 4]}),
            r"config: invariant_rows=\[2, 4\]: expected an object or null",
        ),
        (
            lambda: EncoderConfig.from_dict({"format_version": 1, "invariant_rows": {"layer2": [0, 1]}}),
            r"unknown key 'invariant_rows.layer2'; known: invariant_rows.layer3, invariant_rows.layer4",
        ),
    ],
)
def test_rows_that_cannot_be(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# Plain torch


def test_a_hook_on_a_folded_encoder_fires_once_with_the_whole_batch(encoder):
    watched, seen = copy.deepcopy(encoder), []
    for module in (watched, watched.trunk, watched.branches, watched.heads[0]):
        module.register_forward_hook(lambda module, inputs, output: seen.append((module, len(inputs[0]))))
    watched(torch.randn(40, 4000))
    expected = [watched.trunk, watched.branches, watched.branches, watched.heads[0], watched]
    assert seen == [(module, 40) for module in expected]


def test_what_a_folded_encoder_computes_is_counted(encoder):
    with FlopCounterMode(display=False) as counter:
        encoder(torch.randn(2, 16000))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert convolutions == pytest.approx(2 * 0.49e9, rel=0.02)


@pytest.mark.parametrize("change", [lambda p: p.data.zero_(), lambda p: p.zero_()], ids=["data", "itself"])
def test_weights_that_change_after_a_call_show_in_the_next(encoder, change):
    changed, x = copy.deepcopy(encoder), torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert changed(x).concat.abs().max() > 0
        for parameter in changed.parameters():
            change(parameter)
        assert torch.count_nonzero(changed(x).concat) == 0


def test_a_folded_encoder_is_exported_with_a_free_batch(encoder):
    x = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(encoder, (x,), dynamic_shapes=({0: batch},)).module()
    for rows in (x, x[:1], torch.cat([x, x.flip(1)])):
        found = program(rows)
        assert isinstance(found, Embeddings)
        assert relative(found.concat.numpy(), encoder(rows).concat.numpy()) <= 1e-5


def test_a_folded_encoder_is_compiled_as_one_graph(encoder):
    x = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = torch.compile(encoder, backend="eager", fullgraph=True)(x)
    assert relative(found.concat.numpy(), encoder(x).concat.numpy()) <= 1e-5


# Input that is not what it seems


@pytest.mark.parametrize("kind", [torch.int16, torch.uint8, torch.int32, torch.bool])
def test_integers_are_refused(encoder, kind):
    with pytest.raises(AudioError, match=rf"waveforms of {kind}: .* divide 16-bit samples by 32768, or use embed\(\)"):
        encoder(torch.ones(1, 16000).to(kind))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@torch.inference_mode()
def test_a_waveform_is_computed_in_float32_at_least(encoder, kind):
    x = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)).to(kind)
    assert relative(encoder(x).concat.numpy(), encoder(x.float()).concat.numpy()) <= 1e-5


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64, "meta"])
def test_a_loaded_encoder_is_the_same_whatever_torchs_defaults_are(unfolded_encoder, encoder, tmp_path, default):
    unfolded_encoder.save(tmp_path, dtype=torch.float32)
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    expected = mtslvr.embed(wave, 16000, encoder=encoder)
    try:
        torch.set_default_device(default) if default == "meta" else torch.set_default_dtype(default)
        found = mtslvr.embed(wave, 16000, encoder=mtslvr.load(tmp_path, device="cpu"))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(found, expected)
