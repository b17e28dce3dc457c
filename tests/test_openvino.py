"""The OpenVINO engine: the numbers of torch, whatever the variant, the size and the batch."""

import copy
import json
import os
import pickle
import queue
import subprocess
import sys
import threading

import fill_rule
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr import checkpoint, hub
from mtslvr.cli.embed import embed_command
from mtslvr.config import AdapterKind, EncoderConfig, Features, FrontendConfig, Phase, Rows
from mtslvr.encoder import Encoder
from mtslvr.errors import ConfigError
from mtslvr.extract import ExtractConfig, Source, extract, warm_up
from mtslvr.openvino import OpenVINOEngine
from mtslvr.workers import Workers
from mtslvr.writer import read_npz

openvino = pytest.importorskip("openvino", reason="needs the extra: pip install 'mtslvr[openvino]'")

ALL_VARIANTS = list(fill_rule.manifest()["variants"])
BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bfloat16 = pytest.mark.skipif(not BFLOAT16, reason="this processor has no bfloat16 instructions")


def relative(found, expected):
    """Largest deviation of each row, in parts of the row's largest value."""
    found, expected = found.double(), expected.double()
    return ((found - expected).abs().amax(dim=1) / expected.abs().amax(dim=1)).max().item()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_engine(encoder, dtype=torch.float32):
    replaced = copy.deepcopy(encoder)
    replaced.engine = OpenVINOEngine(replaced, dtype)
    return replaced


@pytest.fixture(scope="module")
def model(tmp_path_factory, unfolded_encoder):
    return checkpoint.save(unfolded_encoder, tmp_path_factory.mktemp("model"), dtype=torch.float32)


@pytest.fixture(scope="module")
def loaded(model):
    return mtslvr.load(model, engine="openvino")


# The numbers


@pytest.mark.parametrize("variant", ALL_VARIANTS)
@torch.inference_mode()
def test_equals_torch_folded_and_unfolded(official_encoder, variant):
    unfolded = official_encoder(variant)
    folded = unfolded.fold()
    engine = with_engine(folded)
    spectrogram = unfolded.frontend(noise(2, 30000))
    for layer in ("head", "pooled"):
        found = engine.encode_spectrogram(spectrogram, layer)
        for encoder in (folded, unfolded):
            expected = encoder.encode_spectrogram(spectrogram, layer)
            assert relative(found.invariant, expected.invariant) <= 1e-5
            assert relative(found.variant, expected.variant) <= 1e-5
            assert found.concat.shape == expected.concat.shape


@pytest.mark.parametrize(("n_mels", "frames"), [(128, 1), (128, 2), (128, 33), (97, 40), (63, 79), (8, 157), (40, 5)])
@torch.inference_mode()
def test_odd_and_small_sizes(encoder, n_mels, frames):
    spectrogram = noise(2, 3, n_mels, frames)
    found = OpenVINOEngine(encoder)(spectrogram, (0, 1))
    shared = encoder.shared(spectrogram)
    for task in (0, 1):
        assert relative(found[task], encoder.pooled(shared, spectrogram, task)) <= 1e-5


@torch.inference_mode()
def test_rows_do_not_depend_on_their_batch(loaded):
    spectrogram = noise(32, 3, 128, 32)
    whole = loaded.engine(spectrogram, (0, 1))
    for size in (1, 5):
        parts = [loaded.engine(part, (0, 1)) for part in spectrogram.split(size)]
        for task in (0, 1):
            assert torch.equal(torch.cat([part[task] for part in parts]), whole[task]), size
    assert [features.shape for features in loaded.engine(spectrogram[:0], (1,))] == [(0, 512)]


@torch.inference_mode()
def test_results_stay_when_the_next_batch_comes(loaded):
    first = loaded.engine(noise(1, 3, 128, 32), (0,))[0]
    before = first.clone()
    loaded.engine(noise(1, 3, 128, 32, seed=1), (0,))
    assert torch.equal(first, before)


@torch.inference_mode()
def test_one_embedding_alone_equals_that_of_both(loaded, encoder):
    x = noise(3, 16000)
    both = loaded(x)
    for features in ("invariant", "variant"):
        found = loaded.embedding(x, features)
        assert relative(found, getattr(both, features)) <= 1e-6
        assert relative(found, encoder.embedding(x, features)) <= 1e-5


@torch.inference_mode()
def test_spectral_statistics_come_beside_the_engine():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frontend = FrontendConfig(epsilon=1e-3, phase=Phase.STABLE, channels=1)
        config = EncoderConfig(frontend, adapter=AdapterKind.SERIES, spectral_statistics=True)
        encoder = Encoder(config).eval().fold()
    x = noise(2, 9000)
    assert relative(with_engine(encoder)(x).variant, encoder(x).variant) <= 1e-5


