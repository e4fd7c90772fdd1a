"""The HTTP API: ``/v1`` and its OpenAPI document at ``/schema``. Every error is ``{code, reason, detail}``.

Bodies are decoded from the request's bytes by msgspec in one step; on the two publish paths nothing else of the
framework runs (no dependencies, no signature model of the body), because they carry the load.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
from litestar import Litestar, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response.base import ASGIResponse
from litestar.types import ControllerRouterHandler, Scope

from fanout.core.errors import (
    DRAINING,
    HIGH_QUOTA,
    IDEMPOTENCY_CONFLICT,
    LIMIT_EXCEEDED,
    NOT_AVAILABLE,
    PERMISSION_DENIED,
    TOO_LARGE,
    TOO_MANY_REQUESTS,
    UNKNOWN_NAMESPACE,
    UNKNOWN_ROOM,
    Refused,
)
from fanout.core.limits import MEMBER_PAGE, MEMBER_PAGE_MAX
from fanout.core.profiles import Profiles
from fanout.core.publish import (
    BATCH_BYTES_MAX,
    BODY_BYTES_MAX,
    Failed,
    Publish,
    PublishBatch,
    Published,
    PublishedBatch,
    decode_batch,
    decode_publish,
    malformed,
    refused_body,
)
from fanout.ports import Clock, Log, Store
from fanout.runtime.apps import Apps
from fanout.runtime.metrics import MESSAGES_REFUSED
from fanout.sender.http import EXCEPTION_HANDLERS, ApiKeys, ApiRequest, answered, count_request, documented, errors
from fanout.sender.ledgers import ledger_handlers
from fanout.sender.members import MemberLists, MembersBody, MembersChanged, MembersPage
from fanout.sender.rooms import room_handlers
from fanout.sender.sender import Sender
from fanout.sender.shortcut import Shortcut

VERSION: Final = "1"
PUBLISH_PATH: Final = "/v1/publish"
MEMBERS_BYTES_MAX: Final = 4 << 20  # 10,000 users with roles and tags
_MEMBERS: Final = msgspec.json.Decoder(MembersBody)
_PUBLISH_ERRORS: Final = (
    TOO_LARGE, UNKNOWN_NAMESPACE, PERMISSION_DENIED, NOT_AVAILABLE, IDEMPOTENCY_CONFLICT, TOO_MANY_REQUESTS, HIGH_QUOTA,
    DRAINING,
)  # fmt: skip


def build_api(
    *,
    sender: Sender,
    store: Store,
    log: Log,
    apps: Apps,
    profiles: Profiles,
    clock: Clock,
    extra_handlers: Sequence[ControllerRouterHandler] = (),
) -> Litestar:
    """Return the ASGI application; ``sender`` has been started.

    ``extra_handlers`` (operations, control) share its errors and its document.
    """
    keys = ApiKeys(apps)
    lists = MemberLists(log=log, store=store, writer=sender.writer, profiles=profiles, clock=clock)
    api = Litestar(
        route_handlers=[
            *publish_handlers(sender, keys),
            *room_handlers(keys=keys, store=store, log=log, profiles=profiles),
            *ledger_handlers(keys=keys, store=store, log=log, profiles=profiles, clock=clock),
            *member_handlers(lists, keys),
            *extra_handlers,
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        before_send=[count_request],
        openapi_config=_openapi(),
        logging_config=None,
        request_max_body_size=BODY_BYTES_MAX,
    )
    api.asgi_handler = Shortcut(api.asgi_handler, PUBLISH_PATH, publisher(sender, keys))
    return api


def build_bare_api(handlers: Sequence[ControllerRouterHandler]) -> Litestar:
    """Return the ASGI application of a process without the sender role: ``handlers``, and errors of the one shape."""
    return Litestar(
        route_handlers=handlers,
        exception_handlers=EXCEPTION_HANDLERS,
        before_send=[count_request],
        openapi_config=None,
        logging_config=None,
    )


def publisher(sender: Sender, keys: ApiKeys) -> Callable[[Scope, bytes], Awaitable[Published]]:
    """Return what ``POST /v1/publish`` does, given the request's scope and body; it raises Refused."""

    async def publish(scope: Scope, body: bytes) -> Published:
        app = keys.app_of(scope)
        try:
            message = decode_publish(body)
        except Refused as refused:
            MESSAGES_REFUSED.labels(refused.problem.reason).inc()
            raise
        return await sender.publish(app, message)

    return publish


