import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfFileMetadata

import mtslvr
from mtslvr import checkpoint, hub, remote
from mtslvr.errors import CheckpointError, ConfigError, HubError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, unfolded_encoder):
    return checkpoint.save(unfolded_encoder, tmp_path_factory.mktemp("hub") / "parallel-simclr")


@pytest.fixture
def bundled(folder, monkeypatch):
    hub.default_encoder.cache_clear()
    monkeypatch.setattr(hub, "bundled", lambda: {"parallel-simclr": folder, "small": folder})
    yield folder
    hub.default_encoder.cache_clear()


@pytest.fixture
def none_bundled(monkeypatch):
    hub.default_encoder.cache_clear()
    monkeypatch.setattr(hub, "bundled", dict)
    yield
    hub.default_encoder.cache_clear()


def embedding(encoder):
    x = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    return mtslvr.embed(x, 16000, encoder=encoder)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


# Bundled names and folders


def test_bundled_folders_are_in_the_package_or_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "mtslvr"
    package.mkdir()
    monkeypatch.setattr(sys.modules[hub.bundled.__module__], "__file__", str(package / "module.py"))
    assert hub.bundled() == {}
    for place in ("weights/b", "weights/a", "weights/unfinished"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("weights/b", "weights/a"):
        (tmp_path / place / "model.safetensors").touch()
    (tmp_path / "weights" / "LICENSE").touch()
    assert hub.bundled() == {"a": tmp_path / "weights/a", "b": tmp_path / "weights/b"}
    installed = package / "weights" / "c"
    installed.mkdir(parents=True)
    (installed / "model.safetensors").touch()
    assert hub.bundled() == {"c": installed}


def test_names_that_are_bundled(bundled):
    assert hub.find() == hub.find("parallel-simclr") == hub.find("small") == bundled


def test_load_of_the_default(bundled):
    encoder = mtslvr.load(device="cpu")
    assert encoder.folded and not encoder.training and encoder.device.type == "cpu"
    unfolded = mtslvr.load("parallel-simclr", device="cpu", fold=False)
    assert not unfolded.folded and not unfolded.training
    assert relative(embedding(encoder), embedding(unfolded)) <= 1e-5


def test_the_default_is_loaded_once(bundled):
    assert hub.default_encoder() is hub.default_encoder()
    assert relative(embedding(None), embedding(mtslvr.load())) <= 1e-5


def test_default_that_is_not_installed(none_bundled):
    with pytest.raises(HubError, match=r"the bundled weights 'parallel-simclr' are not in this installation; reinst"):
        mtslvr.load()


@pytest.mark.parametrize("kind", [str, Path])
def test_local_folder(none_bundled, folder, kind, monkeypatch):
    assert hub.find(kind(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert mtslvr.load(kind(folder.name), device="cpu").sample_rate == 16000


def test_folder_in_the_home(none_bundled, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert hub.find("~/parallel-simclr") == folder


def test_a_folder_is_preferred_to_the_hub(none_bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub.find("org/name") == Path("org/name")
    with pytest.raises(CheckpointError, match=r"org/name/config\.json: no such file"):
        mtslvr.load("org/name")


@pytest.mark.parametrize(
    "name",
    [
        "paralel-simclr",
        "PARALLEL-SIMCLR",
        "/nowhere/at/all",
        "org/name/more",
        "org/",
        "/name",
        "org/name@",
        "org/name@@main",
        "org/name@a b",
        "org/../name",
        "../name",
        "org/name@../../etc",
        "org/na me",
        "https://huggingface.co/org/name",
        "hf-hub:name",
        "~nobody-by-this-name/weights",
        "null\0byte",
        "long" * 2000,
    ],
    ids=lambda name: repr(name)[:30],
)
def test_unknown_names_are_told_the_known_ones(bundled, name):
    with pytest.raises(HubError) as error:
        mtslvr.load(name)
    text = str(error.value)
    assert text.startswith(f"{name!r}: neither a bundled ")
    assert "parallel-simclr, small" in text and "nor a folder" in text
    assert "'org/name' or 'org/name@revision'" in text


def test_a_path_is_never_a_hub_id(bundled):
    with pytest.raises(HubError, match=r"'org/name': neither a bundled "):
        mtslvr.load(Path("org/name"))


def test_unknown_name_where_nothing_is_bundled(none_bundled):
    with pytest.raises(HubError, match=r"'x': neither a bundled .*, nor a folder"):
        mtslvr.load("x")


# Device and dtype


def test_unknown_device(bundled):
    with pytest.raises(ConfigError, match=r"device='tpu-9': unknown; use 'auto', 'cpu' or 'cuda'"):
        mtslvr.load(device="tpu-9")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")], ids=str)
def test_absent_cuda(bundled, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device=.*cuda.*: torch .* sees no CUDA device; use 'cpu'"):
        mtslvr.load(device=device)
    assert hub.parse_device("auto") == torch.device("cpu")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="has what is to be absent")
@pytest.mark.parametrize("device", ["mps", "xpu:7"])
def test_absent_device_of_another_kind(bundled, device):
    with pytest.raises(ConfigError, match=rf"device='{device}': .*use 'cpu'"):
        mtslvr.load(device=device)


def test_auto_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hub.parse_device("auto") == torch.device("cuda")


@pytest.mark.skipif(not hub._has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 arithmetic")
def test_bfloat16(bundled):
    encoder = mtslvr.load(device="cpu", dtype="bfloat16")
    expected, found = embedding(mtslvr.load(device="cpu")), embedding(encoder)
    assert encoder.dtype is torch.bfloat16 and found.dtype == np.float32
    assert 1e-5 < relative(found, expected) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float16"}, r"dtype='float16': unknown; use 'float32' or 'bfloat16'"),
        ({"dtype": "bfloat16", "fold": False}, r"dtype='bfloat16' with fold=False: .*leave fold=True"),
    ],
)
def test_dtypes_that_cannot_be(bundled, arguments, message):
    with pytest.raises(ConfigError, match=message):
        mtslvr.load(**arguments)


def test_bfloat16_where_there_is_none(bundled, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match=r"dtype='bfloat16': device 'cpu' has no bfloat16 .*use dtype='float32'"):
        mtslvr.load(device="cpu", dtype="bfloat16")


# The hub


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("org/name", "org/name@main"),
        ("org/name@v1.0", "org/name@v1.0"),
        ("hf-hub:org/name@refs/pr/3", "org/name@refs/pr/3"),
        (f"org/name@{COMMIT}", f"org/name@{COMMIT}"),
    ],
)
def test_offline_without_a_cache(bundled, tmp_path, name, where):
    with pytest.raises(HubError) as error:
        mtslvr.load(name, cache_dir=tmp_path / "cache", local_files_only=True)
    text = str(error.value)
    assert text.startswith(f"{where}: not in the cache {tmp_path / 'cache'}")
    assert "hub" in text and "; " in text and "folder" in text.lower()  # why, and the remedy


def test_hub_ids_that_the_hub_refuses(bundled, tmp_path):
    for name in ("org/-name", "org/name.git", "a--b/name"):
        with pytest.raises(HubError, match=rf"^'?{name}(@main: not a valid hub id|': neither)"):
            mtslvr.load(name, cache_dir=tmp_path, local_files_only=True)


def answered(*arguments, **options):
    """What the hub says of a file before it is downloaded."""
    return HfFileMetadata(commit_hash=COMMIT, etag="a", location="", size=1, xet_file_data=None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (type("RemoteProtocolError", (Exception,), {})("peer closed connection\nand more"), "peer closed connection"),
        (type("ReadTimeout", (Exception,), {})(), "ReadTimeout"),
        (OSError(28, "No space left on device"), r"\[Errno 28\] No space left on device"),
    ],
)
def test_a_broken_download_is_a_named_error(bundled, tmp_path, monkeypatch, error, reason):
    """Whatever the HTTP library under huggingface_hub raises."""

    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(remote, "hf_hub_download", broken)
    monkeypatch.setattr(remote, "get_hf_file_metadata", answered, raising=False)
    with pytest.raises(HubError, match=rf"^org/name@v1: download .*into {tmp_path} failed \(.*{reason}\); try again"):
        mtslvr.load("org/name@v1", cache_dir=tmp_path)


def test_an_interrupt_stays_an_interrupt(bundled, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(remote, "hf_hub_download", interrupted)
    monkeypatch.setattr(remote, "get_hf_file_metadata", answered, raising=False)
    with pytest.raises(KeyboardInterrupt):
        mtslvr.load("org/name")


SCRIPT = """
import json, sys, urllib.request
import mtslvr
from mtslvr import hub

endpoint, commit, waveform = sys.argv[1], sys.argv[2], [i % 50 / 50 for i in range(16000)]

def mark(name):
    urllib.request.urlopen(f"{endpoint}/mark/{name}").read()

def refused(name, **arguments):
    try:
        return str(hub.find(name, **arguments))
    except mtslvr.HubError as error:
        return f"HubError: {error}"

said = {}
first = mtslvr.load(f"org/tiny@{commit}", device="cpu")
mark("second")
second = mtslvr.load(f"hf-hub:org/tiny@{commit}", device="cpu")
mark("errors")
import torch
x = torch.tensor([waveform])
said["equal"] = torch.equal(first(x).concat, second(x).concat)
said["embedding"] = first(x).concat[0].tolist()
said["folder"] = str(hub.find(f"org/tiny@{commit}"))
said["main"] = str(hub.find("org/tiny"))
for name in ("org/gone", "org/tiny@nope", "org/gated", "org/empty"):
    said[name] = refused(name)
mark("token")
said["token"] = refused("org/tiny", token="hf_secret")
mark("stop")
said["down"] = refused("org/tiny")
print(json.dumps(said))
"""


class Hub:
    """What of the hub's protocol a download needs, on a loopback port."""

    def __init__(self, folder):
        self.folder = folder
        self.requests, self.phase = [], "first"
        hub_ = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub_.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        if request.path.startswith("/mark/"):
            self.phase = request.path.removeprefix("/mark/")
            if self.phase == "stop":
                self.stop()
            return self.send(request, 200, {}, b"")
        self.requests.append((self.phase, request.command, request.path, request.headers.get("Authorization")))
        _, name, _, revision, file = request.path.strip("/").split("/", 4)
        code = {"gone": "RepoNotFound", "gated": "GatedRepo", "empty": "EntryNotFound"}.get(name)
        if revision == "nope":
            code = "RevisionNotFound"
        if code:
            return self.send(request, 403 if code == "GatedRepo" else 404, {"X-Error-Code": code}, b"")
        content = (self.folder / file).read_bytes()
        self.send(request, 200, {"ETag": f'"{file}-{len(content)}"', "X-Repo-Commit": COMMIT}, content)

    @staticmethod
    def send(request, status, headers, content):
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


@pytest.fixture(scope="module")
def downloads(folder, tmp_path_factory):
    """What the script said, and what the server was asked, in one process with an empty cache."""
    home = tmp_path_factory.mktemp("home")
    served = Hub(folder)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": served.endpoint,
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, served.endpoint, COMMIT],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        if served.phase != "stop":
            served.stop()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), served.requests, home / "hf"


