import math

import fill_rule
import pytest
import torch
from torch.nn import functional as F

from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig
from mtslvr.nn.encoder import Encoder
from mtslvr.nn.resnet import pooled_shortcut

VARIANTS = fill_rule.manifest()["variants"]


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
