import pytest

from mtslvr.errors import ConfigError
from mtslvr.fewshot import read_set

CLASSES = {"cat/a_x.ogg": "cat", "dog/2_x.wav": "dog", "dog/deep/1_y.FLAC": "dog"}


@pytest.fixture
def tree(tmp_path):
    for i, name in enumerate([*CLASSES, "cat/.hidden.wav", ".cache/x.wav", "dog/notes.txt", "README.md"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]) * 100)
    return tmp_path


def found(labelled, root):
    return dict(zip((p.relative_to(root).as_posix() for p in labelled.paths), labelled.labels.tolist(), strict=True))


def test_one_folder_a_class_or_a_field_of_the_name(tree):
    assert list(found(read_set(tree), tree).items()) == list(CLASSES.items())
    assert found(read_set(tree, label_field=1), tree) == dict(zip(CLASSES, "xxy", strict=True))
    assert set(read_set(tree, label_field=-2).labels) == {"1", "2", "a"}


def test_labels_from_a_table_beside_the_folder_or_elsewhere(tree, tmp_path_factory):
    for folder, head in ((tree, "file,label\n"), (tmp_path_factory.mktemp("tables"), "Filename,category\n")):
        table = folder / "table.csv"
        table.write_text(head + "".join(f"{file},{label}\n" for file, label in CLASSES.items()))
        assert found(read_set(tree, table=table), tree) == CLASSES
    table = tree / "table.tsv"
    table.write_text("file\tlabel\ndog/2_x.wav\tloud\ndog/2_x.wav\tloud\n")
    with pytest.warns(UserWarning, match=r"2 audio files of .* are not in it and left out, the first .*a_x\.ogg"):
        assert found(read_set(tree, table=table), tree) == {"dog/2_x.wav": "loud"}


@pytest.mark.filterwarnings("ignore:.* audio files of")
def test_what_is_wrong_with_tables_folders_and_settings_is_named(tree):
    (tree / "empty").mkdir()
    bad, twice = tree / "bad.csv", "dog/2_x.wav,a\ndog/2_x.wav,b"
    for text, message in (
        ("file,sound\na.wav,x", r"columns are 'file', 'sound': no column for the class"),
        ("file,label\ndog/2_x.wav,", "line 2: no label; fill it in"),
        ("file,label\ndog/2_x.wav,a\n\ndog/3.wav,a", r"3\.wav: no such file; names are relative to"),
        ("file,label,start,end\ndog/2_x.wav,a,0,1", r"2_x\.wav has times; whole files are compared"),
        (f"file,label\n{twice}", r"2_x\.wav is 'a' and 'b'; remove one row"),
    ):
        bad.write_text(text + "\n")
        with pytest.raises(ConfigError, match=message):
            read_set(tree, table=bad)
    for folder, settings, message in (
        (tree / "nowhere", {}, "nowhere: no such folder"),
        (tree / "README.md", {}, r"README\.md: not a folder"),
        (tree / "empty", {}, "no class folder with audio; expected FOLDER/CLASS"),
        (tree, {"label_field": 2}, r"a_x\.ogg: no field 2 in \['a', 'x'\]"),
        (tree, {"label_field": 0, "table": "x.csv"}, "label_field=0 and a table"),
        (tree, {"table": tree / "nowhere.csv"}, r"nowhere\.csv: cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_set(folder, **settings)
    (tree / "b.wav").touch()
    with pytest.raises(ConfigError, match=r"b\.wav: audio without a class; move it"):
        read_set(tree)


def test_a_copy_counts_once_and_in_two_classes_is_an_error(tree):
    content = (tree / "dog" / "2_x.wav").read_bytes()
    (tree / "dog" / "copy.wav").write_bytes(content)
    with pytest.warns(UserWarning, match=r"dropped 1 files that are copies .*, the first .*copy\.wav \(of .*2_x\.wav"):
        assert found(read_set(tree), tree) == CLASSES
    (tree / "cat" / "copy.wav").write_bytes(content)
    with pytest.raises(ConfigError, match=r"copy\.wav \(cat\) and .*2_x\.wav \(dog\): the same audio in two classes"):
        read_set(tree)
