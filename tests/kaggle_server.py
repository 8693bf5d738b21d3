"""A small Kaggle on 127.0.0.1 that Kaggle's own client can talk to: it lists, delivers, breaks, refuses and scores.

    with KaggleServer({"events.csv.zip": data}) as server:
        server.sign_in(monkeypatch, tmp_path)          # this process' client now talks to the server
        subprocess.run(command, env={**os.environ, **server.environment(tmp_path)})   # and so does another one's

It knows the calls of kaggle 2.2.4: IntrospectToken, ListDataFiles, DownloadDataFile, StartSubmissionUpload,
CreateSubmission, ListSubmissions, GetSubmission, GetSubmissionLimits. What it does wrong is set by its attributes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMPETITION = "outbrain-click-prediction"
#: Distinctive, so that a test can search everything it can lay hands on for it.
TOKEN = "KGAT_never-tell-this-token-7f3a91"
USERNAME, KEY = "ada", "never-tell-this-key-55d0c2"


@dataclass
class Request:
    """One request as it arrived."""

    call: str  # the API's call, or "storage" or "upload"
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Submission:
    ref: int
    file_name: str
    data: bytes
    description: str
    polls: int = 0  # how often its status was asked


@dataclass
class Refusal:
    status: int
    times: int
    headers: dict[str, str] = field(default_factory=dict)
    in_body_only: bool = False  # HTTP 200 with {"code": status}, as Kaggle also answers


class KaggleServer:
    """The server and all that it was told to do wrong.

    files: NAME -> bytes, served and listed. listed_sizes: other sizes for the listing.
    redirect: whether a download is redirected to a storage on another host name, as Kaggle does.
    ranges: whether a Range is honoured. etag: whether an ETag is sent.
    checksum: the header with the md5, `wrong` for a wrong one in x-goog-hash, None for none; or a text for x-goog-hash.
    break_after, breaks: cut the connection after so many bytes of a file's body, so many times.
    page_size: files a page of the listing. pending: how often a submission's status is asked before it has a score.
    score: bytes of a submission -> (public, private), or a text that says what is wrong with it.
    limits: of submissions, what is answered instead of a daily limit of five. takes: whether a submission is taken.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.listed_sizes: dict[str, int] = {}
        self.redirect = True
        self.ranges = True
        self.etag = True
        self.checksum: str | None = "x-goog-hash"
        self.break_after: int | None = None
        self.breaks = 1
        self.page_size = 1000
        self.pending = 0
        self.score: Callable[[bytes], tuple[str, str] | str] = lambda _: ("0.66123", "0.66234")
        self.limits: dict[str, Any] = {}
        self.takes = True
        self.refusals: dict[str, Refusal] = {}
        self.requests: list[Request] = []
        self.uploads: dict[str, tuple[str, bytes]] = {}  # blob token -> file name, bytes
        self.submissions: list[Submission] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kaggle": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> KaggleServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def refuse(
        self, call: str, status: int, *, times: int = 1_000_000, in_body_only: bool = False, **headers: str
    ) -> None:
        """Answer the next `times` requests of a call (or of `storage`, `upload`) with an error."""
        self.refusals[call] = Refusal(status, times, {k.replace("_", "-"): v for k, v in headers.items()}, in_body_only)

    def calls(self, call: str) -> list[Request]:
        return [request for request in self.requests if request.call == call]

    def sign_in(self, monkeypatch: Any, home: Path, *, token: str | None = TOKEN, **variables: str) -> None:
        """Point the client in this process at the server, with a home of its own and these credentials only.

        The client is imported with the empty home first: some of its settings are read once, at import.
        """
        _empty_home(monkeypatch, home)
        with contextlib.redirect_stdout(io.StringIO()):  # without credentials it prints a page
            from kaggle.api.kaggle_api_extended import KaggleApi
        from kagglesdk import kaggle_env

        for environment in (kaggle_env.KaggleEnv.PROD, kaggle_env.KaggleEnv.LOCAL):
            monkeypatch.setitem(kaggle_env._env_to_endpoint, environment, self.url)
        monkeypatch.setattr(KaggleApi, "config_dir", str(home / ".kaggle"))
        monkeypatch.setattr(KaggleApi, "config", str(home / ".kaggle" / "kaggle.json"))
        for key, value in (variables | ({"KAGGLE_API_TOKEN": token} if token else {})).items():
            monkeypatch.setenv(key, value)

    def environment(self, home: Path, *, token: str | None = TOKEN) -> dict[str, str]:
        """Environment variables that point the client of another process at the server.

        The client knows http://localhost without a port; this server stands in for it as a proxy.
        """
        variables = {"HOME": str(home), "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": self.url, "no_proxy": ""}
        return variables | ({"KAGGLE_API_TOKEN": token} if token else {})


