"""Kaggle's own client, made fit for a pipeline: quiet, patient with a bad network, and never telling a credential.

What the client (kaggle 2.2.4) does that this module must deal with: importing it authenticates, which prints a page,
closes stdin and raises SystemExit if it finds no credentials; the variable VERBOSE makes it print the Authorization
header; a long KAGGLE_API_TOKEN turns up in an OSError; its requests have no timeout; its exceptions hold the requests
that they answer. So every exception is turned into a `Failure` (a status and a few words), and errors are raised after
the `except` block, where no chained traceback can lead back to a request.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter

from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.schemas.raw import RAW_FILES

T = TypeVar("T")
Wait = Callable[[float], None]

COMPETITION = "outbrain-click-prediction"
_PAGE = f"https://www.kaggle.com/competitions/{COMPETITION}"
_HOW_TO_GET_CREDENTIALS = f"""\
  1. Sign in at https://www.kaggle.com and create a token under Settings > API.
  2. Save it to ~/.kaggle/access_token or set KAGGLE_API_TOKEN
     (a legacy key: ~/.kaggle/kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY).
  3. Accept the competition's rules at {_PAGE}/rules
Without an account: set data.source to directory (files that you have) or to simulated."""

_HTTP_LOG = logging.getLogger("urllib3")
_TIMEOUT = (20.0, 120.0)  # seconds to connect, seconds without a byte
_TRIES = 5
_LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not waited for
_SERVER_ERROR = 500
_NO_RANGE_HERE = (400, 405, 412, 416, 501)  # answers to a Range request that a request for the whole file may not get


class KaggleError(UserError):
    """Kaggle did not do what was asked of it. `status`: the HTTP status, None if there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class TransferError(Exception):
    """A transfer ended, but its bytes are not those that the server announced."""


#: What a call of the client, or reading a response, may raise; ValueError: an answer that is not Kaggle's JSON.
FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, TransferError, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What went wrong, without the exception: its request carries the credentials, its address a signature.

    tries: how often in a row this may happen before it is given up.
    """

    status: int | None = None
    reason: str
    tries: int = 1
    retry_after: float | None = None  # seconds

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What an exception of the client, of requests or of the connection means for the user."""
        if isinstance(error, TransferError):
            return cls(reason=str(error), tries=2)
        response = getattr(error, "response", None)
        if response is not None:
            status = _status(response)
            transient = status in (408, 429) or status >= _SERVER_ERROR
            wait = _seconds(response.headers.get("Retry-After"))
            return cls(status=status, reason=f"HTTP {status}", tries=_TRIES if transient else 1, retry_after=wait)
        if isinstance(error, ValueError):
            return cls(reason="an answer that is not Kaggle's (a proxy or a login page in between?)", tries=2)
        return cls(reason=f"no answer, or the connection broke ({type(error).__name__})", tries=_TRIES)

    def error(self, what: str) -> KaggleError:
        """The error to raise when this failure is final; `what` was being done, such as "downloading a.csv.zip"."""
        advice = {
            401: "the credentials were refused: wrong, expired or revoked (if there is a token, it is used before a"
            f" legacy key). For new ones:\n{_HOW_TO_GET_CREDENTIALS}",
            403: f"access was refused; accept the competition's rules at {_PAGE}/rules with the account that the token"
            " belongs to, or use a token that may read competitions",
            404: f"not found; see {_PAGE}/data for what there is",
            429: "too many requests; wait an hour and run again, finished files and parts of files are kept",
        }.get(self.status or 0, "run again later, finished files and parts of files are kept")
        return KaggleError(f"Kaggle, {what}: {self.reason}: {advice}", self.status)


