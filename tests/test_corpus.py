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
from corpus.clips import RATE, HeldOut, Known, fingerprints, trim
from corpus.licences import is_free, licence_of, parse_copyright
from corpus.render import midi

from mtslvr.training.data import PackedClips

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2010 somebody
License: GPL-2+

Files: data/sounds/wind.ogg
 data/sounds/birds/*
Copyright: 2011 somebody else
License: CC-BY-NC-3.0

Files: data/music/*
License: CC-BY-SA-3.0
 The text of the licence.
"""


def babble(seed, seconds=2.0, rate=RATE):
    """Noise whose level and colour change several times a second, as those of speech do."""
    rng = np.random.default_rng(seed)
    length = round(seconds * rate)
    syllables = np.interp(np.arange(length), np.arange(0, length, rate // 8), rng.random(-(-length // (rate // 8))))
    return (0.3 * syllables * rng.standard_normal(length)).astype(np.float32)


def wav(waveform, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="WAV")
    return file.getvalue()


def archive(path, files):
    """A zip of the files as the source of a row of the table; a file's content may be a waveform."""
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            made.writestr(name, content if isinstance(content, bytes) else wav(content))
    return {"kind": "archive", "origin": path.as_uri(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def row(name, source, **fields):
    return {"name": name, "licence": "CC0-1.0", "sound": "sounds", "include": ["*.wav"], **source, **fields}


def run(tmp_path, rows, *arguments):
    table = tmp_path / "table.json"
    table.write_text(json.dumps(rows))
    assert main([str(tmp_path / "out"), "--table", str(table), *arguments]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    return PackedClips.open(tmp_path / "out" / "packed"), {record["name"]: record for record in report}


def test_a_build_drops_copies_silence_and_held_out_clips_and_goes_on_without_what_is_gone(tmp_path):
    rain, bell = babble(0), babble(1)
    held = tmp_path / "held" / "rain"
    held.mkdir(parents=True)
    (held / "a.wav").write_bytes(wav(rain[RATE // 4 :] * 0.4))
    sounds = {"rain.wav": rain, "bell.wav": bell, "bell-quiet.wav": bell * 0.5, "speech/long.wav": babble(2, 21.0)}
    others = {"silence.wav": np.zeros(RATE, np.float32), "broken.wav": b"not audio", "notes.txt": b""}
    game = archive(tmp_path / "game.zip", {**sounds, **others, "voices/ann/1.wav": babble(3)})
    changed = archive(tmp_path / "other.zip", {"a.wav": babble(4)})
    kinds, voices = [["speech/*", "speech"], ["*", "sounds"]], {"voices": "voices/(?P<label>[^/]+)/"}
    rows = [
        row("gone", {"kind": "archive", "origin": (tmp_path / "nowhere.zip").as_uri(), "sha256": "0"}),
        row("changed", {**changed, "sha256": "5eed"}),
        row("game", game, sound=kinds, report_sets=voices),
    ]
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
    assert "nowhere.zip" in report and "5eed" in report and "CC0-1.0" in report


def test_a_build_goes_on_from_the_sources_it_has_and_reads_files_without_a_header(tmp_path):
    first = row("first", archive(tmp_path / "first.zip", {"a.wav": babble(0)}))
    run(tmp_path, [first])
    (tmp_path / "first.zip").unlink()
    (tmp_path / "out/sources/archive/first.zip").unlink()
    (tmp_path / "out/part/second").mkdir(parents=True)  # what an interrupted source leaves
    second = row("second", archive(tmp_path / "second.zip", {"a.wav": babble(0), "b.wav": babble(1)}))
    clips, records = run(tmp_path, [first, second])
    assert sorted(clips.names) == ["first/a.wav-0.flac", "second/b.wav-0.flac"]
    assert records["second"]["left_out"] == {"copy": 1}
    clips, records = run(tmp_path, [row("second", second, licence="MIT")])  # a row that has changed is made anew
    assert sorted(clips.names) == ["second/a.wav-0.flac", "second/b.wav-0.flac"] and set(records) == {"second"}
    file = io.BytesIO()
    soundfile.write(file, babble(0, 1.0, 8000), 8000, format="RAW", subtype="ULAW")
    calls = archive(tmp_path / "calls.zip", {"1.ulaw": file.getvalue()})
    clips, _ = run(tmp_path, [row("calls", calls, include=["*.ulaw"], raw=["ULAW", 8000])])
    assert clips.hours * 3600 == pytest.approx(1.0, abs=0.1)


def test_a_repository_is_read_at_its_commit_from_a_local_mirror(tmp_path):
    mirror = tmp_path / "mirrors" / "someone+sounds"
    (mirror / "x").mkdir(parents=True)
    for seed, name in enumerate(("x/ä b.wav", "c.wav", "x/ä_b.wav")):
        (mirror / name).write_bytes(wav(babble(seed)))
    git = ["git", "-C", str(mirror), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "sounds"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    source = {"kind": "git", "origin": "someone/sounds", "commit": commit}
    rows = [row("sounds", source, exclude=["c.wav"]), row("later", source | {"commit": "0" * 40})]
    clips, records = run(tmp_path, rows, "--mirrors", str(tmp_path / "mirrors"))
    assert clips.names == ["sounds/x/ä_b.wav-0+.flac", "sounds/x/ä_b.wav-0.flac"]
    assert "0" * 40 in records["later"]["missing"]


def test_a_source_without_a_free_licence_is_refused_before_anything_is_collected(tmp_path, capsys):
    game = archive(tmp_path / "game.zip", {"a.wav": babble(0)})
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, [row("game", game, licence="CC-BY-NC-4.0")])
    assert stop.value.code == 2 and "'CC-BY-NC-4.0' does not allow any use" in capsys.readouterr().err
    assert not (tmp_path / "out" / "clips").exists()
    assert all(source.get("sha256") or source.get("commit") for source in read_table(TABLE))


FREE = ("public-domain", "CC0", "CC-BY-3.0", "CC BY-SA 4.0", "CC-SA-BY-3.0", "GPL-2+", "GPL-3.0-or-later", "LGPL-2.1+",
        "BSD-3-clause", "Expat", "MIT", "Apache-2.0", "ODbL-1.0", "GPL-2+ with Font exception",
        "GPL-2 or CC-BY-NC-3.0", "GPL-2+ and CC-BY-SA-3.0")  # fmt: skip
NOT_FREE = ("", "CC-BY-NC-3.0", "CC-BY-ND-4.0", "CC BY-NC-SA 4.0", "CC-Sampling-Plus-1.0", "Pixabay", "fair-use",
            "GPL-2+ and CC-BY-NC-3.0", "free-art", "permission", "not-gpl")  # fmt: skip


def test_licences_free_for_any_use_are_told_and_debian_copyright_files_say_that_of_each_file():
    assert [name for name in FREE if not is_free(name)] == [name for name in NOT_FREE if is_free(name)] == []
    stanzas = parse_copyright(COPYRIGHT)
    assert licence_of("usr/share/games/g/sounds/wind.ogg", stanzas) == "CC-BY-NC-3.0"
    assert licence_of("usr/share/games/g/data/sounds/birds/a/b.ogg", stanzas) == "CC-BY-NC-3.0"
    assert licence_of("usr/share/games/g/data/music/a.ogg", stanzas) == "CC-BY-SA-3.0"
    assert licence_of("usr/share/games/g/data/sounds/rain.ogg", stanzas) == "GPL-2+"
    assert licence_of("a.ogg", stanzas[1:]) == ""
    assert parse_copyright("Copyright 2004 somebody\nGPL version 2.\n") == []


def test_a_recording_is_known_again_at_any_place_level_and_quality_and_others_are_not_taken_for_it():
    held = HeldOut([babble(0, 4.0)])
    copy = io.BytesIO()
    soundfile.write(copy, 0.3 * babble(0, 4.0)[9_999:], RATE, format="OGG", subtype="VORBIS")
    copy.seek(0)
    assert fingerprints(soundfile.read(copy, dtype="float32")[0]) in held
    assert fingerprints(babble(1, 4.0)) not in held
    known = Known()
    known.add(40, fingerprints(trim(babble(0)))[0])
    assert (40, fingerprints(trim(0.5 * babble(0)))[0]) in known
    assert (40, fingerprints(trim(babble(1)))[0]) not in known


def test_a_midi_file_holds_its_notes():
    content = midi(40, [(0, 3, 60, 100), (200, 1, 64, 90)])
    assert content.startswith(b"MThd") and content.endswith(b"\x00\xff\x2f\x00")
    assert b"\x00\xc0\x28\x00\x90\x3c\x64" in content and b"\x8b\x20\x80\x3c\x00" in content
