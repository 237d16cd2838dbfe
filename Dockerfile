# `kv-cache-rl serve` as an image: docs/deploy.md. `make container` carries these steps out without docker.
FROM python:3.11-slim-bookworm AS build
# Extras of pyproject.toml. Agents that are networks are trained with serve,serving.
ARG EXTRAS=serve
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/venv
# What seldom changes comes first: an edit of the package installs none of its dependencies again.
COPY pyproject.toml ./
RUN python -c "import sys, tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *(r for e in sys.argv[1].split(',') for r in p['optional-dependencies'][e]), sep='\n')" \
    "$EXTRAS" > requirements.txt \
    && /opt/venv/bin/pip install --requirement requirements.txt
COPY README.md LICENSE ./
COPY scenarios scenarios
COPY kv_cache_rl kv_cache_rl
RUN /opt/venv/bin/pip install --no-deps .

FROM python:3.11-slim-bookworm AS kv-cache-rl
RUN useradd --create-home --uid 1000 user
# Root's, so the server cannot change what it runs.
COPY --from=build /opt/venv /opt/venv
# Compiled for any CPU of the architecture, since an image is seldom built where it runs.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/user \
    KV_CACHE_RL_CACHE=/home/user/.cache/kv-cache-rl \
    KV_CACHE_RL_ALLOW_HOST=localhost \
    NUMBA_CPU_NAME=generic \
    PYTHONUNBUFFERED=1
WORKDIR /home/user
USER 1000
RUN mkdir runs && python -m kv_cache_rl.adapters.http.warm
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/health', timeout=8)"]
CMD ["kv-cache-rl", "serve", "--host", "0.0.0.0", "--port", "7860", "--runs", "runs"]
