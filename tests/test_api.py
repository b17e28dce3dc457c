"""`embed`, `embed_windows` and `embed_files`: what they take, what they give and what they refuse."""

import dataclasses
import io
import itertools
import os
from collections import UserList
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from fill_rule import relative

import mtslvr
from mtslvr.audio.load import load_audio
from mtslvr.errors import AudioError, ConfigError
from mtslvr.models import hub

RATE = 16000


def sound(seconds, rate=RATE, seed=0):
    """A few sines and a little noise."""
    g = np.random.default_rng(seed)
    sines = np.sin(2 * np.pi * np.outer(g.uniform(100, 2500, 4), np.arange(round(seconds * rate)) / rate))
    return (0.1 * sines.sum(axis=0) + 0.003 * g.standard_normal(sines.shape[1])).astype(np.float32)


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "sound.wav"
    soundfile.write(path, sound(2.3), RATE, subtype="FLOAT")
    return path


def embed_by_hand(encoder, x, starts, seconds=1.0):
    """Windows embedded one at a time without `extract`, each repeated to full length where the waveform ends."""
    size = round(seconds * RATE)
    windows = [np.resize(x[round(start * RATE) :][:size], size) for start in starts]
    with torch.inference_mode():
        return np.concatenate([encoder(torch.from_numpy(window)[None]).concat for window in windows])


def test_one_input_of_any_kind(wav, encoder):
    x = sound(2.3)
    expected = embed_by_hand(encoder, x, [0, 1, 2]).mean(0)
    stereo = np.stack([x + 0.1, x - 0.1])
    arrays = [(audio, RATE) for audio in (x, x.astype(np.float64), x[None], stereo, x[::-1][::-1])]
    files = [wav, str(wav), io.BytesIO(wav.read_bytes())]
    for audio, rate in [*arrays, *zip(files, [None, None, 44100], strict=True)]:  # a file knows its own rate
        embedding = mtslvr.embed(audio, rate, encoder=encoder)
        assert isinstance(embedding, np.ndarray) and embedding.dtype == np.float32 and embedding.shape == (1000,)
        assert relative(embedding, expected) <= 1e-4
    for audio, rate in arrays:
        tensor = torch.from_numpy(np.ascontiguousarray(audio)).requires_grad_()
        embedding = mtslvr.embed(tensor, sample_rate=rate, encoder=encoder)
        assert embedding.dtype is torch.float32 and embedding.device == encoder.device and not embedding.requires_grad
        assert relative(embedding.numpy(), expected) <= 1e-4
    assert np.array_equal(x, sound(2.3))


def test_lists_of_mixed_kinds_lengths_and_rates(wav, encoder):
    inputs, rates = [wav, sound(0.4), sound(3, 44100), np.stack([sound(1, 8000)] * 2)], [None, RATE, 44100, 8000]
    rows = mtslvr.embed(inputs, rates, encoder=encoder)
    assert isinstance(rows, np.ndarray) and rows.shape == (4, 1000) and rows.dtype == np.float32
    for row, audio, rate in zip(rows, inputs, rates, strict=True):
        resampled = load_audio(audio, RATE, sample_rate=rate)
        assert relative(row, mtslvr.embed(resampled, RATE, encoder=encoder)) <= 1e-5
    assert relative(mtslvr.embed((wav,), encoder=encoder), rows[:1]) <= 1e-5


def test_tensors_come_out_only_where_all_inputs_are_tensors(encoder):
    x, how = sound(1), {"encoder": encoder, "features": "variant", "layer": "pooled"}
    tensor = torch.from_numpy(x)
    for inputs, kind in (([tensor] * 2, torch.Tensor), ([tensor, x], np.ndarray), ([], np.ndarray)):
        rows = mtslvr.embed(inputs, RATE, **how)
        assert isinstance(rows, kind) and rows.shape == (len(inputs), 512)
    windows, spans = mtslvr.embed_windows((tensor, RATE), **how)
    assert isinstance(windows, torch.Tensor) and isinstance(spans, np.ndarray)


