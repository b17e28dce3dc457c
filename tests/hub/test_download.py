"""The real huggingface_hub, in processes of their own, against a hub on loopback (`server.py`)."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from server import Repo, etag

REPO = "tones/tiny"
ELSEWHERE = "f" * 40


def refused(answer, error, *texts):
    """The message of a named error, in which all texts stand."""
    assert "message" in answer, answer
    assert answer["error"] == error and "MTSLVRError" in answer["mro"]
    for text in texts:
        assert str(text) in answer["message"], answer["message"]
    assert "\n" not in answer["message"]
    return answer["message"]


def snapshot(cache, commit, repo=REPO):
    return Path(cache) / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def remedies(name):
    return f"`mtslvr download {name}` here", f"`mtslvr download {name} --to FOLDER` on another machine", "load it"


# Finding and caching


def test_first_download_then_cache(hub, worker, files, cache, expected):
    commit = hub.add(REPO, files)
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected
    fetched = {path.rsplit("/", 1)[1] for path in hub.paths("GET")}
    assert fetched == {"config.json", etag("model.safetensors", files["model.safetensors"])}
    assert all("mtslvr/" in r.headers["user-agent"] for r in hub.requests)  # library_name and version
    hub.requests.clear()
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected
    assert hub.paths("GET") == []  # a branch is looked up, and nothing is fetched
    assert set(hub.paths("HEAD")) == {f"/{REPO}/resolve/main/config.json"}
    hub.requests.clear()
    assert worker.call("load", f"{REPO}@{commit}", cache_dir=cache)["value"] == expected
    assert hub.requests == []  # a commit cannot change


FORMS = ["{repo}@{commit}", "hf-hub:{repo}@{commit}", "hf-hub:{repo}@v1.0+cpu", "{repo}@refs/pr/1"]


@pytest.mark.parametrize("form", FORMS)
def test_names_with_a_revision(hub, worker, files, cache, form):
    commit = hub.add(REPO, files, refs=("v1.0+cpu", "refs/pr/1"))
    hub.add(REPO, {}, commit=ELSEWHERE)  # main is another one
    name = form.format(repo=REPO, commit=commit)
    assert worker.call("find", name, cache_dir=cache)["value"] == str(snapshot(cache, commit))
    hub.requests.clear()
    worker.call("find", f"{REPO}@{commit}", cache_dir=cache)
    assert hub.requests == []


def test_hf_home_is_where_the_cache_is(hub, worker, files, home):
    commit = hub.add("tones/at-home", files)
    found = worker.call("find", "tones/at-home")["value"]
    assert found == str(snapshot(home / "hub", commit, "tones/at-home"))


def test_both_files_are_of_one_commit(hub, worker, files, cache, expected):
    """The branch moves on between the two files."""
    commit = hub.add(REPO, files)
    with hub.fault(only="config.json", delay=0.7):
        worker.send("load", REPO, cache_dir=cache)
        while not [path for path in hub.paths("GET") if path.endswith("config.json")]:
            pass
        hub.add(REPO, {**files, "config.json": b"{}"}, commit=ELSEWHERE)
        assert worker.receive()["value"] == expected
    assert os.listdir(Path(cache) / "models--tones--tiny" / "snapshots") == [commit]


def test_a_branch_that_moved_is_downloaded_again(hub, worker, files, cache):
    hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    hub.add(REPO, files, commit=ELSEWHERE)
    hub.requests.clear()
    assert worker.call("find", REPO, cache_dir=cache)["value"] == str(snapshot(cache, ELSEWHERE))
    assert hub.paths("GET") == []  # the same content, under the same ETag


# Without network


def test_offline_from_the_cache(hub, worker, offline_worker, files, cache, expected):
    commit = hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    hub.requests.clear()
    for name in (REPO, f"{REPO}@main", f"{REPO}@{commit}"):
        assert offline_worker.call("load", name, cache_dir=cache)["value"] == expected
        assert worker.call("load", name, cache_dir=cache, local_files_only=True)["value"] == expected
    assert hub.requests == []


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


@pytest.mark.parametrize("name", [REPO, f"{REPO}@v2", f"{REPO}@{ELSEWHERE}"])
def test_unreachable_and_not_in_the_cache_fails_within_seconds(hub, worker, cache, name):
    with hub.down():
        answer = worker.call("load", name, cache_dir=cache)
    where = name if "@" in name else f"{name}@main"
    said = f"{where}: not in the cache {cache}, and the hub {hub.url} cannot be reached ("
    refused(answer, "HubError", said, *remedies(name))
    assert answer["seconds"] < 5


def test_a_hub_that_does_not_answer_fails_within_seconds(hub, worker, cache):
    """Connections are taken, and then nothing: the time-out, once."""
    import socket

    with hub.down(), socket.create_server(("127.0.0.1", hub.port)):
        answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "HubError", f"{REPO}@main", cache, "cannot be reached (ReadTimeout", *remedies(REPO))
    assert answer["seconds"] < 8  # HF_HUB_ETAG_TIMEOUT is 3 here, 10 by default


def test_unreachable_and_in_the_cache(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    with hub.down():
        answer = worker.call("load", REPO, cache_dir=cache)
    assert answer["value"] == expected and answer["seconds"] < 10


def test_half_a_checkpoint_in_the_cache_is_not_one(hub, worker, files, cache):
    """config.json came, the hub went: the weights are not there."""
    commit = hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    (snapshot(cache, commit) / "model.safetensors").unlink()
    with hub.down():
        for name in (REPO, f"{REPO}@{commit}"):
            answer = worker.call("load", name, cache_dir=cache)
            refused(answer, "HubError", f"not in the cache {cache}", "cannot be reached", *remedies(name))
            assert answer["seconds"] < 8


def test_a_hub_with_an_internal_error(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    for status in (503, 429):
        with hub.fault(only="config.json", status=status):
            answer = worker.call("load", REPO, cache_dir=cache)
        refused(answer, "HubError", f"the hub {hub.url} fails (HfHubHTTPError: ", status, "try again later, or run")
        refused(answer, "HubError", *remedies(REPO))
        assert answer["seconds"] < 5
    worker.call("find", REPO, cache_dir=cache)
    with hub.fault(only="config.json", status=503):
        assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


# What the hub does not have, or does not give


def test_no_such_repository(hub, worker, cache):
    answer = worker.call("load", REPO, cache_dir=cache)
    said = f"{REPO}@main: no such repository, or a private one; check the name or log in with `hf auth login`"
    refused(answer, "HubError", said)
    assert answer["seconds"] < 5


def test_a_refusal_without_error_code(hub, worker, files, cache):
    """As some mirrors have it."""
    hub.add(REPO, files)
    hub.repos[REPO].error = (401, None, "Invalid username or password.")
    answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "HubError", f"{REPO}@main: no such repository, or a private one; check the name or log in")


def test_no_such_revision(hub, worker, files, cache):
    hub.add(REPO, files)
    for revision in ("v7", ELSEWHERE):
        answer = worker.call("load", f"{REPO}@{revision}", cache_dir=cache)
        refused(answer, "HubError", f"{REPO}@{revision}: no such revision; check the name after '@'")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_no_such_file(hub, worker, files, cache, name):
    hub.add(REPO, {key: value for key, value in files.items() if key != name})
    answer = worker.call("load", REPO, cache_dir=cache)
    said = refused(answer, "HubError", f"{REPO}@main: no {name} in it, so not an mtslvr checkpoint; only safetensors")
    assert ("mtslvr convert" in said) == (name == "model.safetensors")


def test_a_pickle_is_never_asked_for(hub, worker, files, cache):
    hub.add(REPO, {"config.json": files["config.json"], "model.pt": b"pickle", "pytorch_model.bin": b"pickle"})
    refused(worker.call("load", REPO, cache_dir=cache), "HubError", "no model.safetensors in it")
    assert {path.rsplit("/", 1)[1] for path in hub.paths()} == {"config.json", "model.safetensors"}


def test_gated(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    hub.repos[REPO].error = (403, "GatedRepo", "Access to it is restricted")
    said = f"{REPO}@main: gated; ask for access on its page on the hub and log in with `hf auth login`"
    refused(worker.call("load", REPO, cache_dir=cache), "HubError", said)
    refused(worker.call("load", REPO, cache_dir=cache, token="hf_wrong"), "HubError", said)
    assert worker.call("load", REPO, cache_dir=cache, token="hf_right")["value"] == expected


def test_a_private_one_without_and_with_token(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    hub.repos[REPO].error = (401, "RepoNotFound", "Repository not found")
    answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "HubError", "no such repository, or a private one", "`hf auth login`")
    assert worker.call("load", REPO, cache_dir=cache, token="hf_right")["value"] == expected


def test_a_token_that_is_refused(hub, worker, files, cache):
    hub.add(REPO, files)
    hub.repos[REPO].error = (401, None, "Invalid credentials in Authorization header")
    answer = worker.call("load", REPO, cache_dir=cache, token="hf_wrong")
    refused(answer, "HubError", f"{REPO}@main: access refused", "check the token, log in with `hf auth login`")


def test_a_token_that_is_not_there(hub, worker, files, cache):
    hub.add(REPO, files)
    answer = worker.call("load", REPO, cache_dir=cache, token=True)
    refused(answer, "HubError", f"{REPO}@main: token=True, and no token is stored; log in with `hf auth login`")


@pytest.mark.parametrize(("status", "code"), [(403, None), (403, "GatedRepo"), (404, "EntryNotFound"), (500, None)])
def test_what_a_hub_says_cannot_obey_or_flood_a_terminal(hub, worker, files, cache, status, code):
    hub.add(REPO, files)
    hub.repos[REPO].error = (status, code, "\x1b]0;title\x07\x1b[31m" + "x" * 5000)
    said = refused(worker.call("load", REPO, cache_dir=cache), "HubError", f"{REPO}@main: ")
    assert said.isprintable() and len(said) < 1000


# Redirects


def test_the_token_does_not_follow_to_another_host(hub, worker, files, cache):
    hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache, token="hf_right")
    asked = {request.host.split(":")[0]: request.headers.get("authorization") for request in hub.requests}
    assert asked == {"127.0.0.1": "Bearer hf_right", "localhost": None}


def test_a_renamed_repository(hub, worker, files, cache, expected):
    hub.add("tones/new-name", files)
    hub.repos[REPO] = Repo(moved_to="tones/new-name")
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


# Downloads that go wrong


@pytest.mark.parametrize("declare", [None, 1000], ids=["shorter than declared", "shorter and declared so"])
def test_a_truncated_body(hub, worker, files, cache, expected, declare):
    hub.add(REPO, files)
    fault = {"truncate": 1000} | ({} if declare is None else {"declare": declare})
    with hub.fault(**fault):
        answer = worker.call("load", REPO, cache_dir=cache)
    said = f"{REPO}@main: download of model.safetensors into {cache} failed ("
    refused(answer, "HubError", said, "try again", "cache_dir or HF_HOME")
    assert answer["seconds"] < 30
    assert not [path for path in everything(cache) if path.endswith(".safetensors")]
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


def test_the_server_dies_in_the_middle(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    with hub.fault(die=True):
        answer = worker.call("load", REPO, cache_dir=cache)
    hub.start()
    refused(answer, "HubError", f"{REPO}@main: download of model.safetensors into {cache} failed (", "try again")
    assert answer["seconds"] < 30
    assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


@pytest.mark.parametrize("whole", [False, True], ids=["goes on where it was", "begins anew"])
def test_a_server_that_stalls_is_given_up(hub, worker, files, cache, whole):
    hub.add(REPO, files)
    with hub.fault(stall=4, whole=whole, share=0.96 if whole else 0.5):  # HF_HUB_DOWNLOAD_TIMEOUT is 1 here
        answer = worker.call("load", REPO, cache_dir=cache)
    # Given up after six attempts, or by us, where each brings something and starts anew.
    refused(answer, "HubError", f"download of model.safetensors into {cache} failed (", "try again")
    assert answer["seconds"] < 45


def test_a_slow_server_is_waited_for(hub, worker, files, cache, expected):
    hub.add(REPO, files)
    with hub.fault(delay=0.7):
        assert worker.call("load", REPO, cache_dir=cache)["value"] == expected


def test_content_that_is_not_what_the_hub_named(hub, worker, files, cache):
    """The ETag of a large file is its sha256; other bytes of the same length come."""
    hub.add(REPO, files)
    good = files["model.safetensors"]
    bad = good[:-1] + bytes([good[-1] ^ 1])
    sums = [f"has sha256 {etag('.safetensors', bad)}, expected {etag('.safetensors', good)}; refused"]
    delete = f"Delete {Path(cache) / 'models--tones--tiny'} and download again"
    with hub.fault(replace=bad):
        answer = worker.call("load", REPO, cache_dir=cache)
        refused(answer, "HubError", f"{REPO}@main: model.safetensors", *sums, delete)
    # It stays refused, until the advice is taken.
    refused(worker.call("load", REPO, cache_dir=cache, local_files_only=True), "HubError", *sums, delete)


def test_a_cached_file_that_was_changed(hub, worker, files, cache):
    commit = hub.add(REPO, files)
    worker.call("find", REPO, cache_dir=cache)
    with open(snapshot(cache, commit) / "model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    refused(worker.call("load", REPO, cache_dir=cache), "HubError", "model.safetensors has sha256", "refused. Delete")


def test_a_cache_that_cannot_be_written(hub, worker, files, tmp_path):
    hub.add(REPO, files)
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "file" / "cache")
    answer = worker.call("load", REPO, cache_dir=cache)
    refused(answer, "HubError", f"{REPO}@main: download of config.json into {cache} failed", "cache_dir or HF_HOME")


def test_two_processes_at_once(hub, worker, second_worker, files, cache, expected):
    hub.add(REPO, files)
    with hub.fault(delay=0.5):
        worker.send("load", REPO, cache_dir=cache)
        second_worker.send("load", REPO, cache_dir=cache)
        assert [worker.receive()["value"], second_worker.receive()["value"]] == [expected, expected]
    assert len([path for path in hub.paths("GET") if path.startswith("/cdn/")]) <= 2
    assert not [path for path in everything(cache) if path.endswith(".incomplete")]


# Registered names: one commit, checked by sha256


@pytest.fixture
def register(hub, worker, files):
    """A made-up entry for a repository of the loopback hub; the commit."""

    def make(name, **changed):
        commit = hub.add(REPO, files)
        values = {
            "repo": REPO,
            "commit": commit,
            "sha256": {n: etag(".safetensors", files[n]) for n in ("config.json", "model.safetensors")},
            "size": len(files["model.safetensors"]),
            "config": json.loads(files["config.json"]),
        }
        answer = worker.call("register", name, **{**values, **changed})
        assert "value" in answer, answer
        return commit

    return make


def test_a_registered_name(hub, worker, register, cache, expected, files):
    commit = register("tiny")
    hub.add(REPO, {}, commit=ELSEWHERE)  # main moves on, the name does not
    assert worker.call("load", "tiny", cache_dir=cache)["value"] == expected
    assert worker.call("find", "tiny", cache_dir=cache)["value"] == str(snapshot(cache, commit))
    hub.requests.clear()
    assert worker.call("load", "tiny", cache_dir=cache)["value"] == expected
    assert hub.requests == []
    with hub.down():
        assert worker.call("load", "tiny", cache_dir=cache)["value"] == expected


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_registered_file_with_another_sum_is_refused(hub, worker, register, cache, files, name):
    sums = {n: etag(".safetensors", files[n]) for n in ("config.json", "model.safetensors")}
    commit = register("tiny", sha256={**sums, name: "0" * 64})
    said = f"{REPO}@{commit}: {name} has sha256 {sums[name]}, expected {'0' * 64}; refused. Delete"
    for _ in range(2):
        refused(worker.call("load", "tiny", cache_dir=cache), "HubError", said, "the file on the hub was changed")


def test_a_registered_name_without_network_names_itself(hub, worker, register, cache):
    commit = register("tiny")
    with hub.down():
        answer = worker.call("load", "tiny", cache_dir=cache)
    refused(answer, "HubError", f"{REPO}@{commit}: not in the cache {cache}", *remedies("tiny"))


# Names and files of ill will


HOSTILE = [
    "../evil",
    "org/..",
    "../../etc/passwd",
    "org/../../evil",
    "org/name/../../evil",
    "org/name@../../evil",
    "org/name@/tmp/evil",
    "org/name@a/../../../../evil",
    "org/name@..",
    "hf-hub:../evil",
    "hf-hub:/etc/passwd",
    "/nowhere/at/all",
    "~nobody-here/x",
    "org\\..\\name",
    "org/na\x00me",
    "org/name\n",
    "org/name@",
    "org/name@main\n",
    "-org/name",
    "org/.name",
    "org/name@-main",
    "org/name@.hidden",
    "https://huggingface.co/org/name",
    "tones/tiny/model",
    "a" * 5000,
    "org/" + "a" * 5000,
    "org--name/x",
    "org/name.git",
    "",
    " ",
]


def test_hostile_names_are_refused_and_leave_no_trace(hub, worker, files, tmp_path):
    cache = tmp_path / "deep" / "cache"
    for name in HOSTILE:
        answer = worker.call("load", name, cache_dir=str(cache))
        refused(answer, "HubError", "neither a bundled" if "not a valid hub id" not in answer["message"] else "")
    assert hub.requests == []
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"../../../../evil"'},
        {"ETag": '"/tmp/evil"'},
        {"ETag": None},
        {"X_Repo_Commit": "../../../evil"},
        {"X_Repo_Commit": None},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("only", ["config.json", "model.safetensors"])
def test_answers_that_would_leave_the_cache(hub, worker, files, tmp_path, headers, only):
    """A captive portal is the harmless case of it."""
    if only == "model.safetensors" and "ETag" in headers and headers["ETag"] is None:
        pytest.skip("the large file's stands in another header")
    hub.add(REPO, files)
    cache = tmp_path / "a" / "b" / "cache"
    with hub.fault(only=only, headers=headers):
        answer = worker.call("load", REPO, cache_dir=str(cache))
    refused(answer, "HubError", f"{REPO}@main: {hub.url} does not answer as a hub does", "check HF_ENDPOINT")
    assert not [path for path in everything(tmp_path) if "evil" in path]
    assert not Path("/tmp/evil").exists()


def test_files_too_large_are_not_downloaded(hub, worker, files, cache):
    hub.add(REPO, files)
    with hub.fault(size=10**12):
        answer = worker.call("load", REPO, cache_dir=cache)
    said = f"{REPO}@main: model.safetensors has 1000000000000 bytes, an mtslvr checkpoint's at most 536870912"
    refused(answer, "HubError", said, "not downloaded: check the name")
    hub.add(REPO, {**files, "config.json": b" " * (1 << 21)})
    refused(worker.call("load", REPO, cache_dir=cache), "HubError", "config.json has 2097152 bytes", "at most 1048576")
    assert not [path for path in hub.paths("GET") if path.startswith("/cdn/")]


def config_with(files, **values):
    config = json.loads(files["config.json"])
    config["frontend"] |= values.pop("frontend", {})
    return json.dumps({**config, **values}).encode()


def test_hostile_configs_are_refused_before_anything_is_allocated(hub, worker, files, cache):
    cases = {
        "head_dim=1000000000": config_with(files, head_dim=10**9),
        "frontend.n_fft=1048576": config_with(files, frontend={"n_fft": 1 << 20}),
        "frontend.sample_rate=1000000000000": config_with(files, frontend={"sample_rate": 10**12}),
        "so small that a window takes 67108864 numbers at most": config_with(
            files, window_seconds=600, frontend={"sample_rate": 384000, "hop_length": 1}
        ),
        "not a readable JSON file": b"[" * 500_000,
        "not a readable JSON file (Exceeds": b'{"format_version": ' + b"9" * 500_000 + b"}",
        "unknown key '__class__'": config_with(files, __class__="os.system"),
        "key 'head_dim' given twice": b'{"format_version": 1, "head_dim": 8, "head_dim": 9}',
        "unknown key 'auto_map'": config_with(files, auto_map={"AutoModel": "evil.py"}),
        "expected an object, got list": b"[]",
        "adapter='AAAA": config_with(files, adapter="A" * 900_000),
    }
    for number, (message, content) in enumerate(cases.items()):
        repo = f"tones/hostile{number}"
        hub.add(repo, {"model.safetensors": b"", "config.json": content})
        answer = worker.call("load", repo, cache_dir=cache)
        said = refused(answer, "CheckpointError", "config.json: ", message)
        assert len(said) < 1500 + len(cache)


def test_weights_that_are_none(hub, worker, files, cache):
    header = (10**15).to_bytes(8, "little")
    for number, content in enumerate([b"", b"<html>login</html>", header + b"{}", files["model.safetensors"][:-1]]):
        hub.add(f"tones/none{number}", {**files, "model.safetensors": content})
        answer = worker.call("load", f"tones/none{number}", cache_dir=cache)
        refused(answer, "CheckpointError", "model.safetensors: not a safetensors file", "download or convert it again")


# The command lines


def test_download_to_a_folder_for_another_machine(hub, worker, offline_worker, files, cache, tmp_path, expected):
    commit = hub.add(REPO, files)
    to = tmp_path / "usb stick"
    answer = worker.call("cli", "download", REPO, "--to", to, "--cache-dir", cache)["value"]
    assert (answer["code"], answer["out"]) == (0, f"{to}\n"), answer
    assert {path.name: path.read_bytes() for path in to.iterdir()} == files  # exactly what the hub holds
    assert not any(path.is_symlink() for path in to.iterdir())
    assert offline_worker.call("load", str(to))["value"] == expected
    assert worker.call("cli", "download", REPO, "--to", to, "--cache-dir", cache)["value"]["code"] == 0
    (to / "config.json").write_text("{}")
    answer = worker.call("cli", "download", REPO, "--to", to, "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "config.json: of another checkpoint; choose an empty folder" in answer["err"]
    answer = worker.call("cli", "download", f"{REPO}@{commit}", "--cache-dir", cache)["value"]
    assert answer["out"] == f"{snapshot(cache, commit)}\n"


def test_two_processes_at_once_into_one_folder(hub, worker, second_worker, files, cache, tmp_path):
    hub.add(REPO, files)
    arguments = ("download", REPO, "--cache-dir", cache, "--to", str(tmp_path / "to"))
    for process in (worker, second_worker):
        process.send("cli", *arguments)
    assert [process.receive()["value"]["code"] for process in (worker, second_worker)] == [0, 0]
    assert {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == files


def test_download_without_a_card(hub, worker, files, cache, tmp_path):
    hub.add(REPO, {name: content for name, content in files.items() if name != "README.md"})
    answer = worker.call("cli", "download", REPO, "--to", tmp_path / "to", "--cache-dir", cache)["value"]
    assert answer["code"] == 0
    assert everything(tmp_path / "to") == ["config.json", "model.safetensors"]


def test_download_says_what_failed(hub, worker, files, cache, tmp_path):
    answer = worker.call("cli", "download", REPO, "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "Error: tones/tiny@main: no such repository" in answer["err"]
    hub.add(REPO, {**files, "config.json": b"{}"})
    answer = worker.call("cli", "download", REPO, "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "no key 'format_version'; this is not an mtslvr config.json" in answer["err"]
    hub.add("tones/good", files)
    (tmp_path / "file").write_text("")
    answer = worker.call("cli", "download", "tones/good", "--to", tmp_path / "file", "--cache-dir", cache)["value"]
    assert answer["code"] == 3
    assert "file: cannot be written" in answer["err"] and "choose another folder" in answer["err"]


def test_models_lists_what_is_cached_and_registered(hub, worker, register, files, cache):
    assert worker.call("cli", "models", "--cache-dir", cache)["value"]["code"] == 0
    register("registered-tiny")
    listed = worker.call("cli", "models", "--json", "--cache-dir", cache)["value"]
    [row] = [row for row in json.loads(listed["out"]) if row["name"] == "registered-tiny"]
    assert (row["source"], row["folder"], row["dims"]["concat"]) == ("registered", None, 8)
    hub.add("tones/other", files, refs=("main", "v1"))
    hub.add("words/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""})  # another library's
    worker.call("cli", "download", "tones/other", "--cache-dir", cache)
    hub.add("tones/newer", {**files, "config.json": b'{"format_version": 99}'})  # a newer version's
    for name in ("words/bert", "tones/newer"):
        worker.call("cli", "download", name, "--cache-dir", cache)  # says no, and has it in the cache
    rows = json.loads(worker.call("cli", "models", "--json", "--cache-dir", cache)["value"]["out"])
    names = [row["name"] for row in rows]
    assert "words/bert" not in names and "tones/newer" in names
    [row] = [row for row in rows if row["name"] == "tones/newer"]
    assert "upgrade with `pip install -U mtslvr`" in row["problem"] and row["licence"] == "cc-by-4.0"
    [row] = [row for row in rows if row["name"] == "tones/other"]
    assert row["source"] == "cached" and row["licence"] == "cc-by-4.0" and row["adapter"] == "none"
    assert row["dims"] == {"invariant": 8, "variant": 8, "concat": 8}
    assert row["training_data"] == ["made-up tones", "made-up noise", "made-up speech"]
    assert [figure["value"] for figure in row["few_shot"]] == [61.5, 63.25]
    hub.requests.clear()
    shown = worker.call("cli", "models", "tones/other", "--cache-dir", cache)["value"]["out"]
    assert "Bells, five kinds (bells), 5-way 1-shot classification\n" in shown and "concat, logistic" in shown
    assert "A card for tests." in shown
    answer = worker.call("cli", "models", "tones/absent", "--cache-dir", cache)["value"]
    assert answer["code"] == 3 and "not in the cache" in answer["err"] and "Models here: " in answer["err"]
    assert hub.requests == []


def command_line(hub, home, *arguments, **options):
    """`mtslvr` as a shell starts it."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_right", "NO_PROXY": "*"}
    environment["HF_HUB_DISABLE_XET"] = "1"  # our hub takes large files by git-lfs only
    command = [sys.executable, "-m", "mtslvr.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(os.name == "nt", reason="no such terminals")
def test_a_terminal_sees_the_progress(hub, home, files, cache):
    import fcntl
    import pty
    import struct
    import termios

    commit = hub.add(REPO, files)
    hub.repos[REPO].error = (403, "GatedRepo", "Access to it is restricted")  # HF_TOKEN opens it
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process, seen = command_line(hub, home, "download", REPO, "--cache-dir", cache, stderr=end), b""
    os.close(end)
    with contextlib.suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as screen:  # EIO at the end, on Linux
        while piece := screen.read(4096):
            seen += piece
    out, _ = process.communicate()
    assert process.returncode == 0, seen
    assert out == f"{snapshot(cache, commit)}\n"  # a program reads the folder only
    for name in files:
        assert f"{name}: 100%".encode() in seen


def test_publish_and_load_again(hub, made, home, files, cache, expected, worker):
    """`encoder.save`, `mtslvr push --publish`, `mtslvr.load`: the hub holds the bytes of the folder."""
    process = command_line(hub, home, "push", made, REPO, "--publish", stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert process.returncode == 0, err
    [(commit, stored)] = hub.repos[REPO].commits.items()
    assert stored == files
    assert f"mtslvr.load('{REPO}@{commit}')" in out
    sizes = {name: len(content) for name, content in files.items()}
    assert worker.call("listing", REPO, revision="main")["value"] == [commit, sizes]
    assert worker.call("load", f"{REPO}@{commit}", cache_dir=cache)["value"] == expected


def test_push_is_a_dry_run_unless_told_otherwise(hub, worker, made, files):
    answer = worker.call("cli", "push", made, REPO)["value"]
    assert answer["code"] == 0 and hub.requests == []
    assert "nothing was sent. With --publish these files become tones/tiny" in answer["out"]
    assert f"model.safetensors  {len(files['model.safetensors'])} bytes  sha256 " in answer["out"]


def test_push_without_a_token_that_may_write(hub, worker, made):
    answer = worker.call("cli", "push", made, REPO, "--publish")["value"]
    assert answer["code"] == 3 and f"{REPO}: {hub.url} did not take it" in answer["err"]
    assert "log in with `hf auth login` and a token that may write" in answer["err"]
    assert hub.repos == {}


def test_push_without_network(hub, worker, offline_worker, made):
    with hub.down():
        answer = worker.call("cli", "push", made, REPO, "--publish")["value"]
    assert answer["code"] == 3 and "did not take it" in answer["err"] and "try again" in answer["err"]
    answer = offline_worker.call("cli", "push", made, REPO, "--publish")["value"]
    assert answer["code"] == 3 and "offline" in answer["err"].lower()


def test_the_huggingface_hub_is_the_one_asked_for(workers):
    """MTSLVR_TEST_HUB, such as 1.3, guards runs that are to have another version than the installed one."""
    versions = {worker.call("version")["value"] for worker in workers}
    assert versions == {huggingface_hub.__version__}
    assert huggingface_hub.__version__.startswith(os.environ.get("MTSLVR_TEST_HUB", ""))
