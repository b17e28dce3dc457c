import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from corpus.build import TABLE, main, read_table
from corpus.clips import RATE
from corpus.licences import is_free, licence_of, parse_copyright

from mtslvr.training.data import PackedClips

ROW = {"licence": "CC0-1.0", "sound": "sounds", "include": ["*.wav"]}


def babble(seed, seconds=2.0, rate=RATE):
    """Noise whose level and colour change several times a second, as those of speech do."""
    rng, length = np.random.default_rng(seed), round(seconds * rate)
    syllables = np.interp(np.arange(length), np.arange(0, length, rate // 8), rng.random(-(-length // (rate // 8))))
    return (0.3 * syllables * rng.standard_normal(length)).astype(np.float32)


def sound(waveform, rate=RATE, **how):
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, **{"format": "WAV", **how})
    return file.getvalue()


def archive(path, files, **fields):
    """The row of the table for a zip of the files that this makes; a file's content may be a waveform."""
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            made.writestr(name, content if isinstance(content, bytes) else sound(content))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {**ROW, "name": path.stem, "kind": "archive", "origin": path.as_uri(), "sha256": digest, **fields}


def run(tmp_path, rows, *arguments):
    table, out = tmp_path / "table.json", tmp_path / "out"
    table.write_text(json.dumps(rows))
    assert main([str(out), "--table", str(table), *arguments]) == 0
    report = json.loads((out / "report.json").read_text())
    return PackedClips.open(out / "packed"), {record["name"]: record for record in report}


def test_a_build_drops_copies_silence_and_held_out_clips_and_goes_on_without_what_is_gone(tmp_path):
    rain, bell = babble(0), babble(1)
    (tmp_path / "held").mkdir()  # at another place, level and quality
    (tmp_path / "held" / "a.ogg").write_bytes(sound(rain[RATE // 4 :] * 0.4, format="OGG", subtype="VORBIS"))
    sounds = {"rain.wav": rain, "bell.wav": bell, "bell-quiet.wav": bell * 0.5, "speech/long.wav": babble(2, 21.0)}
    others = {"silence.wav": np.zeros(RATE, np.float32), "broken.wav": b"not audio", "notes.txt": b""}
    kinds, voices = [["speech/*", "speech"], ["*", "sounds"]], {"voices": "voices/(?P<label>[^/]+)/"}
    files = {**sounds, **others, "voices/ann/1.wav": babble(3)}
    game = archive(tmp_path / "game.zip", files, sound=kinds, report_sets=voices)
    changed = archive(tmp_path / "changed.zip", {"a.wav": babble(4)})
    gone = {**changed, "name": "gone", "origin": (tmp_path / "nowhere.zip").as_uri()}
    rows = [gone, {**changed, "sha256": "5eed"}, game]
    clips, records = run(tmp_path, rows, "--held-out", str(tmp_path / "held"))

    long = [f"game/speech/long.wav-{i}.flac" for i in range(3)]
    assert sorted(clips.names) == ["game/bell-quiet.wav-0.flac", *long]
    assert set(clips.sources) == {"game"} and np.diff(clips.starts).max() <= 10.5 * RATE
    assert records["game"]["clips"] == {"sounds": 1, "speech": 3}
    left_out = dict.fromkeys(("copy", "held out", "unreadable", "without sound or too short"), 1)
    assert records["game"]["left_out"] == left_out
    assert [path.name for path in (tmp_path / "out/report-sets/voices/ann").iterdir()] == ["game+voices_ann_1.wav.flac"]
    assert "nowhere.zip" in records["gone"]["missing"]
    assert all(digest in records["changed"]["missing"] for digest in ("5eed", changed["sha256"]))
    report = (tmp_path / "out" / "REPORT.md").read_text()
    assert all(said in report for said in ("nowhere.zip", "5eed", "CC0-1.0"))


def test_a_build_goes_on_from_the_sources_it_has_and_reads_files_without_a_header(tmp_path):
    first = archive(tmp_path / "first.zip", {"a.wav": babble(0)})
    run(tmp_path, [first])
    (tmp_path / "first.zip").unlink()
    (tmp_path / "out/sources/archive/first.zip").unlink()
    (tmp_path / "out/part/second").mkdir(parents=True)  # what an interrupted source leaves
    second = archive(tmp_path / "second.zip", {"a.wav": babble(0), "b.wav": babble(1)})
    clips, records = run(tmp_path, [first, second])
    assert sorted(clips.names) == ["first/a.wav-0.flac", "second/b.wav-0.flac"]
    assert records["second"]["left_out"] == {"copy": 1}
    clips, records = run(tmp_path, [{**second, "licence": "MIT"}])  # a row that has changed is made anew
    assert sorted(clips.names) == ["second/a.wav-0.flac", "second/b.wav-0.flac"] and set(records) == {"second"}
    call = sound(babble(0, 1.0, 8000), 8000, format="RAW", subtype="ULAW")
    calls = archive(tmp_path / "calls.zip", {"1.ulaw": call}, include=["*.ulaw"], raw=["ULAW", 8000])
    assert run(tmp_path, [calls])[0].hours * 3600 == pytest.approx(1.0, abs=0.1)


def test_a_repository_is_read_at_its_commit_from_a_local_mirror(tmp_path):
    mirror = tmp_path / "mirrors" / "someone+sounds"
    (mirror / "x").mkdir(parents=True)
    for seed, name in enumerate(("x/ä b.wav", "c.wav", "x/ä_b.wav")):
        (mirror / name).write_bytes(sound(babble(seed)))
    git = ["git", "-C", str(mirror), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "sounds"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    source = {**ROW, "kind": "git", "origin": "someone/sounds", "exclude": ["c.wav"]}
    rows = [source | {"name": "sounds", "commit": commit}, source | {"name": "later", "commit": "0" * 40}]
    clips, records = run(tmp_path, rows, "--mirrors", str(tmp_path / "mirrors"))
    assert clips.names == ["sounds/x/ä_b.wav-0+.flac", "sounds/x/ä_b.wav-0.flac"]
    assert "0" * 40 in records["later"]["missing"]


def test_a_source_without_a_free_licence_is_refused_before_anything_is_collected(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, [archive(tmp_path / "game.zip", {"a.wav": babble(0)}, licence="CC-BY-NC-4.0")])
    assert stop.value.code == 2 and "'CC-BY-NC-4.0' does not allow any use" in capsys.readouterr().err
    assert not (tmp_path / "out" / "clips").exists()
    assert all(source.get("sha256") or source.get("commit") for source in read_table(TABLE))


FREE = ("public-domain", "CC0", "CC-BY-3.0", "CC BY-SA 4.0", "CC-SA-BY-3.0", "GPL-2+", "GPL-3.0-or-later", "LGPL-2.1+",
        "BSD-3-clause", "Expat", "MIT", "Apache-2.0", "ODbL-1.0", "GPL-2+ with Font exception",
        "GPL-2 or CC-BY-NC-3.0", "GPL-2+ and CC-BY-SA-3.0")  # fmt: skip
NOT_FREE = ("", "CC-BY-NC-3.0", "CC-BY-ND-4.0", "CC BY-NC-SA 4.0", "CC-Sampling-Plus-1.0", "Pixabay", "fair-use",
            "GPL-2+ and CC-BY-NC-3.0", "free-art", "permission", "not-gpl")  # fmt: skip


COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+

Files: data/sounds/wind.ogg
 data/sounds/birds/*
Copyright: 2011 somebody else
License: CC-BY-NC-3.0

Files: data/music/*
License: CC-BY-SA-3.0
 The text of the licence.
"""


def test_licences_free_for_any_use_are_told_and_debian_copyright_files_say_that_of_each_file():
    assert [name for name in FREE if not is_free(name)] == [name for name in NOT_FREE if is_free(name)] == []
    stanzas = parse_copyright(COPYRIGHT)
    for name, licence in (
        ("sounds/wind.ogg", "CC-BY-NC-3.0"),
        ("data/sounds/birds/a/b.ogg", "CC-BY-NC-3.0"),
        ("data/music/a.ogg", "CC-BY-SA-3.0"),
        ("data/sounds/rain.ogg", "GPL-2+"),
    ):
        assert licence_of(f"usr/share/games/g/{name}", stanzas) == licence
    assert licence_of("a.ogg", stanzas[1:]) == ""
    assert parse_copyright("Copyright 2004 somebody\nGPL version 2.\n") == []
