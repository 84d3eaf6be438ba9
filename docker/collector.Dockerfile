# The collector: no Ray, no torch. Build it in the repository:
#   docker build -f docker/collector.Dockerfile -t serveflow/serveflow-collector:0.1.0 .
# The base by its digest, so that it is the same one every time:
#   docker buildx imagetools inspect python:3.11-slim-bookworm
#   docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:… …
ARG BASE=python:3.11-slim-bookworm
# hadolint ignore=DL3006 # the tag is in BASE
FROM ${BASE}

# libpcap compiles BPF filters. Debian keeps no older versions, so a pinned one could not be built
# any more after the next update: DL3008 does not fit.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libpcap0.8 \
    && rm -rf /var/lib/apt/lists/*
COPY docker/requirements-collector.txt /opt/serveflow/requirements.txt
RUN python -m venv /opt/serveflow/venv \
    && /opt/serveflow/venv/bin/pip install --no-cache-dir --require-hashes \
        -r /opt/serveflow/requirements.txt
# The command line is one for all parts, and names them all; it imports what it runs.
COPY flows /opt/serveflow/flows
COPY collectors /opt/serveflow/collectors
COPY models /opt/serveflow/models
COPY deployments /opt/serveflow/deployments
COPY benchmarks /opt/serveflow/benchmarks
COPY serveflow_app /opt/serveflow/serveflow_app
COPY LICENSE /opt/serveflow/
COPY --chmod=0755 docker/serveflow /opt/serveflow/venv/bin/serveflow

# Compiled code is cached in /tmp, as the rest may be read-only; who mounts /tmp keeps it.
ENV PATH=/opt/serveflow/venv/bin:$PATH \
    PYTHONPATH=/opt/serveflow \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/serveflow-compiled
LABEL org.opencontainers.image.title="ServeFlow collector" \
      org.opencontainers.image.description="Sends the first packets of each network flow to ServeFlow and writes down the verdicts" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9105/healthz', timeout=4)"]
# (With `--metrics off` or elsewhere it has to be switched off: --no-healthcheck.)
# Captures and pipes need no right. To watch an interface takes root with CAP_NET_RAW and nothing else
# (capabilities of a file have no effect where privileges may not grow):
#   docker run --user 0 --cap-drop ALL --cap-add NET_RAW --security-opt no-new-privileges --network host …
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["serveflow", "collect"]
