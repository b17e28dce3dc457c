import pytest
import torch

from mtslvr.config import AdapterKind
from mtslvr.nn.resnet import AdaptedConv, FoldedConv, pooled_shortcut

SHAPES = [(6, 10, 3, 2), (8, 8, 3, 1), (3, 8, 7, 2), (6, 10, 1, 2)]  # in, out, kernel, stride
# Series and parallel adapters stand beside 3x3 convolutions only.
CASES = [(kind, shape) for kind in AdapterKind for shape in SHAPES[: 2 if kind.value in ("series", "parallel") else 4]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_folded_equals_unfolded(randomize, kind, shape, dtype, tolerance):
    torch.manual_seed(0)
    module = randomize(AdaptedConv(*shape, kind, 2)).to(dtype)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data[::2].neg_()  # training may turn a scale negative
    folded, x = module.fold(), torch.randn(2, shape[0], 15, 22, dtype=dtype)
    assert isinstance(folded, FoldedConv)
    for task in (0, 1):
        expected, found = module(x, task), folded(x, task)
        assert found.dtype is dtype and found.shape == expected.shape
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    assert not torch.allclose(folded(x, 0), folded(x, 1), rtol=0.1, atol=0.1)


def test_new_adapters_are_kaiming_normal_by_fan_out():
    torch.manual_seed(0)
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
