import dataclasses
import io
import itertools
from collections import UserList
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import mtslvr
from mtslvr.audio.windows import slice_windows
from mtslvr.errors import AudioError, ConfigError, HubError
from mtslvr.models import hub

RATE = 16000


def sound(seconds, rate=RATE, seed=0):
    """A few sines and a little noise, without anything near the Nyquist rate."""
    g = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    x = sum(a * np.sin(2 * np.pi * f * t) for a, f in zip(g.uniform(0.1, 0.3, 4), g.uniform(100, 2500, 4), strict=True))
    return (x * (1 + 0.5 * np.sin(2 * np.pi * 3 * t)) / 2 + 0.003 * g.standard_normal(t.size)).astype(np.float32)


def small_encoder():
    """A window of 0.25 s and few channels."""
    return mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.25))


def relative(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "sound.wav"
    soundfile.write(path, sound(2.3), RATE, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def expected(encoder):
    """Of `sound(2.3)`: windows of 1 s, the last repeated to fill one, embedded one at a time without `extract`."""
    windows, _ = slice_windows(sound(2.3), 1.0, 1.0, RATE)
    assert len(windows) == 3
    with torch.inference_mode():
        return torch.cat([encoder(torch.from_numpy(window)[None]).concat for window in windows]).numpy()


# What goes in


def test_path_string_file_object_and_array_give_the_same(wav, encoder, expected):
    inputs = [wav, str(wav), io.BytesIO(wav.read_bytes())]
    for audio in inputs:
        embedding = mtslvr.embed(audio, encoder=encoder)
        assert isinstance(embedding, np.ndarray) and embedding.dtype == np.float32 and embedding.shape == (1000,)
        assert relative(embedding, expected.mean(0)) <= 1e-5
    with open(wav, "rb") as file:
        file.seek(100)
        assert relative(mtslvr.embed(file, encoder=encoder), expected.mean(0)) <= 1e-5
    assert relative(mtslvr.embed(sound(2.3), RATE, encoder=encoder), expected.mean(0)) <= 1e-5
    assert relative(mtslvr.embed(wav, 44100, encoder=encoder), expected.mean(0)) <= 1e-5  # a file knows its own


def test_arrays_and_tensors(encoder, expected):
    x = sound(2.3)
    stereo = np.stack([x + 0.1, x - 0.1])
    for audio in (x.astype(np.float64), x[None], stereo, x[::-1][::-1]):
        embedding = mtslvr.embed(audio, RATE, encoder=encoder)
        assert isinstance(embedding, np.ndarray) and embedding.dtype == np.float32
        assert relative(embedding, expected.mean(0)) <= 1e-4
        tensor = torch.from_numpy(np.ascontiguousarray(audio))
        embedding = mtslvr.embed(tensor, sample_rate=RATE, encoder=encoder)
        assert isinstance(embedding, torch.Tensor) and embedding.dtype is torch.float32
        assert embedding.device == encoder.device and embedding.shape == (1000,)
        assert relative(embedding, expected.mean(0)) <= 1e-4


def test_inputs_are_left_as_they_were(encoder):
    x = sound(1.5)
    kept, tensor = x.copy(), torch.from_numpy(x.copy()).requires_grad_()
    mtslvr.embed([x, x], RATE, encoder=encoder)
    embedding = mtslvr.embed(tensor, RATE, encoder=encoder)
    assert np.array_equal(x, kept) and np.array_equal(tensor.detach().numpy(), kept)
    assert not embedding.requires_grad


def test_a_list_of_mixed_kinds_lengths_and_rates(wav, encoder, expected):
    inputs = [wav, sound(0.4), sound(3, 44100), np.stack([sound(1, 8000)] * 2)]
    rows = mtslvr.embed(inputs, [None, RATE, 44100, 8000], encoder=encoder)
    assert isinstance(rows, np.ndarray) and rows.shape == (4, 1000) and rows.dtype == np.float32
    assert relative(rows[0], expected.mean(0)) <= 1e-5
    for row, audio, rate in zip(rows[1:], inputs[1:], (RATE, 44100, 8000), strict=True):
        assert relative(row, mtslvr.embed(audio, rate, encoder=encoder)) <= 1e-5
    assert relative(mtslvr.embed(tuple(inputs[:1]), encoder=encoder), rows[:1]) <= 1e-5


def test_tensors_out_only_where_all_inputs_are_tensors(encoder):
    x = sound(1)
    tensors = mtslvr.embed([torch.from_numpy(x)] * 2, RATE, encoder=encoder)
    mixed = mtslvr.embed([torch.from_numpy(x), x], RATE, encoder=encoder)
    assert isinstance(tensors, torch.Tensor) and tensors.shape == (2, 1000)
    assert isinstance(mixed, np.ndarray) and mixed.shape == (2, 1000)
    windows, spans = mtslvr.embed_windows(torch.from_numpy(x), RATE, encoder=encoder)
    assert isinstance(windows, torch.Tensor) and isinstance(spans, np.ndarray)
    assert isinstance(mtslvr.embed((torch.from_numpy(x), RATE), encoder=encoder), torch.Tensor)
    assert mtslvr.embed([], encoder=encoder, features="variant", layer="pooled").shape == (0, 512)


def noise_below(hertz, rate):
    """The same 2 s of periodic noise at any rate: one spectrum, transformed to as many samples as asked for."""
    spectrum = np.zeros(rate + 1, complex)
    spectrum[40 : 2 * hertz] = [1, 1j] @ np.random.default_rng(5).standard_normal((2, 2 * hertz - 40))
    return (np.fft.irfft(spectrum, 2 * rate) * rate / hertz**0.5 / 100).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_another_rate_is_resampled(encoder, rate):
    """What is sampled at two rates has nearly one embedding; taken at a wrong rate it has another."""
    options = {"encoder": encoder, "features": "variant", "layer": "pooled"}
    expected = mtslvr.embed(noise_below(3500, RATE), RATE, **options)
    found = mtslvr.embed(noise_below(3500, rate), rate, **options)
    wrong = mtslvr.embed(noise_below(3500, rate), 11025, **options)
    assert relative(found, expected) <= 0.01
    assert relative(wrong, expected) > 0.05


# What other libraries give


class Decoder:
    """As torchcodec's."""

    def __init__(self, samples, rate):
        self._all = SimpleNamespace(data=torch.from_numpy(samples), sample_rate=rate)

    def get_all_samples(self):
        return self._all


@pytest.mark.parametrize(
    "shape",
    [
        lambda x, file: (x[None], 44100.0),
        lambda x, file: (44100, x),
        lambda x, file: {"array": x, "sampling_rate": 44100},
        lambda x, file: {"path": None, "array": x.tolist(), "sampling_rate": np.int64(44100)},
        lambda x, file: {"array": torch.from_numpy(x), "sampling_rate": torch.tensor(44100)},
        lambda x, file: {"path": "elsewhere.wav", "bytes": file.read_bytes()},
        lambda x, file: {"path": str(file), "bytes": None},
        lambda x, file: Decoder(x[None], 44100),
    ],
    ids=["pair", "scipy", "array", "list", "torch", "bytes", "path", "decoder"],
)
def test_pairs_and_columns_of_data_sets(encoder, tmp_path, shape):
    x = sound(0.5, 44100)
    soundfile.write(tmp_path / "x.wav", x, 44100, subtype="FLOAT")
    expected = mtslvr.embed(x, 44100, encoder=encoder)
    audio = shape(x, tmp_path / "x.wav")
    one = mtslvr.embed(audio, encoder=encoder)
    assert isinstance(one, np.ndarray) and np.array_equal(one, expected)
    assert np.array_equal(mtslvr.embed_windows(audio, encoder=encoder)[0][0], expected)


def test_columns_of_paths_and_of_rates(encoder, wav):
    expected = mtslvr.embed([wav, wav], encoder=encoder)
    for paths in (np.array([str(wav)] * 2), np.array([wav] * 2, dtype=object), UserList([wav] * 2)):
        assert np.array_equal(mtslvr.embed(paths, encoder=encoder), expected)
    x = sound(0.5)
    for rates in (np.array([RATE, 8000]), (float(RATE), 8e3), torch.tensor([RATE, 8000])):
        found = mtslvr.embed([x, x], rates, encoder=encoder)
        assert np.array_equal(found, mtslvr.embed([x, x], [RATE, 8000], encoder=encoder))


@pytest.mark.parametrize("rate", [16000.0, np.int64(16000), np.array(16000.0), torch.tensor(16000)])
def test_whole_numbers_of_any_type(encoder, rate):
    x = sound(0.5)
    found = mtslvr.embed(x, rate, encoder=encoder, batch_size=np.int64(4), threads=np.int32(1))
    assert np.array_equal(found, mtslvr.embed(x, RATE, encoder=encoder))


@pytest.mark.slow
def test_an_encoder_by_name(encoder, tmp_path):
    x = sound(0.5)
    folder = small_encoder().save(tmp_path / "model")
    expected = mtslvr.embed(x, RATE, encoder=mtslvr.load(folder))
    for name in (folder, str(folder)):
        assert np.array_equal(mtslvr.embed(x, RATE, encoder=name), expected)
    with pytest.raises(ConfigError, match=r"encoder of type Linear: pass what mtslvr.load gives, or what it takes"):
        mtslvr.embed(x, RATE, encoder=torch.nn.Linear(1, 1))
    with pytest.raises(HubError, match="'nowhere': neither a bundled"):
        mtslvr.embed(x, RATE, encoder="nowhere")


@pytest.mark.parametrize("audio", [iter(["a.wav"]), {"a.wav"}, {"a.wav": 1}.keys()], ids=["iterator", "set", "keys"])
def test_other_collections_are_sent_to_embed_files(encoder, audio):
    kind = type(audio).__name__
    with pytest.raises(
        AudioError, match=rf"type {kind}: pass a list, list\(\.\.\.\), or give it to mtslvr.embed_files"
    ):
        mtslvr.embed(audio, encoder=encoder)
    with pytest.raises(AudioError, match=r"type list: pass one input, or all of them to mtslvr.embed_files"):
        mtslvr.embed_windows(["a.wav"], encoder=encoder)


# Any number of files


def test_embed_files_gives_every_input_in_order_and_goes_on_past_broken_ones(encoder, wav, tmp_path):
    (tmp_path / "broken.flac").write_bytes(b"no flac")
    x = sound(0.5)
    paths = [wav, tmp_path / "broken.flac", str(wav), (x, RATE), x, None, "gone.wav", {"path": str(wav), "bytes": None}]
    results = list(mtslvr.embed_files(iter(paths), encoder=encoder, batch_size=2))
    labels = [wav, paths[1], str(wav), "<array 3>", "<array 4>", "<NoneType 5>", "gone.wav", str(wav)]
    assert [result.path for result in results] == labels
    assert [result.index for result in results] == list(range(8))
    good = [0, 2, 3, 7]
    rows = mtslvr.embed([paths[i] for i in good], encoder=encoder)
    for i, result in enumerate(results):
        assert (result.error is None) == (i in good) == (result.embedding is not None)
        if i in good:
            assert result.embedding.shape == (1000,) and result.embedding.dtype == np.float32
            assert relative(result.embedding, rows[good.index(i)]) <= 1e-6 and result.spans.shape == (1, 2)
    assert "broken.flac: not an audio file" in str(results[1].error)
    assert "<array 4>: array input needs sample_rate" in str(results[4].error)
    assert list(mtslvr.embed_files([], encoder=encoder)) == []


class BrokenFile(io.BytesIO):
    def seek(self, *_):
        raise ZeroDivisionError("of a user's own")


class BrokenPath:
    def __fspath__(self):
        raise RuntimeError("no path")


def test_embed_files_goes_on_past_whatever_an_input_raises(encoder, wav):
    no_audio = [{"array": [[1.0, 2.0], [3.0]], "sampling_rate": 16000}, {"path": None, "bytes": "text"}]
    inputs = [wav, BrokenFile(), BrokenPath(), *no_audio, wav]
    results = list(mtslvr.embed_files(inputs, encoder=encoder))
    assert [result.error is None for result in results] == [True, False, False, False, False, True]
    assert "<file object 1>: cannot be read (ZeroDivisionError: of a user's own)" in str(results[1].error)
    assert "<BrokenPath 2>: cannot be read (RuntimeError: no path)" in str(results[2].error)
    assert all(f"<dict {i}>: cannot be read" in str(results[i].error) for i in (3, 4))
    assert relative(results[0].embeddings, results[5].embeddings) <= 1e-6


def test_embed_files_by_window_with_progress_to_the_first_broken_file(encoder, wav, capsys):
    options = {"encoder": encoder, "pool": "none", "hop_seconds": 0.5, "features": "variant"}
    results = mtslvr.embed_files([wav, "gone.wav", wav], on_error="raise", progress=True, **options)
    result = next(results)
    windows, spans = mtslvr.embed_windows(wav, encoder=encoder, hop_seconds=0.5, features="variant")
    assert np.array_equal(result.embeddings, windows) and np.array_equal(result.spans, spans)
    assert relative(result.embedding, windows.mean(0)) <= 1e-6
    with pytest.raises(AudioError, match=r"^gone\.wav: no such file"):
        next(results)
    assert "1/3" in capsys.readouterr().err
    list(mtslvr.embed_files([wav], encoder=encoder))
    assert capsys.readouterr().err == ""


def test_embed_files_reads_an_endless_iterable_no_further_than_it_needs(encoder):
    read = []

    def endless():
        for i in itertools.count():
            read.append(i)
            yield sound(0.1, seed=i), RATE

    for result in itertools.islice(mtslvr.embed_files(endless(), encoder=encoder, batch_size=4), 10):
        assert result.error is None
        assert len(read) <= result.index + 30


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("dog.wav",), AudioError, r"type str: pass a list or another iterable of inputs, .*rglob"),
        ((np.zeros(100),), AudioError, r"type ndarray: pass a list"),
        ((None,), AudioError, r"type NoneType: pass a list"),
        (([], RATE, {"on_error": "stop"}), ConfigError, r"on_error='stop': unknown; use 'skip' or 'raise'"),
        (([], RATE, {"pool": "max"}), ConfigError, r"pool='max': unknown; use one of 'mean', 'none'"),
        (([], RATE, {"encoder": 3}), ConfigError, r"encoder of type int: pass what mtslvr.load gives"),
    ],
)
def test_embed_files_refuses_wrong_arguments_at_once(encoder, arguments, error, message):
    *given, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(error, match=message):
        mtslvr.embed_files(*given, **{"encoder": encoder, **options})


