"""A Hugging Face Hub of one user on loopback, in memory: what the real `huggingface_hub` client needs to create a
repository, upload a folder in commits (also as large files), and read it back; and the trouble it may have with it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

USER, TOKEN = "me", "hf_test"
READ_TOKEN = "hf_only_reads"  # of the same user, without write access
LARGE = (".safetensors", ".bin", ".parquet", ".arrow")  # these go the way of large files, whatever their size
PART = 1 << 20  # bytes; what is larger is sent in parts
Tree = dict[str, "Blob"]


@dataclass(frozen=True)
class Blob:
    """The content of a file, named by its hash as git or git-lfs would."""

    data: bytes
    large: bool

    @property
    def oid(self) -> str:
        if self.large:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        shown = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        return shown | ({"lfs": {"oid": self.oid, "size": len(self.data), "pointerSize": 130}} if self.large else {})


@dataclass
class Repo:
    """Commits in a row, each with all its files."""

    kind: str
    id: str
    private: bool
    commits: dict[str, Tree] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, tree: Tree, title: str) -> str:
        names = [f"{path} {blob.oid}" for path, blob in sorted(tree.items())]
        sha = hashlib.sha1("\n".join([title, str(len(self.commits)), *names]).encode()).hexdigest()
        self.commits[sha], self.heads[branch] = tree, sha
        return sha

    def at(self, revision: str) -> str:
        revision = unquote(revision).removeprefix("refs/heads/")
        sha = self.heads.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def info(self, sha: str) -> dict[str, Any]:
        files = [{"rfilename": path} for path in sorted(self.commits[sha])]
        shown = {"id": self.id, "author": USER, "sha": sha, "private": self.private, "siblings": files, "tags": []}
        return shown | {"gated": False, "disabled": False, "downloads": 0, "likes": 0}


class Refused(Exception):
    """Answered as the Hub answers: a status, and a code in the headers that the client turns into its own error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.response = JSONResponse({"error": message}, status, headers)


@dataclass
class Trouble:
    """What goes wrong the next `times` that something is asked.

    Args:
        what: pattern of method and path, as in `PUT /_large`.
        status: of the answer; 0 drops the connection in the middle of it.
        message: in the answer. `{token}` in it is the token that the client sent.
        times: how often.
        delay: seconds; with a status of 200 it goes well, but late.
    """

    what: str
    status: int
    message: str = ""
    times: int = 10**9
    delay: float = 0.0

    async def answer(self, request: Request) -> Response | None:
        if not self.times or not re.search(self.what, f"{request.method} {request.url.path}"):
            return None
        self.times -= 1
        await asyncio.sleep(self.delay)
        if self.status == 200:
            return None
        if not self.status:
            return StreamingResponse(cut_off(), headers={"Content-Length": "100"})
        said = self.message.format(token=request.headers.get("authorization", "").removeprefix("Bearer "))
        return JSONResponse({"error": said}, self.status, {"X-Error-Message": said})


async def cut_off() -> AsyncIterator[bytes]:
    yield b"{"
    raise ConnectionResetError("dropped on purpose")


