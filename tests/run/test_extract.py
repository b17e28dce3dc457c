import copy
import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mtslvr.audio.windows import Pool
from mtslvr.config import Features, Layer
from mtslvr.errors import ConfigError
from mtslvr.run import extract
from mtslvr.run.extract import ExtractConfig, Source
from mtslvr.workers import on_one_thread

RATE = 16000
SECONDS = (0.3, 1.2, 2.6, 0.1, 4.0, 0.7)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("extract"), np.random.default_rng(0)
    for i, seconds in enumerate(SECONDS):
        soundfile.write(root / f"{i}.flac", 0.1 * rng.standard_normal((int(44100 * seconds), 2)), 44100)
    return [str(file) for file in sorted(root.iterdir())]


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def embed(audio, encoder, **changes):
    config = ExtractConfig(**{"pool": Pool.NONE, "window_seconds": 0.5, **changes})
    return list(extract.extract([Source(one) for one in audio], encoder, config))


def rows(results):
    assert [result.index for result in results] == list(range(len(results)))
    return np.concatenate([result.embeddings for result in results])


def test_neither_batches_nor_threads_show_in_the_embeddings(files, encoder, torch_threads):
    torch_threads(1)
    expected = rows(embed(files, encoder, batch_size=16, threads=1))
    assert len(expected) == sum(-(-round(seconds * 10) // 5) for seconds in SECONDS)
    for batch_size, threads, count in [(1, 3, 1), (5, 2, 2), (32, 8, 3)]:
        torch_threads(count)
        found = rows(embed(files, encoder, batch_size=batch_size, threads=threads))
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def watched(encoder, look):
    """A copy of an encoder that calls `look` with each piece of a batch."""
    copied = copy.deepcopy(encoder)
    copied.trunk.register_forward_pre_hook(lambda module, inputs: look(inputs[0]))
    return copied


def test_parts_of_a_batch_run_side_by_side_with_one_torch_thread_each(files, encoder, torch_threads):
    torch_threads(3)
    together, seen = threading.Barrier(3, timeout=60), []

    def look(piece):
        seen.append((len(piece), torch.get_num_threads()))
        together.wait()

    embed(files[4:5], watched(encoder, look), batch_size=8)  # 8 windows
    assert sorted(seen) == [(2, 1), (3, 1), (3, 1)]
    assert torch.get_num_threads() == 3


@torch.inference_mode()
def test_rows_are_those_of_the_encoder_itself(files, encoder):
    windows = np.random.default_rng(0).uniform(-1, 1, (5, 16000)).astype(np.float32)
    for features in Features:
        for layer in Layer:
            config = ExtractConfig(features, layer, Pool.NONE)
            [found] = extract.extract([Source(windows.ravel(), RATE)], encoder, config)
            expected = encoder(torch.from_numpy(windows), layer).select(features).numpy()
            np.testing.assert_allclose(found.embeddings, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_an_encoder_in_training_mode_is_evaluated_and_left_as_it_is(files, unfolded_encoder):
    expected = rows(embed(files[:3], unfolded_encoder))
    trained = copy.deepcopy(unfolded_encoder).train()
    trained.heads.eval()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    assert np.array_equal(rows(embed(files[:3], trained)), expected)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert trained.training and trained.trunk.stem.norms[0].training and not trained.heads.training


class Slow(io.BytesIO):
    def seek(self, *place):
        found = super().seek(*place)
        time.sleep(0.001)  # lets other threads read
        return found


def test_one_open_file_given_several_times_has_the_same_row_each_time(encoder, files):
    file = Slow(Path(files[4]).read_bytes())
    found = embed([file, files[2], file, file], encoder, pool=Pool.MEAN, threads=4)
    expected = embed([files[i] for i in (4, 2, 4, 4)], encoder, pool=Pool.MEAN, threads=4)
    for result, wanted in zip(found, expected, strict=True):
        assert result.error is None and np.array_equal(result.spans, wanted.spans)
        np.testing.assert_array_equal(result.embeddings, wanted.embeddings)


def test_a_full_batch_begins_before_the_next_is_read(encoder, files):
    begun = threading.Event()

    def sources():
        yield Source(files[4])  # 8 windows
        assert begun.wait(60)
        yield Source(files[2])

    config = ExtractConfig(window_seconds=0.5, batch_size=8, threads=1)
    assert len(list(extract.extract(sources(), watched(encoder, lambda _: begun.set()), config))) == 2


def test_batches_that_have_not_begun_when_the_iteration_is_ended_are_dropped(files, encoder, torch_threads):
    torch_threads(1)
    seen, ended = [], threading.Event()

    def look(piece):
        seen.append(piece)
        assert len(seen) == 1 or ended.wait(60)

    config = ExtractConfig(window_seconds=0.5, batch_size=2)
    results = extract.extract(map(Source, files), watched(encoder, look), config)
    next(results)
    results.close()
    ended.set()
    on_one_thread(int)  # behind what was begun
    assert len(seen) <= 2


@pytest.mark.parametrize("pool", Pool)
def test_a_file_that_fails_midway_gives_no_embedding_and_the_rest_go_on(files, encoder, tmp_path, pool):
    broken, samples = tmp_path / "broken.wav", np.zeros(RATE * 8, np.float32)
    samples[RATE * 7] = np.nan
    soundfile.write(broken, samples, RATE, subtype="FLOAT")
    first, failed, last = embed([files[1], broken, files[2]], encoder, batch_size=2, pool=pool)
    assert len(failed.embeddings) == len(failed.spans) == 0
    assert str(failed.error).startswith(f"{broken}: NaN or infinite samples")
    for result, file in ((first, files[1]), (last, files[2])):
        [alone] = embed([file], encoder, batch_size=2, pool=pool)
        assert result.error is None and len(result.embeddings) == len(alone.embeddings)
        atol = 1e-5 * np.abs(alone.embeddings).max()
        np.testing.assert_allclose(result.embeddings, alone.embeddings, rtol=0, atol=atol)


def test_out_of_memory_says_what_to_do(files, encoder):
    def run_out(piece):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    said = r"8 windows of 8000 samples: out of memory on cpu \(CUDA out of memory.*GiB\.\); use a smaller batch_size"
    with pytest.raises(ConfigError, match=said):
        embed(files, watched(encoder, run_out), batch_size=8)
