# The verifier: edgedraft verifier, or torchrun over several GPUs of one machine.
#   docker build --file containers/verifier.Dockerfile --build-arg VARIANT=cuda --tag edgedraft-verifier:0.1.0-cuda .
# VARIANT is cpu or cuda. torch's CUDA wheels contain CUDA's libraries; they need only the host's driver.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG VARIANT=cpu

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt .
RUN python -m venv /opt/edgedraft

FROM build AS torch-cpu
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# Dependencies of torch are installed later, from the same index as the others.
RUN /opt/edgedraft/bin/pip install --no-deps --constraint constraints.txt --index-url "${TORCH_INDEX_URL}" torch

FROM build AS torch-cuda
RUN /opt/edgedraft/bin/pip install --constraint constraints.txt torch

# hadolint ignore=DL3006
FROM torch-${VARIANT} AS installed
WORKDIR /src
COPY . .
RUN /opt/edgedraft/bin/pip install --constraint constraints.txt ".[verifier,otel]"

FROM ${PYTHON_IMAGE} AS runtime-cpu

FROM ${PYTHON_IMAGE} AS runtime-cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM runtime-${VARIANT}
# A server that is still loading its model has no signal handlers, and the kernel ignores such signals for PID 1: hence tini.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.0-1* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 edgedraft \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin edgedraft \
    && install --directory --owner 10001 --group 10001 /var/cache/edgedraft
COPY --from=installed /opt/edgedraft /opt/edgedraft
ENV PATH=/opt/edgedraft/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/var/cache/edgedraft/huggingface \
    EDGEDRAFT_CACHE=/var/cache/edgedraft \
    EDGEDRAFT_HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
VOLUME /var/cache/edgedraft
EXPOSE 9000
ENTRYPOINT ["tini", "--", "edgedraft"]
CMD ["verifier"]
