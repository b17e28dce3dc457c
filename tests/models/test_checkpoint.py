import copy
import dataclasses
import json
import pickle
from collections import OrderedDict

import fill_rule
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import mtslvr
from mtslvr.cli.main import main
from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig, Normalization, Phase
from mtslvr.errors import CheckpointError, ConfigError
from mtslvr.models import checkpoint

CLIPS = ["w5", "w1", "w3p2", "w10", "w12p3"]
NORMS = {"sample": "file", "global": "global", "raw": "none"}
# golden/README.md, way 3 for three channels; one channel has no phase.
TOLERANCE = {3: 1e-2, 1: 1e-5}
GOLDEN_VARIANTS = {
    "none_c3": "AS_BAL_simclrv1_trans_1_0_None_2_3__100_5e-05_21022023-145537.pt",
    "split_c3_s2": "AS_BAL_simclrv1_trans_1_0_split_2_3__100_5e-05_21022023-145537.pt",
    "bn_c3_s2": "AS_BAL_simclrv1_trans_1_0_bn_2_3_fade___100_5e-05_21022023-145537.pt",
    "series_c3_s2": "AS_BAL_simsiam_trans_1_0_series_2_3__100_0_0003_21022023-145537.pt",
    "parallel_c3_s2": "AS_BAL_simsiam_trans_1_0_parallel_2_3__100_5e-05_21022023-145537.pt",
    "parallel_c1_s2": "AS_BAL_simsiam_trans_1_0_parallel_2_1__100_5e-05_21022023-145537.pt",
    "bn_c3_s1t2": "AS_BAL_simsiam_trans_1_0_bn_2_3__100_5e-05_21022023-145537.pt",
    "series_c3_s1t2": "AS_BAL_simsiam_trans_1_0_series_2_3__100_5e-05_21022023-145537.pt",
    "parallel_c3_s1t2": "AS_BAL_simsiam_trans_1_0_parallel_2_3__100_5e-05_21022023-145537.pt",
}
GLOBAL_MEAN, GLOBAL_STD = -0.00029522, 0.11652075
CONFIG = EncoderConfig().to_dict()


