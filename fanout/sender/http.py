"""What every handler of the API shares: the app of a key, the one shape of errors, the count of requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPMethod, HTTPStatus
from inspect import cleandoc
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Operation, RequestBody, Schema
from litestar.response.base import ASGIResponse
from litestar.types import HTTPScope, Scope
from litestar.types import Message as SendMessage
from prometheus_client import Counter

from fanout.core.errors import (
    BAD_REQUEST,
    INTERNAL,
    METHOD_NOT_FOUND,
    TOO_LARGE,
    UNAUTHORIZED,
    UNAVAILABLE,
    Problem,
    Refused,
    Unavailable,
)
from fanout.core.limits import RETRY_AFTER_S
from fanout.core.publish import ErrorBody, error_body, refused_body
from fanout.runtime.apps import Apps
from fanout.runtime.metrics import HTTP_REQUESTS, MESSAGES_REFUSED

logger = structlog.get_logger(__name__)

ApiRequest = Request[Any, Any, State]

_METHODS: Final = frozenset(HTTPMethod)
_COUNTERS: Final[dict[tuple[str, int], Counter]] = {}  # looking a label up costs as much as counting
_ENCODE: Final = msgspec.json.Encoder().encode
_APIKEY: Final = b"apikey "
_GONE: Final = "client disconnected prematurely"  # litestar's words for it; the status that it gives is 500


class ApiKeys:
    """Finds the app of a request: ``X-API-Key: …`` or ``Authorization: apikey …``."""

    def __init__(self, apps: Apps) -> None:
        self.apps = apps

    def app_of(self, scope: Scope) -> str:
        """Return the app's id; raises Refused ``unauthorized``."""
        given = b""
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                given = value
            elif name == b"authorization" and value[: len(_APIKEY)].lower() == _APIKEY:
                given = value[len(_APIKEY) :].strip()
        app = self.apps.of_api_key(given.decode("latin-1"))
        if app is None:
            raise Refused(UNAUTHORIZED, "X-API-Key: no key, or one that is not configured")
        return app.id


def error_headers(status: int, retry_after_s: float | None) -> dict[str, str]:
    """Return the headers that go with an error."""
    headers = {}
    if retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "apikey"
    return headers


def _answer(status: int, body: ErrorBody, retry_after_s: float | None = None) -> Response[ErrorBody]:
    headers = error_headers(status, retry_after_s)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def on_refused(_: ApiRequest, refused: Refused) -> Response[ErrorBody]:
    """Answer a refusal with its problem's status."""
    return _answer(refused.problem.http, refused_body(refused), refused.retry_after_s)


def on_unavailable(_: ApiRequest, error: Unavailable) -> Response[ErrorBody]:
    """Answer 503: the log or the store was asked and did not answer."""
    return _answer(UNAVAILABLE.http, error_body(UNAVAILABLE, str(error), RETRY_AFTER_S), RETRY_AFTER_S)


def on_http_exception(request: ApiRequest, error: HTTPException) -> Response[ErrorBody]:
    """Answer what the framework refused, in our shape and with its status."""
    if error.detail == _GONE:
        return _answer(BAD_REQUEST.http, error_body(BAD_REQUEST, "body: broken off"))  # nobody reads it; counted as 400
    problem, detail = _problem_of(error)
    if problem is TOO_LARGE and request.scope["path"].startswith("/v1/publish"):
        MESSAGES_REFUSED.labels(problem.reason).inc()  # else counted where the body is decoded, which is not reached
    answer = _answer(error.status_code, error_body(problem, detail))
    answer.headers.update(error.headers or {})  # Allow of a 405
    return answer


def on_exception(request: ApiRequest, error: Exception) -> Response[ErrorBody]:
    """Answer 500 for what nobody foresaw, and say so in the log; the caller learns nothing of the inside."""
    logger.error("request failed", method=request.method, path=request.scope["path"], exc_info=error)
    return _answer(INTERNAL.http, error_body(INTERNAL))


