from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtslvr import winograd
from mtslvr.adapters import FoldedConv
from mtslvr.onednn import fused_operators, has_bfloat16

WITHOUT_BFLOAT16 = pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16 arithmetic")
BFLOAT16 = pytest.param(torch.bfloat16, marks=WITHOUT_BFLOAT16)
pytestmark = pytest.mark.skipif(not fused_operators(), reason="needs oneDNN's fused operators, on x86")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image(*shape, seed=0):
    return noise(*shape, seed=seed).to(memory_format=torch.channels_last)


def folded(channels, out_channels=None, kernel=3, stride=1):
    out_channels = out_channels or channels
    weight = noise(out_channels, channels, kernel, kernel) / (kernel * channels**0.5)
    like = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2)
    return FoldedConv([weight], [noise(out_channels, seed=1)], like)


@pytest.fixture
def used(monkeypatch):
    """Shapes that Winograd's algorithm was called with."""
    shapes, convolve = [], winograd.convolve

    def note(x, *others):
        shapes.append(tuple(x.shape))
        return convolve(x, *others)

    monkeypatch.setattr(winograd, "convolve", note)
    return shapes


@pytest.mark.parametrize(("height", "width"), [(16, 20), (8, 10), (4, 4), (4, 1), (8, 9), (16, 2), (12, 13)])
@pytest.mark.parametrize(("channels", "out_channels"), [(128, 128), (24, 40)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), pytest.param(torch.bfloat16, 2e-2, marks=WITHOUT_BFLOAT16)]
)
@torch.inference_mode()
def test_it_is_the_convolution(height, width, channels, out_channels, dtype, tolerance):
    weight = (noise(out_channels, channels, 3, 3, seed=1) / (3 * channels**0.5)).to(dtype)
    x, add = image(3, channels, height, width).to(dtype), image(3, out_channels, height, width, seed=3).to(dtype)
    bias = noise(out_channels, seed=2).to(dtype)
    before = x.clone(), add.clone()
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    kernel = winograd.kernel_of(weight)
    for found, expected in [
        (winograd.convolve(x, kernel, bias), exact),
        (winograd.convolve(x, kernel, bias, relu=True), exact.relu()),
        (winograd.convolve(x, kernel, bias, add), exact + add),
        (winograd.convolve(x, kernel, bias, add, relu=True), (exact + add).relu()),
    ]:
        assert found.dtype is dtype and found.is_contiguous(memory_format=torch.channels_last)
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    assert torch.equal(x, before[0]) and torch.equal(add, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@torch.inference_mode()
def test_an_image_does_not_depend_on_its_batch_or_the_threads(dtype):
    kernel = winograd.kernel_of(noise(128, 128, 3, 3).to(dtype))
    x, bias = image(16, 128, 16, 20).to(dtype), noise(128, seed=1).to(dtype)
    whole, threads = winograd.convolve(x, kernel, bias), torch.get_num_threads()
    for size in (1, 2, 5):
        assert torch.equal(torch.cat([winograd.convolve(part, kernel, bias) for part in x.split(size)]), whole), size
    try:
        for other in (1, 2, 3):
            torch.set_num_threads(other)
            assert torch.equal(winograd.convolve(x[:1], kernel, bias), whole[:1]), other
    finally:
        torch.set_num_threads(threads)


def test_a_call_leaves_the_results_of_others_alone(monkeypatch):
    kernel, bias = winograd.kernel_of(noise(128, 128, 3, 3)), noise(128, seed=1)
    images = [image(4, 128, 16, 20, seed=seed) for seed in range(8)]
    with monkeypatch.context() as patch:
        patch.setattr(winograd, "_KEPT", 0)
        expected = [winograd.convolve(x, kernel, bias) for x in images]

    def convolve(x):
        with torch.inference_mode():
            return winograd.convolve(x, kernel, bias)

    with ThreadPoolExecutor(2) as threads:
        found = [*threads.map(convolve, images), *map(convolve, images)]
    found.extend(winograd.convolve(x, kernel, bias) for x in images)  # memory from inference mode serves outside of it
    assert all(map(torch.equal, found, 3 * expected))


def test_memory_is_kept_between_calls_up_to_a_limit(monkeypatch):
    like = torch.empty(0)
    first = winograd._scratch("test", like, (4, 5))
    assert winograd._scratch("test", like, (2, 3)).data_ptr() == first.data_ptr()
    assert winograd._scratch("test", like.double(), (2, 3)).data_ptr() != first.data_ptr()
    monkeypatch.setattr(winograd, "_KEPT", 10)
    assert winograd._scratch("test", like, (4, 5)).data_ptr() != first.data_ptr()


def test_kernels_at_the_points_give_four_rows_exactly():
    """Of one column, in float64: the sums that `convolve` and the OpenVINO graph make of the points' products."""
    weight, column = noise(1, 1, 3, 3).double(), noise(6, seed=1).double()
    outer, inner = winograd.OUTER, winograd.INNER
    inputs = torch.tensor(
        [
            [1, 0, -winograd.SUM_OF_SQUARES, 0, 1, 0],
            [0, -outer * inner**2, -(inner**2), outer, 1, 0],
            [0, outer * inner**2, -(inner**2), -outer, 1, 0],
            [0, -inner * outer**2, -(outer**2), inner, 1, 0],
            [0, inner * outer**2, -(outer**2), -inner, 1, 0],
            [0, 1, 0, -winograd.SUM_OF_SQUARES, 0, 1],
        ],
        dtype=torch.float64,
    )
    powers = [[*(point**row for point in (0, outer, -outer, inner, -inner)), row == 3] for row in range(4)]
    outputs = torch.tensor(powers, dtype=torch.float64)
    middle = winograd.at_points(weight)[:, 0, 0, 0, 1]
    found = outputs @ (middle * (inputs @ column))
    expected = F.conv1d(column[None, None], weight[:, :, :, 1])[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "size", "dtype", "expected"),
    [
        ((128,), (16, 20), torch.float32, True),
        ((256,), (8, 10), torch.float32, True),
        pytest.param((256,), (8, 10), torch.bfloat16, True, marks=WITHOUT_BFLOAT16),
        ((128,), (4, 1), torch.float32, True),
        ((128,), (18, 20), torch.float32, False),  # tiles of four rows do not fit
        ((64,), (32, 40), torch.float32, False),
        ((512,), (4, 5), torch.float32, False),
        ((128, 256, 3, 2), (16, 20), torch.float32, False),
        ((128, 256, 1, 1), (16, 20), torch.float32, False),
        pytest.param((64,), (32, 40), torch.bfloat16, False, marks=WITHOUT_BFLOAT16),
    ],
)
@torch.inference_mode()
def test_a_folded_convolution_uses_it_where_it_is_faster(used, arguments, size, dtype, expected):
    module = folded(*arguments).to(dtype)
    x = image(2, arguments[0], *size).to(dtype)
    found, direct = module(x, 0), F.conv2d(x, module.weights[0], module.biases[0], module.stride, module.padding)
    assert used == ([tuple(x.shape)] if expected else [])
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert (found.float() - direct.float()).abs().max() <= tolerance * direct.abs().max()


@torch.no_grad()
def test_the_same_weights_serve_both_ways_and_may_change(used):
    module = folded(128)
    by_fours, others = image(1, 128, 16, 20), image(1, 128, 15, 20)
    before = module(by_fours, 0), module(others, 0)
    module.load_state_dict({name: 2 * value for name, value in module.state_dict().items()})
    for x, expected in zip((by_fours, others), before, strict=True):
        torch.testing.assert_close(module(x, 0), 2 * expected, rtol=1e-4, atol=1e-5)
    assert len(used) == 2