# Windows


@pytest.mark.parametrize(("features", "layer"), [("invariant", "head"), ("variant", "pooled"), ("concat", "head")])
def test_shapes(encoder, features, layer):
    x = sound(2.3)
    width = {"head": 500, "pooled": 512}[layer] * (2 if features == "concat" else 1)
    options = {"encoder": encoder, "features": features, "layer": layer}
    one = mtslvr.embed(x, RATE, **options)
    windows, spans = mtslvr.embed_windows(x, RATE, **options)
    assert one.shape == (width,) and windows.shape == (3, width) and spans.shape == (3, 2)
    assert windows.dtype == np.float32 and spans.dtype == np.float64
    assert relative(one, windows.mean(0)) <= 1e-6
    whole = mtslvr.embed_windows(x, RATE, encoder=encoder, layer=layer)[0]
    half = whole.shape[1] // 2
    part = {"invariant": slice(half), "variant": slice(half, None), "concat": slice(None)}[features]
    assert relative(windows, whole[:, part]) <= 1e-6


@pytest.mark.parametrize(
    ("window", "hop", "spans"),
    [
        (2.0, None, [[0, 2], [2, 2.3]]),
        (None, 0.5, [[0, 1], [0.5, 1.5], [1, 2], [1.5, 2.3]]),
        (5.0, 2.5, [[0, 2.3]]),
        (0.5, 1.0, [[0, 0.5], [1, 1.5], [2, 2.3]]),
    ],
)
def test_window_and_hop(encoder, window, hop, spans):
    x = sound(2.3)
    embeddings, found = mtslvr.embed_windows(x, RATE, encoder=encoder, window_seconds=window, hop_seconds=hop)
    np.testing.assert_allclose(found, spans, rtol=0, atol=1e-9)
    size = round((window or 1) * RATE)
    with torch.inference_mode():
        for row, (start, _) in zip(embeddings, spans, strict=True):
            piece = np.resize(x[round(start * RATE) :][:size], size)
            assert relative(row, encoder(torch.from_numpy(piece)[None]).concat[0].numpy()) <= 1e-5
    one = mtslvr.embed(x, RATE, encoder=encoder, window_seconds=window, hop_seconds=hop)
    assert relative(one, embeddings.mean(0)) <= 1e-6