def relative(found, expected):
    return (np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max()


def golden_rows(golden, variant, clip, norm):
    """Concatenated golden embeddings of all 5 s pieces of one clip."""
    key = f"emb/{variant}/rows"
    rows = golden[key if key in golden else "emb/rows"]
    chosen = [i for i, row in enumerate(rows) if row.split("|")[:2] == [f"{clip}@5s", norm]]
    if f"emb/{variant}/out" in golden:
        return golden[f"emb/{variant}/out"][chosen]
    return np.concatenate([golden[f"emb/{variant}/task{task}"][chosen] for task in (0, 1)], axis=1)


def invoke(*arguments):
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


@pytest.fixture(scope="module")
def bn_state(official_state):
    """The smallest official state dict, and a shallow copy at that: its entries may be replaced."""
    return lambda: OrderedDict(official_state("bn_c3_s1t1"))


@pytest.fixture
def saved(tmp_path, unfolded_encoder):
    return checkpoint.save(unfolded_encoder, tmp_path / "saved")


@pytest.fixture
def rewrite(saved):
    """config.json with some values replaced, or dropped where None; the folder."""

    def change(**values):
        config = json.loads((saved / "config.json").read_text())
        config |= values
        (saved / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return saved

    return change


# Official checkpoints, all the way to golden embeddings


@pytest.mark.parametrize("variant", GOLDEN_VARIANTS)
def test_converted_checkpoint_gives_golden_embeddings(tmp_path, golden, official_state, variant):
    path = tmp_path / GOLDEN_VARIANTS[variant]
    torch.save(OrderedDict(official_state(variant)), path)
    compared = 0
    for norm, normalization in NORMS.items():
        if norm != "sample" and variant.endswith("_s1t2"):
            continue  # golden has sample rows only
        folder = tmp_path / normalization
        if norm == "global":  # by the command line, with the statistics that the file name tells
            result = invoke(path, folder, "--normalization", normalization)
            assert result.exit_code == 0, result.output
        else:
            converted = checkpoint.convert_official(path, normalization=Normalization(normalization))
            assert converted.notes == []
            checkpoint.save(converted.encoder, folder, dtype=torch.float32)
        # Folding is compared with golden rows in the published normalisation, its absence in the others.
        encoder = mtslvr.load(folder, device="cpu", fold=norm == "sample")
        config = encoder.config
        assert config.normalization.value == normalization
        assert config.frontend == FrontendConfig(channels=config.frontend.channels, phase=Phase.PUBLISHED)
        for clip in CLIPS if norm == "sample" else ("w3p2", "w12p3"):
            expected = golden_rows(golden, variant, clip, norm)
            found, _ = mtslvr.embed_windows(fill_rule.wave(clip), 16000, encoder=encoder)
            assert found.shape == expected.shape == (len(expected), encoder.embedding_dim())
            half = found.shape[1] // encoder.config.outputs
            for part in (slice(half), slice(-half, None)):
                assert relative(found[:, part], expected[:, part]) <= TOLERANCE[config.frontend.channels]
            compared += len(expected)
    assert compared == (8 if variant.endswith("_s1t2") else 8 + 4 + 4)


def test_golden_variants_are_all_converted(golden):
    assert {key.split("/")[1] for key in golden if key.startswith("emb/")} - {"rows"} == set(GOLDEN_VARIANTS)


@torch.inference_mode()
def test_converted_weights_are_exact(tmp_path, golden, official_state):
    """From golden's own spectrogram the loaded, folded encoder is within float32 rounding."""
    torch.save(official_state("series_c3_s2"), tmp_path / "a.pt")
    assert invoke(tmp_path / "a.pt", tmp_path / "a").exit_code == 0
    encoder = mtslvr.load(tmp_path / "a", device="cpu")
    found = encoder.encode_spectrogram(torch.from_numpy(golden["spec/w5@5s/raw/full"])[None]).concat.numpy()
    assert relative(found, golden_rows(golden, "series_c3_s2", "w5", "raw")) <= 1e-5


@pytest.mark.parametrize("variant", fill_rule.manifest()["variants"])
def test_config_is_read_from_keys_and_shapes(official_state, variant):
    made = fill_rule.manifest()["variants"][variant]["config"]
    config = checkpoint.official_config(official_state(variant))
    assert config.adapter is AdapterKind(made["adapter"].lower())
    assert config.frontend.channels == made["in_channels"]
    assert (config.tasks, config.heads) == (made["num_tasks"] or 1, made["heads"])
    assert config.head_dim * config.heads == made["fc_out"]


@pytest.mark.parametrize("variant", fill_rule.manifest()["variants"])
def test_every_official_key_has_one_of_our_names(official_state, official_encoder, variant):
    renamed = [checkpoint.rename_official(key) for key in official_state(variant)]
    assert len(set(renamed)) == len(renamed)
    assert set(renamed) == set(official_encoder(variant).state_dict())


def test_an_unknown_official_key_stays_and_is_named(tmp_path, bn_state):
    state = bn_state()
    state["layer2.0.conv1.gate.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: layer2\.0\.conv1\.gate\.weight: extra tensor"):
        checkpoint.convert_official(tmp_path / "a.pt")


# The file name


def test_parse_the_published_name():
    assert checkpoint.parse_official_name("AS_BAL_simsiam_trans_1_0_parallel_2_3__100_5e-05_21022023-145537.pt") == {
        "data": "AS_BAL",
        "contrastive": "simsiam",
        "predictive": "trans",
        "weight": "1_0",
        "adapter": "parallel",
        "dims": "2",
        "channels": "3",
        "batch": "100",
        "rate": "5e-05",
        "time": "21022023-145537",
    }


@pytest.mark.parametrize(
    ("middle", "facts"),
    [
        ("1_0_None_2_3__100_0_0003", {"adapter": "None", "rate": "0_0003"}),
        ("5e-05_split_1_1__64_5e-05", {"weight": "5e-05", "adapter": "split", "dims": "1", "channels": "1"}),
        ("1_0_bn_2_3_fade___100_5e-05", {"excluded": "fade__", "batch": "100"}),
        ("1_0_series_2_3_fade__pitch_shift___100_5e-05", {"excluded": "fade__pitch_shift__"}),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ""])
def test_parse_other_names(middle, facts, suffix):
    parsed = checkpoint.parse_official_name(f"FSD50K_simclrv1_trans_{middle}_01122022-000000{suffix}")
    assert parsed["data"] == "FSD50K" and parsed["contrastive"] == "simclrv1"
    assert {key: parsed.get(key) for key in facts} == facts
    assert ("excluded" in parsed) == ("excluded" in facts)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model.pt",
        "AS_BAL_simclrv1_2_3__100_5e-05_21022023-145537.pt",
        "AS_BAL_simsiam_trans_1_0_adapter_2_3__100_5e-05_21022023-145537.pt",
        "AS_BAL_simsiam_trans_1_0_parallel_2_3__100_5e-05_21022023-145537.pt.zip",
    ],
)
def test_other_names_tell_nothing(name):
    assert checkpoint.parse_official_name(name) == {}


