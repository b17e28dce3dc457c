import math

import fill_rule
import pytest
import torch

from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig
from mtslvr.nn.encoder import Encoder
from mtslvr.nn.resnet import AdaptedConv, FoldedConv, pooled_shortcut

VARIANTS = fill_rule.manifest()["variants"]
SHAPES = [(6, 10, 3, 2), (8, 8, 3, 1), (3, 8, 7, 2), (6, 10, 1, 2)]  # in, out, kernel, stride
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_buffers_are_as_many_as_published(variant):
    with torch.device("meta"):
        encoder = Encoder(config_of(variant))
    trainable = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert trainable == VARIANTS[variant]["params"]
    state = encoder.state_dict()
    assert sum(v.numel() for v in state.values()) - trainable == VARIANTS[variant]["buffers"]
    assert len(state) == VARIANTS[variant]["n_keys"]
