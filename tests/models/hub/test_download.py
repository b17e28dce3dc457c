"""The real huggingface_hub, in processes of their own, against a hub on loopback (`server.py`)."""

import json
import os
import socket
import time

import huggingface_hub
import pytest
from server import etag

REPO = "tones/tiny"
ELSEWHERE = "f" * 40
LOG_IN = "log in with `hf auth login`"


def remedies(name):
    return (
        f"run `mtslvr download {name}` here with",
        f"`mtslvr download {name} --to FOLDER` on another machine",
        "copy FOLDER here and load it",
    )


def snapshot(cache, commit, repo=REPO):
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def everything(folder):
    """Names and times of change of all files."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_the_huggingface_hub_is_the_one_asked_for():
    """MTSLVR_TEST_HUB, such as 1.3, guards runs that are to have another version than the installed one."""
    assert huggingface_hub.__version__.startswith(os.environ.get("MTSLVR_TEST_HUB", ""))


# Finding and caching


def test_first_download_then_cache(hub, worker, files, cache, expected):
    commit = hub.add(REPO, {**files, "model.pt": b"pickle", "notes.txt": b"", "other/config.json": b""})
    assert worker.load(REPO) == expected
    fetched = {path.rsplit("/", 1)[1] for path in hub.paths() if "/api/" not in path}
    weights = etag("model.safetensors", files["model.safetensors"])
    assert fetched == {"config.json", "README.md", "model.safetensors", weights}
    assert all("mtslvr/" in headers["user-agent"] for _, headers in hub.requests)  # library_name and version
    before = everything(cache)
    hub.requests.clear()
    assert worker.load(REPO) == expected
    assert hub.paths() == [f"/api/models/{REPO}/revision/main"]  # a branch is looked up, and nothing is fetched
    hub.requests.clear()
    assert worker.load(f"{REPO}@{commit}") == expected
    assert hub.requests == []  # a commit cannot change
    assert everything(cache) == before  # nothing is written, so that the cache may be read-only
    hub.add(REPO, files, commit=ELSEWHERE)
    assert worker.find(REPO) == snapshot(cache, ELSEWHERE)  # a branch that moved


def test_names_with_a_revision(hub, worker, files, cache):
    commit = hub.add(REPO, files, refs=("v1.0+cpu", "refs/pr/1"))
    hub.add(REPO, {}, commit=ELSEWHERE)  # main is another one
    for name in (f"{REPO}@{commit}", f"hf-hub:{REPO}@v1.0+cpu", f"{REPO}@refs/pr/1"):
        assert worker.find(name) == snapshot(cache, commit)


def test_hf_home_is_where_the_cache_is(hub, worker, files, home):
    commit = hub.add("tones/at-home", files)
    assert worker.find("tones/at-home", cache_dir=None) == snapshot(home / "hub", commit, "tones/at-home")


# Without network


def test_from_the_cache_without_network(hub, worker, offline_worker, files, expected):
    commit = hub.add(REPO, files)
    worker.find(REPO)
    hub.requests.clear()
    for name in (REPO, f"{REPO}@{commit}"):
        assert offline_worker.load(name) == worker.load(name, local_files_only=True) == expected
    assert hub.requests == []
    began = time.monotonic()
    with hub.down():
        assert worker.load(REPO) == expected
    assert time.monotonic() - began < 10
    for fault in ({"status": 503}, {"content": b"<html>log in to this network</html>"}):
        with hub.fault(**fault):
            assert worker.load(REPO) == expected


def test_not_in_the_cache(hub, worker, offline_worker, files, cache):
    commit = hub.add(REPO, files)
    name = f"{REPO}@v2"
    said = f"{name}: not in the cache {cache}, and"
    offline_worker.refused(name, said, "HF_HUB_OFFLINE is set", *remedies(name))
    worker.refused(name, said, "local_files_only is set", *remedies(name), local_files_only=True)
    assert hub.requests == [] and not cache.exists()
    with hub.fault(status=503):
        worker.refused(REPO, f"{hub.url} fails (HfHubHTTPError: ", 503, "again later", *remedies(REPO))
    worker.find(REPO)
    (snapshot(cache, commit) / "model.safetensors").unlink()  # half a checkpoint is none
    name, began = f"{REPO}@{commit}", time.monotonic()
    said = f"{name}: not in the cache {cache}, and the hub {hub.url} cannot be reached ("
    with hub.down():
        worker.refused(name, said, "check HF_ENDPOINT, proxy and login", *remedies(name))
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_hub_that_does_not_answer_fails_within_seconds(hub, worker):
    worker.refused(REPO)  # its process has begun
    began = time.monotonic()
    with hub.down(), socket.create_server(("127.0.0.1", hub.port)):
        worker.refused(REPO, f"{REPO}@main", "cannot be reached (", "Timeout", *remedies(REPO))
    assert time.monotonic() - began < 5  # HF_HUB_ETAG_TIMEOUT is 1 here, 10 by default


# What the hub does not have, or does not give


@pytest.mark.parametrize(
    ("error", "options", "said"),
    [
        ((401, "RepoNotFound", "no"), {}, "no such repository, or a private one; check the name or " + LOG_IN),
        ((403, "GatedRepo", "Restricted"), {}, "gated; ask for access on its page on the hub and " + LOG_IN),
        ((401, None, "Invalid credentials"), {"token": "hf_wrong"}, "access refused (HfHubHTTPError: Client"),
        ((), {"token": True}, "token=True, and no token is stored; " + LOG_IN),
    ],
)
def test_what_is_not_given(hub, worker, files, expected, error, options, said):
    hub.add(REPO, files)
    hub.repos[REPO].error = error
    worker.refused(REPO, f"{REPO}@main: {said}", **options)
    assert worker.load(REPO, token="hf_right") == expected


def test_what_is_not_there(hub, worker, files):
    worker.refused(REPO, f"{REPO}@main: no such repository, or a private one")
    hub.add(REPO, files)
    for revision in ("v7", ELSEWHERE):
        worker.refused(f"{REPO}@{revision}", f"{REPO}@{revision}: no such revision; check the name after '@'")
    for number, name in enumerate(("config.json", "model.safetensors")):
        others = {key: content for key, content in files.items() if key != name}
        hub.add(f"org/{number}", {**others, "pytorch_model.bin": b"pickle"})
        worker.refused(f"org/{number}", f"no {name} in it, so not an mtslvr checkpoint; only safe", "mtslvr convert")
    assert not [path for path in hub.paths() if path.endswith(".bin")]


def test_what_a_hub_says_cannot_obey_or_flood_a_terminal(hub, worker, files):
    hub.add(REPO, files)
    for status, code in ((403, "GatedRepo"), (500, None)):
        hub.repos[REPO].error = (status, code, "\x1b]0;title\x07\x1b[31m" + "x" * 5000)
        assert len(worker.refused(REPO, f"{REPO}@main: ")) < 1000


def test_the_token_does_not_follow_to_another_host(hub, worker, files):
    hub.add(REPO, files)
    worker.find(REPO, token="hf_right")
    asked = {headers["host"].split(":")[0]: headers.get("authorization") for _, headers in hub.requests}
    assert asked == {"127.0.0.1": "Bearer hf_right", "localhost": None}


# Downloads that go wrong


def test_content_that_is_not_what_the_hub_named(hub, worker, files, cache):
    """The ETag of a large file is its sha256; other bytes of the same length come."""
    hub.add(REPO, files)
    good = files["model.safetensors"]
    bad = good[:-1] + bytes([good[-1] ^ 1])
    sums = f"has sha256 {etag('.safetensors', bad)}, expected {etag('.safetensors', good)}; refused"
    delete = f"Delete {cache / 'models--tones--tiny'} and download again"
    with hub.fault(replace=bad):
        worker.refused(REPO, f"{REPO}@main: model.safetensors", sums, delete)
    # It stays refused, as a file in the cache that somebody changed, until the advice is taken.
    worker.refused(REPO, sums, delete, local_files_only=True)


def test_a_cache_that_cannot_be_written(hub, worker, files, tmp_path):
    hub.add(REPO, files)
    (tmp_path / "file").write_text("")
    worker.cache = tmp_path / "file" / "cache"
    worker.refused(REPO, f"{REPO}@main: download into {worker.cache} failed", "cache_dir or HF_HOME")


# Names and answers of ill will

HOSTILE = [
    "org/..", "org/../../evil", "org/name@../../evil", "org/name@/tmp/evil", "hf-hub:/etc/passwd", "org/na\x00me",
    "org/name\n", "-org/name", "org/name@-main", "https://huggingface.co/org/name", "org--name/x", "",
]  # fmt: skip


def test_hostile_names_are_refused_and_leave_no_trace(hub, worker, tmp_path):
    for name in HOSTILE:
        message = worker.refused(name)
        assert "neither a bundled" in message or "not a valid hub id" in message
    assert hub.requests == [] and everything(tmp_path) == {}


def test_a_commit_that_would_leave_the_cache(hub, worker, files, tmp_path):
    hub.add(REPO, files, commit="../../../evil")
    worker.cache = tmp_path / "a" / "b" / "cache"
    worker.refused(REPO, f"{REPO}@main: ", "does not answer as a hub does", "check HF_ENDPOINT, proxy and login")
    assert not [path for path in everything(tmp_path) if "evil" in path]


def test_files_too_large_are_not_downloaded(hub, worker, files):
    hub.add(REPO, files)
    with hub.fault(size=10**12):
        worker.refused(REPO, "has 1000000000000 bytes, an mtslvr checkpoint's at most", "not downloaded: check the na")
    for name in ("config.json", "README.md"):
        hub.add(REPO, {**files, name: b" " * (1 << 21)})
        worker.refused(REPO, f"{name} has 2097152 bytes", "at most 1048576")
    assert not [path for path in hub.paths() if "/api/" not in path]


# The command lines


def test_download_to_a_folder_for_another_machine(hub, worker, offline_worker, files, cache, tmp_path, expected):
    code, _, said = worker.cli("download", REPO)
    assert code == 3 and "Error: tones/tiny@main: no such repository" in said
    commit = hub.add(REPO, files)
    to = tmp_path / "usb stick"
    for _ in range(2):
        assert worker.cli("download", REPO, "--to", to)[:2] == (0, f"{to}\n")
    assert {path.name: path.read_bytes() for path in to.iterdir()} == files  # exactly what the hub holds
    assert not any(path.is_symlink() for path in to.iterdir())
    assert offline_worker.load(str(to)) == expected
    (to / "config.json").write_text("{}")
    for where, why in (
        (to, "of another checkpoint; choose an empty folder"),
        (to / "config.json", "cannot be written"),
    ):
        code, _, said = worker.cli("download", REPO, "--to", where)
        assert code == 2 and f"config.json: {why}" in said
    assert worker.cli("download", f"{REPO}@{commit}")[1] == f"{snapshot(cache, commit)}\n"


def test_models_lists_what_is_cached(hub, worker, files):
    hub.add("tones/other", files, refs=("main", "v1"))
    hub.add("words/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""})  # another library's
    hub.add("tones/newer", {**files, "config.json": b'{"format_version": 99}'})  # a newer version's
    for name, said in (("tones/other", ""), ("words/bert", "no key 'format_version'"), ("tones/newer", "upgrade with")):
        assert said in worker.cli("download", name)[2]  # the latter two are in the cache, and refused
    hub.requests.clear()
    rows = json.loads(worker.cli("models", "--json")[1])
    newer, other = (row for row in rows if row["source"] == "cached")
    assert (newer["name"], other["name"]) == ("tones/newer", "tones/other")
    assert "upgrade with `pip install -U mtslvr`" in newer["problem"] and newer["licence"] == "cc-by-4.0"
    assert other["dims"] == {"invariant": 8, "variant": 8, "concat": 8} and len(other["few_shot"]) == 2
    shown = worker.cli("models", "tones/other")[1]
    assert "A card for tests." in shown and "source      cached" in shown
    code, _, said = worker.cli("models", "tones/absent")
    assert code == 3 and "not in the cache" in said and "Models here: " in said
    assert hub.requests == []
