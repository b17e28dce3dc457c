import contextlib
import json
import os
import re
import stat

import fill_rule
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from narrow import WIDTHS
from safetensors.torch import load_file, save

import mtslvr
from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig, Phase, Rows
from mtslvr.errors import CheckpointError, ConfigError
from mtslvr.models import checkpoint
from mtslvr.nn.encoder import Encoder

pytestmark = pytest.mark.usefixtures("narrow_encoders")

CONFIG = EncoderConfig().to_dict()


@pytest.fixture
def encoder(randomize):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frontend = FrontendConfig(epsilon=1e-3, phase=Phase.STABLE)
        return randomize(Encoder(EncoderConfig(frontend, head_dim=8, window_seconds=1.0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip(tmp_path, encoder, dtype):
    encoder.trunk.stem.norms[0].num_batches_tracked.fill_(70_001)  # float16 would not hold it
    folder = tmp_path / "deep" / "folder"
    assert encoder.save(folder, dtype=dtype, card="# A card\n") == folder
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {dtype, torch.int64}
    loaded = mtslvr.load(folder, device="cpu", fold=False)
    assert loaded.config == encoder.config and not loaded.training and not loaded.folded
    expected, found = encoder.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        rounded = value.to(dtype).float() if value.is_floating_point() else value
        assert found[key].dtype is value.dtype and torch.equal(found[key], rounded), key
    assert all(p.requires_grad for p in loaded.parameters())
    loaded.save(folder)  # without a card: the one that is there stays
    assert (folder / "README.md").read_text() == "# A card\n"
    assert len({stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}) == 1  # for the same people


def test_a_save_that_fails_leaves_what_was_there(tmp_path, encoder):
    with pytest.raises(CheckpointError, match="a folded encoder cannot be saved; save the one it was folded from"):
        encoder.fold().save(tmp_path / "saved")
    assert os.listdir(tmp_path) == []
    saved = encoder.save(tmp_path / "saved")
    before = {path: path.read_bytes() for path in saved.iterdir()}
    (saved / "saving.part").mkdir()
    torch.nn.init.zeros_(encoder.heads[0].weight)
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        encoder.save(saved, card="new")
    assert {path: path.read_bytes() for path in before} == before


def test_tensors_and_files_that_do_not_belong_are_named(encoder, tmp_path):
    for key, value, said in [
        ("heads.0.bias", None, 'Missing key.*"heads.0.bias"'),
        ("heads.7.bias", torch.zeros(1), 'Unexpected key.*"heads.7.bias"'),
        ("heads.1.weight", torch.zeros(8, 1), rf"heads.1.weight: .*\[8, 1\].*\[8, {WIDTHS[-1]}\]"),
        ("heads.0.bias", torch.zeros(8, dtype=torch.complex64), "heads.0.bias is torch.complex64, expected torch.fl"),
        ("heads.0.bias", torch.zeros(8, dtype=torch.int64), "heads.0.bias is torch.int64, expected torch.float32"),
        ("trunk.stem.norms.0.num_batches_tracked", torch.tensor(1.0), "num_batches_tracked is torch.float32, expected"),
    ]:
        state = {**encoder.state_dict(), key: value}
        changed = {name: tensor for name, tensor in state.items() if tensor is not None}
        with pytest.raises(CheckpointError, match=f"here: .*{said}.*; the config.json and the weights do not belong"):
            checkpoint.build(encoder.config, changed, "here")
    saved = encoder.save(tmp_path / "saved")
    weights, config = (saved / "model.safetensors").read_bytes(), (saved / "config.json").read_text()
    torch.save(fill_rule.Evil(str(tmp_path / "trace")), tmp_path / "evil")
    hostile = save({"\x1b]0;title\x07\x1b[31m" + "x" * 5000: torch.zeros(1)})

    def changed(**values):
        return json.dumps({**CONFIG, **values})

    none, readable = "not a safetensors file .*download or convert", "not a readable JSON file"
    for name, content, said in (
        ("model.safetensors", b"<html>login</html>", none),
        ("model.safetensors", (10**15).to_bytes(8, "little") + b"{}", none),
        ("model.safetensors", weights[:-1], none),
        ("model.safetensors", (tmp_path / "evil").read_bytes(), none),
        ("model.safetensors", hostile, "Missing key"),
        ("model.safetensors", 1 << 40, "1099511627776 bytes; weights have at most 536870912"),
        ("model.safetensors", None, r"no such file; .*config\.json and model\.safetensors"),
        ("config.json", None, r"no such file; .*config\.json and model\.safetensors"),
        ("config.json", " " * (1 << 20) + config, "bytes; a config has at most 1048576"),
        *(("config.json", text, readable) for text in ("", "[" * 100_000)),
        *(("config.json", text, "") for text in ("[1]", "null", '{"format_version": ' + "9" * 500_000 + "}")),
        ("config.json", changed(**{"x" * 9999: 1}), "config: unknown key"),
        ("config.json", changed(width=3, colour="red"), "config: unknown key 'colour', 'width'; known: frontend,"),
        ("config.json", config.replace('"n_fft"', '"window": 1, "n_fft"'), r"unknown key 'frontend\.window'; known: "),
        ("config.json", config.replace('"tasks"', '"heads": 1, "tasks"'), "config: key 'heads' given twice; keep one"),
        ("config.json", "{}", "no key 'format_version'; this is not an mtslvr config"),
        ("config.json", changed(format_version=2), "format_version=2: .*a newer mtslvr wrote this: upgrade with `pip"),
    ):
        good = (saved / name).read_bytes()
        if content is None:
            (saved / name).unlink()
        elif isinstance(content, int):
            os.truncate(saved / name, content)  # sparse
        else:
            (saved / name).write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(CheckpointError, match=rf"{name}: .*{said}") as error:
            checkpoint.load(saved)
        assert str(error.value).isprintable() and len(str(error.value)) < 1500 + len(str(saved))
        (saved / name).write_bytes(good)
    assert not (tmp_path / "trace").exists()


OUT_OF_RANGE = {
    "frontend.sample_rate": ["16000", 16000.0, 10**12], "frontend.n_fft": [1, 1023, 1 << 20],
    "frontend.channels": [2, [3]], "frontend.epsilon": [0, float("nan"), "tiny"], "frontend.f_max": [None],
    "frontend.f_min, f_max": [8001], "frontend.phase": ["wild"], "frontend": [None, 3], "format_version": ["1", True],
    "adapter": ["lora", ["bn"]], "tasks": [3, 2.0], "heads": [True], "head_dim": [10**9],
    "window_seconds": [1e9, float("inf"), 10**400, "5"], "normalization": [None], "global_std": [0],
    "global_mean": [float("nan"), 10**400], "invariant_rows": [[2, 4]], "spectral_statistics": ["yes"],
}  # fmt: skip
CANNOT_BE = [
    (EncoderConfig, {"adapter": AdapterKind.SPLIT}, "tasks=2: must be 1 with adapter 'split'"),
    (FrontendConfig, {"phase": "stable"}, r"frontend\.phase='stable': must be of type Phase"),
    (EncoderConfig, {"spectral_statistics": True, "heads": 1}, "spectral_statistics=True: .* without two tasks"),
    (Rows, {}, "rows=.*: must be one row at least"),
    (Rows, {"layer3": (4, 2)}, r"rows.layer3=\(4, 2\): must be two whole numbers, 0 <= first <= end"),
    (EncoderConfig, {"variant_rows": Rows((0, 9))}, "variant_rows=.*: must be within 8 rows of layer3 and 4 of"),
    (EncoderConfig, {"heads": 1, "invariant_rows": Rows((0, 1))}, "variant_rows=None: must be invariant_rows"),
    (EncoderConfig, {"frontend": FrontendConfig(hop_length=1, n_fft=16384)}, "must be so small that a window takes"),
]


def test_values_out_of_range_are_named_and_texts_that_are_no_rows():
    for name, values in OUT_OF_RANGE.items():
        for value in values:
            inner = {**CONFIG["frontend"], name.split(" ")[-1].removeprefix("frontend."): value}
            changed = {"frontend": inner} if name.startswith("frontend.") else {name: value}
            with pytest.raises(ConfigError, match=rf"config: {re.escape(name)}="):
                EncoderConfig.from_dict({**CONFIG, **changed})
    for kind, values, said in CANNOT_BE:
        with pytest.raises(ConfigError, match=said):
            kind(**values)
    with pytest.raises(ConfigError, match=r"unknown key 'invariant_rows\.layer2'; known: invariant_rows\.layer3, inv"):
        EncoderConfig.from_dict({**CONFIG, "invariant_rows": {"layer2": [0, 1]}})
    EncoderConfig(window_seconds=600)
    EncoderConfig(FrontendConfig(48000, 2048, 480, f_max=24000), window_seconds=60)
    EncoderConfig(FrontendConfig(250000, 1024, 256, f_max=125000), window_seconds=10)
    assert Rows.parse("layer3=2:4,layer4=1:3") == Rows((2, 4), (1, 3))
    assert Rows.parse("layer4=0:4, means") == Rows((0, 0), (0, 4), means=True)
    for text in ("", "2:4", "layer3=2:4layer4=1:3", "layer5=0:1", "layer3=0:1,layer3=1:2"):
        with pytest.raises(ConfigError, match=re.escape(f"rows={text!r}: expected a text such as")):
            Rows.parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["bn", "stable"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def changes(config):
    return st.dictionaries(st.sampled_from(sorted(config)), JSON, max_size=3)


@settings(max_examples=100, deadline=None)
@given(changes(CONFIG), changes(CONFIG["frontend"]))
def test_any_config_is_valid_and_survives_or_is_refused_by_name(top, front):
    with contextlib.suppress(ConfigError):
        config = EncoderConfig.from_dict({**CONFIG, "frontend": {**CONFIG["frontend"], **front}, **top})
        assert EncoderConfig.from_dict(config.to_dict()) == config