def publish_handlers(sender: Sender, keys: ApiKeys) -> list[HTTPRouteHandler]:
    """Return the handlers of ``/v1/publish`` and ``/v1/publish/batch``."""
    publish_one = publisher(sender, keys)

    @post(
        PUBLISH_PATH,
        status_code=200,
        operation_class=documented(Publish, Published),
        responses=errors(*_PUBLISH_ERRORS),
        tags=["publish"],
    )
    async def publish(request: ApiRequest) -> ASGIResponse:
        """Publish one message; answered when the log has it."""
        return answered(await publish_one(request.scope, await request.body()))

    @post(
        "/v1/publish/batch",
        status_code=200,
        operation_class=documented(PublishBatch, results=(Published, Failed)),
        responses=errors(TOO_LARGE, LIMIT_EXCEEDED),
        request_max_body_size=BATCH_BYTES_MAX,
        tags=["publish"],
    )
    async def publish_batch(request: ApiRequest) -> ASGIResponse:
        """Publish up to 1,000 messages, each with its own outcome; order is kept within a room."""
        app = keys.app_of(request.scope)
        try:
            messages = decode_batch(await request.body())
        except Refused as refused:
            MESSAGES_REFUSED.labels(refused.problem.reason).inc()
            raise
        return answered(PublishedBatch(await _publish_all(sender, app, messages)))

    return [publish, publish_batch]


async def _publish_all(sender: Sender, app: str, messages: Sequence[Publish | Refused]) -> list[Published | Failed]:
    """Publish what could be parsed; the outcomes stand in the order of the request."""
    outcomes = iter(await sender.publish_batch(app, [one for one in messages if isinstance(one, Publish)]))
    results: list[Published | Failed] = []
    for message in messages:
        if isinstance(message, Refused):
            MESSAGES_REFUSED.labels(message.problem.reason).inc()
        outcome = message if isinstance(message, Refused) else next(outcomes)
        results.append(Failed(refused_body(outcome)) if isinstance(outcome, Refused) else outcome)
    return results


def member_handlers(lists: MemberLists, keys: ApiKeys) -> list[HTTPRouteHandler]:
    """Return the handlers of ``/v1/rooms/{room}/members`` and ``/count``."""

    @put(
        "/v1/rooms/{room:str}/members",
        operation_class=documented(MembersBody),
        responses=errors(LIMIT_EXCEEDED, UNKNOWN_NAMESPACE),
        request_max_body_size=MEMBERS_BYTES_MAX,
        tags=["members"],
    )
    async def put_members(request: ApiRequest, room: FromPath[str]) -> MembersChanged:
        """Add members (or change their roles and tags); answered when they may subscribe."""
        app = keys.app_of(request.scope)
        users = _decode_members(await request.body()).users
        await lists.put(app, room, users)
        return MembersChanged(room, len(users))

    @delete(
        "/v1/rooms/{room:str}/members",
        status_code=200,
        operation_class=documented(MembersBody),
        responses=errors(LIMIT_EXCEEDED, UNKNOWN_NAMESPACE, UNKNOWN_ROOM),
        request_max_body_size=MEMBERS_BYTES_MAX,
        tags=["members"],
    )
    async def delete_members(request: ApiRequest, room: FromPath[str]) -> MembersChanged:
        """Remove members; answered when they no longer count."""
        app = keys.app_of(request.scope)
        users = _decode_members(await request.body()).users
        await lists.delete(app, room, users)
        return MembersChanged(room, len(users))

    @get("/v1/rooms/{room:str}/members", responses=errors(UNKNOWN_NAMESPACE, UNKNOWN_ROOM), tags=["members"])
    async def get_members(
        request: ApiRequest,
        room: FromPath[str],
        cursor: FromQuery[str] = "",
        limit: Annotated[int, QueryParameter(ge=1, le=MEMBER_PAGE_MAX)] = MEMBER_PAGE,
    ) -> MembersPage:
        """Return a page of members; each stable member comes exactly once, whoever joins or leaves meanwhile."""
        app = keys.app_of(request.scope)
        return await lists.page(app, room, cursor=cursor, limit=limit, key=keys.apps.cursor_key(app))

    @get("/v1/rooms/{room:str}/count", responses=errors(UNKNOWN_NAMESPACE, UNKNOWN_ROOM), tags=["members"])
    async def count_members(request: ApiRequest, room: FromPath[str]) -> dict[str, Any]:
        """Return the number of durable members."""
        app = keys.app_of(request.scope)
        return {"room": room, "members": await lists.count(app, room)}

    return [put_members, delete_members, get_members, count_members]


def _decode_members(body: bytes) -> MembersBody:
    try:
        return _MEMBERS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from error


def _openapi() -> OpenAPIConfig:
    header = SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header")
    return OpenAPIConfig(
        title="fanout-engine",
        version=VERSION,
        description="Publish into rooms, manage their members, read their history and their ledger.",
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        components=Components(security_schemes={"apiKey": header}),
        security=[{"apiKey": []}],
        path="/schema",
        render_plugins=[JsonRenderPlugin(path=["/openapi.json", "/"]), YamlRenderPlugin()],
        use_handler_docstrings=True,
    )
