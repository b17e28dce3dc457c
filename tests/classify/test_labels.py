"""Tables of labels in the forms of this package, Audacity and Raven: what is written is read again."""

import re
from dataclasses import astuple

import numpy as np
import pytest
import soundfile

from mtslvr.classify.labels import Label, by_name, read_labels
from mtslvr.classify.output import Recording, audacity_text, csv_text, label_row, raven_text
from mtslvr.errors import ConfigError

LABELS = [Label("a.wav", 0.5, 1.25, "owl", 0.9), Label("a.wav", 3.0, 4.0, "two words", 0.75)]
TRACK = audacity_text(LABELS)


@pytest.fixture
def recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(80_000), 16_000)
    return str(tmp_path / "a.wav")


def read(table, text, given=()):
    """File, start, end, label and score of what a table with this text has."""
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_bytes(text.encode("utf-8", "surrogateescape"))
    return [astuple(label) for label in read_labels(table, by_name(given))]


def test_a_csv_needs_no_times_and_has_them_in_columns_of_usual_names(tmp_path):
    with pytest.warns(UserWarning, match="so whole recordings are meant; not used: 't0', 't1'"):
        found = read(tmp_path / "labels.csv", "file,t0,t1,label,score\nsub/b.wav,1,2,owl,0.5\n")
    assert found == [(str(tmp_path / "sub" / "b.wav"), None, None, "owl", 0.5)]
    for text in (
        "File,Start,End,label\na.wav,1,2.5,owl\n",
        "Start (s),End (s),Scientific name,Common name,Confidence,File\n1.0,2.5,Strix aluco,owl,0.9,a.wav\n",
        "filename,begin,stop,class\na.wav,1,2.5,owl\n",
        "file;onset;offset;label\na.wav;1,0;2,5;owl\n",
        "file\tstart_time\tEndTime\tlabel\na.wav\t1\t2.5\towl\n",
        "Begin Time (s),End Time (s),Begin File,Species\n1,2.5,a.wav,owl\n",
    ):
        [found] = read(tmp_path / "labels.csv", text)
        assert found[:4] == (str(tmp_path / "a.wav"), 1.0, 2.5, "owl")


def test_a_table_in_another_encoding_is_refused_with_its_line(tmp_path):
    text = "file,label\na.wav,owl\nb.wav,K\u00e4uzchen\n"
    for encoding, line, written in (("latin-1", 3, text), ("utf-16", 1, text), ("utf-16-le", 1, text[:22])):
        (tmp_path / "labels.csv").write_bytes(written.encode(encoding))
        with pytest.raises(ConfigError, match=f"labels.csv, line {line}: .* save the table as UTF-8"):
            read_labels(tmp_path / "labels.csv")