def _empty_home(monkeypatch: Any, home: Path) -> None:
    for key in [key for key in os.environ if key.startswith("KAGGLE_") or key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    for key in ("VERBOSE", "VERBOSE_OUTPUT", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(key, raising=False)
    (home / ".kaggle").mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("HOME", str(home))


def _snake_case(call: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", call).lower()


class _Handler(BaseHTTPRequestHandler):
    kaggle: KaggleServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out one by one: each answer would wait 40 ms

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server looks for

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)  # a proxy is asked for the whole address
        parts = path.strip("/").split("/")
        call = parts[0] if parts[0] in ("storage", "upload") else parts[-1]
        body = self._body()
        self.kaggle.requests.append(Request(call, self.command, self.path, dict(self.headers), body))
        refusal = self.kaggle.refusals.get(call)
        if refusal and refusal.times > 0:
            refusal.times -= 1
            self._refuse(refusal.status, "refused as told", refusal.headers, in_body_only=refusal.in_body_only)
        elif call == "storage":  # its address carries the permission
            self._deliver(parts[-1])
        elif call == "upload":
            name, _ = self.kaggle.uploads[parts[-1]]
            self.kaggle.uploads[parts[-1]] = (name, body)
            self._answer({})
        elif not self._signed_in():
            self._refuse(401, "Unauthenticated")
        else:
            answer = getattr(self, f"_call_{_snake_case(call)}", None)
            if answer is None:
                self._refuse(404, f"no call {call}")
            else:
                answer(json.loads(body or b"{}"))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _signed_in(self) -> bool:
        basic = base64.b64encode(f"{USERNAME}:{KEY}".encode()).decode()
        return self.headers.get("Authorization") in (f"Bearer {TOKEN}", f"Basic {basic}")

    def _answer(self, value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def _refuse(
        self, status: int, message: str, headers: dict[str, str] | None = None, *, in_body_only: bool = False
    ) -> None:
        # A careless server that repeats what it was sent: an error must not be passed on as it is.
        told = f"{message} (authorization: {self.headers.get('Authorization')})"
        self._answer({"code": status, "message": told}, 200 if in_body_only else status, headers)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    # ---- the calls ----

    def _call_introspect_token(self, request: dict[str, Any]) -> None:
        self._answer({"active": request.get("token") == TOKEN, "username": USERNAME})

    def _call_list_data_files(self, request: dict[str, Any]) -> None:
        if self._known(request):
            start = int(request.get("pageToken") or 0)
            stop = start + min(self.kaggle.page_size, request.get("pageSize", 20))
            names = list(self.kaggle.files)
            sizes = {name: len(data) for name, data in self.kaggle.files.items()} | self.kaggle.listed_sizes
            files = [{"ref": n, "name": n, "totalBytes": sizes[n]} for n in names[start:stop]]
            self._answer({"files": files, "nextPageToken": str(stop) if stop < len(names) else ""})

    def _call_download_data_file(self, request: dict[str, Any]) -> None:
        name = request["fileName"]
        if not self._known(request):
            return
        if name not in self.kaggle.files:
            self._refuse(404, f"no file {name}")
        elif self.kaggle.redirect:
            place = f"http://localhost:{self.kaggle.port}/storage/{name}?X-Goog-Signature=signed"
            self._head(302, {"Location": place, "Content-Length": "0"})
        else:
            self._deliver(name)

    def _call_start_submission_upload(self, request: dict[str, Any]) -> None:
        if self._known(request):
            blob = secrets.token_hex(8)
            self.kaggle.uploads[blob] = (request["fileName"], b"")
            self._answer({"token": blob, "createUrl": f"{self.kaggle.url}/upload/{blob}"})

    def _call_create_submission(self, request: dict[str, Any]) -> None:
        if not self._known(request):
            return
        blob = self.kaggle.uploads.pop(request["blobFileTokens"], None)
        if blob is None:
            self._refuse(400, "no such upload")
            return
        if not self.kaggle.takes:
            self._answer({"message": "The team has left", "ref": 0})
            return
        ref = 1000 + len(self.kaggle.submissions)
        self.kaggle.submissions.append(Submission(ref, *blob, request.get("submissionDescription", "")))
        self._answer({"message": "Successfully submitted to Outbrain Click Prediction", "ref": ref})

    def _call_list_submissions(self, request: dict[str, Any]) -> None:
        if self._known(request):
            self._answer({"submissions": [self._submission(s) for s in reversed(self.kaggle.submissions)]})

    def _call_get_submission(self, request: dict[str, Any]) -> None:
        found = [s for s in self.kaggle.submissions if s.ref == request.get("ref")]
        if found:
            self._answer(self._submission(found[0]))
        else:
            self._refuse(404, "no such submission")

    def _call_get_submission_limits(self, request: dict[str, Any]) -> None:
        if self._known(request):
            used = len(self.kaggle.submissions)
            self._answer({"numToday": used, "numTotal": used, "numAllowedNow": max(5 - used, 0)} | self.kaggle.limits)

    def _known(self, request: dict[str, Any]) -> bool:
        if request.get("competitionName") == COMPETITION:
            return True
        self._refuse(404, "no such competition")
        return False

    def _submission(self, submission: Submission) -> dict[str, Any]:
        submission.polls += 1
        told: dict[str, Any] = {"status": "PENDING"}
        if submission.polls > self.kaggle.pending:
            score = self.kaggle.score(submission.data)
            if isinstance(score, str):
                told = {"status": "ERROR", "errorDescription": score}
            else:
                told = {"status": "COMPLETE", "publicScore": score[0], "privateScore": score[1]}
        return told | {
            "ref": submission.ref,
            "fileName": submission.file_name,
            "totalBytes": len(submission.data),
            "description": submission.description,
            "date": "2017-01-18T12:00:00.0000000Z",
            "submittedBy": USERNAME,
        }

    # ---- a file's bytes ----

    def _deliver(self, name: str) -> None:
        kaggle, data = self.kaggle, self.kaggle.files[name]
        headers = {"Content-Type": "application/zip", "Last-Modified": "Wed, 18 Jan 2017 12:00:00 GMT"}
        if kaggle.etag:
            headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        wrong = base64.b64encode(hashlib.md5(b"something else").digest()).decode()
        if kaggle.checksum == "Content-MD5":
            headers["Content-MD5"] = md5
        elif kaggle.checksum:
            texts = {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}", "wrong": f"crc32c=AAAAAA==,md5={wrong}"}
            headers["x-goog-hash"] = texts.get(kaggle.checksum, kaggle.checksum)
        start, status = 0, 200
        asked = self.headers.get("Range", "")
        if kaggle.ranges:
            headers["Accept-Ranges"] = "bytes"
            if asked.startswith("bytes=") and asked.endswith("-"):
                start, status = int(asked[6:-1]), 206
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        self._head(status, headers | {"Content-Length": str(len(body))})
        if kaggle.break_after is not None and kaggle.breaks > 0 and len(body) > kaggle.break_after:
            kaggle.breaks -= 1
            self.wfile.write(body[: kaggle.break_after])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self._write(body)

    def _write(self, body: bytes) -> None:
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # the client has seen enough: it asks for a part instead
            self.close_connection = True
