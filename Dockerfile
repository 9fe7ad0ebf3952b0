# syntax=docker/dockerfile:1
# rscd on processors alone:  docker build -t rscd .
# From another index of torch: docker build --build-arg TORCH_INDEX=https://... -t rscd .
# From that of pip, with CUDA: docker build --build-arg TORCH_INDEX= -t rscd .

ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
# pip's own index has torch with several GB of CUDA, which nothing here would use
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# before the sources: this layer stays while they change
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/rscd \
    && pip --python /opt/rscd/bin/python install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY LICENSES LICENSES
COPY configs configs
COPY rscd rscd
# hadolint ignore=DL3013
RUN pip --python /opt/rscd/bin/python install '.[cluster,s3]'

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