class Hub:
    """The state, and one method for each thing that can be asked."""

    def __init__(self) -> None:
        self.trouble: list[Trouble] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, Blob] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.served: list[tuple[str, str, int]] = []

    # -- who, and which repository
    def require_user(self, request: Request, write: bool = False) -> None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_TOKEN):
            raise Refused(401, "Unauthorized", "Invalid credentials in Authorization header")
        if write and token == READ_TOKEN:
            raise Refused(403, "Forbidden", "You don't have the rights to write here")

    def repo(self, request: Request, write: bool = False) -> Repo:
        given = request.path_params
        repo = self.repos.get((given.get("kind", "models").rstrip("s"), f"{given['owner']}/{given['name']}"))
        if repo is not None and repo.private and "authorization" not in request.headers:
            raise Refused(401, "RepoNotFound", "Repository not found")
        if repo is None:
            raise Refused(404, "RepoNotFound", "Repository not found")
        if write or repo.private:
            self.require_user(request, write)
        return repo

    async def who(self, request: Request) -> Any:
        self.require_user(request)
        return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    async def create(self, request: Request) -> Any:
        self.require_user(request, write=True)
        asked = await request.json()
        if asked.get("organization") not in (None, USER):
            raise Refused(
                403, "Forbidden", f"You don't have the rights to create a repo under {asked['organization']}"
            )
        kind, name = asked.get("type", "model"), f"{USER}/{asked['name']}"
        url = f"{request.base_url}{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.repos:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        repo = self.repos[kind, name] = Repo(
            kind, name, asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        repo.commit("main", {}, "initial commit")
        return {"url": url, "name": name, "id": name}

    # -- reading
    async def info(self, request: Request) -> Any:
        repo = self.repo(request)
        return repo.info(repo.at(request.path_params.get("revision", "main")))

    async def models(self, request: Request) -> Any:
        """Those with a tag, by the front matter of their cards."""
        wanted, most = request.query_params.getlist("filter"), int(request.query_params.get("limit", "1000"))
        user = request.headers.get("authorization", "").removeprefix("Bearer ") in (TOKEN, READ_TOKEN)
        found = []
        for (kind, _), repo in self.repos.items():
            card = repo.commits[repo.heads["main"]].get("README.md", Blob(b"", large=False)).data.decode()
            front = card.split("---\n")[1] if card.startswith("---\n") else ""
            tags = (yaml.safe_load(front) or {}).get("tags", []) if front else []
            if kind == "model" and set(wanted) <= set(tags) and (user or not repo.private):
                found.append(repo.info(repo.heads["main"]) | {"tags": tags})
        return found[:most]

    async def refs(self, request: Request) -> Any:
        heads = self.repo(request).heads.items()
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in heads]
        return {"branches": branches, "tags": [], "converts": []}

    async def tree(self, request: Request) -> Any:
        repo, base = self.repo(request), unquote(request.path_params.get("path", "")).strip("/")
        files = repo.commits[repo.at(request.path_params["revision"])]
        deep = request.query_params.get("recursive", "").lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(files.items()):
            if base and not path.startswith(f"{base}/"):
                continue
            parts = path.removeprefix(f"{base}/" if base else "").split("/")
            for depth in range(1, len(parts) if deep else min(2, len(parts))):
                folder = "/".join(filter(None, [base, *parts[:depth]]))
                entries[folder] = folder_entry(folder)
            if deep or len(parts) == 1:
                entries[path] = blob.entry(path)
        if base and not entries:
            raise Refused(404, "EntryNotFound", f"{base} does not exist")
        return list(entries.values())

    async def paths_info(self, request: Request) -> Any:
        repo = self.repo(request)
        files = repo.commits[repo.at(request.path_params["revision"])]
        is_json = "json" in request.headers.get("content-type", "")
        paths = (await request.json())["paths"] if is_json else (await request.form()).getlist("paths")
        paths = [paths] if isinstance(paths, str) else paths
        found = [files[path].entry(path) for path in paths if path in files]
        folders = [path for path in paths if any(f.startswith(f"{path.rstrip('/')}/") for f in files)]
        return found + [folder_entry(path.rstrip("/")) for path in folders]

    async def download(self, request: Request) -> Any:
        repo = self.repo(request)
        sha = repo.at(request.path_params["revision"])
        blob, headers = repo.commits[sha].get(request.path_params["path"]), {"X-Repo-Commit": sha}
        if blob is None:
            refused = Refused(404, "EntryNotFound", "Entry not found").response
            refused.headers["X-Repo-Commit"] = sha
            return refused
        if not blob.large:
            return content(request, blob, headers)
        # To a storage under another host name, as the real one: within one host the client would follow at once, and
        # miss the headers of this answer.
        headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(len(blob.data))}
        return RedirectResponse(f"http://localhost:{request.url.port}/_large/{blob.oid}", 302, headers)

    # -- writing
    async def branch(self, request: Request) -> Any:
        repo, name = self.repo(request, write=True), unquote(request.path_params["branch"])
        if name in repo.heads:
            raise Refused(409, "Conflict", f"Reference already exists: refs/heads/{name}")
        repo.heads[name] = repo.heads["main"]
        return {}

    async def preupload(self, request: Request) -> Any:
        self.repo(request, write=True)
        files = (await request.json())["files"]
        modes = [(f["path"], "lfs" if f["path"].endswith(LARGE) else "regular") for f in files]
        return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]}

    async def batch(self, request: Request) -> Any:
        self.repo(request, write=True)
        objects = []
        for wanted in (await request.json())["objects"]:
            oid, count = wanted["oid"], -(-wanted["size"] // PART)
            upload: dict[str, Any] = {"href": f"{request.base_url}_large/{oid}"}
            if count > 1:
                parts = {f"{i:05d}": f"{request.base_url}_parts/{oid}/{i}" for i in range(1, count + 1)}
                upload["header"] = {"chunk_size": str(PART), **parts}
            objects.append(wanted | ({} if oid in self.large else {"actions": {"upload": upload}}))
        return {"transfer": "multipart", "objects": objects}

    async def part(self, request: Request) -> Any:
        """One of those that a large file is sent in."""
        data = await request.body()
        self.parts[request.path_params["oid"], request.path_params["number"]] = data
        return Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    async def large_file(self, request: Request) -> Any:
        oid = request.path_params["oid"]
        if request.method in ("GET", "HEAD"):
            return content(request, self.large[oid], {})
        blob = Blob(await request.body(), large=True)
        if request.method == "POST":  # all parts are here
            numbers = [each["partNumber"] for each in json.loads(blob.data)["parts"]]
            blob = Blob(b"".join(self.parts.pop((oid, number)) for number in numbers), large=True)
        if blob.oid != oid:
            raise Refused(422, "BadOid", "sha256 mismatch")
        self.large[oid] = blob
        return Response()

    async def commit(self, request: Request) -> Any:
        repo, branch = self.repo(request, write=True), unquote(request.path_params["revision"])
        head, *changes = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
        tree = dict(repo.commits[repo.at(branch)])
        for change in changes:
            path, value = change["value"]["path"], change["value"]
            match change["key"]:
                case "file":
                    tree[path] = Blob(base64.b64decode(value["content"]), large=False)
                case "lfsFile":
                    tree[path] = self.large[value["oid"]]
                case "deletedFile":
                    del tree[path]
                case "deletedFolder":
                    tree = {p: blob for p, blob in tree.items() if not p.startswith(f"{path.rstrip('/')}/")}
        sha = repo.commit(branch, tree, head["value"]["summary"])
        return {"success": True, "commitOid": sha, "commitUrl": f"{request.base_url}{repo.id}/commit/{sha}"}

    async def validate_card(self, request: Request) -> Any:
        return {"errors": [], "warnings": []}

    async def missing(self, request: Request) -> Any:
        raise Refused(404, "EntryNotFound", "Not Found")

    # -- wiring
    def app(self) -> Starlette:
        repo, at = "/api/{kind}/{owner}/{name}", "{revision}"
        routes: list[tuple[str, Callable[[Request], Awaitable[Any]], list[str]]] = [
            ("/api/whoami-v2", self.who, ["GET"]),
            ("/api/models", self.models, ["GET"]),
            ("/api/repos/create", self.create, ["POST"]),
            ("/api/validate-yaml", self.validate_card, ["POST"]),
            (repo, self.info, ["GET"]),
            (f"{repo}/revision/{at}", self.info, ["GET"]),
            (f"{repo}/refs", self.refs, ["GET"]),
            (f"{repo}/branch/{{branch}}", self.branch, ["POST"]),
            (f"{repo}/tree/{at}", self.tree, ["GET"]),
            (f"{repo}/tree/{at}/{{path:path}}", self.tree, ["GET"]),
            (f"{repo}/paths-info/{at}", self.paths_info, ["POST"]),
            (f"{repo}/preupload/{at}", self.preupload, ["POST"]),
            (f"{repo}/commit/{at}", self.commit, ["POST"]),
            ("/{kind}/{owner}/{name}.git/info/lfs/objects/batch", self.batch, ["POST"]),
            ("/{owner}/{name}.git/info/lfs/objects/batch", self.batch, ["POST"]),
            ("/_large/{oid}", self.large_file, ["GET", "HEAD", "PUT", "POST"]),
            ("/_parts/{oid}/{number:int}", self.part, ["PUT"]),
            (f"/{{kind}}/{{owner}}/{{name}}/resolve/{at}/{{path:path}}", self.download, ["GET", "HEAD"]),
            (f"/{{owner}}/{{name}}/resolve/{at}/{{path:path}}", self.download, ["GET", "HEAD"]),
            ("/{rest:path}", self.missing, ["GET", "HEAD", "POST", "PUT", "DELETE"]),
        ]
        return Starlette(routes=[Route(path, self.answer(ask), methods=methods) for path, ask, methods in routes])

    def answer(self, ask: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def run(request: Request) -> Response:
            found: Any = None
            for each in self.trouble:
                found = found or await each.answer(request)
            try:
                found = found or await ask(request)
            except Refused as refused:
                found = refused.response
            response = found if isinstance(found, Response) else JSONResponse(found)
            self.served.append((request.method, request.url.path, response.status_code))
            return response

        return run


def folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def content(request: Request, blob: Blob, headers: dict[str, str]) -> Response:
    """All of a file, or the range that was asked for."""
    data, status = blob.data, 200
    headers = headers | {"ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
    asked = re.match(r"bytes=(\d+)-(\d*)$", request.headers.get("range", ""))
    if asked and request.method == "GET":
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        data, status = data[first : last + 1], 206
    headers |= {"Content-Length": str(len(data))}
    return Response(b"" if request.method == "HEAD" else data, status, headers, "application/octet-stream")


class HubServer:
    """`with HubServer() as server:` serves at `server.url`; `server.hub` is the state."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.server = uvicorn.Server(uvicorn.Config(self.hub.app(), host="127.0.0.1", port=0, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> HubServer:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "it did not start"
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(60)
