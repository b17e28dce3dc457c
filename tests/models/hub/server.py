"""A Hugging Face hub on loopback that holds one repository: what huggingface_hub asks of the real one to download it.

Weights are a large file, as on the hub: /resolve/ answers with a redirect to another host and their sha256 as ETag.
"""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, path = self.server, unquote(urlsplit(self.path).path)
        server.requests.append((path, self.headers["Host"].split(":")[0], self.headers.get("Authorization")))
        name = path.rpartition("/")[2]
        if path.startswith("/cdn/"):
            self.answer(200, server.files[name])
        elif not path.startswith((f"/api/models/{server.repo}/", f"/{server.repo}/")):
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")  # as on the hub
        elif "/api/" in path:
            content = {each: len(server.files[each]) for each in server.files}
            tree = [{"type": "file", "path": each, "size": size, "oid": "0" * 40} for each, size in content.items()]
            siblings = [{"rfilename": each, "size": size} for each, size in content.items()]
            said = tree if "/tree/" in path else {"id": server.repo, "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps(said).encode(), Content_Type="application/json")
        else:
            content, tag = server.files[name], hashlib.sha256(server.files[name]).hexdigest()
            headers = {"X_Repo_Commit": COMMIT, "ETag": f'"{tag}"'}
            if name.endswith(".safetensors"):
                headers |= {"X_Linked_ETag": f'"{tag}"', "X_Linked_Size": str(len(content))}
                self.answer(302, Location=f"http://localhost:{server.server_address[1]}/cdn/{name}", **headers)
            else:
                self.answer(200, content, **headers)

    do_HEAD = do_GET

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve(repo, files):
    """The server, while it runs: `requests` are path, host and Authorization of each."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.repo, server.files, server.requests, server.daemon_threads = repo, files, [], True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