EXCEPTION_HANDLERS: Final[dict[int | type[Exception], Any]] = {
    Refused: on_refused,
    Unavailable: on_unavailable,
    HTTPException: on_http_exception,
    Exception: on_exception,
}


def _problem_of(error: HTTPException) -> tuple[Problem, str]:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return METHOD_NOT_FOUND, "no such path"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return METHOD_NOT_FOUND, "the path does not know this method"
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TOO_LARGE, "body: larger than this path takes"
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return INTERNAL, ""
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first = error.extra[0]
        return BAD_REQUEST, f"{first.get('key', 'request')}: {first.get('message', error.detail)}"
    return BAD_REQUEST, error.detail


async def count_request(message: SendMessage, scope: Scope) -> None:
    """Count a request when its answer begins."""
    if message["type"] == "http.response.start":
        method, status = cast(HTTPScope, scope)["method"], message["status"]
        counter = _COUNTERS.get((method, status))
        if counter is None:
            known = method if method in _METHODS else "other"
            counter = HTTP_REQUESTS.labels(known, str(status))
            if known == method:  # what callers invent is counted, not remembered
                _COUNTERS[method, status] = counter
        counter.inc()


def answered(body: msgspec.Struct) -> ASGIResponse:
    """Return the finished answer 200: for the paths that carry the load, past the framework's own way to it."""
    return ASGIResponse(body=_ENCODE(body), media_type="application/json")


def documented(body: type[Any], answer: type[Any] | None = None, results: Sequence[type[Any]] = ()) -> type[Operation]:
    """Return the OpenAPI operation of a handler that reads ``body`` from the bytes of the request itself.

    ``answer`` describes what such a handler returns by ``answered``; with ``results`` that is ``{results: [...]}``,
    whose items are one of these each.
    """

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            media = OpenAPIMediaType(schema=_schema_of(body))
            self.request_body = RequestBody(content={"application/json": media}, required=True)
            schema = _schema_of(answer) if answer is not None else None
            if results:
                items = Schema(type=OpenAPIType.ARRAY, items=Schema(one_of=[_schema_of(one) for one in results]))
                schema = Schema(type=OpenAPIType.OBJECT, properties={"results": items}, required=["results"])
            if schema is not None:
                content = {"application/json": OpenAPIMediaType(schema=schema)}
                self.responses = {**(self.responses or {}), "200": OpenAPIResponse("Done", content=content)}

    return Documented


def errors(*problems: Problem) -> dict[int, ResponseSpec]:
    """Return the documented error answers: one per status, each of the one shape, naming its reasons."""
    reasons: dict[int, list[str]] = {}
    for problem in (BAD_REQUEST, UNAUTHORIZED, INTERNAL, UNAVAILABLE, *problems):
        reasons.setdefault(problem.http, []).append(f"`{problem.reason}`: {problem.meaning}")
    return {
        status: ResponseSpec(ErrorBody, description="; ".join(dict.fromkeys(texts)), generate_examples=False)
        for status, texts in reasons.items()
    }


def _schema_of(type_: type[Any]) -> Schema:
    """Return the JSON schema of a msgspec type as litestar's document wants it, references inlined."""
    (schema,), definitions = msgspec.json.schema_components((type_,))
    return _convert(schema, definitions)


def _convert(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    if "$ref" in schema:
        return _convert(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    inner: Mapping[str, Any] = schema.get("properties", {})
    alternatives: Sequence[Mapping[str, Any]] = schema.get("anyOf", ())
    more = schema.get("additionalProperties")
    return Schema(
        title=schema.get("title"),
        description=cleandoc(schema["description"]) if "description" in schema else None,
        type=OpenAPIType(schema["type"]) if "type" in schema else None,
        default=schema.get("default"),
        required=schema.get("required") or None,
        properties={name: _convert(field, definitions) for name, field in inner.items()} or None,
        items=_convert(schema["items"], definitions) if "items" in schema else None,
        any_of=[_convert(one, definitions) for one in alternatives] or None,
        additional_properties=_convert(more, definitions) if isinstance(more, dict) else more,
    )
