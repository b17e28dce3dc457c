"""A small Hugging Face hub on loopback: what huggingface_hub asks of the real one to download models.

Files of model.safetensors kind are large files, as on the hub: /resolve/ answers with a redirect to another host,
X-Linked-ETag (their sha256) and X-Linked-Size. Every request is written down; faults are set by name.
"""

import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


def etag(name, content):
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """commits: 40 digits -> file name -> content; refs: branch or tag -> commit."""

    commits: dict = field(default_factory=dict)
    refs: dict = field(default_factory=dict)
    error: tuple = ()  # status, X-Error-Code and X-Error-Message for everyone without the right token


class Hub:
    """A context manager; `url` is for HF_ENDPOINT, `requests` are pairs of path and headers."""

    def __init__(self):
        self.repos, self.requests, self.faults, self.blobs = {}, [], {}, {}
        self.connections = set()
        self.port = 0

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.connections):  # those that are kept alive
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def down(self):
        """Nobody listens on the port."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    @contextlib.contextmanager
    def fault(self, **faults):
        """Of what is told of a repository: status=code; content=bytes; size=as announced. Of weights: replace=bytes."""
        self.faults = faults
        try:
            yield
        finally:
            self.faults = {}

    def add(self, repo, files, commit=None, refs=("main",)):
        """A commit with these files; the commit."""
        content = repo + repr(sorted(hashlib.sha256(v).hexdigest() for v in files.values()))
        commit = commit or hashlib.sha1(content.encode()).hexdigest()
        made = self.repos.setdefault(repo, Repo())
        made.commits[commit] = dict(files)
        made.refs.update(dict.fromkeys(refs, commit))
        return commit

    def paths(self):
        return [path for path, _ in self.requests]


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

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((path, {key.lower(): value for key, value in self.headers.items()}))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if path.startswith("/cdn/"):
                self.send(200, self.hub.faults.get("replace", self.hub.blobs[path.rsplit("/", 1)[1]]))
            elif path.startswith("/api/models/"):
                name, kind, rest = re.fullmatch(r"/api/models/(.+?/.+?)/(revision|tree)/(.*)", path).groups()
                self.in_repo(name, rest, kind)
            else:
                self.in_repo(*path[1:].split("/resolve/"), "resolve")

    do_HEAD = do_GET

    def send(self, status, content=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            if value is not None:
                self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def error(self, status, code, text="no", **headers):
        self.send(status, X_Error_Code=code, X_Error_Message=text, **headers)

    def in_repo(self, name, rest, kind):
        repo, fault = self.hub.repos.get(name), self.hub.faults
        if repo is None:
            return self.error(401, "RepoNotFound", "Repository not found")  # 401 as on the hub, which tells nobody
        if repo.error and self.headers.get("Authorization") != "Bearer hf_right":
            return self.error(*repo.error)
        revisions = sorted([*repo.commits, *repo.refs], key=len, reverse=True)
        revision = next((one for one in revisions if f"{rest}/".startswith(one + "/")), None)
        if revision is None:
            return self.error(404, "RevisionNotFound")
        commit = repo.refs.get(revision, revision)
        files = repo.commits[commit]
        if kind == "resolve":
            return self.resolve(commit, files, rest[len(revision) + 1 :])
        if "status" in fault or "content" in fault:
            return self.send(fault.get("status", 200), fault.get("content", b""), Content_Type="application/json")
        siblings = [{"rfilename": n, "size": fault.get("size", len(c))} for n, c in files.items()]
        said = {"id": name, "modelId": name, "sha": commit, "siblings": siblings}
        tree = [{"type": "file", "path": n, "size": len(c), "oid": etag(n, c)} for n, c in files.items()]
        return self.send(200, json.dumps(tree if kind == "tree" else said).encode(), Content_Type="application/json")

    def resolve(self, commit, files, filename):
        content = files.get(filename)
        if content is None:
            return self.error(404, "EntryNotFound", X_Repo_Commit=commit)
        headers = {"X_Repo_Commit": commit, "ETag": f'"{etag(filename, content)}"'}
        if filename.endswith(".safetensors"):
            self.hub.blobs[etag(filename, content)] = content
            location = f"http://localhost:{self.hub.port}/cdn/{etag(filename, content)}"
            linked = {"X_Linked_ETag": headers["ETag"], "X_Linked_Size": str(len(content))}
            return self.send(302, Location=location, **linked, **headers)
        return self.send(200, content, **headers)
