"""What operators and their machines ask: is the loop alive, may traffic come, what are the figures. No key needed."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from fanout.runtime.metrics import MULTIPROCESS_ENV, READY


def build_ops(readiness: Callable[[], Awaitable[Mapping[str, bool]]]) -> list[HTTPRouteHandler]:
    """Return the handlers of ``/healthz``, ``/readyz``, ``/metrics``. ``readiness`` names each dependency's state."""

    @get("/healthz", tags=["operations"], security=[])
    async def healthz() -> dict[str, str]:
        """Answer as long as the event loop runs; depends on nothing else."""
        return {"status": "ok"}

    async def noted() -> Mapping[str, bool]:
        states = await readiness()
        for name, state in states.items():
            READY.labels(name).set(state)
        return states

    @get("/readyz", tags=["operations"], security=[])
    async def readyz() -> Response[dict[str, object]]:
        """Answer 200 where every dependency answers and nothing drains, else 503; the body names each."""
        states = await noted()
        ready = all(states.values())
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response({"ready": ready, "dependencies": dict(states)}, status_code=status)

    @get("/metrics", tags=["operations"], security=[], media_type="text/plain")
    async def metrics() -> Response[bytes]:
        """Return the metrics in Prometheus' text format; with several processes, of all of them."""
        await noted()  # an engine that nobody probes must not seem ready by its last probe
        return Response(generate_latest(_registry()), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [healthz, readyz, metrics]


def _registry() -> CollectorRegistry:
    if MULTIPROCESS_ENV not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