def test_download_gives_the_weights_that_are_served(downloads, folder):
    said, requests, home = downloads
    x = torch.tensor([[i % 50 / 50 for i in range(16000)]])
    expected = mtslvr.load(folder, device="cpu")(x).concat[0]
    assert relative(np.array(said["embedding"]), expected.numpy()) <= 1e-5
    asked = [(method, path) for phase, method, path, _ in requests if phase == "first"]
    for file in ("config.json", "model.safetensors"):
        assert asked.count(("GET", f"/org/tiny/resolve/{COMMIT}/{file}")) == 1
    assert Path(said["folder"]).is_relative_to(home / "hub")
    assert (Path(said["folder"]) / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_a_cached_commit_is_loaded_without_a_request(downloads):
    said, requests, _ = downloads
    assert said["equal"]
    assert [request for request in requests if request[0] == "second"] == []


def test_main_is_asked_for_but_not_downloaded_again(downloads):
    said, requests, _ = downloads
    assert said["main"] == said["folder"]
    asked = {(method, path) for phase, method, path, _ in requests if phase == "errors" and "/tiny/" in path}
    assert ("HEAD", "/org/tiny/resolve/main/config.json") in asked
    assert not any(method == "GET" for method, _ in asked)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/gone", "org/gone@main: no such repository, or a private one; .*log in"),
        ("org/tiny@nope", "org/tiny@nope: no such revision; check the name after '@'"),
        ("org/gated", "org/gated@main: gated; .*log in with `hf auth login`"),
        ("org/empty", "org/empty@main: .*not an mtslvr checkpoint"),
    ],
)
def test_what_the_hub_refuses(downloads, name, message):
    said, _, _ = downloads
    assert re.match(f"HubError: {message}", said[name])


def test_the_token_is_sent_when_given_and_only_then(downloads):
    _, requests, _ = downloads
    assert {token for phase, _, _, token in requests if phase == "token"} == {"Bearer hf_secret"}
    assert {token for phase, _, _, token in requests if phase != "token"} == {None}


def test_the_cache_serves_when_the_hub_is_down(downloads):
    said, _, _ = downloads
    assert said["down"] == said["folder"]
