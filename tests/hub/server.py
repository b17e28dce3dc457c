"""A small Hugging Face hub on loopback: what huggingface_hub asks of the real one to download and to upload models.

Files of model.safetensors kind are large files, as on the hub: HEAD and GET of /resolve/ answer with a redirect to
another host, X-Linked-ETag (their sha256) and X-Linked-Size. Every request is written down; faults are set by name.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".pt")


def commit_id(text):
    return hashlib.sha1(text.encode()).hexdigest()


def etag(name, content):
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """commits: 40 digits -> file name -> content; refs: branch or tag -> commit."""

    commits: dict = field(default_factory=dict)
    refs: dict = field(default_factory=dict)
    error: tuple = ()  # status and X-Error-Code for everyone without the right token
    moved_to: str = ""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    host: str
    headers: dict


class Hub:
    """A context manager; `url` is for HF_ENDPOINT."""

    def __init__(self):
        self.repos, self.requests, self.faults, self.blobs = {}, [], {}, {}
        self.connections = set()
        self.dying = None
        self.port = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        if self.dying:
            self.dying.join()
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.connections):  # those that are kept alive
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def down(self):
        """Nobody listens on the port."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def fault(self, **faults):
        """truncate=bytes sent of a file; declare=Content-Length; replace=bytes; stall, delay=seconds; share=of
        the body before a stall; die=True;
        whole=True: no Range; status=code; headers=dict; each for model.safetensors or, with only=name, that file."""
        self.faults = faults
        try:
            yield
        finally:
            self.faults = {}

    def add(self, repo, files, commit=None, refs=("main",)):
        """A commit with these files; the commit."""
        commit = commit or commit_id(repo + repr(sorted(hashlib.sha256(v).hexdigest() for v in files.values())))
        made = self.repos.setdefault(repo, Repo())
        made.commits[commit] = dict(files)
        made.refs.update(dict.fromkeys(refs, commit))
        return commit

    def paths(self, method=None):
        return [r.path for r in self.requests if method in (None, r.method)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self):
        self.hub.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, self.headers["Host"], dict(self.headers)))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if "/resolve/" in path:
                repo, _, rest = path[1:].partition("/resolve/")
                self.resolve(repo, rest)
            elif path.startswith("/cdn/"):
                self.file("model.safetensors", self.hub.blobs[path.rsplit("/", 1)[1]])
            elif path.startswith("/api/models/") and self.command == "GET":
                self.model_info(path)
            else:
                self.upload(path, body)

    def send(self, status, content=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            if value is not None:
                self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def error(self, status, code, text="no"):
        self.send(status, X_Error_Code=code, X_Error_Message=text)

    def json(self, value):
        self.send(200, json.dumps(value).encode(), Content_Type="application/json")

    def fault(self, filename):
        return self.hub.faults if filename == self.hub.faults.get("only", "model.safetensors") else {}

    def resolve(self, name, rest):
        repo = self.hub.repos.get(name)
        if repo is None:
            return self.error(401, "RepoNotFound", "Repository not found")  # 401 as on the hub, which tells nobody
        if repo.moved_to:  # a renamed repository
            return self.send(307, Location=f"/{repo.moved_to}/resolve/{rest}")
        if repo.error and self.headers.get("Authorization") != "Bearer hf_right":
            return self.error(*repo.error)
        for revision in sorted([*repo.commits, *repo.refs], key=len, reverse=True):
            if rest.startswith(revision + "/"):
                break
        else:
            return self.error(404, "RevisionNotFound")
        commit = repo.refs.get(revision, revision)
        filename = rest[len(revision) + 1 :]
        content = repo.commits[commit].get(filename)
        if content is None:
            return self.send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        fault = self.fault(filename)
        if "status" in fault:
            return self.send(fault["status"])
        headers = {"X_Repo_Commit": commit, "ETag": f'"{etag(filename, content)}"', **fault.get("headers", {})}
        if filename.endswith(LARGE):
            self.hub.blobs[etag(filename, content)] = content
            return self.send(
                302,
                Location=f"http://localhost:{self.hub.port}/cdn/{etag(filename, content)}",
                X_Linked_ETag=headers["ETag"],
                X_Linked_Size=str(fault.get("size", len(content))),
                X_Repo_Commit=headers["X_Repo_Commit"],
            )
        return self.file(filename, content, **headers)

    def file(self, filename, content, **headers):
        fault = self.fault(filename) if self.command == "GET" else {}
        time.sleep(fault.get("delay", 0))
        content = fault.get("replace", content)
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and not fault.get("whole") and int(asked[1]) < len(content):  # what is left of a broken download
            headers["Content_Range"] = f"bytes {asked[1]}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[int(asked[1]) :]
        if "stall" in fault:  # headers, a share of the body, silence
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: int(len(content) * fault.get("share", 0.5))])
            self.wfile.flush()
            time.sleep(fault["stall"])
            self.close_connection = True
            return None
        if fault.get("die"):  # this server is gone from here on
            self.hub.dying = threading.Thread(target=self.hub.stop, daemon=True)
            self.hub.dying.start()
            self.close_connection = True
            return None
        sent = content[: fault.get("truncate", len(content))]
        headers["Content_Disposition"] = f'inline; filename="{filename}";'  # what a progress bar is named by
        headers["Content_Length"] = str(fault.get("declare", len(content)))
        if len(sent) < len(content):
            self.close_connection = True
        return self.send(status, sent, **headers)

    def model_info(self, path):
        """The revision and tree API."""
        name, _, rest = path.removeprefix("/api/models/").partition("/revision/")
        name, _, tree = name.partition("/tree/")
        repo = self.hub.repos.get(name)
        if repo is None:
            return self.error(404, "RepoNotFound")
        revision = rest or tree or "main"
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self.error(404, "RevisionNotFound")
        files = repo.commits[commit]
        if tree:
            return self.json([{"type": "file", "path": n, "size": len(c), "oid": etag(n, c)} for n, c in files.items()])
        return self.json({"id": name, "modelId": name, "sha": commit, "siblings": [{"rfilename": n} for n in files]})

    def upload(self, path, body):
        if self.command == "PUT" and path.startswith("/lfs/"):
            self.hub.blobs[path.rsplit("/", 1)[1]] = body
            return self.send(200)
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.error(401, None, "Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repos:
                return self.send(409, b'{"error": "You already created this model repo"}')
            self.hub.repos[name] = Repo()
            return self.json({"url": f"{self.hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            mode = {True: "lfs", False: "regular"}
            return self.json(
                {"files": [{"path": n, "uploadMode": mode[n.endswith(LARGE)], "shouldIgnore": False} for n in names]}
            )
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return self.json(
                {
                    "transfer": "basic",
                    "objects": [
                        {**o, "actions": {"upload": {"href": f"http://localhost:{self.hub.port}/lfs/{o['oid']}"}}}
                        for o in objects
                    ],
                }
            )
        if "/commit/" in path:
            name, _, revision = path.removeprefix("/api/models/").partition("/commit/")
            files = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
            commit = self.hub.add(name, files, refs=(revision,))
            url = f"{self.hub.url}/{name}/commit/{commit}"
            return self.json({"commitUrl": url, "commitOid": commit, "success": True})
        return self.error(404, None)