def test_a_contradictory_name_gives_a_note_and_the_tensors_are_used(tmp_path, bn_state):
    path = tmp_path / "AS_BAL_simsiam_trans_1_0_series_2_1__100_5e-05_21022023-145537.pt"
    torch.save(bn_state(), path)
    converted = checkpoint.convert_official(path)
    assert converted.encoder.config.adapter is AdapterKind.BN
    assert converted.facts["adapter"] == "series"
    assert converted.notes == [
        "the file name says adapter series, the tensors say bn; the tensors are used",
        "the file name says channels 1, the tensors say 3; the tensors are used",
    ]
    result = invoke(path, tmp_path / "out")
    assert result.exit_code == 0
    assert "note: the file name says adapter series" in result.stderr
    assert "adapter bn, 3 channels, 1 heads of 1000, normalization window" in result.stdout


def test_global_statistics_come_from_the_name_or_the_caller(tmp_path, bn_state):
    for data, expected in {"AS_BAL": (GLOBAL_MEAN, GLOBAL_STD), "FSD50K": (-4.8055477e-05, 0.068482772)}.items():
        path = tmp_path / f"{data}_simsiam_trans_1_0_bn_2_3__100_5e-05_21022023-145537.pt"
        torch.save(bn_state(), path)
        config = checkpoint.convert_official(path, normalization=Normalization.GLOBAL).encoder.config
        assert (config.global_mean, config.global_std) == expected
    config = checkpoint.convert_official(path, statistics=(0.5, 2.0)).encoder.config
    assert (config.global_mean, config.global_std) == (0.5, 2.0)
    assert config.normalization is Normalization.WINDOW


def test_global_statistics_that_nothing_tells(tmp_path, bn_state):
    path = tmp_path / "model.pt"
    torch.save(bn_state(), path)
    with pytest.raises(ConfigError, match=r"model\.pt: normalization 'global' needs .*--global-mean and --global-std"):
        checkpoint.convert_official(path, normalization=Normalization.GLOBAL)
    out = tmp_path / "out"
    assert invoke(path, out, "--normalization", "global").exit_code == 2
    result = invoke(path, out, "--global-mean", "0.5")
    assert result.exit_code == 2 and "belong together" in result.stderr
    assert not out.exists()
    assert invoke(path, out, "--normalization", "global", "--global-mean", "0.5", "--global-std", "2").exit_code == 0
    config = checkpoint.read_config(out / "config.json")
    assert (config.normalization, config.global_mean, config.global_std) == (Normalization.GLOBAL, 0.5, 2.0)


def test_converted_folder_has_a_card_with_the_facts(tmp_path, bn_state):
    path = tmp_path / GOLDEN_VARIANTS["bn_c3_s2"]
    torch.save(bn_state(), path)
    assert invoke(path, tmp_path / "out").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- contrastive: simclrv1" in card and "- excluded: fade__" in card and "no licence" in card