def test_pairs_and_columns_of_data_sets_and_numbers_of_any_type(encoder, wav, tmp_path):
    x, path = sound(0.5, 44100), tmp_path / "x.wav"
    soundfile.write(path, x, 44100, subtype="FLOAT")
    samples = SimpleNamespace(data=torch.from_numpy(x[None]), sample_rate=44100)
    expected = mtslvr.embed(x, 44100, encoder=encoder)
    for audio in (
        (x[None], 44100.0),
        (44100, x),  # of SciPy
        {"array": x, "sampling_rate": 44100},
        {"path": None, "array": x.tolist(), "sampling_rate": np.int64(44100)},
        {"array": torch.from_numpy(x), "sampling_rate": torch.tensor(44100)},
        {"path": "elsewhere.wav", "bytes": path.read_bytes()},
        {"path": str(path), "bytes": None},
        SimpleNamespace(get_all_samples=lambda: samples),  # torchcodec's decoder
    ):
        one = mtslvr.embed(audio, encoder=encoder)
        assert isinstance(one, np.ndarray) and np.array_equal(one, expected)
        assert np.array_equal(mtslvr.embed_windows(audio, encoder=encoder)[0][0], expected)
    expected = mtslvr.embed([wav, wav], encoder=encoder)
    for paths in (np.array([str(wav)] * 2), np.array([wav] * 2, dtype=object), UserList([wav] * 2)):
        assert np.array_equal(mtslvr.embed(paths, encoder=encoder), expected)
    expected = mtslvr.embed([x, x], [RATE, 8000], encoder=encoder)
    for rates in (np.array([RATE, 8000]), (float(RATE), 8e3), torch.tensor([RATE, 8000])):
        assert np.array_equal(mtslvr.embed([x, x], rates, encoder=encoder), expected)
    for rate in (16000.0, np.int64(16000), np.array(16000.0), torch.tensor(16000)):
        found = mtslvr.embed(x, rate, encoder=encoder, batch_size=np.int64(4), threads=np.int32(1))
        assert np.array_equal(found, mtslvr.embed(x, RATE, encoder=encoder))


def test_embed_files_gives_every_input_in_order_and_goes_on_past_broken_ones(encoder, wav, tmp_path):
    broken, x, closed = tmp_path / "broken.flac", sound(0.5), io.BytesIO()
    closed.close()
    broken.write_bytes(b"no flac")
    cases = [  # input, path of its result, error
        (wav, wav, None),
        (broken, broken, f"{broken}: not an audio file"),
        ((x, RATE), "<array 2>", None),
        (x, "<array 3>", "<array 3>: array input needs sample_rate"),
        (None, "<NoneType 4>", "<NoneType 4>: type NoneType"),
        ("gone.wav", "gone.wav", "gone.wav: no such file"),
        ({"path": str(wav), "bytes": None}, str(wav), None),
        (closed, "<file object 7>", "<file object 7>: cannot be read (ValueError: "),
        ({"array": [[1.0, 2.0], [3.0]], "sampling_rate": 16000}, "", "<dict 8>: cannot be read (ValueError: "),
        (type("Odd", (os.PathLike,), {"__fspath__": lambda _: 1 / 0})(), "", "<Odd 9>: cannot be read (ZeroDivisionE"),
        (wav, wav, None),
    ]
    results = list(mtslvr.embed_files((audio for audio, *_ in cases), encoder=encoder, batch_size=2))
    for index, (result, (audio, path, said)) in enumerate(zip(results, cases, strict=True)):
        assert result.index == index and (path == "" or result.path == path)
        if said is None:
            assert result.error is None and result.spans.shape == (1, 2)
            assert result.embedding.shape == (1000,) and result.embedding.dtype == np.float32
            assert relative(result.embedding, mtslvr.embed(audio, encoder=encoder)) <= 1e-6
        else:
            assert str(result.error).startswith(said) and result.embedding is None
    assert list(mtslvr.embed_files([], encoder=encoder)) == []


def test_embed_files_by_window_with_progress_to_the_first_broken_file(encoder, wav, capsys):
    options = {"encoder": encoder, "hop_seconds": 0.5, "features": "variant"}
    windows, spans = mtslvr.embed_windows(wav, **options)
    results = mtslvr.embed_files([wav, "gone.wav", wav], on_error="raise", progress=True, pool="none", **options)
    result = next(results)
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


def test_features_layers_windows_and_hops(encoder, wav):
    parts = ("invariant", "head", 500, slice(500)), ("variant", "pooled", 512, slice(512, None))
    for features, layer, width, part in (*parts, ("concat", "head", 1000, slice(None))):
        windows, spans = mtslvr.embed_windows(wav, features=features, layer=layer, encoder=encoder)
        assert windows.shape == (3, width) and windows.dtype == np.float32 and spans.dtype == np.float64
        assert relative(windows, mtslvr.embed_windows(wav, layer=layer, encoder=encoder)[0][:, part]) <= 1e-6
        assert relative(mtslvr.embed(wav, features=features, layer=layer, encoder=encoder), windows.mean(0)) <= 1e-6
    for window, hop, spans in (
        (2.0, None, [[0, 2], [2, 2.3]]),
        (None, 0.5, [[0, 1], [0.5, 1.5], [1, 2], [1.5, 2.3]]),
        (5.0, 2.5, [[0, 2.3]]),
        (0.5, 1.0, [[0, 0.5], [1, 1.5], [2, 2.3]]),
    ):
        how = {"encoder": encoder, "window_seconds": window, "hop_seconds": hop}
        embeddings, found = mtslvr.embed_windows(sound(2.3), RATE, **how)
        np.testing.assert_allclose(found, spans, rtol=0, atol=1e-9)
        assert relative(embeddings, embed_by_hand(encoder, sound(2.3), found[:, 0], window or 1)) <= 1e-5
        assert relative(mtslvr.embed(sound(2.3), RATE, **how), embeddings.mean(0)) <= 1e-6


