import fill_rule
import pytest
import torch

from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig
from mtslvr.nn.encoder import Encoder
from mtslvr.nn.resnet import AdaptedConv, FoldedConv, pooled_shortcut

VARIANTS = fill_rule.manifest()["variants"]
SHAPES = [(6, 10, 3, 2), (8, 8, 3, 1), (3, 8, 7, 2), (6, 10, 1, 2)]  # in, out, kernel, stride
# Series and parallel adapters stand beside 3x3 convolutions only.
CASES = [
    (kind, shape)
    for kind in AdapterKind
    for shape in SHAPES
    if shape[2] == 3 or kind.value not in ("series", "parallel")
]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_folded_equals_unfolded(randomize, kind, shape, dtype):
    in_channels, out_channels, kernel, stride = shape
    module = randomize(AdaptedConv(in_channels, out_channels, kernel, stride, kind, 2)).to(dtype)
    folded, x = module.fold(), torch.randn(2, in_channels, 15, 22, dtype=dtype)
    assert isinstance(folded, FoldedConv)
    for task in (0, 1):
        expected, found = module(x, task), folded(x, task)
        assert found.dtype is dtype and found.shape == expected.shape
        assert (found - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
    assert not torch.allclose(folded(x, 0), folded(x, 1), rtol=0.1, atol=0.1)


def test_new_adapters_are_kaiming_normal_by_fan_out():
    module = AdaptedConv(64, 128, 3, 2, AdapterKind.PARALLEL, 2)
    assert module.conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert module.adapters[0].conv.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)


@pytest.mark.parametrize("size", [(32, 79), (5, 7), (1, 1)])
def test_pooled_shortcut_is_adaptive_pooling_by_its_definition(size):
    """Window i of n goes from floor(i size / n) to ceil((i + 1) size / n)."""
    x = torch.randn(2, 4, *size, dtype=torch.float64)

    def windows(length):
        n = (length + 1) // 2
        return [slice(i * length // n, -(-(i + 1) * length // n)) for i in range(n)]

    bands, frames = map(windows, size)
    expected = [x[:, :, band, frame].mean(dim=(2, 3)) for band in bands for frame in frames]
    y = pooled_shortcut(x, torch.empty(2, 10, len(bands), len(frames)))
    assert y.shape == (2, 10, len(bands), len(frames))
    torch.testing.assert_close(y[:, :4].flatten(2), torch.stack(expected, dim=2), rtol=0, atol=1e-12)
    assert torch.count_nonzero(y[:, 4:]) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_buffers_are_as_many_as_published(variant):
    made = VARIANTS[variant]["config"]
    config = EncoderConfig(
        frontend=FrontendConfig(channels=made["in_channels"]),
        adapter=AdapterKind(made["adapter"].lower()),
        tasks=made["num_tasks"] or 1,
        heads=made["heads"],
        head_dim=made["fc_out"] // made["heads"],
    )
    with torch.device("meta"):
        encoder = Encoder(config)
    trainable = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert trainable == VARIANTS[variant]["params"]
    state = encoder.state_dict()
    assert sum(v.numel() for v in state.values()) - trainable == VARIANTS[variant]["buffers"]
    assert len(state) == VARIANTS[variant]["n_keys"]