# Files that are no official checkpoint


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("how", ["torch.save", "legacy", "pickle", "inside a state dict"])
def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path, bn_state, how):
    trace, path = tmp_path / "trace", tmp_path / "evil.pt"
    evil = Evil(str(trace))
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    elif how == "legacy":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(evil if how == "torch.save" else {**bn_state(), "extra": evil}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pt: refused, .*only a plain state dict can be converted"):
        checkpoint.convert_official(path)
    result = invoke(path, tmp_path / "out")
    assert result.exit_code == 3 and "refused" in result.stderr
    assert not trace.exists() and not (tmp_path / "out").exists()
    # The same file, loaded carelessly, does run: the test can fail.
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, expected a state dict of tensors"),
        (torch.zeros(3), "holds a Tensor, expected a state dict"),
        ({"epoch": 3, "state_dict": {}}, "holds a dict, expected a state dict of tensors"),
        ({1: torch.zeros(1)}, "holds a dict, expected a state dict of tensors"),
        ({}, "no conv1.weight and fc.weight"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "not an MT-SLVR backbone"),
        ({"fc.weight": torch.zeros(10, 512)}, "not an MT-SLVR backbone"),
        ({"conv1.weight": torch.zeros(64, 1, 49), "fc.weight": torch.zeros(1000, 512)}, "conv1.weight is 3-D: only .*"),
        ({"conv1.weight": torch.zeros(64, 2, 7, 7), "fc.weight": torch.zeros(1000, 512)}, "channels=2: must be 1 or 3"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.tensor(1.0)}, "fc.weight .* is 0-D"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(0, 512)}, "head_dim=0"),
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(1000, 512)},
            "and .* more: missing tensor",
        ),
    ],
    ids=lambda value: value[:25] if isinstance(value, str) else "",
)
def test_not_an_official_state_dict(tmp_path, content, message):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"a\.pt: .*{message}"):
        checkpoint.convert_official(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint\n", b"PK\x03\x04" + bytes(100), bytes(1000)])
def test_not_a_torch_file(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt: (not a torch checkpoint|refused)"):
        checkpoint.convert_official(path)


def test_a_cut_torch_file(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"a\.pt: not a torch checkpoint"):
        checkpoint.convert_official(path)


def test_missing_file_and_folder_for_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        checkpoint.convert_official(tmp_path / "gone.pt")
    assert invoke(tmp_path / "gone.pt", tmp_path / "out").exit_code == 3
    with pytest.raises(CheckpointError, match="not a torch checkpoint"):
        checkpoint.convert_official(tmp_path)


# Tensors that do not belong to the config


def test_missing_extra_and_misshaped_tensors_are_named(unfolded_encoder):
    state = dict(unfolded_encoder.state_dict())
    del state["heads.0.bias"]
    state["heads.7.bias"] = torch.zeros(1)
    state["trunk.stem.conv.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(CheckpointError) as error:
        checkpoint.build(unfolded_encoder.config, state, "here")
    text = str(error.value)
    assert text.startswith("here: ")
    assert "heads.0.bias: missing tensor" in text
    assert "heads.7.bias: extra tensor" in text
    assert "trunk.stem.conv.weight is (64, 1, 7, 7), expected (64, 3, 7, 7): mis-shaped tensor" in text
    assert "do not belong together" in text


def test_many_missing_tensors_are_counted(unfolded_encoder):
    count = len(unfolded_encoder.state_dict())
    with pytest.raises(CheckpointError, match=rf"branches\..*, .*, .* and {count - 3} more: missing tensor"):
        checkpoint.build(unfolded_encoder.config, {}, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("heads.0.bias", torch.zeros(500, dtype=torch.complex64)),
        ("heads.0.bias", torch.zeros(500, dtype=torch.bool)),
        ("heads.0.bias", torch.zeros(500, dtype=torch.int64)),
        ("trunk.stem.norms.0.running_var", torch.ones(64, dtype=torch.int32)),
        ("trunk.stem.norms.0.num_batches_tracked", torch.tensor(1.0)),
    ],
)
def test_tensors_of_a_wrong_kind_are_named(unfolded_encoder, key, value):
    state = {**unfolded_encoder.state_dict(), key: value}
    with pytest.raises(CheckpointError, match=f"here: {key}"):
        checkpoint.build(unfolded_encoder.config, state, "here")


def test_a_tensor_less_in_the_file(saved):
    state = load_file(saved / "model.safetensors")
    del state["heads.0.bias"]
    save_file(state, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: heads\.0\.bias: missing tensor"):
        mtslvr.load(saved)


def test_a_config_of_another_network(rewrite):
    with pytest.raises(CheckpointError, match=r"heads\.0\.bias is \(500,\), expected \(300,\).*mis-shaped"):
        checkpoint.load(rewrite(head_dim=300))
    with pytest.raises(CheckpointError, match="extra tensor"):
        checkpoint.load(rewrite(head_dim=None, adapter="bn"))


# Save and load


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_round_trip(tmp_path, unfolded_encoder, dtype):
    encoder = copy.deepcopy(unfolded_encoder)
    encoder.trunk.stem.norms[0].num_batches_tracked.fill_(70_001)  # float16 would not hold it
    folder = checkpoint.save(encoder, tmp_path / "deep" / "folder", dtype=dtype, card="# A card\n")
    assert folder == tmp_path / "deep" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "README.md").read_text() == "# A card\n"
    stored = load_file(folder / "model.safetensors")
    assert {v.dtype for v in stored.values()} == {dtype, torch.int64}
    loaded = checkpoint.load(folder)
    assert loaded.config == encoder.config and not loaded.training and not loaded.folded
    expected, found = encoder.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        rounded = value.to(dtype).float() if value.is_floating_point() else value
        assert found[key].dtype is value.dtype and torch.equal(found[key], rounded), key
    assert all(p.requires_grad for p in loaded.parameters())


@torch.inference_mode()
def test_float16_moves_embeddings_little(saved, unfolded_encoder):
    x = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    expected = unfolded_encoder(x).concat.numpy()
    assert 0 < relative(checkpoint.load(saved)(x).concat.numpy(), expected) <= 1e-2


def test_every_setting_survives_the_round_trip(saved, rewrite):
    config = EncoderConfig(
        frontend=FrontendConfig(
            sample_rate=8000,
            n_fft=512,
            hop_length=128,
            n_mels=64,
            f_min=50,
            f_max=3900.5,
            epsilon=1e-3,
            phase=Phase.STABLE,
        ),
        window_seconds=2.5,
        normalization=Normalization.GLOBAL,
        global_mean=-0.25,
        global_std=3,
    )
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    rewrite(**config.to_dict())
    assert checkpoint.load(saved).config == config


def test_a_folded_encoder_is_not_saved(tmp_path, encoder):
    with pytest.raises(CheckpointError, match="a folded encoder cannot be saved; save the one it was folded from"):
        checkpoint.save(encoder, tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


def test_folder_that_cannot_be_written(tmp_path, unfolded_encoder):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file: cannot write the checkpoint .* choose a writable folder"):
        checkpoint.save(unfolded_encoder, tmp_path / "file")
    (tmp_path / "model.safetensors.part").mkdir()
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        checkpoint.save(unfolded_encoder, tmp_path)


def test_an_interrupted_save_keeps_the_older_checkpoint(saved, unfolded_encoder, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def half_written(state, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half_written)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(unfolded_encoder, saved, card="new")
    monkeypatch.undo()
    assert {name: (saved / name).read_bytes() for name in before} == before
    assert not checkpoint.load(saved).folded


def test_no_parts_are_left(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_not_safetensors(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    for content in (b"", b"not safetensors", whole[:1000], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file .*download or convert"):
            checkpoint.load(saved)


def test_a_pickle_named_safetensors_does_not_run(saved, tmp_path):
    torch.save(Evil(str(tmp_path / "trace")), saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(saved)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: no such file; .*config\.json and model\.safetensors"):
        checkpoint.load(saved)


# config.json is strict


def test_unknown_keys_are_named(rewrite):
    with pytest.raises(CheckpointError, match=r"config\.json: config: unknown key 'colour', 'width'; known: frontend,"):
        checkpoint.load(rewrite(width=3, colour="red"))
    frontend = {**CONFIG["frontend"], "window": "hann"}
    with pytest.raises(CheckpointError, match=r"config\.json: config: unknown key 'frontend\.window'; known: "):
        checkpoint.load(rewrite(width=None, colour=None, frontend=frontend))


def test_format_version(rewrite):
    with pytest.raises(CheckpointError, match=r"no key 'format_version'; this is not an mtslvr config\.json"):
        checkpoint.load(rewrite(format_version=None))
    with pytest.raises(CheckpointError, match=r"format_version=2: .*a newer mtslvr wrote this: upgrade with `pip"):
        checkpoint.load(rewrite(format_version=2))


FRONTEND_VALUES = [
    ("sample_rate", "16000"),
    ("sample_rate", 16000.0),
    ("sample_rate", True),
    ("sample_rate", 0),
    ("sample_rate", 10**9),
    ("n_fft", 1),
    ("n_fft", 1023),
    ("hop_length", 0),
    ("n_mels", -1),
    ("channels", 2),
    ("channels", [3]),
    ("epsilon", 0),
    ("epsilon", float("nan")),
    ("epsilon", "tiny"),
    ("f_min", -1),
    ("f_max", 8001),
    ("f_max", None),
    ("phase", "wild"),
    ("phase", None),
]
VALUES = [
    ("adapter", "lora"),
    ("adapter", 3),
    ("adapter", ["bn"]),
    ("tasks", 0),
    ("tasks", 3),
    ("tasks", "2"),
    ("tasks", 2.0),
    ("heads", 3),
    ("heads", True),
    ("head_dim", 0),
    ("head_dim", 10**6),
    ("window_seconds", 0),
    ("window_seconds", 1e9),
    ("window_seconds", float("inf")),
    ("window_seconds", 10**400),
    ("window_seconds", "5"),
    ("normalization", "loud"),
    ("global_mean", float("nan")),
    ("global_mean", 10**400),
    ("global_std", 0),
    ("global_std", -1.0),
    ("global_std", float("inf")),
    ("frontend", None),
    ("frontend", 3),
    ("format_version", "1"),
    ("format_version", True),
    ("format_version", 1.0),
]


@pytest.mark.parametrize(("name", "value"), VALUES, ids=lambda value: repr(value)[:20])
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=rf"config: {name}="):
        EncoderConfig.from_dict({**CONFIG, name: value})


@pytest.mark.parametrize(("name", "value"), FRONTEND_VALUES, ids=lambda value: repr(value)[:20])
def test_frontend_values_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=rf"config: frontend\.(f_min, )?{name}.*="):
        EncoderConfig.from_dict({**CONFIG, "frontend": {**CONFIG["frontend"], name: value}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adapter": "split", "tasks": 2}, "tasks=2: must be 1 with adapter 'split'"),
        ({"adapter": "none", "tasks": 1, "heads": 2}, "heads=2: must be 1 with adapter 'none'"),
    ],
)
def test_combinations_that_do_not_exist(values, message):
    with pytest.raises(ConfigError, match=message):
        EncoderConfig.from_dict({**CONFIG, **values})


def test_values_are_checked_without_a_file_too():
    with pytest.raises(ConfigError, match=r"adapter='bn': must be an AdapterKind"):
        EncoderConfig(adapter="bn")
    with pytest.raises(ConfigError, match=r"frontend\.phase='stable': must be a Phase"):
        FrontendConfig(phase="stable")
    with pytest.raises(ConfigError, match="normalization"):
        dataclasses.replace(EncoderConfig(), normalization="file")
    with pytest.raises(ConfigError, match="frontend"):
        EncoderConfig(frontend={})


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"x"', "[" * 100_000, "\ud800"])
def test_config_that_is_no_json_object(saved, content):
    (saved / "config.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        checkpoint.load(saved)


def test_config_too_large_or_a_folder(saved):
    path = saved / "config.json"
    path.write_text(" " * (1 << 20) + path.read_text())
    with pytest.raises(CheckpointError, match=r"config\.json: \d+ bytes; a config has at most 1048576"):
        checkpoint.load(saved)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        checkpoint.load(saved)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["bn", "stable"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(
    top=st.dictionaries(st.sampled_from(sorted(CONFIG)), JSON, max_size=3),
    front=st.dictionaries(st.sampled_from(sorted(CONFIG["frontend"])), JSON, max_size=3),
)
def test_any_config_is_valid_and_survives_or_is_refused_by_name(top, front):
    data = {**CONFIG, "frontend": {**CONFIG["frontend"], **front}, **top}
    try:
        config = EncoderConfig.from_dict(data)
    except ConfigError:
        return
    assert EncoderConfig.from_dict(config.to_dict()) == config
