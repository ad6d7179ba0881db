# Two stages: wheels are fetched and checked against their hashes once, and what runs has no compiler, no pip cache and no root.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/interlock
COPY requirements/serve.lock requirements/
RUN /opt/interlock/bin/pip install --require-hashes --only-binary=:all: --requirement requirements/serve.lock
COPY requirements/build.lock requirements/
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes --requirement requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY providers providers
COPY routing routing
COPY webhooks webhooks
COPY idempotency idempotency
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/interlock/bin/pip install --no-deps dist/*.whl

FROM python:3.11-slim-bookworm
ENV PATH=/opt/interlock/bin:$PATH PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --no-create-home interlock
COPY --from=build /opt/interlock /opt/interlock
USER 10001
EXPOSE 8080
# Ready, not merely alive: a container whose database is away should get no traffic.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
