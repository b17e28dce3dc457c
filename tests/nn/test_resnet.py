import math

import fill_rule
import pytest
import torch
from torch.nn import functional as F

from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig
from mtslvr.nn.encoder import Encoder
from mtslvr.nn.resnet import Block, Branches, Trunk, pooled_shortcut

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


@pytest.mark.parametrize("kind", AdapterKind, ids=lambda kind: kind.value)
def test_block_has_a_projection_only_without_adapters(kind):
    plain = kind in (AdapterKind.NONE, AdapterKind.SPLIT)
    assert (Block(8, 16, 2, kind, 1).shortcut is not None) == plain
    assert (Block(8, 16, 1, kind, 1).shortcut is not None) == plain
    assert Block(8, 8, 1, kind, 1).shortcut is None


@pytest.mark.parametrize("kind", [AdapterKind.NONE, AdapterKind.SERIES], ids=lambda kind: kind.value)
def test_block_formula(randomize, kind):
    torch.manual_seed(0)
    block = randomize(Block(4, 8, 2, kind, 1)).double()
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    kept = x.clone()
    y = block.conv2(F.relu(block.conv1(x, 0)), 0)
    expected = F.relu(y + (block.shortcut(x, 0) if block.shortcut else pooled_shortcut(x, y)))
    torch.testing.assert_close(block(x, 0), expected)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("height", "width"), [(128, 157), (40, 9), (1, 1)])
@pytest.mark.parametrize("kind", [AdapterKind.SPLIT, AdapterKind.PARALLEL], ids=lambda kind: kind.value)
def test_shapes(kind, height, width):
    def halved(n, times):
        for _ in range(times):
            n = (n + 1) // 2
        return n

    with torch.device("meta"):
        trunk, branches = Trunk(3, kind), Branches(kind, 1)
        shared = trunk(torch.empty(2, 3, height, width))
        assert shared.shape == (2, 64, halved(height, 2), halved(width, 2))
        assert branches(shared, 0).shape == (2, 512, halved(height, 5), halved(width, 5))


def test_trunk_has_one_task_and_branches_two():
    """Stage 1 is shared in the published networks, adapters and batch norms included."""
    with torch.device("meta"):
        trunk, branches = Trunk(3, AdapterKind.PARALLEL), Branches(AdapterKind.PARALLEL, 2)
    for block in trunk.layer1:
        assert len(block.conv1.adapters) == len(block.conv1.norms) == len(block.conv2.adapters) == 1
    for blocks in (branches.layer2, branches.layer3, branches.layer4):
        for block in blocks:
            assert len(block.conv1.adapters) == len(block.conv1.norms) == len(block.conv2.adapters) == 2
    assert len(branches.end_norms) == 2
    assert len(Branches(AdapterKind.SPLIT, 1).end_norms) == 0


def test_branch_ends_in_its_own_batch_norm_and_relu(randomize):
    torch.manual_seed(0)
    branches = randomize(Branches(AdapterKind.BN, 2))
    x = torch.randn(1, 64, 16, 16)
    last = {}
    handle = branches.layer4[1].register_forward_hook(lambda module, inputs, output: last.update(y=output))
    for task in (0, 1):
        y = branches(x, task)
        torch.testing.assert_close(y, F.relu(branches.end_norms[task](last["y"])))
        assert y.min() == 0 < y.max()
    handle.remove()
