"""An IM's backend in 100 lines: who may come in, who is in which group, what is said. The engine does the rest.

    export FANOUT_URL=http://127.0.0.1:8000 FANOUT_API_KEY=… FANOUT_TOKEN_SECRET=…
    uvicorn examples.im_backend.app:app --port 9000

Yours will have passwords and a database; the four calls to the engine stay the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import msgspec
from litestar import Litestar, Request, delete, post, put
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotAuthorizedException
from litestar.params import FromPath

TOKEN_TTL_S = 3_600


class Login(msgspec.Struct):
    user: str
    password: str


class Token(msgspec.Struct):
    """``token`` is for the engine's WebSocket and, here, also for this backend."""

    user: str
    token: str


class Said(msgspec.Struct):
    """``id``: chosen by the app on the phone, so that a retry is not a second message."""

    text: str
    id: str = ""


class Users(msgspec.Struct):
    users: list[str]


AppRequest = Request[Any, Any, State]


def user_of(request: AppRequest) -> str:
    """Return who is logged in."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        return str(jwt.decode(token, os.environ["FANOUT_TOKEN_SECRET"], ["HS256"])["sub"])
    except jwt.PyJWTError as error:
        raise NotAuthorizedException("log in first") from error


async def engine(request: AppRequest, method: str, path: str, body: object) -> dict[str, Any]:
    """Call the engine; what it refuses is passed on as it is: {code, reason, detail}."""
    client: httpx.AsyncClient = request.app.state.engine
    answer = await client.request(method, path, json=body)
    if answer.status_code != 200:
        raise HTTPException(status_code=answer.status_code, detail=answer.json()["detail"], extra=answer.json())
    return dict(answer.json())


@post("/login", status_code=200)
async def login(data: Login) -> Token:
    """1. Say who somebody is: a token that the engine verifies by the shared secret."""
    if data.password != f"{data.user}-password":  # your user database comes here
        raise NotAuthorizedException("wrong password")
    claims = {"sub": data.user, "app": "default", "exp": int(time.time()) + TOKEN_TTL_S}
    return Token(data.user, jwt.encode(claims, os.environ["FANOUT_TOKEN_SECRET"], "HS256"))


@put("/groups/{group:str}/members")
async def join(request: AppRequest, group: FromPath[str], data: Users) -> dict[str, Any]:
    """2. Say who is in a group; when the answer has come they may subscribe."""
    user_of(request)
    return await engine(request, "PUT", f"/v1/rooms/group:{group}/members", {"users": data.users})


@delete("/groups/{group:str}/members", status_code=200)
async def leave(request: AppRequest, group: FromPath[str], data: Users) -> dict[str, Any]:
    """3. Say who has left."""
    user_of(request)
    return await engine(request, "DELETE", f"/v1/rooms/group:{group}/members", {"users": data.users})


@post("/groups/{group:str}/messages", status_code=200)
async def say(request: AppRequest, group: FromPath[str], data: Said) -> dict[str, Any]:
    """4. Publish; when the answer has come the message cannot be lost any more."""
    message = {"room": f"group:{group}", "sender": user_of(request), "data": {"text": data.text}, "id": data.id}
    return await engine(request, "POST", "/v1/publish", message)


@asynccontextmanager
async def engine_client(app: Litestar) -> AsyncIterator[None]:
    headers = {"X-API-Key": os.environ["FANOUT_API_KEY"]}
    async with httpx.AsyncClient(base_url=os.environ["FANOUT_URL"], headers=headers, trust_env=False) as client:
        app.state.engine = client
        yield


app = Litestar([login, join, leave, say], lifespan=[engine_client])