@pytest.mark.parametrize("variant_rows", [(0, 4), (0, 2), (3, 4)])
@torch.inference_mode()
def test_rows_of_the_last_stages(variant_rows):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = {"invariant_rows": Rows((2, 4), (1, 3)), "variant_rows": Rows((0, 0), variant_rows)}
        encoder = Encoder(EncoderConfig(spectral_statistics=True, **rows)).eval().fold()
    x, engine = noise(2, 9000), with_engine(encoder)
    for layer in ("head", "pooled"):
        found, expected = engine(x, layer), encoder(x, layer)
        assert relative(found.invariant, expected.invariant) <= 1e-5
        assert relative(found.variant, expected.variant) <= 1e-5
    nothing = engine.engine(torch.zeros(0, 3, 128, 5), (1, 0))
    count = variant_rows[1] - variant_rows[0]
    assert [features.shape for features in nothing] == [(0, 512 * count), (0, 1536)]
    assert torch.equal(pickle.loads(pickle.dumps(engine))(x).concat, engine(x).concat)


@needs_bfloat16
@pytest.mark.parametrize("variant", ["none_c3", "series_c3_s2", "parallel_c1_s2"])
@torch.inference_mode()
def test_bfloat16_is_near_and_is_not_float32(official_encoder, variant):
    encoder = official_encoder(variant).fold()
    engine = with_engine(encoder, torch.bfloat16)
    assert engine.dtype is torch.bfloat16 and encoder.dtype is torch.float32
    spectrogram = encoder.frontend(noise(4, 30000))
    found, expected = engine.encode_spectrogram(spectrogram).concat, encoder.encode_spectrogram(spectrogram).concat
    assert found.dtype is torch.float32
    assert 1e-4 < relative(found, expected) <= 2e-2


# Windows of the encoder's own length, by Winograd's algorithm


def convolutions(engine):
    """How many the only network of an engine has, and for how many rows it is."""
    [(network, idle)] = engine._networks.items()
    nodes = idle.get().get_compiled_model().get_runtime_model().get_ops()
    layers = [node.get_rt_info()["layerType"].astype(str) for node in nodes]
    return layers.count("Convolution"), network.batch


@pytest.mark.parametrize(("frames", "expected"), [(32, (1 + 4 * 6 + 2 * (3 * 5 + 9 * 6), 4)), (31, (29, 0))])
@torch.inference_mode()
def test_windows_are_convolved_by_winograds_algorithm_and_other_lengths_directly(encoder, frames, expected):
    engine, spectrogram = with_engine(encoder), noise(4, 3, 128, frames)
    found, directly = engine.encode_spectrogram(spectrogram), encoder.encode_spectrogram(spectrogram)
    assert relative(found.concat, directly.concat) <= 1e-5
    assert convolutions(engine.engine) == expected


@pytest.mark.parametrize(
    ("n_mels", "rows", "expected"),
    [
        (48, None, 1 + 4 * 6 + 2 * 12),  # 12, 6, 3 and 2 rows: only stage 1 has tiles
        (64, None, 1 + 4 * 6 + 2 * (2 * (5 + 3 * 6) + 4)),  # 16, 8, 4 and 2: all but stage 4
        (
            256,
            (3, 5),
            1 + 4 * 6 + 2 * (3 * 5 + 8 * 6) + 6 + 1,
        ),  # 64, 32, 16 and 8: all, but not some of two tiles' rows
    ],
)
@torch.inference_mode()
def test_heights_that_do_not_fit_tiles_are_convolved_directly(randomize, n_mels, rows, expected):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        read = None if rows is None else Rows((0, 0), rows)
        config = EncoderConfig(FrontendConfig(n_mels=n_mels, epsilon=1e-3), window_seconds=1.0, invariant_rows=read)
        encoder = randomize(Encoder(config)).eval().fold()
    engine, spectrogram = with_engine(encoder), noise(4, 3, n_mels, 32)
    found, exact = engine.encode_spectrogram(spectrogram), encoder.encode_spectrogram(spectrogram)
    assert relative(found.invariant, exact.invariant) <= 1e-5 and relative(found.variant, exact.variant) <= 1e-5
    assert convolutions(engine.engine) == (expected, 4)