class Patience:
    """Wait longer after each failure in a row, and give up after as many as the failure is worth."""

    def __init__(self, what: str, wait: Wait) -> None:
        self.what = what
        self._wait = wait
        self._failures = 0

    def after(self, failure: Failure, *, progressed: bool = False) -> None:
        """Wait until the next try; KaggleError if there is to be none. `progressed`: this one got further."""
        self._failures = 1 if progressed else self._failures + 1
        seconds = 2.0**self._failures if failure.retry_after is None else failure.retry_after
        if self._failures >= failure.tries or seconds > _LONGEST_WAIT:
            raise failure.error(self.what)
        log.warning(
            "%s: %s; trying again in %.0f s (failure %d of at most %d)",
            self.what, failure.reason, seconds, self._failures, failure.tries,
        )  # fmt: skip
        self._wait(seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A raw file on Kaggle. listed: its name in the listing; size: its bytes as the listing says, 0 if unknown."""

    name: str
    listed: str
    size: int


class Kaggle:
    """A signed-in session with Kaggle, as a context manager; entering it raises KaggleError without credentials.

    `api` is the client's own KaggleApi, for what has no method here; call it through `call`.
    """

    def __init__(self, wait: Wait = time.sleep) -> None:
        self._wait = wait
        self.api: Any = None
        self._client: Any = None
        self._session: requests.Session
        self._log_level = logging.NOTSET

    def __enter__(self) -> Self:
        self.api = self.call("signing in", _authenticate)
        self._client = self.api.build_kaggle_client()
        self._client.__enter__()
        self._session = self._client.http_client()._session  # noqa: SLF001 - the client has no public way to set a timeout
        self._session.mount("https://", _TimeoutAdapter())
        self._session.mount("http://", _TimeoutAdapter())
        self._session.headers["Accept-Encoding"] = "identity"  # sizes and ranges count the file's own bytes
        self._log_level = _HTTP_LOG.level
        _HTTP_LOG.setLevel(max(_HTTP_LOG.getEffectiveLevel(), logging.INFO))  # at DEBUG it tells signed addresses
        return self

    def __exit__(self, *_: object) -> None:
        _HTTP_LOG.setLevel(self._log_level)
        self._client.__exit__(None, None, None)

    def patience(self, what: str) -> Patience:
        return Patience(what, self._wait)

    def call(self, what: str, action: Callable[[], T]) -> T:
        """The result of `action`, tried again where that may help; KaggleError naming `what` where it does not."""
        patience = self.patience(what)
        while True:
            try:
                return action()
            except FAILURES as error:
                failure = Failure.of(error)
            patience.after(failure)

    def call_once(self, what: str, action: Callable[[], T]) -> T:
        """The result of `action`, for what must not be done twice; KaggleError naming `what` if it fails."""
        try:
            return action()
        except FAILURES as error:
            failure = Failure.of(error)
        raise failure.error(what)

    @property
    def competitions(self) -> Any:
        """The client's calls about competitions, on this session."""
        return self._client.competitions.competition_api_client

    def upload(self, path: Path, address: str) -> None:
        """Put a file to an address that Kaggle named for it (which carries the permission). One try."""
        with path.open("rb") as file:
            requests.put(address, data=file, timeout=_TIMEOUT).raise_for_status()

    def files(self) -> dict[str, RemoteFile]:
        """The competition's raw files by name; of NAME.csv.zip and NAME.csv the former counts."""
        sizes: dict[str, int] = {}
        token: str | None = ""
        seen: set[str | None] = {None}
        while token not in seen:  # a server that repeats its token would keep us here
            seen.add(token)
            page = self.call("listing the competition's files", functools.partial(self._list, token))
            sizes |= {str(file.name or file.ref).rsplit("/", 1)[-1]: int(file.total_bytes or 0) for file in page.files}
            token = page.next_page_token or None
        files = {}
        for name in RAW_FILES:
            listed = next((n for n in (f"{name}.csv.zip", f"{name}.csv") if n in sizes), None)
            if listed:
                files[name] = RemoteFile(name=name, listed=listed, size=sizes[listed])
        return files

    def _list(self, token: str | None) -> Any:
        from kagglesdk.competitions.types.competition_api_service import ApiListDataFilesRequest

        request = ApiListDataFilesRequest()
        request.competition_name = COMPETITION
        request.page_size = 100
        request.page_token = token
        return self.competitions.list_data_files(request)

    def open(self, listed: str, start: int = 0) -> requests.Response:
        """The response, its body not yet read, that delivers a file from byte `start` on, or whole; see its status.

        One try, which may raise any of FAILURES. Kaggle redirects to a storage, which takes no credentials.
        """
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFileRequest

        request = ApiDownloadDataFileRequest()
        request.competition_name = COMPETITION
        request.file_name = listed
        if start:
            self._session.headers["Range"] = f"bytes={start}-"
        try:
            response: requests.Response = self.competitions.download_data_file(request)
        except requests.HTTPError as error:
            if not start or Failure.of(error).status not in _NO_RANGE_HERE:
                raise
        else:
            return response
        finally:
            self._session.headers.pop("Range", None)
        return self.open(listed)


class _TimeoutAdapter(HTTPAdapter):
    """Gives every request a timeout: without one a dead connection would hold a run forever."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        options["timeout"] = options.get("timeout") or _TIMEOUT
        return super().send(request, **options)


def _status(response: requests.Response) -> int:
    """The status of a refusal: the client also raises on an error whose code stands in the body alone."""
    if response.status_code >= 400:
        return response.status_code
    try:
        return int(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return response.status_code


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; None if there is none, or if it is a date (then the usual wait is as good)."""
    try:
        return max(float(retry_after or ""), 0.0)
    except ValueError:
        return None


def _authenticate() -> Any:
    """A KaggleApi that found credentials; KaggleError if there are none, RequestException if Kaggle cannot be asked."""
    said = io.StringIO()
    problem = ""
    try:
        with _muted_client(said):
            from kaggle.api.kaggle_api_extended import KaggleApi
            from kagglesdk.kaggle_env import get_access_token_from_env

            api = KaggleApi()
            api.args = [argument for argument in api.args if argument not in ("--verbose", "-v")]
            api.already_printed_version_warning = True
            api.authenticate()
    except SystemExit:  # how the client says that it found nothing that works
        token_from = get_access_token_from_env()[1]
        where = f" (found in {token_from}, but it is wrong, expired or revoked)" if token_from else ""
        problem = f"Kaggle's credentials are missing or not valid{where}. To get them:\n{_HOW_TO_GET_CREDENTIALS}"
    except requests.RequestException:
        raise
    except OSError as error:  # its file name may be the token itself, so it is not told
        problem = (
            f"Kaggle's client cannot read its settings: {error.strerror}; put the token into ~/.kaggle/access_token"
            " rather than into KAGGLE_API_TOKEN, and check that the home folder can be written"
        )
    except ImportError:
        problem = "Kaggle's client is not installed; install the project's requirements (the package kaggle)"
    if problem:
        raise KaggleError(problem)
    for line in said.getvalue().splitlines():
        if line.startswith("Warning: Your Kaggle API key is readable"):
            log.warning("%s", line.removeprefix("Warning: "))
    return api


@contextlib.contextmanager
def _muted_client(said: io.StringIO) -> Iterator[None]:
    """Keep the client's prints in `said`, its hands off stdin (which its exit() closes) and VERBOSE from its eyes."""
    hidden = {key: os.environ.pop(key) for key in ("VERBOSE", "VERBOSE_OUTPUT") if key in os.environ}
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        sys.stdin = stdin
        os.environ.update(hidden)
