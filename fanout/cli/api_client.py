"""The API as the command line and the demo use it: one kept connection, JSON in and out."""

from __future__ import annotations

import http.client
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import msgspec

from fanout.core.errors import FanoutError


def added(one: Any, other: Any) -> Any:
    """Return two answers of one shape with their numbers added up; texts are those of the first."""
    if isinstance(one, dict):
        both = {**other, **one}
        return {name: added(one[name], other[name]) if name in one and name in other else both[name] for name in both}
    return one + other if isinstance(one, int) else one


class ApiError(FanoutError):
    """The engine answered ``{code, reason, detail}``; ``status`` is the HTTP status."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(f"{reason} ({status}): {detail}")
        self.status, self.reason, self.detail = status, reason, detail


class ApiClient:
    """Blocking client of one engine. Not for several threads at once."""

    def __init__(self, url: str, key: str = "", timeout_s: float = 10.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        self._connection = http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout_s
        )
        self._headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
        self.url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str) -> Any:
        """Return the decoded answer; raises ApiError, FanoutError when nobody answers."""
        return self._call("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """Return the decoded answer; raises ApiError, FanoutError when nobody answers."""
        return self._call("POST", path, msgspec.json.encode(body))

    def put(self, path: str, body: bytes) -> Any:
        """Send JSON as it is and return the decoded answer; raises ApiError, FanoutError when nobody answers."""
        return self._call("PUT", path, body)

    def delete(self, path: str) -> Any:
        """Return the decoded answer; raises ApiError, FanoutError when nobody answers."""
        return self._call("DELETE", path, None)

    def post_encoded(self, path: str, body: bytes) -> Any:
        """As ``post``, with a body that was encoded before."""
        return self._call("POST", path, body)

    def text(self, path: str) -> str:
        """Return the answer as it is (``/metrics``)."""
        return self._raw("GET", path, None)[1].decode()

    def ledger(self, room: str, since: str = "") -> Any:
        """Return the ledger of a room, since its first message or (``since``) of the last while."""
        asked = f"?since={quote(since, safe='')}" if since else ""
        return self.get(f"/v1/rooms/{quote(room, safe='')}/ledger{asked}")

    def app_ledger(self, since: str = "") -> Any:
        """Return the sum of the ledgers of all rooms of the app, its pages added up."""
        whole = self._app_page(since, "")
        while whole["next"] is not None:
            page = self._app_page(since, whole["next"])
            begins = [begin for begin in (whole["from"], page["from"]) if begin]
            newest = max(whole["as_of"], page["as_of"])
            to, following = whole.pop("to"), page["next"]
            whole = {**added(whole, page), "from": min(begins, default=0), "to": to, "as_of": newest, "next": following}
        return whole

    def _app_page(self, since: str, cursor: str) -> Any:
        asked = "&".join(
            f"{name}={quote(value, safe='')}" for name, value in (("since", since), ("cursor", cursor)) if value
        )
        return self.get(f"/v1/ledger{'?' + asked if asked else ''}")

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        status, raw = self._raw(method, path, body)
        try:
            answer = msgspec.json.decode(raw) if raw else None
        except msgspec.DecodeError as error:
            raise FanoutError(f"{self.url}{path} does not look like an engine: {raw[:80]!r}") from error
        if status >= 400:
            found = answer if isinstance(answer, dict) else {}
            raise ApiError(status, str(found.get("reason", "error")), str(found.get("detail", raw[:200])))
        return answer

    def _raw(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise FanoutError(f"nobody answers at {self.url} ({error}); start an engine with: fanout serve") from error
