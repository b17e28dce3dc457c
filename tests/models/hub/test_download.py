import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import narrow
import pytest
from click.testing import CliRunner
from huggingface_hub import errors

from mtslvr.cli.main import main
from mtslvr.errors import HubError
from mtslvr.models import hub, remote

REPO = "tones/tiny"
COMMIT, ELSEWHERE = "c" * 40, "f" * 40
REFUSED = "ask for access on its page and log in with `hf auth login`"


def remedy(name):
    return f"or `mtslvr download {name} --to FOLDER` on another machine, copy FOLDER here and load it"


def answer(kind, status, text="no"):
    return kind(text, response=SimpleNamespace(status_code=status, headers={}, request=None))


class Hub:
    """Stands for `HfApi` and `snapshot_download`, with repositories in memory."""

    def __init__(self, cache):
        self.cache, self.commits, self.asked, self.downloaded = cache, {}, [], []
        self.error, self.sizes, self.spoilt = None, {}, lambda content: content

    def add(self, files, repo=REPO, commit=None, refs=("main",)):
        commit = commit or hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits.update(dict.fromkeys([(repo, name) for name in (*refs, commit)], (commit, files)))
        return self.snapshot(commit, repo)

    def snapshot(self, commit, repo=REPO):
        return self.cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit

    def model_info(self, repo, *, revision, token, timeout, files_metadata):
        assert timeout == huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT  # a hub that is silent ends in an error
        self.asked.append((repo, revision))
        if self.error is not None and token != "hf_right":
            raise self.error
        if (repo, revision) not in self.commits:
            raise answer(errors.RevisionNotFoundError, 404)
        commit, files = self.commits[repo, revision]
        sizes = [(name, self.sizes.get(name, len(content))) for name, content in files.items()]
        return SimpleNamespace(sha=commit, siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in sizes])

    def snapshot_download(self, repo, *, revision, allow_patterns, cache_dir, **_):
        self.downloaded.append(repo)
        commit, files = self.commits[repo, revision]
        folder = Path(cache_dir) / self.snapshot(commit, repo).relative_to(self.cache)
        blobs, ref = folder.parents[1] / "blobs", folder.parents[1] / "refs" / revision
        for place in (folder, blobs, ref.parent):
            place.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        for name in files.keys() & set(allow_patterns):
            blob = blobs / hashlib.sha256(files[name]).hexdigest()
            blob.write_bytes(self.spoilt(files[name]))
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(blob)
        return str(folder)

    def find(self, name=REPO, **options):
        return hub.find(name, **{"cache_dir": self.cache, **options})

    def refused(self, name, *texts, **options):
        with pytest.raises(HubError) as caught:
            self.find(name, **options)
        said = str(caught.value)
        assert all(text in said for text in texts) and said.isprintable() and len(said) < 1200, said

    def run(self, *arguments):
        return CliRunner().invoke(main, [*map(str, arguments), "--cache-dir", str(self.cache)])


@pytest.fixture
def fake(monkeypatch, tmp_path):
    made = Hub(tmp_path / "cache")
    monkeypatch.setattr(remote, "HfApi", lambda **_: made)
    monkeypatch.setattr(remote, "snapshot_download", made.snapshot_download)
    return made


