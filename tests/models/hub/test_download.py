"""The real huggingface_hub, in processes of their own, against a hub on loopback (`server.py`)."""

import json
import os
import socket
from pathlib import Path

import huggingface_hub
import pytest
from server import etag

REPO = "tones/tiny"
ELSEWHERE = "f" * 40
LOG_IN = "log in with `hf auth login`"


def refused(answer, *texts, error="HubError"):
    """The message of a named error, in which all texts stand."""
    assert answer.get("error") == error, answer
    for text in texts:
        assert str(text) in answer["message"], answer["message"]
    assert answer["message"].isprintable()
    return answer["message"]


def remedies(name):
    return (
        f"run `mtslvr download {name}` here with",
        f"`mtslvr download {name} --to FOLDER` on another machine",
        "copy FOLDER here and load it",
    )


def snapshot(cache, commit, repo=REPO):
    return Path(cache) / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def everything(folder):
    """Names and times of change of all files."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in Path(folder).rglob("*")}


# Finding and caching


def test_first_download_then_cache(hub, worker, files, cache, expected):
    commit = hub.add(REPO, {**files, "model.pt": b"pickle", "notes.txt": b"", "other/config.json": b""})
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected
    fetched = {path.rsplit("/", 1)[1] for path in hub.paths("GET") if "/api/" not in path}
    assert fetched == {"config.json", "README.md", etag("model.safetensors", files["model.safetensors"])}
    assert all("mtslvr/" in r.headers["user-agent"] for r in hub.requests)  # library_name and version
    before = everything(cache)
    hub.requests.clear()
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected
    assert hub.paths() == [f"/api/models/{REPO}/revision/main"]  # a branch is looked up, and nothing is fetched
    hub.requests.clear()
    assert worker.call("load", f"{REPO}@{commit}", cache_dir=cache)["value"] == expected
    assert hub.requests == []  # a commit cannot change
    assert everything(cache) == before  # nothing is written, so that the cache may be read-only


@pytest.mark.parametrize("form", ["{repo}@{commit}", "hf-hub:{repo}@v1.0+cpu", "{repo}@refs/pr/1"])
def test_names_with_a_revision(hub, worker, files, cache, form):
    commit = hub.add(REPO, files, refs=("v1.0+cpu", "refs/pr/1"))
    hub.add(REPO, {}, commit=ELSEWHERE)  # main is another one
    name = form.format(repo=REPO, commit=commit)
    assert worker.call("find", name, cache_dir=cache)["value"] == str(snapshot(cache, commit))


def test_hf_home_is_where_the_cache_is(hub, worker, files, home):
    commit = hub.add("tones/at-home", files)
    assert worker.call("find", "tones/at-home")["value"] == str(snapshot(home / "hub", commit, "tones/at-home"))


def test_a_branch_that_moved_is_downloaded_again(hub, worker, files, cache):
    hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    hub.add(REPO, files, commit=ELSEWHERE)
    assert worker.call("find", REPO, cache_dir=cache)["value"] == str(snapshot(cache, ELSEWHERE))


# Without network


def test_from_the_cache_without_network(hub, worker, offline_worker, files, cache, expected):
    commit = hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    hub.requests.clear()
    for name in (REPO, f"{REPO}@main", f"{REPO}@{commit}"):
        assert offline_worker.call("load", name, cache_dir=cache)["value"] == expected
        assert worker.call("load", name, cache_dir=cache, local_files_only=True)["value"] == expected
    assert hub.requests == []
    with hub.down():
        answer = worker.call("load", REPO, cache_dir=cache)
    assert answer["value"] == expected and answer["seconds"] < 10
    for fault in ({"status": 503}, {"content": b"<html>log in to this network</html>"}):
        with hub.fault(**fault):
            assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


def test_offline_and_not_in_the_cache(hub, worker, offline_worker, files, cache):
    hub.add(REPO, files)
    name = f"{REPO}@v2"
    said = f"{name}: not in the cache {cache}, and"
    answer = offline_worker.call("load", name, cache_dir=cache)
    refused(answer, said, "HF_HUB_OFFLINE is set", *remedies(name))
    answer = worker.call("load", name, cache_dir=cache, local_files_only=True)
    refused(answer, said, "local_files_only is set", *remedies(name))
    assert hub.requests == [] and not Path(cache).exists()


def test_unreachable_and_not_in_the_cache_fails_within_seconds(hub, worker, files, cache):
    commit = hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    (snapshot(cache, commit) / "model.safetensors").unlink()  # half a checkpoint is none
    with hub.down():
        answer = worker.call("load", f"{REPO}@{commit}", cache_dir=cache)
    said = f"{REPO}@{commit}: not in the cache {cache}, and the hub {hub.url} cannot be reached ("
    refused(answer, said, "check HF_ENDPOINT, proxy and login", *remedies(f"{REPO}@{commit}"))
    assert answer["seconds"] < 5


@pytest.mark.slow
def test_a_hub_that_does_not_answer_fails_within_seconds(hub, worker, files, cache):
    """Connections are taken, and then comes nothing, or a header without end."""
    with hub.down(), socket.create_server(("127.0.0.1", hub.port)):
        answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, f"{REPO}@main", "cannot be reached (", "Timeout", *remedies(REPO))
    assert answer["seconds"] < 5  # HF_HUB_ETAG_TIMEOUT is 1 here, 10 by default
    hub.add(REPO, files)
    with hub.fault(drip=0.1):
        answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "cannot be reached (TimeoutError: no whole answer within 3 s)", *remedies(REPO))
    assert answer["seconds"] < 5


@pytest.mark.parametrize("status", [503, 429])
def test_a_hub_with_an_internal_error(hub, worker, files, cache, status):
    hub.add(REPO, files)
    with hub.fault(status=status):
        answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, f"{hub.url} fails (HfHubHTTPError: ", status, "again later", *remedies(REPO))


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
def test_what_is_not_given(hub, worker, files, cache, expected, error, options, said):
    hub.add(REPO, files)
    hub.repos[REPO].error = error
    refused(worker.call("load", REPO, cache_dir=cache, **options), f"{REPO}@main: {said}")
    assert worker.call("load", REPO, cache_dir=cache, token="hf_right")["value"] == expected


def test_what_is_not_there(hub, worker, files, cache):
    refused(worker.call("load", REPO, cache_dir=cache), f"{REPO}@main: no such repository, or a private one")
    hub.add(REPO, files)
    for revision in ("v7", ELSEWHERE):
        answer = worker.call("load", f"{REPO}@{revision}", cache_dir=cache)
        refused(answer, f"{REPO}@{revision}: no such revision; check the name after '@'")
    for number, name in enumerate(("config.json", "model.safetensors")):
        others = {key: content for key, content in files.items() if key != name}
        hub.add(f"org/{number}", {**others, "pytorch_model.bin": b"pickle"})
        answer = worker.call("load", f"org/{number}", cache_dir=cache)
        refused(answer, f"no {name} in it, so not an mtslvr checkpoint; only safetensors", "mtslvr convert")
    assert not [path for path in hub.paths() if path.endswith(".bin")]


def test_what_a_hub_says_cannot_obey_or_flood_a_terminal(hub, worker, files, cache):
    hub.add(REPO, files)
    for status, code in ((403, "GatedRepo"), (500, None)):
        hub.repos[REPO].error = (status, code, "\x1b]0;title\x07\x1b[31m" + "x" * 5000)
        assert len(refused(worker.call("load", REPO, cache_dir=cache), f"{REPO}@main: ")) < 1000


def test_the_token_does_not_follow_to_another_host(hub, worker, files, cache):
    hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache, token="hf_right")
    asked = {request.host.split(":")[0]: request.headers.get("authorization") for request in hub.requests}
    assert asked == {"127.0.0.1": "Bearer hf_right", "localhost": None}


# Downloads that go wrong


@pytest.mark.slow
def test_a_download_that_brings_nothing_is_given_up(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    with hub.fault(truncate=0):
        answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, f"{REPO}@main: download into {cache} failed (", "try again", "cache_dir or HF_HOME")
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


def test_content_that_is_not_what_the_hub_named(hub, worker, files, cache):
    """The ETag of a large file is its sha256; other bytes of the same length come."""
    hub.add(REPO, files)
    good = files["model.safetensors"]
    bad = good[:-1] + bytes([good[-1] ^ 1])
    sums = f"has sha256 {etag('.safetensors', bad)}, expected {etag('.safetensors', good)}; refused"
    delete = f"Delete {Path(cache) / 'models--tones--tiny'} and download again"
    with hub.fault(replace=bad):
        refused(worker.call("load", REPO, cache_dir=cache), f"{REPO}@main: model.safetensors", sums, delete)
    # It stays refused, as a file in the cache that somebody changed, until the advice is taken.
    refused(worker.call("load", REPO, cache_dir=cache, local_files_only=True), sums, delete)


def test_a_cache_that_cannot_be_written(hub, worker, files, tmp_path):
    hub.add(REPO, files)
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "file" / "cache")
    answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, f"{REPO}@main: download into {cache} failed", "cache_dir or HF_HOME")


# Names and answers of ill will

HOSTILE = [
    "org/..",
    "org/../../evil",
    "org/name@../../evil",
    "org/name@/tmp/evil",
    "hf-hub:/etc/passwd",
    "org/na\x00me",
]
HOSTILE += ["org/name\n", "-org/name", "org/name@-main", "https://huggingface.co/org/name", "org--name/x", ""]


def test_hostile_names_are_refused_and_leave_no_trace(hub, worker, tmp_path):
    for name in HOSTILE:
        answer = worker.call("load", name, cache_dir=str(tmp_path / "deep" / "cache"))
        refused(answer, "neither a bundled" if "not a valid hub id" not in answer["message"] else "")
    assert hub.requests == []
    assert everything(tmp_path) == {}


def test_a_commit_that_would_leave_the_cache(hub, worker, files, tmp_path):
    hub.add(REPO, files, commit="../../../evil")
    answer = worker.call("load", REPO, cache_dir=str(tmp_path / "a" / "b" / "cache"))
    refused(answer, f"{REPO}@main: ", "does not answer as a hub does", "check HF_ENDPOINT, proxy and login")
    assert not [path for path in everything(tmp_path) if "evil" in path]


def test_files_too_large_are_not_downloaded(hub, worker, files, cache):
    hub.add(REPO, files)
    with hub.fault(size=10**12):
        answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "has 1000000000000 bytes, an mtslvr checkpoint's at most", "not downloaded: check the name")
    for name in ("config.json", "README.md"):
        hub.add(REPO, {**files, name: b" " * (1 << 21)})
        refused(worker.call("load", REPO, cache_dir=cache), f"{name} has 2097152 bytes", "at most 1048576")
    assert not [path for path in hub.paths() if "/api/" not in path]


# The command lines


def test_download_to_a_folder_for_another_machine(hub, worker, offline_worker, files, cache, tmp_path, expected):
    commit = hub.add(REPO, files)
    to = tmp_path / "usb stick"
    for _ in range(2):
        answer = worker.call("cli", "download", REPO, "--to", to, "--cache-dir", cache)["value"]
        assert (answer["code"], answer["out"]) == (0, f"{to}\n"), answer
    assert {path.name: path.read_bytes() for path in to.iterdir()} == files  # exactly what the hub holds
    assert not any(path.is_symlink() for path in to.iterdir())
    assert offline_worker.call("load", str(to))["value"] == expected
    (to / "config.json").write_text("{}")
    answer = worker.call("cli", "download", REPO, "--to", to, "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "config.json: of another checkpoint; choose an empty folder" in answer["err"]
    answer = worker.call("cli", "download", REPO, "--to", to / "config.json", "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "config.json: cannot be written" in answer["err"]
    answer = worker.call("cli", "download", f"{REPO}@{commit}", "--cache-dir", cache)["value"]
    assert answer["out"] == f"{snapshot(cache, commit)}\n"


def test_download_says_what_failed(hub, worker, files, cache):
    answer = worker.call("cli", "download", REPO, "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "Error: tones/tiny@main: no such repository" in answer["err"]
    hub.add(REPO, {"config.json": b"{}", "model.safetensors": files["model.safetensors"]})  # and no card
    answer = worker.call("cli", "download", REPO, "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "no key 'format_version'; this is not an mtslvr config.json" in answer["err"]


def test_models_lists_what_is_cached(hub, worker, files, cache):
    hub.add("tones/other", files, refs=("main", "v1"))
    hub.add("words/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""})  # another library's
    hub.add("tones/newer", {**files, "config.json": b'{"format_version": 99}'})  # a newer version's
    for name in ("tones/other", "words/bert", "tones/newer"):
        worker.call("cli", "download", name, "--cache-dir", cache)  # for the latter two, in the cache and refused
    hub.requests.clear()
    rows = json.loads(worker.call("cli", "models", "--json", "--cache-dir", cache)["value"]["out"])
    newer, other = (row for row in rows if row["source"] == "cached")
    assert (newer["name"], other["name"]) == ("tones/newer", "tones/other")
    assert "upgrade with `pip install -U mtslvr`" in newer["problem"] and newer["licence"] == "cc-by-4.0"
    assert other["dims"] == {"invariant": 8, "variant": 8, "concat": 8} and len(other["few_shot"]) == 2
    shown = worker.call("cli", "models", "tones/other", "--cache-dir", cache)["value"]["out"]
    assert "A card for tests." in shown and "source      cached" in shown
    answer = worker.call("cli", "models", "tones/absent", "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "not in the cache" in answer["err"] and "Models here: " in answer["err"]
    assert hub.requests == []


def test_the_huggingface_hub_is_the_one_asked_for(worker):
    """MTSLVR_TEST_HUB, such as 1.3, guards runs that are to have another version than the installed one."""
    assert worker.call("version")["value"] == huggingface_hub.__version__
    assert huggingface_hub.__version__.startswith(os.environ.get("MTSLVR_TEST_HUB", ""))
