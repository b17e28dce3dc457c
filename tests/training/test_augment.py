import json
import math
import re
from fractions import Fraction

import fill_rule
import numpy as np
import pytest
import torch

from mtslvr.errors import AudioError, ConfigError
from mtslvr.training import augment as A
from mtslvr.training import transforms, vocoder

GOLDEN = np.load(fill_rule.GOLDEN / "golden_augmentations.npz")
SMALL = A.AugmentConfig.fast(stretch_n_fft=512, stretch_hop_length=128)


def golden(key):
    return torch.from_numpy(GOLDEN[key])


def clip(name):
    return torch.from_numpy(fill_rule.wave(name))[None]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def wave(batch=4, length=4000, seed=0):
    return torch.randn(batch, length, generator=generator(seed))


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


# Against the official transformations; each batch holds different parameters.

FADES = [(shape, *ends) for shape in range(3) for ends in ((3000, 1000), (0, 4000), (4000, 4000), (1, 2))]
RATES, RATIOS, SHIFTS = (0.5, 0.73, 1.0, 1.37, 1.5), (0, 5, 8, 13), (0, 1, -1, 1234, -4000, 4000)


def test_fade_stretch_and_shifts_are_the_official_ones():
    x = golden("input")[None]
    fades = [f"fade/{transforms.FADE_SHAPES[shape]}/in{first}_out{last}" for shape, first, last in FADES]
    ratios = ["pitch/{}_{}".format(*vocoder.PITCH_RATIOS[i]) for i in RATIOS]
    for function, parameters, keys, atol in (
        (transforms.fade, torch.tensor(FADES).unbind(1), fades, 1e-6),
        (vocoder.time_stretch, [doubles(RATES)], [f"stretch/{rate}" for rate in RATES], 5e-4),
        (vocoder.pitch_shift, [torch.tensor(RATIOS)], ratios, 1e-3),
        (transforms.time_shift, [torch.tensor(SHIFTS)], [f"shift/{shift}" for shift in SHIFTS], 1e-6),
    ):
        out = function(x.expand(len(keys), -1), *parameters)
        for y, key in zip(out, keys, strict=True):
            close(y[: len(golden(key))], golden(key), atol)
        close(out[1], function(x, *(values[1:2] for values in parameters))[0], 1e-6)


def test_noise_and_mask_are_the_official_ones():
    signal, white = clip("aug20k"), torch.from_numpy(fill_rule.matrix("aug/white", (1, 16000)))
    decays = (-2.0, -1.0, -0.37, 0.0, 1.0, 2.0)
    given = signal.expand(6, -1), white.expand(6, -1), torch.tensor(decays), torch.full((6,), 7.5)
    out = transforms.colored_noise(*given)
    scale = signal.square().mean().sqrt() / 10 ** (7.5 / 20)
    for y, decay in zip(out, decays, strict=True):
        close(y[:256], golden(f"noise/fd{decay}/out_head_snr7.5"), 1e-5)
        close((y - signal[0])[:256] / scale, golden(f"noise/fd{decay}/noise_head"), 1e-5)
        close(doubles([y.mean(), y.std()]), golden(f"noise/fd{decay}/out_stats"), 1e-5)
    u1, u2 = torch.stack([golden(f"mask/seed{s}/u") for s in range(4)]).float().unbind(1)
    for s, y in enumerate(transforms.time_mask(torch.ones(4, 8000), u1, u2)):
        zeros = (y == 0).nonzero().flatten()
        assert [zeros[0], zeros[-1] + 1, len(zeros), zeros[0]] == GOLDEN[f"mask/seed{s}"].tolist()


def test_long_clips_lose_no_phase_to_float32():
    for function, parameters, length in (
        (vocoder.time_stretch, doubles([0.5, 1.0, 1.5]), 80000),
        (vocoder.pitch_shift, torch.tensor([8]), 16000),
    ):
        x = clip("w5")[:, :length].expand(len(parameters), -1)
        close(function(x, parameters), function(x.double(), parameters).float(), 1e-3)