def test_a_track_is_of_the_recording_beside_it(tmp_path, recording, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    selections = "Begin Time (s)\tEnd Time (s)\tLabel\n1\t2\towl\n"
    for name, text in (("a.txt", TRACK), ("a.Table.1.selections.txt", selections)):
        (tmp_path / name).write_text(text)
        assert read_labels(f"{tmp_path.name}/{name}")[0].file == f"{tmp_path.name}/a.wav"
    found = read(tmp_path / "a.txt", TRACK + "\\\t100.0\t2000.0\n")
    assert found == [(recording, *astuple(x)[1:]) for x in LABELS]
    by_hand = read(tmp_path / "a.txt", "1,0\t2,5\towl 2, far\n")
    assert by_hand == [(recording, 1.0, 2.5, "owl 2, far", 1.0)]


def test_names_and_labels_of_any_characters_are_read_as_they_were_written(tmp_path):
    names = ["a\tb.wav", "a\nb.wav", "a\rb.wav", "a,b;c.wav", 'it\'s "a".wav', "-a.wav", "a  b.wav", "\udce4.wav"]
    paths = [str(tmp_path / name) for name in names]
    for name in names:
        (tmp_path / name).touch()
    labels = [Label(name, 0.5, 1.0, 'two\nwords, -"x"', 0.25) for name in names]
    found = read(tmp_path / "labels.csv", csv_text([label_row(x) for x in labels]))
    assert found == [(path, *astuple(labels[0])[1:]) for path in paths]
    recordings = [Recording(name, path, 5.0, 16_000) for name, path in zip(names, paths, strict=True)]
    found = read(tmp_path / "all.txt", raven_text(labels, recordings))  # where the first three names are one
    assert [x[0] for x in found[1:]] == paths[3:] and {x[3] for x in found} == {'two words, -"x"'}


def test_of_recordings_with_one_name_that_in_the_folders_of_the_table_is_meant(tmp_path):
    given = [f"rec/{site}/day1/a.wav" for site in ("s1", "s2")]
    for site, path in zip(("s1", "s2"), given, strict=True):
        assert {x[0] for x in read(tmp_path / site / "day1" / "a.txt", TRACK, given)} == {path}
        moved = read(tmp_path / "moved.csv", f"file,label\n/gone/{site}/day1/a.wav,owl\n", given)
        assert [x[0] for x in moved] == [path]
    with pytest.raises(ConfigError, match=r"a\.txt: names no recording, and 2 recordings of the name 'a'"):
        read(tmp_path / "a.txt", TRACK, given)


def test_a_name_is_that_of_the_recording_which_has_it_from_the_folder_of_all_on(tmp_path):
    long = "x" * 300  # longer than names of files can be
    text = f"file,label\na.wav,owl\ns2/a.wav,fox\n{long},owl\n"
    found = read(tmp_path / "t.csv", text, ["rec/s2/a.wav", "rec/a.wav", "rec/s1/s2/a.wav"])
    assert [x[0] for x in found] == ["rec/a.wav", "rec/s2/a.wav", str(tmp_path / long)]
    with pytest.raises(ConfigError, match=r"'a\.wav' may be s1/a\.wav or s2/x/a\.wav; give its path"):
        read(tmp_path / "t.csv", text, ["s1/a.wav", "s2/x/a.wav"])


def test_a_raven_table_names_its_recordings_in_the_order_of_time(tmp_path):
    one, two = (Recording(name, str(tmp_path / name), 10.0, 48_000) for name in ("a.wav", "b.wav"))
    text = raven_text([Label("a.wav", 1.0, 2.0, "owl", 0.5), Label("b.wav", 1.0, 2.5, "fox", 0.25)], [one, two])
    assert text.splitlines()[2].split("\t")[3:7] == ["11.000000", "12.500000", "0.0", "24000.0"]
    expected = [(one.path, 1.0, 2.0, "owl", 0.5), (two.path, 1.0, 2.5, "fox", 0.25)]
    views = text.replace("Spectrogram 1", "Waveform 1").partition("\n")[2]  # with both, each selection is there once
    assert read(tmp_path / "all.txt", text + views) == expected


def test_recordings_of_another_machine_are_found_by_their_names(tmp_path, recording):
    elsewhere = str(tmp_path / "nights" / "b.wav")
    for place in ("/gone/", "C:\\gone\\", "D:/gone/"):
        text = f"file,label\n{place}a.wav,owl\n{place}b.wav,owl\n"
        assert [x[0] for x in read(tmp_path / "t.csv", text, [elsewhere])] == [recording, elsewhere]


def test_a_fault_is_named_with_its_line(tmp_path):
    for text, told in (
        ("path,when\na.wav,1\n", "its columns are 'path', 'when': no column for the class; name one 'label'"),
        ("file,start_ms,end_ms,label\na.wav,1,2,owl\n", "as its start and end among 'start_ms', 'end_ms'; name"),
        ("file,start,duration,label\na.wav,1,2,owl\n", "as its end among 'duration'"),
        ("file,begin,ende,label\na.wav,1,2,owl\n", "as its end among 'ende'"),
        ("file,end,label\na.wav,2,owl\n", "no column is known as its start; name"),
        ("file,start,end,label\na.wav,2,1,owl\n", "line 2: end 1 s is not after start 2 s"),
        ("file,start,end,label\na.wav,x,1,owl\n", "line 2: start 'x'"),
        ("file,start,end,label\na.wav,0,-1,owl\n", "line 2: end '-1'"),
        ("file,label\na.wav,\n", "line 2: no label"),
        ("file,start,end,label\na.wav,1,5,2,5,owl\n", "line 2: 6 fields under 4 columns; put labels with commas in"),
        ("file,label\n", "no labels in it"),
        ("file,start,end,label,Label\na.wav,1,2,owl,fox\n", "has several columns 'label'; leave one, or rename the"),
        ('file,label\na.wav,"' + "x" * 140_000, "larger than field limit (131072)); close the quote that is left open"),
        (
            "Begin Time (s)\tEnd Time (s)\tBegin File\tLabel\n1\t2\ta.wav\towl\n11\t12\tb.wav\towl\n",
            "line 3: a second recording and no 'File Offset (s)', and Raven's times go on over all",
        ),
        ("1.0\t2.0\towl\n", "names no recording, and no recording of the name"),
    ):
        with pytest.raises(ConfigError, match=f"labels.csv.*{re.escape(told)}"):
            read(tmp_path / "labels.csv", text)
