from pathlib import Path

import pytest

from mtslvr.errors import ConfigError
from mtslvr.fewshot import labelled_files, labels_from_names, labels_from_table, read_set


@pytest.fixture
def tree(tmp_path):
    for name in (
        "dog/2.wav",
        "dog/deep/1.FLAC",
        "cat/a.ogg",
        "cat/.hidden.wav",
        ".cache/x.wav",
        "dog/notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "README.md").touch()
    return tmp_path


def test_one_folder_a_class(tree):
    paths, labels, names = labelled_files(tree)
    assert [p.relative_to(tree).as_posix() for p in paths] == ["cat/a.ogg", "dog/2.wav", "dog/deep/1.FLAC"]
    assert labels.tolist() == [0, 1, 1]
    assert names == ["cat", "dog"]


def test_an_empty_class_is_dropped_and_named(tree):
    (tree / "bee").mkdir()
    with pytest.warns(UserWarning, match="bee: no audio files, class dropped"):
        _, labels, names = labelled_files(tree)
    assert names == ["cat", "dog"]
    assert labels.max() == 1


def test_audio_beside_the_class_folders(tree):
    (tree / "b.wav").touch()
    (tree / "a.wav").touch()
    with pytest.raises(ConfigError, match=r"a\.wav: audio without a class; move it"):
        labelled_files(tree)


def test_no_classes(tmp_path):
    with pytest.raises(ConfigError, match="no class folder with audio; expected FOLDER/CLASS"):
        labelled_files(tmp_path)


def test_not_a_folder(tree):
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        labelled_files(tree / "nowhere")
    with pytest.raises(ConfigError, match=r"README\.md: not a folder"):
        labelled_files(tree / "README.md")


def test_labels_from_a_field_of_the_name():
    paths = [Path("x/0_theo_3.wav"), Path("1_anna_0.wav"), Path("0_anna_1.wav")]
    labels, names = labels_from_names(paths, 1)
    assert (labels.tolist(), names) == ([1, 0, 0], ["anna", "theo"])
    labels, names = labels_from_names(paths, -1)
    assert (labels.tolist(), names) == ([2, 0, 1], ["0", "1", "3"])
    labels, names = labels_from_names([Path("a-b.wav")], 1, sep="-")
    assert names == ["b"]


@pytest.mark.parametrize(
    ("paths", "field", "sep", "message"),
    [
        (["0_a_1.wav", "plain.wav"], 1, "_", r"plain\.wav: no field 1 in \['plain'\]"),
        (["0__1.wav"], 1, "_", "no field 1"),
        (["0_a.wav"], -3, "_", "no field -3"),
        ([], 0, "_", "no audio files"),
        (["0_a.wav"], 0, "", "sep='': must not be empty"),
    ],
)
def test_names_without_the_field(paths, field, sep, message):
    with pytest.raises(ConfigError, match=message):
        labels_from_names([Path(p) for p in paths], field, sep)


@pytest.fixture
def table(tree):
    path = tree / "table.csv"
    path.write_text("file,split,label\ndog/2.wav,a,dog\ncat/a.ogg,b,cat\ndog/deep/1.FLAC,a,dog\n")
    return path


def test_labels_from_a_table(tree, table):
    paths, labels, names = labels_from_table(tree, table)
    assert [p.relative_to(tree).as_posix() for p in paths] == ["cat/a.ogg", "dog/2.wav", "dog/deep/1.FLAC"]
    assert (labels.tolist(), names) == ([0, 1, 1], ["cat", "dog"])
    tabbed = tree / "table.tsv"
    tabbed.write_text("filename\tcategory\ndog/2.wav\tloud\n")
    with pytest.warns(UserWarning, match=r"2 audio files of .* are not in it and left out, the first .*a\.ogg"):
        assert labels_from_table(tree, tabbed)[2] == ["loud"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"columns \[\]; expected one of file, path"),
        ("file,sound\na.wav,x\n", r"columns \['file', 'sound'\]; expected"),
        ("file,label\n", "no rows"),
        ("file,label\ndog/2.wav,\n", "line 2: dog/2.wav has no class; fill it in"),
        ("file,label\ndog/2.wav,a\n\ndog/3.wav,a\n", r"line 4: .*3\.wav: no such file; names are relative to"),
        ("file,label\ndog/2.wav,a\ndog/2.wav,b\n", "line 3: dog/2.wav is 'a' before and 'b' here; remove"),
        ("file,x,label\ndog/2.wav,a\n", "line 2: 2 cells, the header has 3"),
    ],
)
def test_bad_tables(tree, text, message):
    path = tree / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        labels_from_table(tree, path)


def test_a_table_that_is_none(tree):
    with pytest.raises(ConfigError, match=r"nowhere\.csv: not a table of labels"):
        labels_from_table(tree, tree / "nowhere.csv")


@pytest.mark.filterwarnings("ignore:.*are not in it")
def test_a_row_twice_counts_once(tree):
    path = tree / "twice.csv"
    path.write_text("file,label\ndog/2.wav,a\ndog/2.wav,a\n")
    with pytest.warns(UserWarning, match="1 rows are there twice"):
        assert len(labels_from_table(tree, path)[0]) == 1


def fill(tree):
    for i, path in enumerate(sorted(tree.rglob("*.*"))):
        if path.is_file():
            path.write_bytes(bytes([i]) * 100)


def test_a_copy_within_a_class_counts_once(tree):
    fill(tree)
    (tree / "dog" / "copy.wav").write_bytes((tree / "dog" / "2.wav").read_bytes())
    with pytest.warns(
        UserWarning, match=r"dropped 1 files that are copies of others, the first .*copy\.wav \(of .*2\.wav"
    ):
        found = read_set(tree)
    assert [p.name for p in found.paths] == ["a.ogg", "2.wav", "1.FLAC"]
    assert found.labels.tolist() == ["cat", "dog", "dog"]


def test_a_copy_in_another_class_is_an_error(tree):
    fill(tree)
    (tree / "cat" / "copy.wav").write_bytes((tree / "dog" / "2.wav").read_bytes())
    with pytest.raises(ConfigError, match=r"copy\.wav \(cat\) and .*2\.wav \(dog\): the same audio in two classes"):
        read_set(tree)


def test_files_of_one_size_are_not_taken_for_copies(tmp_path):
    for name, last in (("a", 1), ("b", 2)):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / f"{name}.wav").write_bytes(bytes(200_000) + bytes([last]))  # differ beyond the probe
    assert len(read_set(tmp_path).paths) == 2


def test_one_way_to_label(tree, table):
    fill(tree)
    with pytest.raises(ConfigError, match="label_field=0 and a table"):
        read_set(tree, label_field=0, table=table)
