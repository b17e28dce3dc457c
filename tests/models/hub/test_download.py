"""Downloads: in the real cache of huggingface_hub by stand-ins for its two calls, and once by the library itself."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import narrow
import pytest
from click.testing import CliRunner
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from server import COMMIT, serve

from mtslvr.cli.main import main
from mtslvr.errors import HubError
from mtslvr.models import hub, remote

REPO = "tones/tiny"
ELSEWHERE = "f" * 40
REFUSED = "ask for access on its page and log in with `hf auth login`"


def remedy(name):
    return f"or `mtslvr download {name} --to FOLDER` on another machine, copy FOLDER here and load it"


def answer(kind, status, text="no"):
    """An error as the library makes it of a hub's answer."""
    return kind(text, response=SimpleNamespace(status_code=status, headers={}, request=None))


class Hub:
    """Stands for `HfApi` and `snapshot_download`, with repositories in memory; `asked` are those it was asked for."""

    def __init__(self):
        self.commits, self.asked, self.downloaded = {}, [], []
        self.error, self.sizes, self.spoilt = None, {}, lambda content: content

    def add(self, repo, files, commit=None, refs=("main",)):
        commit = commit or hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits.update(dict.fromkeys([(repo, name) for name in (*refs, commit)], (commit, files)))
        return commit

    def model_info(self, repo, *, revision, token, timeout, files_metadata):
        assert timeout == huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT  # a hub that is silent ends in an error
        self.asked.append((repo, revision))
        if self.error is not None and token != "hf_right":
            raise self.error
        if (repo, revision) not in self.commits:
            raise answer(RevisionNotFoundError, 404)
        commit, files = self.commits[repo, revision]
        sizes = {name: len(content) for name, content in files.items()} | self.sizes
        return SimpleNamespace(sha=commit, siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in sizes.items()])

    def snapshot_download(self, repo, *, revision, allow_patterns, cache_dir, **_):
        self.downloaded.append(repo)
        commit, files = self.commits[repo, revision]
        folder = snapshot(Path(cache_dir), commit, repo)
        root, ref = folder.parents[1], folder.parents[1] / "refs" / revision
        for place in (folder, root / "blobs", ref.parent):
            place.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        for name in files.keys() & set(allow_patterns):
            blob = root / "blobs" / hashlib.sha256(files[name]).hexdigest()
            blob.write_bytes(self.spoilt(files[name]))
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(os.path.relpath(blob, folder))
        return str(folder)


@pytest.fixture
def fake(monkeypatch):
    made = Hub()
    monkeypatch.setattr(remote, "HfApi", lambda **_: made)
    monkeypatch.setattr(remote, "snapshot_download", made.snapshot_download)
    return made


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def find(cache):
    return lambda name, **options: hub.find(name, **{"cache_dir": cache, **options})


@pytest.fixture
def refused(find):
    """Checks that all texts are in the message of a HubError."""

    def check(name, *texts, **options):
        with pytest.raises(HubError) as caught:
            find(name, **options)
        assert all(str(text) in str(caught.value) for text in texts), str(caught.value)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1200

    return check


def snapshot(cache, commit, repo=REPO):
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def test_the_huggingface_hub_is_the_one_asked_for():
    """MTSLVR_TEST_HUB, such as 1.3, guards runs that are to have another version than the installed one."""
    assert huggingface_hub.__version__.startswith(os.environ.get("MTSLVR_TEST_HUB", ""))


@pytest.mark.slow
def test_the_library_itself_and_a_hub(made, files, cache, tmp_path):
    """Nothing but a checkpoint's files is fetched, no token goes to another host, and then the cache suffices."""

    def mtslvr(*arguments):
        command = [sys.executable, narrow.__file__, *map(str, arguments), "--cache-dir", str(cache)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    with serve(REPO, {**files, "model.pt": b"pickle", "notes.txt": b""}) as server:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        url = f"http://127.0.0.1:{server.server_address[1]}"
        environment |= {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_right", "NO_PROXY": "*"}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_ETAG_TIMEOUT": "2"}
        done = mtslvr("download", REPO, "--to", tmp_path / "usb stick")
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'usb stick'}\n"), done.stderr
        fetched = {path.rpartition("/")[2] for path, *_ in server.requests if "/api/" not in path}
        assert fetched == set(files)
        tokens = {host: token for _, host, token in server.requests}
        assert tokens == {"127.0.0.1": "Bearer hf_right", "localhost": None}
        absent = mtslvr("download", "tones/absent")
        assert absent.returncode == 3 and f"{url} refuses it (RepositoryNotFoundError" in absent.stderr
    for _ in range(2):  # nobody listens any more; then offline
        assert mtslvr("download", REPO).stdout == f"{snapshot(cache, COMMIT)}\n"
        environment["HF_HUB_OFFLINE"] = "1"
    gone = mtslvr("download", "tones/absent")
    assert gone.returncode == 3 and "HF_HUB_OFFLINE is set" in gone.stderr and remedy("tones/absent") in gone.stderr


