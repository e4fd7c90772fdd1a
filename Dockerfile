# syntax=docker/dockerfile:1
# Image of the engine for helm/fanout. Nothing in the tests builds it (no container runtime there): docs/operations/deploy.md.
FROM python:3.11-slim AS build
COPY pyproject.toml README.md LICENSE /source/
COPY fanout /source/fanout
COPY workers /source/workers
COPY sharding /source/sharding
RUN python -m venv /engine && /engine/bin/pip install --no-cache-dir /source

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin fanout
COPY --from=build /engine /engine
ENV PATH=/engine/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["fanout"]
CMD ["serve", "--host", "0.0.0.0"]
