import pytest

from mtslvr.errors import ConfigError
from mtslvr.fewshot import read_set


@pytest.fixture
def tree(tmp_path):
    names = ("dog/2_x.wav", "dog/deep/1_y.FLAC", "cat/a_x.ogg", "cat/.hidden.wav", ".cache/x.wav", "dog/notes.txt")
    for i, name in enumerate((*names, "README.md")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * 100)
    return tmp_path


def found(labelled, root):
    return dict(zip((p.relative_to(root).as_posix() for p in labelled.paths), labelled.labels.tolist(), strict=True))


CLASSES = {"cat/a_x.ogg": "cat", "dog/2_x.wav": "dog", "dog/deep/1_y.FLAC": "dog"}


def test_one_folder_a_class(tree):
    assert list(found(read_set(tree), tree).items()) == list(CLASSES.items())
    (tree / "bee").mkdir()
    with pytest.warns(UserWarning, match="bee: no audio files, class dropped"):
        assert found(read_set(tree), tree) == CLASSES


def test_labels_from_a_field_of_the_name(tree):
    assert found(read_set(tree, label_field=1), tree) == dict(zip(CLASSES, "xxy", strict=True))
    assert set(read_set(tree, label_field=-2).labels) == {"1", "2", "a"}


def test_labels_from_a_table(tree):
    table = tree / "table.csv"
    table.write_text("file,split,label\n" + "".join(f"{file},a,{label}\n" for file, label in CLASSES.items()))
    assert found(read_set(tree, table=table), tree) == CLASSES
    tabbed = tree / "table.tsv"
    tabbed.write_text("filename\tcategory\ndog/2_x.wav\tloud\ndog/2_x.wav\tloud\n")
    with (
        pytest.warns(UserWarning, match="1 rows are there twice"),
        pytest.warns(UserWarning, match=r"2 audio files of .* are not in it and left out, the first .*a_x\.ogg"),
    ):
        assert found(read_set(tree, table=tabbed), tree) == {"dog/2_x.wav": "loud"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"columns \[\]; expected one of file, path"),
        ("file,sound\na.wav,x\n", r"columns \['file', 'sound'\]; expected"),
        ("file,label\n", "no rows"),
        ("file,label\ndog/2_x.wav,\n", r"line 2: dog/2_x\.wav has no class; fill it in"),
        ("file,label\ndog/2_x.wav,a\n\ndog/3.wav,a\n", r"line 4: .*3\.wav: no such file; names are relative to"),
        ("file,label\ndog/2_x.wav,a\ndog/2_x.wav,b\n", r"line 3: .*2_x\.wav is 'a' before and 'b' here; remove"),
        ("file,x,label\ndog/2_x.wav,a\n", "line 2: 2 cells, the header has 3"),
    ],
)
def test_bad_tables(tree, text, message):
    path = tree / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_set(tree, table=path)


def test_bad_folders_and_settings_are_named(tree, tmp_path):
    (tree / "empty").mkdir()
    for folder, settings, message in (
        (tree / "nowhere", {}, "nowhere: no such folder"),
        (tree / "README.md", {}, r"README\.md: not a folder"),
        (tree / "empty", {}, "no class folder with audio; expected FOLDER/CLASS"),
        (tree / "empty", {"label_field": 0}, "no audio files"),
        (tree, {"label_field": 2}, r"a_x\.ogg: no field 2 in \['a', 'x'\]"),
        (tree, {"label_field": -3}, "no field -3"),
        (tree, {"label_field": 0, "table": "x.csv"}, "label_field=0 and a table"),
        (tree, {"table": tree / "nowhere.csv"}, r"nowhere\.csv: not a table of labels"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_set(folder, **settings)
    (tree / "b.wav").touch()
    with pytest.raises(ConfigError, match=r"b\.wav: audio without a class; move it"):
        read_set(tree)


def test_a_copy_within_a_class_counts_once(tree):
    (tree / "dog" / "copy.wav").write_bytes((tree / "dog" / "2_x.wav").read_bytes())
    said = r"dropped 1 files that are copies of others, the first .*copy\.wav \(of .*2_x\.wav"
    with pytest.warns(UserWarning, match=said):
        assert found(read_set(tree), tree) == CLASSES


def test_a_copy_in_another_class_is_an_error(tree):
    (tree / "cat" / "copy.wav").write_bytes((tree / "dog" / "2_x.wav").read_bytes())
    with pytest.raises(ConfigError, match=r"copy\.wav \(cat\) and .*2_x\.wav \(dog\): the same audio in two classes"):
        read_set(tree)


def test_files_of_one_size_are_not_taken_for_copies(tmp_path):
    (tmp_path / "x").mkdir()
    for name, last in (("a", 1), ("b", 2)):
        (tmp_path / "x" / f"{name}.wav").write_bytes(bytes(200_000) + bytes([last]))  # differ beyond the probe
    assert len(read_set(tmp_path).paths) == 2