# Finding and caching


def test_first_download_then_cache(fake, find, files, cache):
    commit = fake.add(REPO, {**files, "model.pt": b"pickle"})
    assert find(REPO) == find(REPO) == snapshot(cache, commit)
    assert {path.name: path.read_bytes() for path in find(REPO).iterdir()} == files
    assert set(fake.asked) == {(REPO, "main")} and fake.downloaded == [REPO]  # a branch is looked up each time
    fake.asked.clear()
    assert find(f"{REPO}@{commit}") == find(REPO, local_files_only=True) == snapshot(cache, commit)
    assert fake.asked == []  # a commit cannot change
    fake.add(REPO, files, commit=ELSEWHERE)
    assert find(REPO) == snapshot(cache, ELSEWHERE)  # a branch that moved


def test_names_with_a_revision(fake, find, files, cache):
    commit = fake.add(REPO, files, refs=("v1.0+cpu", "refs/pr/1"))
    fake.add(REPO, {}, commit=ELSEWHERE)  # main is another one
    for name in (f"{REPO}@{commit}", f"hf-hub:{REPO}@v1.0+cpu", f"{REPO}@refs/pr/1"):
        assert find(name) == snapshot(cache, commit)


def test_where_the_hub_gives_no_answer_the_cache_is_taken(fake, find, refused, files, cache):
    expected = snapshot(cache, fake.add(REPO, files))
    find(REPO)
    for fake.error in (answer(HfHubHTTPError, 503), OfflineModeIsEnabled("off"), TimeoutError("timed out")):
        assert find(REPO) == expected
        refused("tones/other", f"tones/other@main: not in the cache {cache}, and", remedy("tones/other"))
    refused("tones/other", f"the hub {huggingface_hub.constants.ENDPOINT} gives no answer (TimeoutError: timed out)")
    refused(f"{REPO}@v2", "local_files_only is set", remedy(f"{REPO}@v2"), local_files_only=True)
    (expected / "model.safetensors").unlink()  # half a checkpoint is none
    refused(REPO, "not in the cache")


# What the hub does not have, or does not give


