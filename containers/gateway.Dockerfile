# The gateway and the commands on its database: edgedraft gateway, db upgrade, keys, tenants, usage. Without torch.
#   docker build --file containers/gateway.Dockerfile --tag edgedraft-gateway:0.1.0 .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
RUN python -m venv /opt/edgedraft \
    && /opt/edgedraft/bin/pip install --constraint constraints.txt ".[gateway,postgres,otel]" \
    && /opt/edgedraft/bin/pip uninstall --yes pip setuptools
# What browsers run draft models with; drafts are added by an image of one's own, or a volume (docs/browser.md).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends npm=9.2.0~ds1-1* \
    && /opt/edgedraft/bin/edgedraft browser fetch --out /opt/browser-drafts
# Of the other programs only their settings stay, which the `edgedraft` command lists.
WORKDIR /opt/edgedraft/lib/python3.11/site-packages
RUN find edge_agent verifier loadtest -type f -not -name settings.py -not -name __init__.py -delete

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/edgedraft /opt/edgedraft
COPY --from=build /opt/browser-drafts /opt/browser-drafts
RUN groupadd --gid 10001 edgedraft \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin edgedraft
ENV PATH=/opt/edgedraft/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EDGEDRAFT_HOST=0.0.0.0 \
    EDGEDRAFT_BROWSER_DRAFTS=/opt/browser-drafts
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001
# PID 1 is the server itself, which handles SIGTERM.
ENTRYPOINT ["edgedraft"]
CMD ["gateway"]