@pytest.mark.parametrize("semitones", (-12.0, 3.3))
def test_pitch_shift_semitones_moves_a_tone_by_that_many(semitones):
    low, high = (torch.sin(2 * math.pi * f * torch.arange(16000) / 16000) for f in (500, 7000))
    out = vocoder.pitch_shift_semitones(torch.stack([low, high]), torch.tensor([semitones, 12.0]))[:, 2000:14000]
    peak = torch.fft.rfft(out[0] * torch.hann_window(12000), n=96000).abs().argmax() / 6
    assert abs(peak - 500 * 2 ** (semitones / 12)) < 8
    assert out[1].square().mean() < 0.01 * high.square().mean()  # what would alias is gone


@pytest.mark.parametrize(("length", "silent"), [(1501, False), (4001, True)])
@pytest.mark.parametrize("pitch", A.Pitch)
def test_every_transformation_keeps_length_and_silence(length, silent, pitch):
    config = A.AugmentConfig.fast(pitch=pitch)
    x = wave(6, length) * (not silent)
    parameters = A.draw_parameters(generator(), 6, length, config)
    for number in range(7):
        y = A.augment(x, torch.full((6, 1), number), parameters, config)
        assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()
        assert (y == 0).all() if silent else not torch.equal(y, x)


@pytest.mark.parametrize("scale", (1e-30, 1e6))
def test_levels_far_from_speech_and_partial_silence_stay_finite(scale):
    x = wave(3, 4000) * scale
    x[:, 1000:3000] = 0
    found = [vocoder.time_stretch(x, doubles([0.5, 1, 1.5])), vocoder.pitch_shift(x, torch.tensor([0, 6, 13]))]
    for y in (*found, transforms.colored_noise(x, wave(3, 16000), torch.ones(3), torch.ones(3))):
        assert y.isfinite().all() and y.abs().max() < 20 * scale


def test_selection_is_uniform_in_number_and_in_member_and_labels_are_the_official_ones():
    order = A.draw_selection(generator(), 20000, A.AugmentConfig())
    labels = A.labels_from_order(order)
    for row, k in zip(order[:500].tolist(), labels.sum(1).int().tolist(), strict=False):
        assert len(set(row[:k])) == k > 0 and set(row[k:]) <= {-1}
    share = torch.bincount(labels.sum(1).long(), minlength=8)[1:] / 20000
    close(share, torch.full((7,), 1 / 7), 0.012)
    close(labels.mean(0), torch.full((7,), 4 / 7), 0.015)
    first = torch.bincount(order[:, 0], minlength=7) / 20000
    close(first, torch.full((7,), 1 / 7), 0.012)
    listed = json.loads(str(GOLDEN["info"]))
    orders = listed["select_seed42_order"]
    assert [Fraction(*ratio) for ratio in vocoder.PITCH_RATIOS] == [Fraction(x) for x in listed["pitch_ratios"]]
    rows = [[A.TRANSFORMATIONS.index(n) for n in names] + [-1] * (7 - len(names)) for names in orders]
    assert torch.equal(A.labels_from_order(torch.tensor(rows)), golden("select/seed42/y"))
    assert listed["label_order"] == list(A.TRANSFORMATIONS)


# The published ranges, and how far from their ends 20,000 draws may stay.
RANGES = {
    "pitch_index": (0, 13, 0), "pitch_semitones": (-15, 15, 0.01), "fade_shape": (0, 2, 0), "fade_in": (0, 4000, 2),
    "fade_out": (0, 4000, 2), "white_f_decay": (-1, 0, 0.001), "mixed_f_decay": (-2, 2, 0.002),
    "white_snr_db": (3, 30, 0.02), "mixed_snr_db": (3, 30, 0.02), "stretch_rate": (0.5, 1.5, 0),
    "mask_u1": (0, 1, 0.001), "mask_u2": (0, 1, 0.001), "shift": (-4000, 4000, 4),
}  # fmt: skip