class Handler(SimpleHTTPRequestHandler):
    """A hub of the files in a folder, with what huggingface_hub looks for in the headers of the real one.

    Weights are a large file, as on the hub: it redirects to another host for them.
    """

    def log_message(self, *_):
        pass

    def send_head(self):
        path, host = Path(self.translate_path(self.path)), self.headers["Host"].partition(":")[0]
        if "resolve" in path.parts:
            self.server.fetched.add((path.name, host, self.headers["Authorization"]))
        if path.name != "model.safetensors" or host == "localhost":
            return super().send_head()
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}{self.path}")
        self.send_header("X-Linked-Size", str(path.stat().st_size))
        self.end_headers()

    def end_headers(self):
        path = Path(self.translate_path(self.path))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Error-Code", "RepoNotFound")  # where there is no such file
        if "resolve" in path.parts and path.is_file():
            self.send_header("ETag", f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"')
        super().end_headers()


@pytest.mark.slow
def test_the_library_itself_and_a_hub(files, tmp_path):
    def mtslvr(*arguments):
        command = [sys.executable, narrow.__file__, *arguments, "--cache-dir", tmp_path / "cache"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    held = {**files, "model.pt": b"pickle", "notes.txt": b""}
    tree = [{"type": "file", "oid": "0" * 40, "size": len(x), "path": n, "rfilename": n} for n, x in held.items()]
    held = {f"{REPO}/resolve/{COMMIT}/{name}": content for name, content in held.items()}
    held[f"api/models/{REPO}/tree/{COMMIT}"] = json.dumps(tree).encode()
    held[f"api/models/{REPO}/revision/main"] = json.dumps({"id": REPO, "sha": COMMIT, "siblings": tree}).encode()
    for name, content in held.items():
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name).write_bytes(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "hub")) as server:
        server.fetched, url = set(), f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_right", "NO_PROXY": "*", "HF_HUB_ETAG_TIMEOUT": "2"}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
        done = mtslvr("download", REPO, "--to", tmp_path / "usb stick")
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'usb stick'}\n"), done.stderr
        of_hub = {(name, "127.0.0.1", "Bearer hf_right") for name in files}  # no pickle
        assert server.fetched == of_hub | {("model.safetensors", "localhost", None)}
        absent = mtslvr("download", "tones/absent")
        assert absent.returncode == 3 and f"{url} refuses it (RepositoryNotFoundError" in absent.stderr
        server.shutdown()
    for _ in range(2):  # nobody listens any more; then offline
        assert mtslvr("download", REPO).stdout == f"{Hub(tmp_path / 'cache').snapshot(COMMIT)}\n"
        environment["HF_HUB_OFFLINE"] = "1"
    gone = mtslvr("download", "tones/absent")
    assert gone.returncode == 3 and "HF_HUB_OFFLINE is set" in gone.stderr and remedy("tones/absent") in gone.stderr


def test_first_download_then_cache(fake, files):
    # MTSLVR_TEST_HUB, such as 1.3, guards runs that are to have another version than the installed one.
    assert huggingface_hub.__version__.startswith(os.environ.get("MTSLVR_TEST_HUB", ""))
    folder = fake.add({**files, "model.pt": b"pickle"}, refs=("main", "v1.0+cpu", "refs/pr/1"))
    assert fake.find() == fake.find() == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert set(fake.asked) == {(REPO, "main")} and fake.downloaded == [REPO]  # a branch is looked up each time
    fake.asked.clear()
    assert fake.find(f"{REPO}@{folder.name}") == fake.find(local_files_only=True) == folder
    assert fake.asked == []  # a commit cannot change
    assert fake.add(files, commit=ELSEWHERE) == fake.find()  # a branch that moved
    for name in (f"{REPO}@{folder.name}", f"hf-hub:{REPO}@v1.0+cpu", f"{REPO}@refs/pr/1"):
        assert fake.find(name) == folder


def test_where_the_hub_gives_no_answer_the_cache_is_taken(fake, files):
    folder = fake.add(files)
    fake.find()
    for fake.error in (answer(errors.HfHubHTTPError, 503), errors.OfflineModeIsEnabled("off"), TimeoutError("late")):
        assert fake.find() == folder
        fake.refused("tones/other", f"tones/other@main: not in the cache {fake.cache}, and", remedy("tones/other"))
    fake.refused("tones/other", "the hub https://", "gives no answer (TimeoutError: late)")
    fake.refused(f"{REPO}@v2", "local_files_only is set", remedy(f"{REPO}@v2"), local_files_only=True)
    (folder / "model.safetensors").unlink()  # half a checkpoint is none
    fake.refused(REPO, "not in the cache")


def test_what_the_hub_does_not_have_or_does_not_give(fake, files):
    fake.add(files)
    for fake.error in (
        answer(errors.RepositoryNotFoundError, 404),
        answer(errors.HfHubHTTPError, 401, "Invalid credentials"),
        errors.LocalTokenNotFoundError("no token"),
        answer(errors.GatedRepoError, 403, "\x1b]0;title\x07\x1b[31m" + "x" * 5000),  # what a hub says is not obeyed
    ):
        fake.refused(REPO, f"{REPO}@main: the hub", f"refuses it ({type(fake.error).__name__}: ", REFUSED)
    assert fake.find(token="hf_right").name
    fake.error = None
    for revision in ("v7", ELSEWHERE):
        fake.refused(f"{REPO}@{revision}", f"{REPO}@{revision}: the hub", "RevisionNotFoundError", REFUSED)
    for name in ("config.json", "model.safetensors"):
        fake.add({key: content for key, content in files.items() if key != name}, "org/other")
        fake.refused("org/other", f"no {name} in it, so not an mtslvr checkpoint; only safe", "mtslvr convert")
    fake.commits.clear()  # a branch that is gone is not taken from the cache
    fake.refused(REPO, f"{REPO}@main: the hub", "RevisionNotFoundError", REFUSED)