@pytest.mark.parametrize("seconds", [0.1, 1.15, 2.0])  # 4, 36, 63 frames: widths of 1, 9, 16 in stage 1
@pytest.mark.parametrize("kind", list(AdapterKind))
@torch.inference_mode()
def test_windows_of_any_width(kind, seconds):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = {AdapterKind.NONE: {"tasks": 1, "heads": 1}, AdapterKind.SPLIT: {"tasks": 1}}.get(kind, {})
        rows = {} if kind is AdapterKind.SPLIT else {"invariant_rows": Rows((2, 4), (1, 3))}
        config = EncoderConfig(adapter=kind, window_seconds=seconds, **plain, **rows)
        encoder = Encoder(config).eval().fold()
    engine, spectrogram = with_engine(encoder), noise(5, 3, 128, encoder.config.window_frames)
    found, exact = engine.encode_spectrogram(spectrogram), encoder.encode_spectrogram(spectrogram)
    assert relative(found.invariant, exact.invariant) <= 1e-5 and relative(found.variant, exact.variant) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)])
@torch.inference_mode()
def test_a_window_does_not_depend_on_its_batch_or_its_network(encoder, dtype):
    engine, spectrogram, threads = OpenVINOEngine(encoder, dtype), noise(17, 3, 128, 32), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        whole = engine(spectrogram, (0, 1))
        for size in (1, 2, 3, 4, 7, 8, 13):
            parts = [engine(part, (0, 1)) for part in spectrogram.split(size)]
            for task in (0, 1):
                assert torch.equal(torch.cat([part[task] for part in parts]), whole[task]), size
        torch.set_num_threads(1)
        assert torch.equal(engine(spectrogram[:1], (1,))[0], whole[1][:1])
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def test_windows_fill_the_network_for_more_until_one_for_fewer_pays(encoder):
    engine, spectrogram, threads = OpenVINOEngine(encoder), noise(9, 3, 128, 32), torch.get_num_threads()
    expected = None
    try:
        torch.set_num_threads(1)
        for rows, batches in [
            (9, [8]),  # 7 rows of zeros
            (1, [8]),  # 14
            (1, [8]),  # 21
            (1, [8]),  # 28
            (5, [8]),  # 31 of 32
            (6, [8]),  # three quarters of a network are rows: as fast in it as in others
            (4, [8, 4]),
            (7, [8, 4]),
            (5, [8, 4, 1]),
            (3, [8, 4, 1]),
            (2, [8, 4, 1]),
            (9, [8, 4, 1]),
        ]:
            found = engine(spectrogram[:rows], (0,))[0]
            expected = found if expected is None else expected
            assert torch.equal(found, expected[:rows])
            assert sorted((network.batch for network in engine._networks), reverse=True) == batches, rows
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("rows", "expected"), [(6, [4]), (8, [4]), (15, [4]), (16, [8]), (17, [8])])
@torch.inference_mode()
def test_two_threads_have_a_network_for_eight_only_where_there_are_eight_windows_for_each(encoder, rows, expected):
    engine, threads = OpenVINOEngine(encoder), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        engine(noise(rows, 3, 128, 32), (0,))
        assert [network.batch for network in engine._networks] == expected
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("features", ["concat", "variant"])
@torch.inference_mode()
def test_for_a_single_window_torch_uses_one_thread_and_the_engine_all(encoder, features):
    threads, seen, engine = torch.get_num_threads(), [], with_engine(encoder)
    inner = engine.engine

    def look(spectrogram, tasks):
        found = inner(spectrogram, tasks)
        seen.append((torch.get_num_threads(), [network.threads for network in inner._networks]))
        return found

    engine.engine = look
    try:
        torch.set_num_threads(2)
        engine.embedding(noise(1, 16000), features)
        assert seen == [(1, [1, 1] if features == "concat" else [2])] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def test_single_windows_need_no_network_for_more(encoder):
    engine, threads, compiled = OpenVINOEngine(encoder), torch.get_num_threads(), []
    try:
        for count, tasks in ((1, [(0, 1)]), (2, [(0,), (1,)])):  # with two threads a path on each
            torch.set_num_threads(count)
            compiled += [(1, task) for task in tasks]
            for seed in range(3):
                engine(noise(1, 3, 128, 32, seed=seed), (0, 1))
            assert [(network.batch, network.tasks) for network in engine._networks] == compiled
    finally:
        torch.set_num_threads(threads)


# How it is called