def test_normalization_by_file_and_by_window(unfolded_encoder):
    """A quiet second half is brought up by itself, or left quiet beside the first."""
    encoder, x = unfolded_encoder.fold(), sound(2) * np.repeat(np.float32([1, 0.01]), RATE)
    for mode in ("window", "file"):
        encoder.config = dataclasses.replace(encoder.config, normalization=mtslvr.Normalization(mode))
        quiet = mtslvr.embed_windows(x, RATE, encoder=encoder)[0][1]
        alone = mtslvr.embed(x[RATE:], RATE, encoder=encoder)
        assert (relative(quiet, alone) <= 1e-5) == (mode == "window")


def test_what_is_no_audio_is_named(encoder, wav, tmp_path):
    one, windows, files = mtslvr.embed, mtslvr.embed_windows, mtslvr.embed_files
    broken, by_place = tmp_path / "broken.flac", r"sample_rate is an encoder; give it by name, encoder=\.\.\."
    broken.write_bytes(b"no flac")
    for call, audio, options, message in (
        (one, [0.1, 0.2], {}, "<float 0>: type float: pass a path, a binary file object, an array or"),
        (one, {"a": 1}, {}, "type dict: pass a path"),
        (one, {"a.wav"}, {}, r"type set: pass a list, list\(\.\.\.\), or give it to mtslvr.embed_files"),
        (one, iter(["a.wav"]), {}, r"type list_iterator: pass a list, list\(\.\.\.\)"),
        (one, sound(1), {"sample_rate": [RATE, RATE]}, "2 sample rates for 1 inputs; give one, or one for"),
        (one, [sound(1)] * 2, {"sample_rate": [RATE, None]}, r"<array 1>: array input .* \(input 1 of 2,"),
        (one, [wav, wav, broken, wav, "gone.wav"], {"sample_rate": None}, r"broken\.flac: not .* \(input 2 of 5, "),
        (one, wav, {"sample_rate": encoder}, by_place),
        (windows, wav, {"sample_rate": encoder}, by_place),
        (windows, sound(1), {"sample_rate": None}, r"<array>: array input needs sample_rate=\.\.\."),
        (windows, sound(1), {"sample_rate": "16000"}, "<array>: sample_rate='16000': must be a whole"),
        (windows, ["a.wav"], {}, "type list: pass one input, or all of them to mtslvr.embed_files"),
        (one, {"bytes": "abc"}, {}, r"<dict>: cannot be read \(TypeError"),
        (one, {"bytes": "abc"}, {"channels": "each"}, r"<dict>: cannot be read \(TypeError"),
        (one, [wav, {"array": [[1, 2], [3]]}], {"sample_rate": None}, r"<dict 1>: .*\(ValueError.* \(input 1 of 2, "),
        (windows, SimpleNamespace(get_all_samples=[].pop), {}, r"<SimpleNamespace>: .*\(IndexError"),
        (files, "dog.wav", {}, "type str: pass a list or another iterable of inputs, .*rglob"),
        (files, sound(1), {}, "type ndarray: pass a list"),
    ):
        with pytest.raises(AudioError, match=message):
            call(audio, **{"sample_rate": RATE, "encoder": encoder, **options})


def test_options_out_of_range(encoder):
    """`embed_files` refuses its own before it reads."""
    others = mtslvr.embed, mtslvr.embed_windows
    for options, message in (
        ({"features": "all"}, "features='all': unknown; use one of 'invariant', 'variant', 'concat'"),
        ({"layer": "neck"}, "layer='neck': unknown; use one of 'head', 'pooled'"),
        ({"window_seconds": 0}, "window_seconds=0: must be a number above 0"),
        ({"window_seconds": 0.01}, r"window_seconds=0\.01: shorter than half an STFT frame; .*0\.03206 s"),
        ({"hop_seconds": -1}, "hop_seconds=-1: must be a number above 0"),
        ({"batch_size": 2.0}, r"batch_size=2\.0: must be an integer from 1 to 65536"),
        (
            {"encoder": torch.nn.Linear(1, 1)},
            "encoder of type Linear: pass what mtslvr.load gives, or .*; encoder.comp",
        ),
        ({"on_error": "stop"}, "on_error='stop': unknown; use 'skip' or 'raise'"),
        ({"pool": "max"}, "pool='max': unknown; use one of 'mean', 'none'"),
    ):
        for call in [mtslvr.embed_files] if {"on_error", "pool"} & options.keys() else others:
            with pytest.raises(ConfigError, match=message):
                call([] if call is mtslvr.embed_files else sound(1), RATE, **{"encoder": encoder, **options})


def test_bundled_default():
    assert "parallel-simclr-v2" in mtslvr.list_models() == list(hub.bundled())
    embedding, spans = mtslvr.embed_windows(sound(6), RATE, hop_seconds=2.5)
    assert embedding.shape == (2, 1000) and spans.tolist() == [[0, 5], [2.5, 6]]
    assert np.isfinite(mtslvr.embed(np.zeros(RATE), RATE)).all()
