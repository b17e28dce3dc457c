import pickle
import zipfile
from collections import OrderedDict

import fill_rule
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fill_rule import GOLDEN_VARIANTS, golden_rows, mostly_slow, relative

import mtslvr
from mtslvr.cli.main import main
from mtslvr.config import FrontendConfig, Normalization, Phase
from mtslvr.errors import CheckpointError
from mtslvr.models import checkpoint, official

# golden/README.md, way 3 for three channels; one channel has no phase.
TOLERANCE = {3: 1e-2, 1: 1e-5}
SMALLEST = "bn_c3_s1t1"
PUBLISHED = "AS_BAL_simsiam_trans_1_0_parallel_2_3__100_5e-05_21022023-145537.pt"


def invoke(*arguments):
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


@pytest.mark.parametrize("variant", mostly_slow(GOLDEN_VARIANTS))
def test_converted_checkpoint_gives_golden_embeddings(tmp_path, golden, official_state, variant):
    path = tmp_path / PUBLISHED
    torch.save(OrderedDict(official_state(variant)), path)
    for norm, normalization in (("sample", "file"), ("global", "global"), ("raw", "none")):
        if norm != "sample" and variant.endswith("_s1t2"):  # golden has sample rows only
            continue
        folder = tmp_path / normalization
        result = invoke(path, folder, "--normalization", normalization)  # with the statistics that the name tells
        assert result.exit_code == 0, result.output
        # Folding is compared with golden rows in the published normalisation, its absence in the others.
        encoder = mtslvr.load(folder, device="cpu", fold=norm == "sample")
        frontend = encoder.config.frontend
        assert encoder.config.normalization.value == normalization
        assert frontend == FrontendConfig(channels=frontend.channels, phase=Phase.PUBLISHED)
        for clip in ("w5", "w1", "w3p2", "w10", "w12p3") if norm == "sample" else ("w3p2", "w12p3"):
            chosen = [row.split("|")[:2] == [f"{clip}@5s", norm] for row in golden_rows(golden, variant)]
            outputs = [f"emb/{variant}/{name}" for name in ("out", "task0", "task1")]
            expected = np.concatenate([golden[key][chosen] for key in outputs if key in golden], axis=1)
            found, _ = mtslvr.embed_windows(fill_rule.wave(clip), 16000, encoder=encoder)
            assert found.shape == expected.shape and len(expected) > 0
            half = found.shape[1] // encoder.config.outputs
            for part in (slice(half), slice(-half, None)):
                assert relative(found[:, part], expected[:, part]) <= TOLERANCE[frontend.channels]


def test_the_command_and_where_it_finds_statistics(tmp_path, official_state):
    for data, mean, std in (("AS_BAL", -0.00029522, 0.11652075), ("FSD50K", -4.8055477e-05, 0.068482772)):
        path, out = tmp_path / PUBLISHED.replace("AS_BAL", data), tmp_path / "out"
        torch.save(official_state(SMALLEST), path)
        config = official.convert_official(path, normalization=Normalization.GLOBAL).config
        assert (config.global_mean, config.global_std) == (mean, std)
    assert "adapter bn, 3 channels, 1 heads of 1000, normalization window" in invoke(path, tmp_path / "plain").stdout
    card = (tmp_path / "plain" / "README.md").read_text()
    assert f"# {path.name}, converted" in card and "no licence" in card
    path = path.rename(tmp_path / "model.pt")
    for arguments, said in (
        (["--normalization", "global"], "model.pt: normalization 'global' needs the mean and standard deviation"),
        (["--global-mean", "0.5"], "belong together"),
    ):
        result = invoke(path, out, *arguments)
        assert result.exit_code == 2 and said in result.stderr and not out.exists()
    assert invoke(path, out, "--normalization", "global", "--global-mean", "0.5", "--global-std", "2").exit_code == 0
    config = checkpoint.read_config(out / "config.json")
    assert (config.normalization, config.global_mean, config.global_std) == (Normalization.GLOBAL, 0.5, 2.0)


@pytest.mark.parametrize("how", ["torch.save", "legacy", "pickle", "inside a state dict"])
def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(tmp_path, official_state, how):
    trace, path = tmp_path / "trace", tmp_path / "evil.pt"
    evil = fill_rule.Evil(str(trace))
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    elif how == "legacy":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(evil if how == "torch.save" else {**official_state(SMALLEST), "extra": evil}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pt: refused, .*only a plain state dict can") as error:
        official.convert_official(path)
    assert "weights_only" not in str(error.value)  # torch's own message tells how to run the code all the same
    result = invoke(path, tmp_path / "out")
    assert result.exit_code == 2 and "refused" in result.stderr
    assert not trace.exists() and not (tmp_path / "out").exists()
    # The same file, loaded carelessly, does run: the test can fail.
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()


def test_what_is_no_official_state_dict(tmp_path, monkeypatch):
    path, conv, head = tmp_path / "a.pt", torch.zeros(64, 3, 7, 7), torch.zeros(1000, 512)
    named = b"\x80\x02c" + ("\x1b]0;title\x07\x1b[31m" + "x" * 5000).encode() + b"\nrun\n."  # a global
    for content, message in (
        (torch.zeros(3), "holds a Tensor, expected a state dict"),
        ({"epoch": 3, "state_dict": {}}, "holds a dict, expected a state dict of tensors"),
        ({}, "no conv1.weight and fc.weight"),
        ({"conv1.weight": torch.zeros(64, 1, 49), "fc.weight": head}, "conv1.weight is 3-D: only .*"),
        ({"conv1.weight": torch.zeros(64, 2, 7, 7), "fc.weight": head}, "channels=2: must be 1 or 3"),
        ({"conv1.weight": conv, "fc.weight": torch.tensor(1.0)}, "fc.weight .* is 0-D"),
        ({"conv1.weight": conv, "fc.weight": head}, "Missing key"),
        (b"", "not a torch checkpoint"),
        (b"PK\x03\x04" + bytes(100), "(not a torch checkpoint|refused)"),
        (named, r"refused, .*\(.*GLOBAL .*\); only a plain"),
    ):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(CheckpointError, match=rf"a\.pt: .*{message}") as error:
            official.convert_official(path)
        assert str(error.value).isprintable() and len(str(error.value)) < 1000
    assert "absent.pt: no such file" in invoke(tmp_path / "absent.pt", tmp_path / "out").stderr
    torch.save({"conv1.weight": torch.zeros(1 << 20)}, path)  # unpacks to more than any weights
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as b:
        for name in a.namelist():
            b.writestr(name, a.read(name))
    assert (tmp_path / "b.pt").stat().st_size < 1 << 15
    monkeypatch.setattr(official, "LARGEST_WEIGHTS", 1 << 21)
    with pytest.raises(CheckpointError, match=r"b\.pt: 4\d{6} bytes unpacked; an MT-SLVR backbone has at most 2097152"):
        official.convert_official(tmp_path / "b.pt")
