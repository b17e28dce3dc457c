import copy
import math

import fill_rule
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig
from mtslvr.nn.encoder import Encoder
from mtslvr.nn.resnet import AdaptedConv, FoldedConv, ParallelAdapter, SeriesAdapter, pooled_shortcut

VARIANTS = fill_rule.manifest()["variants"]
SHAPES = [(6, 10, 3, 2), (8, 8, 3, 1), (3, 8, 7, 2), (6, 10, 1, 2)]  # in, out, kernel, stride
KINDS = [kind for kind in AdapterKind if kind is not AdapterKind.SPLIT]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def adapted(kind, shape, tasks=2):
    in_channels, out_channels, kernel, stride = shape
    return AdaptedConv(in_channels, out_channels, kernel, stride, kind, tasks)


def cases():
    """Series and parallel adapters stand beside 3x3 convolutions only."""
    for kind in AdapterKind:
        for shape in SHAPES:
            if shape[2] == 3 or kind not in (AdapterKind.SERIES, AdapterKind.PARALLEL):
                yield pytest.param(kind, shape, id=f"{kind.value}-{shape[2]}x{shape[2]}/{shape[3]}")


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(16, 20), (15, 21)])
def test_parallel_is_the_sum_of_two_convolutions(stride, size):
    conv = nn.Conv2d(6, 10, 3, stride, 1, bias=False).double()
    adapter = ParallelAdapter(6, 10).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = conv(x) + F.conv2d(x, adapter.conv.weight, stride=stride)
    assert relative(adapter(x, conv), expected) <= 1e-12


def test_series_formula(randomize):
    conv = nn.Conv2d(6, 10, 3, 2, 1, bias=False).double()
    adapter = randomize(SeriesAdapter(10).double())
    x = torch.randn(2, 6, 15, 20, dtype=torch.float64)
    h = F.conv2d(x, conv.weight, stride=2, padding=1)
    norm = adapter.norm
    scale = norm.weight / torch.sqrt(norm.running_var + 1e-5)
    normed = (h - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    mixed = torch.einsum("oc,bchw->bohw", adapter.conv.weight[:, :, 0, 0], normed)
    assert relative(adapter(x, conv), h + mixed) <= 1e-12


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "shape"), list(cases()))
def test_folded_equals_unfolded(randomize, kind, shape, dtype):
    module = randomize(adapted(kind, shape)).to(dtype)
    folded = module.fold()
    assert isinstance(folded, FoldedConv)
    x = torch.randn(2, shape[0], 15, 22, dtype=dtype)
    for task in (0, 1):
        expected, found = module(x, task), folded(x, task)
        assert found.dtype is dtype and found.shape == expected.shape
        assert relative(found, expected) <= TOLERANCE[dtype]
    assert relative(folded(x, 0), folded(x, 1)) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@torch.inference_mode()
def test_what_follows_a_folded_convolution_is_added_and_cut_at_zero(randomize, dtype):
    folded = randomize(adapted(AdapterKind.NONE, SHAPES[0])).fold().to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(3, SHAPES[0][0], 15, 22).to(dtype, memory_format=torch.channels_last)
    plain = F.conv2d(x.float(), folded.weights[1].float(), folded.biases[1].float(), folded.stride, folded.padding)
    add = torch.randn_like(plain).to(dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for found, expected in [
        (folded(x, 1), plain),
        (folded(x, 1, relu=True), plain.relu()),
        (folded(x, 1, add=add, relu=True), (plain + add.float()).relu()),
    ]:
        assert found.dtype is dtype
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
def test_folding_is_computed_in_float64(randomize, kind):
    """The float32 result is the rounding of the float64 one, bit for bit."""
    module = randomize(adapted(kind, (8, 8, 3, 1)))
    exact = copy.deepcopy(module).double().fold()
    for found, expected in zip(module.fold().parameters(), exact.parameters(), strict=True):
        assert found.dtype is torch.float32 and expected.dtype is torch.float64
        assert torch.equal(found, expected.float())


def test_new_adapters_are_kaiming_normal_by_fan_out():
    module = AdaptedConv(64, 128, 3, 2, AdapterKind.PARALLEL, 2)
    assert module.conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert module.adapters[0].conv.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)


# Blocks and the whole network


def config_of(variant):
    """From the manifest's own words, not from the keys of the state dict."""
    made = VARIANTS[variant]["config"]
    return EncoderConfig(
        frontend=FrontendConfig(channels=made["in_channels"]),
        adapter=AdapterKind(made["adapter"].lower()),
        tasks=made["num_tasks"] or 1,
        heads=made["heads"],
        head_dim=made["fc_out"] // made["heads"],
    )


def slow_pool(x, rows, columns):
    """The definition of adaptive pooling: window i goes from floor(i n / m) to ceil((i + 1) n / m)."""
    height, width = x.shape[-2:]
    y = torch.empty(*x.shape[:2], rows, columns, dtype=x.dtype)
    for i in range(rows):
        top, bottom = i * height // rows, math.ceil((i + 1) * height / rows)
        for j in range(columns):
            left, right = j * width // columns, math.ceil((j + 1) * width / columns)
            y[:, :, i, j] = x[:, :, top:bottom, left:right].mean(dim=(2, 3))
    return y


@pytest.mark.parametrize("size", [(32, 79), (5, 7), (1, 1)])
def test_pooled_shortcut(size):
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    rows, columns = (size[0] + 1) // 2, (size[1] + 1) // 2
    y = pooled_shortcut(x, torch.empty(2, 10, rows, columns))
    assert y.shape == (2, 10, rows, columns)
    torch.testing.assert_close(y[:, :4], slow_pool(x, rows, columns), rtol=0, atol=1e-12)
    assert torch.count_nonzero(y[:, 4:]) == 0


def test_pooled_shortcut_of_79_columns_is_not_a_plain_average():
    x = torch.randn(1, 2, 32, 79)
    found = pooled_shortcut(x, torch.empty(1, 2, 16, 40))
    plain = F.avg_pool2d(x, 2, ceil_mode=True)
    assert found.shape == plain.shape
    assert (found - plain).abs().max() > 0.1
    even = x[..., :78]
    torch.testing.assert_close(pooled_shortcut(even, torch.empty(1, 2, 16, 39)), F.avg_pool2d(even, 2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_buffers_are_as_many_as_published(variant):
    with torch.device("meta"):
        encoder = Encoder(config_of(variant))
    trainable = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert trainable == VARIANTS[variant]["params"]
    state = encoder.state_dict()
    assert sum(v.numel() for v in state.values()) - trainable == VARIANTS[variant]["buffers"]
    assert len(state) == VARIANTS[variant]["n_keys"]


def test_published_numbers_of_parameters():
    """METHOD.md; the manifest was made by running the code, these are its text."""
    found = {variant: VARIANTS[variant]["params"] for variant in VARIANTS}
    assert found["none_c3"] == found["split_c3_s2"] == 11_689_512
    assert (found["bn_c3_s2"], found["series_c3_s2"]) == (11_524_904, 14_308_648)
    assert (found["parallel_c3_s2"], found["parallel_c1_s2"]) == (13_949_736, 13_943_464)
