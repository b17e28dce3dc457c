import errno
import os

import pytest

from mtslvr.audio.find import find_audio, search
from mtslvr.cli.inputs import gather
from mtslvr.errors import AudioError


@pytest.fixture(autouse=True)
def no_ffmpeg(monkeypatch):
    monkeypatch.setenv("PATH", "")


def touch(root, *names):
    for path in (root / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_of(*inputs):
    return [found.name for found in find_audio(inputs)]


def test_folders_are_searched_in_order_and_files_are_listed_as_given(tmp_path, monkeypatch):
    touch(tmp_path, "b.WAV", "a/z.mp3", "a/b/c.Flac", "a.txt", "a/x.m4a", ".h.wav", ".git/a.wav", "c.wav.part", "wav")
    assert all(path == tmp_path / name for path, name in find_audio(tmp_path))
    assert names_of(str(tmp_path), tmp_path / "a") == ["a/b/c.Flac", "a/z.mp3", "b.WAV"]
    monkeypatch.chdir(tmp_path)
    assert names_of("b.WAV", "a.txt", ".h.wav") == ["b.WAV", "a.txt", ".h.wav"]
    assert names_of("a/z.mp3", "./a/z.mp3", tmp_path / "a" / "z.mp3", "a") == ["z.mp3", "b/c.Flac"]
    assert find_audio([]) == []
    for missing in (tmp_path / "gone", ""):
        with pytest.raises(AudioError, match=f"'{missing}': no such file or folder; check the path"):
            find_audio([tmp_path, missing])


def test_clashing_names_are_told_apart(tmp_path, monkeypatch):
    touch(tmp_path, "p/x/1.wav", "p/x/2.wav", "q/x/1.wav", "r/1.wav", "s/3.wav")
    monkeypatch.chdir(tmp_path)
    assert names_of("p/x", "r", "s") == ["x/1.wav", "x/2.wav", "r/1.wav", "s/3.wav"]
    assert names_of("p/x", "q/x") == ["p/x/1.wav", "p/x/2.wav", "q/x/1.wav"]
    assert names_of("p/x/1.wav", "r/1.wav") == ["x/1.wav", "r/1.wav"]
    monkeypatch.chdir(tmp_path / "p" / "x")
    assert names_of(".", "../../q/x") == ["1.wav", "2.wav", "../../q/x/1.wav"]


def test_linked_folders_are_entered_once(tmp_path):
    touch(tmp_path, "in/b/1.wav", "in/c/2.wav", "out/3.wav")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/b")
    (tmp_path / "in/b/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/c/self").symlink_to(".")
    (tmp_path / "in/c/out").symlink_to(tmp_path / "out")
    (tmp_path / "in/4.wav").symlink_to(tmp_path / "out/3.wav")
    (tmp_path / "in/5.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "in/6.wav").mkdir()
    os.mkfifo(tmp_path / "in/7.wav")
    assert names_of(tmp_path / "in") == ["4.wav", "5.wav", "b/1.wav", "c/2.wav", "c/out/3.wav"]


def test_files_that_only_ffmpeg_reads(tmp_path, monkeypatch):
    touch(tmp_path, "a.M4A", "b/b.m4a", "b/c.wma", "d.wav", "e.mid", ".f.m4a", "notes.txt")
    assert names_of(tmp_path) == ["d.wav"]
    assert search(tmp_path).left_out_text == "4 files left out: 2 .m4a, 1 .mid, 1 .wma; install ffmpeg to read them"
    (tmp_path / "ffmpeg").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert names_of(tmp_path) == ["a.M4A", "b/b.m4a", "b/c.wma", "d.wav"]
    assert search(tmp_path).left_out_text == "1 file left out: 1 .mid; convert them to WAV or FLAC"
    assert search(tmp_path / "b").left_out_text == ""


def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_found(tmp_path, monkeypatch):
    touch(tmp_path, "a.wav", "lost/b.wav", "z/c.wav")
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("lost"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    lost = str(tmp_path / "lost")
    monkeypatch.setattr(os, "scandir", refusing)
    found = search(tmp_path)
    assert [file.name for file in found.files] == ["a.wav", "z/c.wav"]
    assert found.unlisted == [(lost, f"{lost}: cannot be listed (Permission denied); make it readable")]
    with pytest.raises(AudioError, match="lost: cannot be listed"):
        find_audio(tmp_path)
    assert gather([str(tmp_path)]).unlisted == found.unlisted
    monkeypatch.undo()