@pytest.mark.parametrize(
    "error",
    [
        answer(RepositoryNotFoundError, 404),
        answer(GatedRepoError, 403),
        answer(HfHubHTTPError, 401, "Invalid credentials"),
        LocalTokenNotFoundError("no token"),
        answer(GatedRepoError, 403, "\x1b]0;title\x07\x1b[31m" + "x" * 5000),  # what a hub says is not obeyed
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_given(fake, find, refused, files, error):
    fake.add(REPO, files)
    fake.error = error
    refused(REPO, f"{REPO}@main: the hub", f"refuses it ({type(error).__name__}: ", REFUSED)
    assert find(REPO, token="hf_right").name


def test_what_is_not_there(fake, find, refused, files):
    fake.add(REPO, files)
    find(REPO)
    for revision in ("v7", ELSEWHERE):
        refused(f"{REPO}@{revision}", f"{REPO}@{revision}: the hub", "RevisionNotFoundError", REFUSED)
    for name in ("config.json", "model.safetensors"):
        fake.add("org/other", {key: content for key, content in files.items() if key != name})
        refused("org/other", f"no {name} in it, so not an mtslvr checkpoint; only safe", "mtslvr convert")


# Downloads that go wrong


def test_content_that_is_not_what_the_hub_named(fake, refused, files, cache):
    """The cache has the name of a large file from the hub, its sha256; other bytes come."""
    fake.add(REPO, files)
    good = files["model.safetensors"]
    fake.spoilt = lambda content: content[:-1] + bytes([content[-1] ^ 1])
    sums = [hashlib.sha256(content).hexdigest() for content in (fake.spoilt(good), good)]
    said = (
        f"has sha256 {sums[0]}, expected {sums[1]}; refused. Delete {cache / 'models--tones--tiny'} and download again"
    )
    refused(REPO, said)
    refused(REPO, said, local_files_only=True)  # until the advice is taken


def test_a_cache_that_cannot_be_written(fake, refused, files, tmp_path):
    fake.add(REPO, files)
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "cache"
    refused(REPO, f"{REPO}@main: download into {where} failed", "cache_dir or HF_HOME", cache_dir=where)


# Names and answers of ill will


def test_hostile_names_are_refused_and_leave_no_trace(fake, find, cache):
    for name in (
        "org/..", "org/../../evil", "org/name@../../evil", "org/name@/tmp/evil", "hf-hub:/etc/passwd", "org/na\x00me",
        "org/name\n", "-org/name", "org/name@-main", "https://huggingface.co/org/name", "org--name/x", "",
    ):  # fmt: skip
        with pytest.raises(HubError, match=r"neither a bundled|not a valid hub id"):
            find(name)
    assert fake.asked == [] and not cache.exists()


def test_a_commit_that_would_leave_the_cache(fake, refused, files):
    fake.add(REPO, files, commit="../../../evil")
    refused(REPO, "does not answer as a hub does", "check HF_ENDPOINT, proxy and login")
    assert fake.downloaded == []


def test_files_too_large_are_not_downloaded(fake, refused, files):
    fake.add(REPO, files)
    for name, most in (("model.safetensors", 1 << 29), ("config.json", 1 << 20), ("README.md", 1 << 20)):
        fake.sizes = {name: 10**12}
        refused(REPO, f"{name} has 1000000000000 bytes, an mtslvr checkpoint's at most {most}; not downloaded")
    assert fake.downloaded == []


# The command lines


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.usefixtures("narrow_encoders")
def test_download_to_a_folder_for_another_machine(fake, files, cache, tmp_path):
    commit = fake.add(REPO, files)
    to = tmp_path / "usb stick"
    for _ in range(2):
        assert run("download", REPO, "--to", to, "--cache-dir", cache).stdout == f"{to}\n"
    assert {path.name: path.read_bytes() for path in to.iterdir()} == files  # exactly what the hub holds
    assert not any(path.is_symlink() for path in to.iterdir())
    (to / "config.json").write_text("{}")
    for where, why in (
        (to, "of another checkpoint; choose an empty folder"),
        (to / "config.json", "cannot be written"),
    ):
        result = run("download", REPO, "--to", where, "--cache-dir", cache)
        assert result.exit_code == 2 and f"config.json: {why}" in result.stderr
    assert run("download", f"{REPO}@{commit}", "--cache-dir", cache).stdout == f"{snapshot(cache, commit)}\n"


@pytest.mark.usefixtures("narrow_encoders")
def test_models_lists_what_is_cached(fake, files, cache):
    fake.add("tones/other", files, refs=("main", "v1"))
    fake.add("words/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""})  # another library's
    fake.add("tones/newer", {**files, "config.json": b'{"format_version": 99}'})  # a newer version's
    for name, said in (("tones/other", ""), ("words/bert", "no key 'format_version'"), ("tones/newer", "upgrade with")):
        assert said in run("download", name, "--cache-dir", cache).stderr  # the latter two are cached, and refused
    fake.asked.clear()
    rows = json.loads(run("models", "--json", "--cache-dir", cache).stdout)
    newer, other = (row for row in rows if row["source"] == "cached")
    assert (newer["name"], other["name"]) == ("tones/newer", "tones/other")
    assert "upgrade with `pip install -U mtslvr`" in newer["problem"] and newer["licence"] == "cc-by-4.0"
    assert other["dims"] == {"invariant": 8, "variant": 8, "concat": 8} and len(other["few_shot"]) == 2
    shown = run("models", "tones/other", "--cache-dir", cache).stdout
    assert "A card for tests." in shown and "source      cached" in shown
    absent = run("models", "tones/absent", "--cache-dir", cache)
    assert absent.exit_code == 3 and "not in the cache" in absent.stderr and "Models here: " in absent.stderr
    assert fake.asked == []