@pytest.mark.parametrize("mode", ["window", "file"])
def test_normalization_by_file_and_by_window(unfolded_encoder, mode):
    """A quiet second half is brought up by itself, or left quiet beside the first."""
    encoder = unfolded_encoder.fold()
    encoder.config = dataclasses.replace(encoder.config, normalization=mtslvr.Normalization(mode))
    x = sound(2)
    x[RATE:] *= 0.01
    loud = mtslvr.embed_windows(x, RATE, encoder=encoder)[0][1]
    alone = mtslvr.embed(x[RATE:], RATE, encoder=encoder)
    assert (relative(loud, alone) <= 1e-5) == (mode == "window")


# Bad input


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((100, 2)), r"<array>: shape \(100, 2\): 100 channels of 2 samples; pass \(channels, samples\)"),
        (np.full(100, np.nan), r"<array>: NaN or infinite samples: 100, the first at index 0"),
        ([0.1, 0.2], r"<float 0>: type float: pass a path, a binary file object, an array or a tensor"),
        (np.float32(1.0), r"type float32: pass a path"),
        (None, r"type NoneType: pass a path"),
        ({"a": 1}, r"type dict: pass a path"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_audio_is_named(encoder, audio, message):
    with pytest.raises(AudioError, match=message):
        mtslvr.embed(audio, RATE, encoder=encoder)


@pytest.mark.parametrize("call", [mtslvr.embed, mtslvr.embed_windows])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"features": "all"}, ConfigError, r"features='all': unknown; use one of 'invariant', 'variant', 'concat'"),
        ({"layer": "neck"}, ConfigError, r"layer='neck': unknown; use one of 'head', 'pooled'"),
        ({"window_seconds": 0}, ConfigError, r"window_seconds=0: must be a number above 0"),
        ({"window_seconds": 0.01}, ConfigError, r"window_seconds=0\.01: shorter than half an STFT frame; .*0\.03206 s"),
        ({"hop_seconds": -1}, ConfigError, r"hop_seconds=-1: must be a number above 0"),
        ({"batch_size": 0}, ConfigError, r"batch_size=0: must be an integer from 1 to 65536"),
        ({"batch_size": 2.0}, ConfigError, r"batch_size=2\.0: must be an integer"),
        ({"sample_rate": [RATE, RATE]}, AudioError, "2 sample rates for 1 inputs; give one, or one for each"),
        ({"sample_rate": None}, AudioError, r"<array>: array input needs sample_rate=\.\.\. \(Hz\)"),
        ({"sample_rate": 44100.5}, AudioError, r"<array>: sample_rate=44100\.5: must be a whole number"),
        ({"sample_rate": "16000"}, AudioError, r"<array>: sample_rate='16000': must be a whole number"),
    ],
    ids=lambda value: str(value)[:25] if isinstance(value, dict) else "",
)
def test_arguments_out_of_range(encoder, call, arguments, error, message):
    with pytest.raises(error, match=message):
        call(sound(1), **{"sample_rate": RATE, "encoder": encoder, **arguments})