def test_downloads_that_go_wrong(fake, files):
    fake.add(files)
    fake.spoilt = lambda content: content[:-1] + bytes([content[-1] ^ 1])
    good = files["model.safetensors"]
    found, expected = (hashlib.sha256(content).hexdigest() for content in (fake.spoilt(good), good))
    said = f"has sha256 {found}, expected {expected}; refused. Delete {fake.cache / 'models--tones--tiny'} and download"
    fake.refused(REPO, said)
    fake.refused(REPO, said, local_files_only=True)  # until the advice is taken
    where = fake.cache / "models--tones--tiny" / "refs" / "main" / "cache"  # in a file
    fake.refused(REPO, f"{REPO}@main: download into {where} failed", "cache_dir or HF_HOME", cache_dir=where)


def test_names_and_answers_of_ill_will_leave_no_trace(fake, files):
    for name in (
        "org/..", "org/../../evil", "org/name@../../evil", "org/name@/tmp/evil", "hf-hub:/etc/passwd", "org/na\x00me",
        "org/name\n", "-org/name", "org/name@-main", "https://huggingface.co/org/name", "org--name/x", "",
    ):  # fmt: skip
        with pytest.raises(HubError, match=r"neither a bundled|not a valid hub id"):
            fake.find(name)
    assert fake.asked == [] and not fake.cache.exists()
    fake.add(files, commit="../../../evil")
    fake.refused(REPO, "does not answer as a hub does", "check HF_ENDPOINT, proxy and login")
    fake.add(files)
    for name, most in (("model.safetensors", 1 << 29), ("config.json", 1 << 20), ("README.md", 1 << 20)):
        fake.sizes = {name: 10**12}
        fake.refused(REPO, f"{name} has 1000000000000 bytes, an mtslvr checkpoint's at most {most}; not downloaded")
    assert fake.downloaded == [] and not fake.cache.exists()


@pytest.mark.usefixtures("narrow_encoders")
def test_download_to_a_folder_for_another_machine(fake, files, tmp_path):
    folder, to = fake.add(files), tmp_path / "usb stick"
    for _ in range(2):
        assert fake.run("download", REPO, "--to", to).stdout == f"{to}\n"
    assert {path.name: path.read_bytes() for path in to.iterdir()} == files  # exactly what the hub holds
    assert not any(path.is_symlink() for path in to.iterdir())
    (to / "config.json").write_text("{}")
    for where, why in ((to, "of another checkpoint; choose an empty"), (to / "config.json", "cannot be written")):
        result = fake.run("download", REPO, "--to", where)
        assert result.exit_code == 2 and f"config.json: {why}" in result.stderr
    assert fake.run("download", f"{REPO}@{folder.name}").stdout == f"{folder}\n"


@pytest.mark.usefixtures("narrow_encoders")
def test_models_lists_what_is_cached(fake, files):
    for name, content, said in (  # the latter two are cached, and refused
        ("tones/other", files, ""),
        ("words/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}, "no key 'format_version'"),
        ("tones/newer", {**files, "config.json": b'{"format_version": 99}'}, "upgrade with"),
    ):
        fake.add(content, name)
        assert said in fake.run("download", name).stderr
    fake.asked.clear()
    newer, other = (row for row in json.loads(fake.run("models", "--json").stdout) if row["source"] == "cached")
    assert (newer["name"], other["name"]) == ("tones/newer", "tones/other")
    assert "upgrade with `pip install -U mtslvr`" in newer["problem"] and newer["licence"] == "cc-by-4.0"
    assert other["dims"] == {"invariant": 8, "variant": 8, "concat": 8} and len(other["few_shot"]) == 2
    shown = fake.run("models", "tones/other").stdout
    assert "A card for tests." in shown and "source      cached" in shown
    absent = fake.run("models", "tones/absent")
    assert absent.exit_code == 3 and "not in the cache" in absent.stderr and "Models here: " in absent.stderr
    assert fake.asked == []
