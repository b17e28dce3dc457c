import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from mtslvr import onednn
from mtslvr.onednn import Kernel, fused_operators, has_bfloat16

BFLOAT16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16 arithmetic"),
)
pytestmark = pytest.mark.skipif(not fused_operators(), reason="needs oneDNN's fused operators, on x86")

# oneDNN tells on standard output what it does; calls that are the third of their kind begin with a line of their own.
CALLS = """
import torch, mtslvr
encoder = mtslvr.load(device="cpu")
for threads in (2, 1):
    torch.set_num_threads(threads)
    for seconds in (5.0, 1.3):
        for rows in (1, 3):
            waveforms = torch.randn(rows, int(16000 * seconds), generator=torch.Generator().manual_seed(rows))
            with torch.inference_mode():
                for time in range(3):
                    print("third" if time == 2 else "earlier", threads, seconds, rows, flush=True)
                    encoder.embedding(waveforms)
"""


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count, height, width, channels=24):
    return noise(count, channels, height, width, seed=width).to(memory_format=torch.channels_last)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def laid_out(monkeypatch):
    """Shapes of the images that a kernel was laid out for."""
    shapes, reorder = [], torch.ops.mkldnn._reorder_convolution_weight

    def note(*args):
        shapes.append(tuple(args[-1]))
        return reorder(*args)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", note)
    return shapes


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_no_call_lays_out_weights_that_it_has_laid_out(instructions):
    environment = {**os.environ, "ONEDNN_VERBOSE": "1", "ONEDNN_MAX_CPU_ISA": instructions}
    told = subprocess.run([sys.executable, "-c", CALLS], env=environment, capture_output=True, text=True, check=True)
    lines, calls = told.stdout.splitlines(), []
    for line in lines:
        if line.startswith(("earlier", "third")):
            calls.append((line, []))
        elif calls and ",exec," in line:
            calls[-1][1].append(line)
    third = [(name, done) for name, done in calls if name.startswith("third")]
    assert len(third) == 8
    for name, done in third:
        assert sum("convolution" in line for line in done) > 20, name
        assert not [line for line in done if "reorder" in line], name


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@torch.inference_mode()
def test_it_is_the_convolution_every_time(threads, groups, dtype):
    weight, bias = noise(40, 24 // groups, 3, 3).to(dtype), noise(40).to(dtype)
    kernel = Kernel(weight, (1, 0), (2, 1), groups)
    for time in range(3):
        for count, height, width in [(2, 9, 8), (1, 5, 30), (3, 6, 3)]:
            threads(1 + time % 2)
            x = images(count, height, width).to(dtype)
            exact = F.conv2d(x.double(), weight.double(), bias.double(), (2, 1), (1, 0), 1, groups)
            add = noise(*exact.shape).to(dtype).to(memory_format=torch.channels_last)
            results = [(kernel.convolve(x, bias), exact), (kernel.convolve(x, bias, relu=True), exact.relu())]
            if groups == 1:
                results.append((kernel.convolve(x, bias, add), exact + add))
                results.append((kernel.convolve(x, bias, add, relu=True), (exact + add).relu()))
            for found, expected in results:
                assert found.dtype is dtype and found.is_contiguous(memory_format=torch.channels_last)
                tolerance = 1e-6 if dtype is torch.float32 else 1e-2
                assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@torch.inference_mode()
def test_weights_are_laid_out_for_the_first_images_and_for_others_the_second_time(threads, laid_out):
    threads(1)
    kernel, bias = Kernel(noise(40, 24, 3, 3), (1, 1), (1, 1)), noise(40)
    kernel.convolve(images(2, 9, 8), bias)
    assert laid_out == [(2, 24, 9, 8)]
    for _ in range(2):
        kernel.convolve(images(1, 9, 8), bias)  # one thread: for any number of images
    kernel.convolve(images(1, 4, 5), bias)
    assert laid_out == [(2, 24, 9, 8)]
    for _ in range(3):
        kernel.convolve(images(3, 4, 5), bias)
    assert laid_out == [(2, 24, 9, 8), (3, 24, 4, 5)]
    threads(2)
    for _ in range(2):
        for count in (1, 2):  # how two threads divide their work depends on it
            kernel.convolve(images(count, 4, 5), bias)
    assert laid_out == [(2, 24, 9, 8), (3, 24, 4, 5), (1, 24, 4, 5), (2, 24, 4, 5)]


@torch.inference_mode()
def test_copies_and_what_is_remembered_are_few(threads, monkeypatch):
    threads(1)
    kernel, bias, describe = Kernel(noise(40, 24, 3, 3), (1, 1), (1, 1)), noise(40), "_get_mkldnn_serialized_md"
    with monkeypatch.context() as patch:  # all as if in the same order
        patch.setattr(torch.ops.mkldnn, describe, lambda _: torch.zeros(1, dtype=torch.uint8))
        for width in (4, 5, 5, 6, 6):
            kernel.convolve(images(1, 4, width), bias)
        assert len(kernel._laid_out) == 1 and len(kernel._orders) == 3
    described = iter(range(1, 256))  # each as if in an order of its own
    monkeypatch.setattr(torch.ops.mkldnn, describe, lambda _: torch.tensor([next(described)], dtype=torch.uint8))
    for width in range(3, 3 + 2 * onednn._IMAGES):
        for _ in range(2):
            kernel.convolve(images(1, 4, width), bias)
        kernel.convolve(images(1, 4, 4), bias)
    assert bytes(1) in kernel._laid_out  # what is used between all others stays
    assert len(kernel._laid_out) == onednn._ORDERS
    assert len(kernel._orders) == onednn._IMAGES
    x = images(1, 4, 4)
    torch.testing.assert_close(kernel.convolve(x, bias), F.conv2d(x, kernel.weight, bias, padding=1))