def test_one_broken_file_in_a_list_raises_and_is_named(encoder, wav, tmp_path):
    broken = tmp_path / "broken.flac"
    broken.write_bytes(b"no flac")
    with pytest.raises(
        AudioError, match=r"broken\.flac: not an audio file .* \(input 2 of 5, .*mtslvr.embed_files goes on"
    ):
        mtslvr.embed([wav, wav, broken, wav, tmp_path / "gone.wav"], encoder=encoder, batch_size=2)
    with pytest.raises(AudioError, match=r"<array 1>: array input needs sample_rate"):
        mtslvr.embed([wav, sound(1)], encoder=encoder)


@pytest.mark.parametrize("call", [mtslvr.embed, mtslvr.embed_windows])
def test_an_encoder_in_the_place_of_the_rate_is_refused(encoder, wav, call):
    with pytest.raises(AudioError, match=r"sample_rate is an encoder; give it by name, encoder=\.\.\."):
        call(wav, encoder)


# The bundled weights


@pytest.mark.skipif(not hub.bundled(), reason="no weights are bundled yet")
def test_bundled_default():
    x = sound(6)
    assert "parallel-simclr" in mtslvr.list_models() == list(hub.bundled())
    embedding = mtslvr.embed(x, RATE)
    assert embedding.shape == (1000,) and np.isfinite(embedding).all() and np.abs(embedding).max() > 0
    assert np.array_equal(embedding, mtslvr.embed(x, RATE))
    e, spans = mtslvr.embed_windows(x, RATE, window_seconds=5, hop_seconds=2.5)
    assert e.shape == (2, 1000) and spans.tolist() == [[0, 5], [2.5, 6]]
    other = mtslvr.embed(sound(6, seed=1), RATE)
    assert relative(other, embedding) > 1e-2
    assert np.isfinite(mtslvr.embed(np.zeros(RATE), RATE)).all()
