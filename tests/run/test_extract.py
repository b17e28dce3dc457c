import copy
import io
import threading
import time

import numpy as np
import pytest
import torch

from mtslvr.audio.windows import Pool
from mtslvr.errors import ConfigError
from mtslvr.run import extract
from mtslvr.run.extract import ExtractConfig, Source
from mtslvr.workers import on_one_thread

SECONDS = (0.3, 1.2, 2.6, 0.1, 4.0, 0.7)


@pytest.fixture(scope="module")
def files(tmp_path_factory, write):
    paths = [tmp_path_factory.mktemp("extract") / f"{i}.flac" for i in range(len(SECONDS))]
    for i, path in enumerate(paths):
        write(path, SECONDS[i], i, 44100, channels=2)
    return [str(path) for path in paths]


@pytest.fixture
def torch_threads():
    yield torch.set_num_threads
    torch.set_num_threads(1)


def embed(audio, encoder, **changes):
    config = ExtractConfig(**{"pool": Pool.NONE, "window_seconds": 0.5, **changes})
    return list(extract.extract([Source(one) for one in audio], encoder, config))


def rows(results):
    assert [result.index for result in results] == list(range(len(results)))
    return np.concatenate([result.embeddings for result in results])


def test_neither_batches_nor_threads_show_in_the_embeddings(files, encoder, torch_threads):
    expected = rows(embed(files, encoder, batch_size=16, threads=1))
    assert len(expected) == sum(-(-round(seconds * 10) // 5) for seconds in SECONDS)
    for batch_size, threads, count in [(1, 3, 1), (5, 2, 2), (32, 8, 3)]:
        torch_threads(count)
        found = rows(embed(files, encoder, batch_size=batch_size, threads=threads))
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def watched(encoder, look):
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


def test_an_encoder_in_training_mode_is_evaluated_and_left_as_it_is(files, unfolded_encoder):
    expected = rows(embed(files[:3], unfolded_encoder))
    trained = copy.deepcopy(unfolded_encoder).train()
    trained.heads.eval()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    assert np.array_equal(rows(embed(files[:3], trained)), expected)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert trained.training and trained.trunk.stem.norms[0].training and not trained.heads.training


def test_one_open_file_given_several_times_has_the_same_row_each_time(encoder, files):
    class Slow(io.FileIO):
        def seek(self, *place):
            found = super().seek(*place)
            time.sleep(0.001)  # lets other threads read
            return found

    file = Slow(files[4])
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


def test_batches_that_have_not_begun_when_the_iteration_is_ended_are_dropped(files, encoder):
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
def test_a_file_that_fails_midway_gives_no_embedding_and_the_rest_go_on(files, encoder, pool):
    broken = np.zeros(8 * 16000, np.float32)
    broken[-16000] = np.nan
    config = ExtractConfig(pool=pool, window_seconds=0.5, batch_size=2)
    sources = [Source(files[1]), Source(broken, 16000), Source(files[2])]
    first, failed, last = extract.extract(sources, encoder, config)
    assert len(failed.embeddings) == len(failed.spans) == 0 and "NaN or infinite samples" in str(failed.error)
    for result, file in ((first, files[1]), (last, files[2])):
        [alone] = embed([file], encoder, batch_size=2, pool=pool)
        atol = 1e-5 * np.abs(alone.embeddings).max()
        np.testing.assert_allclose(result.embeddings, alone.embeddings, rtol=0, atol=atol)


def test_out_of_memory_says_what_to_do(files, encoder):
    def run_out(piece):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    said = r"8 windows of 8000 samples: out of memory on cpu \(CUDA out of memory.*GiB\.\); use a smaller batch_size"
    with pytest.raises(ConfigError, match=said):
        embed(files, watched(encoder, run_out), batch_size=8)