def test_load_gives_an_encoder_on_the_cpu_that_embeds(loaded, encoder):
    assert isinstance(loaded.engine, OpenVINOEngine) and loaded.folded
    assert loaded.device == torch.device("cpu") and loaded.dtype is torch.float32
    audio = [noise(40000, seed=seed).numpy() for seed in (0, 1)]
    found, expected = (mtslvr.embed(audio, 16000, encoder=e) for e in (loaded, encoder))
    assert found.shape == (2, 1000)
    assert relative(torch.from_numpy(found), torch.from_numpy(expected)) <= 1e-5


@torch.inference_mode()
def test_threads_of_torch_are_those_of_the_engine(loaded):
    spectrogram, threads = noise(2, 3, 128, 32), torch.get_num_threads()
    whole = loaded.engine(spectrogram, (0,))[0]
    other = 1 if threads > 1 else 2
    try:
        torch.set_num_threads(other)
        assert torch.equal(loaded.engine(spectrogram, (0,))[0], whole)
    finally:
        torch.set_num_threads(threads)
    compiled = [idle.get().get_compiled_model() for idle in loaded.engine._networks.values()]
    loaded.engine._networks.clear()  # their requests were taken
    assert {threads, other} <= {model.get_property("INFERENCE_NUM_THREADS") for model in compiled}


@torch.inference_mode()
def test_several_threads_may_call_it(encoder):
    engine = OpenVINOEngine(encoder)
    batches = [noise(2, 3, 128, 32, seed=seed) for seed in range(4)]
    found = {}

    def work(index):
        for _ in range(5):
            found[index] = engine(batches[index], (0, 1))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, batch in enumerate(batches):
        for ours, expected in zip(found[index], engine(batch, (0, 1)), strict=True):
            assert torch.equal(ours, expected)


class MetBy2(queue.SimpleQueue):
    """A request is given out when two have been asked for."""

    def __init__(self, requests):
        super().__init__()
        self.both = threading.Barrier(2, timeout=60)
        for request in requests:
            self.put(request)

    def get(self):
        self.both.wait()
        return super().get()


@torch.inference_mode()
def test_workers_calls_run_side_by_side_on_one_network(encoder):
    engine = OpenVINOEngine(encoder)
    batches = noise(6, 2, 3, 128, 32)
    expected = [engine(batch, (0, 1)) for batch in batches]
    engine._networks.clear()
    workers, threads = Workers(2), torch.get_num_threads()
    try:
        torch.set_num_threads(2)

        def call(batch):
            with torch.inference_mode():
                return engine(batch, (0, 1))

        workers.submit(call, batches[:1])[0].result()
        [(key, idle)] = engine._networks.items()
        assert (key.batch, key.threads, key.streams) == (1, 2, 2)
        engine._networks[key] = MetBy2([idle.get(), idle.get()])
        for future, features in zip(workers.submit(call, batches), expected, strict=True):
            assert all(map(torch.equal, future.result(), features))
        assert list(engine._networks) == [key] and engine._networks[key].qsize() == 2
    finally:
        workers.close()
        torch.set_num_threads(threads)


@pytest.mark.parametrize("features", ["concat", "variant"])
@pytest.mark.parametrize(("seconds", "windows"), [(0.7, 9), (1.0, 9), (1.0, 1)])
def test_warming_up_compiles_what_a_run_needs_and_nothing_else(encoder, features, seconds, windows):
    engine = with_engine(encoder)
    config = ExtractConfig(Features(features), window_seconds=seconds, batch_size=8)
    warm_up(engine, config)
    compiled = dict(engine.engine._networks)
    assert len(compiled) == 1
    samples = round(windows * seconds * 16000)
    sources = [Source(noise(samples, seed=seed).numpy(), 16000) for seed in range(1 if windows == 1 else 2)]
    assert [len(found.embeddings) for found in extract(sources, engine, config)] == [1] * len(sources)
    assert dict(engine.engine._networks) == compiled


