"""``/v1/config``: what an app has set, read and changed over HTTP."""

from __future__ import annotations

from litestar import delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from fanout.core.errors import NOT_AVAILABLE, TOO_LARGE, TOO_MANY_REQUESTS
from fanout.core.profiles import Policy
from fanout.sender.config import ConfigAnswer, PolicyAnswer, PolicyConfig
from fanout.sender.http import ApiKeys, ApiRequest, documented, errors


def config_handlers(config: PolicyConfig, keys: ApiKeys) -> list[HTTPRouteHandler]:
    """Return the handlers of ``/v1/config`` and ``/v1/config/policies/{namespace}``."""

    @get("/v1/config", responses=errors(NOT_AVAILABLE), tags=["config"])
    async def show(request: ApiRequest) -> ConfigAnswer:
        """Return the app's policies by namespace, all fields, and their version."""
        return await config.show(keys.app_of(request.scope))

    @put(
        "/v1/config/policies/{namespace:str}",
        operation_class=documented(Policy),
        responses=errors(TOO_LARGE, TOO_MANY_REQUESTS, NOT_AVAILABLE),
        tags=["config"],
    )
    async def put_policy(request: ApiRequest, namespace: FromPath[str]) -> PolicyAnswer:
        """Set a namespace's policy; fields left out have their defaults. Answered when it is on the log everywhere."""
        app = keys.app_of(request.scope)
        return await config.put(app, namespace, await request.body())

    @delete(
        "/v1/config/policies/{namespace:str}",
        status_code=200,
        responses=errors(TOO_MANY_REQUESTS, NOT_AVAILABLE),
        tags=["config"],
    )
    async def reset_policy(request: ApiRequest, namespace: FromPath[str]) -> PolicyAnswer:
        """Go back to the namespace's default policy. Answered when that is on the log everywhere."""
        return await config.reset(keys.app_of(request.scope), namespace)

    return [show, put_policy, reset_policy]
