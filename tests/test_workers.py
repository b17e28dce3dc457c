import os
import threading

import pytest
import torch

from mtslvr import workers
from mtslvr.workers import Workers, parts_of, side_by_side, sparing, threads_here


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_workers_share_the_threads_and_give_them_back(torch_threads):
    torch_threads(4)
    pool = Workers(2)
    both = threading.Barrier(2, timeout=60)

    def threads(_):
        both.wait()
        return torch.get_num_threads()

    try:
        assert [future.result() for future in pool.submit(threads, range(2))] == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        pool.close()


def test_torch_leaves_its_threads_to_an_engine(torch_threads):
    def look(rows):
        return torch.get_num_threads(), threads_here(), torch.is_inference_mode_enabled(), rows.sum().item()

    torch_threads(3)
    assert sparing(look, torch.ones(2)) == (1, 3, False, 2)
    with torch.inference_mode():
        assert sparing(look, torch.ones(2)) == (1, 3, True, 2)
    assert torch.get_num_threads() == threads_here() == 3
    with pytest.raises(ZeroDivisionError):
        sparing(lambda rows: 1 / 0, torch.ones(1))
    torch_threads(4)
    assert sparing(look, torch.ones(2))[:2] == (1, 4)
    torch_threads(1)
    assert sparing(lambda _: threading.current_thread(), torch.ones(1)) is threading.current_thread()


@pytest.mark.parametrize(
    ("rows", "threads", "parts"), [(0, 4, 1), (1, 4, 1), (3, 2, 2), (9, 3, 2), (16, 16, 16), (12, 64, 8), (100, 6, 4)]
)
def test_parts_are_a_power_of_two_and_no_more_than_rows_or_threads(rows, threads, parts):
    assert parts_of(rows, threads) == parts


@pytest.mark.parametrize(
    ("rows", "threads", "sizes"),
    [
        *[(8, 2, [4, 4]), (11, 2, [6, 5]), (3, 2, [3]), (8, 1, [8]), (1, 2, [1]), (9, 4, [9])],
        *[(40, 1, [14, 14, 12]), (70, 2, [12, 12, 12, 12, 12, 10]), (32, 2, [16, 16]), (0, 2, [0])],
    ],
)
def test_rows_are_divided_where_parts_come_out_nearly_equal(torch_threads, rows, threads, sizes):
    torch_threads(threads)
    x = torch.arange(rows)
    parts = side_by_side(lambda part: part.clone(), x)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), x)


def test_parts_run_at_once_in_the_mode_of_the_caller(torch_threads):
    torch_threads(2)
    both = threading.Barrier(2, timeout=60)

    def mode(_):
        both.wait()
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_num_threads()

    assert side_by_side(mode, torch.zeros(4)) == [(False, False, 1)] * 2
    with torch.inference_mode():
        assert side_by_side(mode, torch.zeros(4)) == [(True, False, 1)] * 2


def test_a_worker_divides_nothing_further(torch_threads):
    torch_threads(4)

    def divide(part):
        return len(side_by_side(lambda rows: rows, part))

    assert side_by_side(divide, torch.zeros(8)) == [1, 1, 1, 1]


def test_an_error_of_a_part_is_the_callers(torch_threads):
    torch_threads(2)

    def fail(part):
        raise ValueError(f"{len(part)} rows")

    with pytest.raises(ValueError, match="2 rows"):
        side_by_side(fail, torch.zeros(4))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_starts_its_own_threads(torch_threads):
    torch_threads(2)
    side_by_side(len, torch.zeros(4))
    assert workers._shared.cache_info().currsize > 0
    child = os.fork()
    if child == 0:
        os._exit(0 if workers._shared.cache_info().currsize == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