@torch.inference_mode()
def test_a_request_that_failed_is_used_again(encoder, monkeypatch):
    engine, batch = OpenVINOEngine(encoder), noise(1, 3, 128, 32)
    expected = engine(batch, (0,))[0]
    with monkeypatch.context() as patch:
        wait = openvino.InferRequest.wait
        patch.setattr(openvino.InferRequest, "wait", lambda request: wait(request) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine(batch, (0,))
    assert [idle.qsize() for idle in engine._networks.values()] == [1]
    assert torch.equal(engine(batch, (0,))[0], expected)


@torch.inference_mode()
def test_few_compiled_networks_are_kept(encoder):
    engine = OpenVINOEngine(encoder)
    for frames in range(10, 16):
        engine(noise(1, 3, 32, frames), (0,))
    assert [network.shape[2] for network in engine._networks] == [12, 13, 14, 15]
    engine(noise(1, 3, 32, 12), (0,))
    assert [network.shape[2] for network in engine._networks] == [13, 14, 15, 12]


@torch.inference_mode()
def test_a_copy_and_a_pickle_compute_the_same(loaded):
    x = noise(1, 16000)
    expected = loaded(x).concat
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert other.engine is not loaded.engine
        assert torch.equal(other(x).concat, expected)


@torch.inference_mode()
def test_features_are_cached_apart_for_each_precision(encoder):
    from mtslvr.fewshot.features import fingerprint

    engine, half = with_engine(encoder), with_engine(encoder)
    half.engine.dtype = torch.bfloat16
    assert len({fingerprint(e) for e in (encoder, engine, half)}) == 3


def test_nothing_is_sent_or_written(model, tmp_path):
    """OpenVINO itself would report that it was imported, and keep a count of that in the home folder."""
    code = """
import json, sys
seen = []
kinds = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork")
sys.addaudithook(lambda event, arguments: seen.append(event) if event in kinds else None)
import mtslvr, torch
encoder = mtslvr.load(sys.argv[1], engine="openvino")
assert encoder(torch.zeros(1, 16000)).concat.shape == (1, 1000)
print(json.dumps([seen, "openvino_telemetry" in sys.modules]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, model], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], False]
    assert list(tmp_path.iterdir()) == []


# What cannot be


def test_without_openvino(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"engine='openvino': .*pip install 'mtslvr\[openvino\]'"):
        mtslvr.load(model, engine="openvino")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "tensorrt"}, r"engine='tensorrt': unknown; use 'torch' or 'openvino'"),
        ({"engine": "openvino", "fold": False}, r"engine='openvino' with fold=False: .*leave fold=True"),
        ({"engine": "openvino", "device": "meta"}, r"device='meta' with engine='openvino': use device='cpu'"),
    ],
)
def test_what_does_not_go_together(model, arguments, message):
    with pytest.raises(ConfigError, match=message):
        mtslvr.load(model, **arguments)


def test_cuda_is_refused_and_auto_is_the_cpu(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert mtslvr.load(model, engine="openvino").device == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device='cuda' with engine='openvino': use device='cpu', or engine='torch'"):
        hub.check_processor(torch.device("cuda"), False, True)


def test_an_unfolded_encoder_is_refused(unfolded_encoder):
    with pytest.raises(ConfigError, match="folded networks only"):
        OpenVINOEngine(unfolded_encoder)


def test_bfloat16_where_there_is_none(encoder, monkeypatch):
    class Core:
        def get_property(self, device, name):
            return {"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"], "FULL_DEVICE_NAME": "Old Processor"}[name]

    monkeypatch.setattr(openvino, "Core", Core)
    with pytest.raises(ConfigError, match=r"dtype='bfloat16': Old Processor has no bfloat16 .*use dtype='float32'"):
        OpenVINOEngine(encoder, torch.bfloat16)


# The command line


def run(*arguments):
    return CliRunner().invoke(embed_command, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "a.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(40000), 16000)
    return path


def test_the_command_runs_it_and_may_go_on_with_torch(model, recording, tmp_path):
    out = tmp_path / "out.npz"
    result = run(recording, "-o", out, "--model", model, "--engine", "openvino")
    assert result.exit_code == 0, result.output
    table = read_npz(out)
    assert table.settings["engine"] == "openvino" and "dtype" not in table.settings
    expected = mtslvr.embed(recording, encoder=mtslvr.load(model))
    assert relative(torch.from_numpy(table.embeddings), torch.from_numpy(expected)[None]) <= 1e-5
    assert run(recording, "-o", out, "--model", model).exit_code == 0


@needs_bfloat16
def test_bfloat16_is_not_mixed_with_float32(model, recording, tmp_path):
    out = tmp_path / "out.npz"
    half = "--engine", "openvino", "--dtype", "bfloat16"
    result = run(recording, "-o", out, "--model", model, *half)
    assert result.exit_code == 0, result.output
    assert read_npz(out).settings["dtype"] == "bfloat16"
    refused = run(recording, "-o", out, "--model", model, "--engine", "openvino")
    assert refused.exit_code == 2 and "begun with dtype 'bfloat16', now 'float32'" in refused.output
    assert run(recording, "-o", out, "--model", model, *half).exit_code == 0


def test_the_command_names_what_is_missing(model, recording, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    result = run(recording, "-o", tmp_path / "out.npz", "--model", model, "--engine", "openvino")
    assert result.exit_code == 2 and "pip install 'mtslvr[openvino]'" in result.output