def test_parameters_stay_in_the_published_ranges_and_reach_their_ends():
    p = A.draw_parameters(generator(), 20000, 8001, A.AugmentConfig())
    for name, (low, high, slack) in RANGES.items():
        values = getattr(p, name)
        assert low <= values.min() <= low + slack and high - slack <= values.max() <= high, name
    assert torch.equal(p.stretch_rate, (p.stretch_rate * 100).round() / 100)


def test_a_sample_gets_its_own_transformations_in_its_own_order_and_noise_of_the_drawn_level():
    x = wave(3)
    p = A.draw_parameters(generator(), 3, 4000, SMALL)
    order = torch.tensor([[1, 6, 4], [6, 1, -1], [5, -1, -1]])
    out = A.augment(x, order, p, SMALL)
    assert torch.equal(x, wave(3))
    one, two, three = (p.rows(torch.tensor([i])) for i in range(3))
    y = transforms.fade(x[:1], one.fade_shape, one.fade_in, one.fade_out)
    y = vocoder.time_stretch(transforms.time_shift(y, one.shift), one.stretch_rate, 512, 128)
    z = transforms.time_shift(x[1:2], two.shift)
    z = transforms.fade(z, two.fade_shape, two.fade_in, two.fade_out)
    close(out, torch.cat((y, z, transforms.time_mask(x[2:], three.mask_u1, three.mask_u2))), 1e-5)
    x, p = wave(16, 16000), A.draw_parameters(generator(), 16, 16000, SMALL)
    for number, snr in ((2, p.white_snr_db), (3, p.mixed_snr_db)):
        y = A.augment(x, torch.full((16, 1), number), p, SMALL)
        measured = 10 * torch.log10(x.square().mean(1) / (y - x).square().mean(1))
        close(measured, snr, 1e-2)


def test_bad_waveforms_and_settings_are_named_with_the_remedy():
    for changes, message in (
        ({"pitch": "octaves"}, "augment.pitch='octaves': unknown; use one of 'published ratios'"),
        ({"sample_rate": 16000.0}, "augment.sample_rate=16000.0: must be an integer from 1000 to 384000"),
        ({"fade_fraction": math.nan}, "augment.fade_fraction=nan: must be a number from 0 to 1"),
        ({"snr_db": (30, 3)}, "augment.snr_db=(30, 3): must be two numbers, lowest first, from -60"),
        ({"excluded": ("reverb",)}, "augment.excluded=('reverb',): must be distinct names"),
        ({"excluded": A.TRANSFORMATIONS}, "fewer than all seven, from pitch_shift"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            A.AugmentConfig(**changes)
    p = A.draw_parameters(generator(), 2, 4000, SMALL)
    with pytest.raises(AudioError, match=r"shape \(2, 1, 4000\): expected \(B, N\)"):
        A.augment(wave(2)[:, None], torch.zeros(2, 1, dtype=torch.long), p, SMALL)
    with pytest.raises(AudioError, match="1000 samples: too short for an STFT of 2048; give more than 1024"):
        vocoder.time_stretch(wave(1, 1000), doubles([1.2]))


def test_a_large_batch_is_the_same_with_any_number_of_threads():
    rows, config = 133, A.AugmentConfig.fast(pitch=A.Pitch.SEMITONES)
    x = wave(rows)
    order = A.draw_selection(generator(1), rows, config)
    parameters = A.draw_parameters(generator(2), rows, x.shape[1], config)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(A.augment(x, order, parameters, config))
    finally:
        torch.set_num_threads(before)
    together, alone = found
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    last = torch.arange(rows - 5, rows)  # the part of few rows: its samples keep their parameters
    close(together[last], A.augment(x[last], order[last], parameters.rows(last), config), 1e-5)
    assert not torch.equal(together, x)
