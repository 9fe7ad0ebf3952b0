# syntax=docker/dockerfile:1
# rscd on processors:         docker build -t rscd .
# With torch and its CUDA:    docker build --build-arg EXTRAS=cluster,s3,train -t rscd .

ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRAS=cluster,s3
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/rscd
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY LICENSES LICENSES
COPY configs configs
COPY rscd rscd
# hadolint ignore=DL3013
RUN pip --python /opt/rscd/bin/python install ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="rscd" \
      org.opencontainers.image.description="What changed between two images of one place" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/rscd /opt/rscd
ENV PATH=/opt/rscd/bin:$PATH
RUN useradd --create-home --uid 1000 rscd
USER 1000
WORKDIR /work
ENTRYPOINT ["rscd"]
CMD ["--help"]
