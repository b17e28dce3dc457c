import fill_rule
import numpy as np
import pytest

from mtslvr.errors import ConfigError
from mtslvr.fewshot import DATASETS, prepare, splits


def plant(root, files):
    """Make files, of names alone or with what is in them."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name] if isinstance(files, dict) else "")


def esc50():
    classes = ["rain", *splits.ESC50["test"], *splits.ESC50["val"]]
    rows = {f"1-{i}-{take}-{i}.wav": name for i, name in enumerate(classes) for take in "AB"}
    table = "".join(f"{file},1,0,{name},False,1,A\n" for file, name in rows.items())
    head = "filename,fold,target,category,esc10,src_file,take\n"
    return {"x/meta/esc50.csv": head + table, **{f"x/audio/{file}": "" for file in rows}}


BIRDS = {"ameavo": [200] + 50 * [1], "azaspi1": 49 * [1]}  # seconds of the clips
PARTS, EMOTIONS = ("train", "valid", "test"), ("ANG", "SAD", "NEU")
# Dataset: its tree, its classes and clips there, and the first class.
TREES = {
    "esc50": (esc50(), 16, 32, "airplane"),
    "nsynth": (
        [f"nsynth-{x}/audio/{x}_acoustic_{i:03d}-0{p}-127.wav" for x in PARTS for i in range(4) for p in (21, 22)],
        12, 24, "test_acoustic_000",
    ),
    "fsdkaggle18": (
        {"FSDKaggle2018.meta/train_post_competition.csv": "fname,label,x\n00a.wav,Bark,1\n00b.wav,Cello,0",
         "FSDKaggle2018.meta/test_post_competition_scoring_clips.csv": "fname,label,usage\n01a.wav,Bark,Public",
         **{f"FSDKaggle2018.audio_{name}.wav": "" for name in ("train/00a", "train/00b", "test/01a")}},
        2, 3, "Bark",
    ),
    "watkins": ([f"best_of/{x}.wav" for x in ("Narwhal/1", "Narwhal/2", "Killer_Whale/6")], 2, 3, "Killer_Whale"),
    "birdclef2020": ([], 1, 50, "ameavo"),
    "voxceleb1": (
        ["vox1_dev_wav/wav/id10001/1zcIwhmdeo4/00001.wav", "vox1_dev_wav/wav/id10001/7gWz/00001.wav",
         "vox1_test_wav/wav/id10270/5r0dWxy17C8/00001.wav", "vox1_meta.csv", "other/00001.wav"],
        2, 3, "id10001",
    ),
    "speechcommands": (
        ["yes/0a_nohash_0.wav", "yes/0a_nohash_1.wav", "no/b_nohash_0.wav", "LICENSE", "_background_noise_/pink.wav"],
        2, 3, "no",
    ),
    "cremad": ([f"AudioWAV/10{i:02d}_DFA_{name}_XX.wav" for i in range(2) for name in EMOTIONS], 3, 6, "ANG"),
    "saa": (
        {"speakers_all.csv": "filename,native_language,,\nafrikaans1,afrikaans,,\nlost1,zulu,,\nenglish7,english,,",
         **{f"recordings/recordings/{name}.mp3": "" for name in ("afrikaans1", "english7")}},
        2, 2, "afrikaans",
    ),
    "commonvoice": (
        [f"cv-corpus-12.0-delta/{x}/{file}" for x in ("cy", "ab") for file in ("clips/1.mp3", "clips/2.mp3", "a.tsv")],
        2, 4, "ab",
    ),
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*in the paper")


@pytest.fixture
def tree(tmp_path, write):
    """Makes the published layout of a dataset, tiny."""

    def make(name):
        plant(tmp_path, TREES[name][0])
        for species, seconds in BIRDS.items() if name == "birdclef2020" else ():
            for i, length in enumerate(seconds):
                write(tmp_path / "data" / species / f"XC{i}.wav", length, rate=10)
        return tmp_path

    return make


@pytest.mark.parametrize("name", DATASETS)
def test_all_clips_of_the_published_layout(tree, name):
    with pytest.warns(UserWarning, match=r"classes and .* clips; .* in the paper"):
        found = prepare(name, tree(name), "all")
    assert found.name == name and DATASETS[name].title in found.note
    assert (len(np.unique(found.labels)), len(found.paths), found.labels[0]) == TREES[name][1:]
    assert all(path.is_file() for path in found.paths)


def test_esc50_has_the_published_classes_and_splits_that_are_not_published_are_asked_for(tree):
    root = tree("esc50")
    test, val, train = (set(prepare("esc50", root, split).labels) for split in ("test", "val", "train"))
    assert (test, val, train) == (set(splits.ESC50["test"]), set(splits.ESC50["val"]), {"rain"})
    assert (len(test), len(val)) == (10, 5)
    root = tree("cremad")
    assert set(prepare("cremad", root).labels) == set(EMOTIONS)
    with pytest.raises(ConfigError, match="CREMA-D: no split 'train', the paper only tests on it"):
        prepare("cremad", root, "train")
    with pytest.raises(ConfigError, match=r"NSynth: .*pass the \.npy of MetaAudio's .* with --split-file, or take"):
        prepare("nsynth", tree("nsynth"))


def test_split_files_and_what_is_none_or_would_run_code(tree, tmp_path):
    root, array = tree("watkins"), np.empty(3, dtype=object)
    for name, test in (("split", np.array(["killer whale"])), ("code", [fill_rule.Evil(str(tmp_path / "trace"))])):
        array[:] = [["Narwhal"], np.array([]), test]  # as MetaAudio's repository holds them
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    plant(tmp_path, {
        "split.json": '{"train": ["Narwhal"], "val": [], "test": ["killer whale"]}',
        "split.csv": "class,split\nNarwhal,train\nkiller whale,test\n",
        "split.txt": "killer whale",
        "dodo.json": '{"test": ["Narwhal", "Dodo"]}', "x.npy": "no array", "x.csv": "name\na\n", "x.yaml": "",
    })  # fmt: skip
    for name in ("split.npy", "split.json", "split.csv", "split.txt"):
        found = prepare("watkins", root, "test", tmp_path / name)  # names as in the split, not as in the folder
        assert set(found.labels) == {"Killer_Whale"} and name in found.note
    for name, split, message in (
        ("dodo.json", "test", "1 of 2 classes of split 'test' are not in the dataset, the first 'Dodo'"),
        ("dodo.json", "val", "no split 'val'; it has test"),
        ("code.npy", "test", "refused: the split file asks for .*open"),
        ("x.npy", "test", "not a split file"),
        ("x.csv", "test", "not a split file"),
        ("x.yaml", "test", "unknown split file; use .npy, .json, .csv, .txt"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare("watkins", root, split, tmp_path / name)
    assert not (tmp_path / "trace").exists()


def test_what_does_not_exist_is_named(tmp_path):
    for name, folder, split, said in (
        ("esc10", tmp_path, "all", "dataset='esc10': unknown; use one of esc50, nsynth"),
        ("esc50", tmp_path, "dev", "split='dev': unknown; use one of train, val, test, all"),
        ("esc50", tmp_path / "nowhere", "all", "no such folder; give the one that ESC-50 unpacks to"),
        ("esc50", tmp_path, "test", "no meta/esc50.csv in it"),
        ("nsynth", tmp_path, "test", r"no audio of NSynth found; docs/fewshot\.md has the layout"),
    ):
        with pytest.raises(ConfigError, match=said):
            prepare(name, folder, split)
    plant(tmp_path, {"meta/esc50.csv": "filename,fold\n1.wav,2\n"})
    with pytest.raises(ConfigError, match=r"esc50\.csv: no columns filename and category"):
        prepare("esc50", tmp_path)
