"""The real huggingface_hub, in processes of their own, against a hub on loopback (`server.py`)."""

import json
import os
import socket
from pathlib import Path

import huggingface_hub
import pytest
from server import Repo, etag

REPO = "tones/tiny"
ELSEWHERE = "f" * 40
REMEDIES = ("run `mtslvr download {0}` here with", "`mtslvr download {0} --to FOLDER` on another machine", "load it")


def refused(answer, error, *texts):
    """The message of a named error, in which all texts stand."""
    assert answer.get("error") == error, answer
    for text in texts:
        assert str(text) in answer["message"], answer["message"]
    assert answer["message"].isprintable()
    return answer["message"]


def snapshot(cache, commit, repo=REPO):
    return Path(cache) / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def everything(folder):
    """Names and times of change of all files."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in Path(folder).rglob("*")}


def remedies(name):
    return [remedy.format(name) for remedy in REMEDIES]


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
    assert hub.paths() == [f"/{REPO}/resolve/main/config.json"]  # a branch is looked up, and nothing is fetched
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
    hub.requests.clear()
    assert worker.call("find", REPO, cache_dir=cache)["value"] == str(snapshot(cache, ELSEWHERE))
    assert not [path for path in hub.paths("GET") if "/api/" not in path]  # the same content, under the same ETag


def test_a_renamed_repository(hub, worker, files, cache, expected):
    hub.add("tones/new-name", files)
    hub.repos[REPO] = Repo(moved_to="tones/new-name")
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


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
    with hub.fault(only="config.json", status=503):
        assert worker.call("load", REPO, cache_dir=cache)["value"] == expected
    with hub.fault(only="config.json", headers={"X_Repo_Commit": None}):  # the login page of a network
        assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


def test_offline_and_not_in_the_cache(hub, worker, offline_worker, files, cache):
    hub.add(REPO, files)
    name = f"{REPO}@v2"
    said = f"{name}: not in the cache {cache}, and"
    answer = offline_worker.call("load", name, cache_dir=cache)
    refused(answer, "HubError", said, "HF_HUB_OFFLINE is set", *remedies(name))
    answer = worker.call("load", name, cache_dir=cache, local_files_only=True)
    refused(answer, "HubError", said, "local_files_only is set", *remedies(name))
    assert hub.requests == []
    assert not Path(cache).exists()


def test_unreachable_and_not_in_the_cache_fails_within_seconds(hub, worker, files, cache):
    commit = hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    (snapshot(cache, commit) / "model.safetensors").unlink()  # half a checkpoint is none
    with hub.down():
        for name in (REPO, f"{REPO}@v2", f"{REPO}@{commit}"):
            answer = worker.call("load", name, cache_dir=cache)
            where = name if "@" in name else f"{name}@main"
            said = f"{where}: not in the cache {cache}, and the hub {hub.url} cannot be reached ("
            refused(answer, "HubError", said, *remedies(name))
            assert answer["seconds"] < 5


def test_a_hub_that_does_not_answer_fails_within_seconds(hub, worker, files, cache):
    """Connections are taken, and then comes nothing, or a header without end."""
    with hub.down(), socket.create_server(("127.0.0.1", hub.port)):
        answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "HubError", f"{REPO}@main", "cannot be reached (ReadTimeout", *remedies(REPO))
    assert answer["seconds"] < 3  # HF_HUB_ETAG_TIMEOUT is 1 here, 10 by default
    hub.add(REPO, files)
    with hub.fault(only="config.json", drip=0.1):
        answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "HubError", "cannot be reached (TimeoutError: no whole answer within 3 s)", *remedies(REPO))
    assert answer["seconds"] < 5


def test_a_hub_with_an_internal_error(hub, worker, files, cache):
    hub.add(REPO, files)
    for status in (503, 429):
        with hub.fault(only="config.json", status=status):
            answer = worker.call("load", REPO, cache_dir=cache)
        refused(answer, "HubError", f"{hub.url} fails (HfHubHTTPError: ", status, "again later", *remedies(REPO))
        assert answer["seconds"] < 5


# What the hub does not have, or does not give

LOG_IN = "log in with `hf auth login`"


@pytest.mark.parametrize(
    ("error", "options", "said"),
    [
        ((401, "RepoNotFound", "no"), {}, "no such repository, or a private one; check the name or " + LOG_IN),
        ((403, "GatedRepo", "Restricted"), {}, "gated; ask for access on its page on the hub and " + LOG_IN),
        ((403, "GatedRepo", "no"), {"token": "hf_wrong"}, "gated; ask for access on its page"),
        ((401, None, "Invalid credentials"), {"token": "hf_wrong"}, "access refused (HfHubHTTPError: Client"),
        ((403, None, "Forbidden"), {}, "access refused (HfHubHTTPError: 403 Forbidden: Forbidden.); check name"),
        ((), {"token": True}, "token=True, and no token is stored; " + LOG_IN),
    ],
)
def test_what_is_not_given(hub, worker, files, cache, expected, error, options, said):
    hub.add(REPO, files)
    hub.repos[REPO].error = error
    refused(worker.call("load", REPO, cache_dir=cache, **options), "HubError", f"{REPO}@main: {said}")
    assert worker.call("load", REPO, cache_dir=cache, token="hf_right")["value"] == expected


def test_what_is_not_there(hub, worker, files, cache):
    said = refused(worker.call("load", REPO, cache_dir=cache), "HubError", f"{REPO}@main: no such repository, or a pri")
    assert said.endswith(LOG_IN)
    hub.add(REPO, files)
    for revision in ("v7", ELSEWHERE):
        answer = worker.call("load", f"{REPO}@{revision}", cache_dir=cache)
        refused(answer, "HubError", f"{REPO}@{revision}: no such revision; check the name after '@'")
    hub.requests.clear()
    for number, name in enumerate(("config.json", "model.safetensors")):
        others = {key: content for key, content in files.items() if key != name}
        hub.add(f"org/{number}", {**others, "pytorch_model.bin": b"pickle"})
        answer = worker.call("load", f"org/{number}", cache_dir=cache)
        refused(answer, "HubError", f"no {name} in it, so not an mtslvr checkpoint; only safetensors", "mtslvr convert")
    assert not [path for path in hub.paths() if path.endswith(".bin")]


@pytest.mark.parametrize(("status", "code"), [(403, None), (403, "GatedRepo"), (404, "EntryNotFound"), (500, None)])
def test_what_a_hub_says_cannot_obey_or_flood_a_terminal(hub, worker, files, cache, status, code):
    hub.add(REPO, files)
    hub.repos[REPO].error = (status, code, "\x1b]0;title\x07\x1b[31m" + "x" * 5000)
    assert len(refused(worker.call("load", REPO, cache_dir=cache), "HubError", f"{REPO}@main: ")) < 1000


def test_the_token_does_not_follow_to_another_host(hub, worker, files, cache):
    hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache, token="hf_right")
    asked = {request.host.split(":")[0]: request.headers.get("authorization") for request in hub.requests}
    assert asked == {"127.0.0.1": "Bearer hf_right", "localhost": None}


# Downloads that go wrong


def test_a_broken_download_goes_on_where_it_was(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    size = len(files["model.safetensors"])
    with hub.fault(truncate=size * 2 // 3):  # of each answer
        answer = worker.call("load", REPO, cache_dir=cache)
        if "error" in answer:  # before huggingface_hub 2 the second call goes on, later the first one
            answer = worker.call("load", REPO, cache_dir=cache)
    assert answer["value"] == expected
    first, second = [request.headers.get("range", "") for request in hub.requests if "/cdn/" in request.path]
    assert first == "" and int(second.removeprefix("bytes=").removesuffix("-")) > size // 3


def test_a_download_that_brings_nothing_is_given_up(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    with hub.fault(truncate=0):
        answer = worker.call("load", REPO, cache_dir=cache)
    said = f"{REPO}@main: download into {cache} failed ("
    refused(answer, "HubError", said, "try again", "cache_dir or HF_HOME")
    assert answer["seconds"] < 30
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


def test_content_that_is_not_what_the_hub_named(hub, worker, files, cache):
    """The ETag of a large file is its sha256; other bytes of the same length come."""
    hub.add(REPO, files)
    good = files["model.safetensors"]
    bad = good[:-1] + bytes([good[-1] ^ 1])
    sums = f"has sha256 {etag('.safetensors', bad)}, expected {etag('.safetensors', good)}; refused"
    delete = f"Delete {Path(cache) / 'models--tones--tiny'} and download again"
    with hub.fault(replace=bad):
        refused(worker.call("load", REPO, cache_dir=cache), "HubError", f"{REPO}@main: model.safetensors", sums, delete)
    # It stays refused, as a file in the cache that somebody changed, until the advice is taken.
    refused(worker.call("load", REPO, cache_dir=cache, local_files_only=True), "HubError", sums, delete)


def test_a_cache_that_cannot_be_written(hub, worker, files, tmp_path):
    hub.add(REPO, files)
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "file" / "cache")
    answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "HubError", f"{REPO}@main: download into {cache} failed", "cache_dir or HF_HOME")


def test_two_processes_at_once(hub, worker, second_worker, files, cache, expected):
    hub.add(REPO, files)
    with hub.fault(delay=0.5):
        worker.send("load", REPO, cache_dir=cache)
        second_worker.send("load", REPO, cache_dir=cache)
        assert [worker.receive()["value"], second_worker.receive()["value"]] == [expected, expected]
    assert not [path for path in everything(cache) if path.endswith(".incomplete")]


# Names and answers of ill will

HOSTILE = [
    "../evil",
    "org/..",
    "org/../../evil",
    "org/name@../../evil",
    "org/name@/tmp/evil",
    "org/name@a/../../../../evil",
    "hf-hub:/etc/passwd",
    "/nowhere/at/all",
    "org\\..\\name",
    "org/na\x00me",
    "org/name\n",
    "org/name@main\n",
    "-org/name",
    "org/.name",
    "org/name@-main",
    "https://huggingface.co/org/name",
    "tones/tiny/model",
    "org/" + "a" * 5000,
    "org--name/x",
    "org/name.git",
    "",
]


def test_hostile_names_are_refused_and_leave_no_trace(hub, worker, tmp_path):
    for name in HOSTILE:
        answer = worker.call("load", name, cache_dir=str(tmp_path / "deep" / "cache"))
        refused(answer, "HubError", "neither a bundled" if "not a valid hub id" not in answer["message"] else "")
    assert hub.requests == []
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("headers", [{"ETag": '"../../../../evil"'}, {"X_Repo_Commit": "../../../evil"}], ids=str)
@pytest.mark.parametrize("only", ["config.json", "model.safetensors"])
def test_answers_that_would_leave_the_cache(hub, worker, files, tmp_path, headers, only):
    hub.add(REPO, files)
    with hub.fault(only=only, headers=headers):
        answer = worker.call("load", REPO, cache_dir=str(tmp_path / "a" / "b" / "cache"))
    refused(answer, "HubError", f"{REPO}@main: ", "does not answer as a hub does", "check HF_ENDPOINT, proxy and login")
    assert not [path for path in everything(tmp_path) if "evil" in path]


def test_files_too_large_are_not_downloaded(hub, worker, files, cache):
    hub.add(REPO, files)
    with hub.fault(size=10**12):
        answer = worker.call("load", REPO, cache_dir=cache)
    said = f"{REPO}@main: model.safetensors has 1000000000000 bytes, an mtslvr checkpoint's at most 536870912"
    refused(answer, "HubError", said, "not downloaded: check the name")
    for name in ("config.json", "README.md"):
        hub.add(REPO, {**files, name: b" " * (1 << 21)})
        refused(worker.call("load", REPO, cache_dir=cache), "HubError", f"{name} has 2097152 bytes", "at most 1048576")
    assert not hub.paths("GET")


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


def test_download_without_a_card_by_two_processes(hub, worker, second_worker, files, cache, tmp_path):
    without = {name: content for name, content in files.items() if name != "README.md"}
    hub.add(REPO, without)
    for process in (worker, second_worker):
        process.send("cli", "download", REPO, "--cache-dir", cache, "--to", str(tmp_path / "to"))
    assert [process.receive()["value"]["code"] for process in (worker, second_worker)] == [0, 0]
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == without


def test_download_says_what_failed(hub, worker, files, cache):
    answer = worker.call("cli", "download", REPO, "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "Error: tones/tiny@main: no such repository" in answer["err"]
    hub.add(REPO, {**files, "config.json": b"{}"})
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
    assert "Bells, five kinds (bells), 5-way 1-shot classification\n" in shown and "A card for tests." in shown
    assert "source      cached" in shown
    answer = worker.call("cli", "models", "tones/absent", "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "not in the cache" in answer["err"] and "Models here: " in answer["err"]
    assert hub.requests == []


def test_the_huggingface_hub_is_the_one_asked_for(workers):
    """MTSLVR_TEST_HUB, such as 1.3, guards runs that are to have another version than the installed one."""
    versions = {worker.call("version")["value"] for worker in workers}
    assert versions == {huggingface_hub.__version__}
    assert huggingface_hub.__version__.startswith(os.environ.get("MTSLVR_TEST_HUB", ""))
