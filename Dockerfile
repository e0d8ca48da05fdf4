# syntax=docker/dockerfile:1
# comfyd in a container: `docker build --target cpu -t comfyd .`
#
# Everything the server writes is below /data; the rest of the file system may be read-only. It stops within ten
# seconds of SIGTERM, and jobs that did not end run again after the next start.

FROM rust:1.95-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /comfyd
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/comfyd/target \
    cargo build --release --locked --bin comfyd \
    && cp target/release/comfyd /usr/local/bin/comfyd

FROM debian:bookworm-slim AS cpu
# Certificates, for `fetch-models` and `frontend install`; nothing else is needed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 comfyd \
    && useradd --uid 1000 --gid 1000 --home-dir /data --no-create-home --shell /usr/sbin/nologin comfyd \
    && install -d -o comfyd -g comfyd /data /data/models /data/input /data/output /data/temp /data/user /data/login
COPY --from=build /usr/local/bin/comfyd /usr/local/bin/comfyd
USER 1000:1000
WORKDIR /data
# Nobody comes in before a password is set at /login, or a token lies in /data/login/PASSWORD.
ENV COMFYD_BASE_DIRECTORY=/data \
    COMFYD_CACHE_DIRECTORY=/data/user/cache \
    COMFYD_LISTEN=0.0.0.0 \
    COMFYUI_LOGIN_ENABLED=true
EXPOSE 8188
VOLUME ["/data"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s --retries=5 CMD ["comfyd", "health"]
ENTRYPOINT ["comfyd"]
CMD ["serve"]

# The same with kernels for NVIDIA's cards. The compiler comes from the Python package index (docs/gpu.md), and so do the
# two libraries that the server needs on the card, which the driver does not bring.
FROM build AS build-cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/comfyd/target \
    .ci/cuda build --release --locked --bin comfyd \
    && cp target/release/comfyd /usr/local/bin/comfyd \
    && mkdir /cuda \
    && for library in libcublas.so.13 libcublasLt.so.13 libcurand.so.10; do \
        cp target/cuda/venv/lib/python3*/site-packages/nvidia/cu13/lib/$library /cuda/ || exit; done

# The driver itself is let in by the container engine. Without a card it computes on the processor, and says so.
FROM cpu AS cuda
COPY --from=build-cuda /cuda /usr/local/lib/cuda
COPY --from=build-cuda /usr/local/bin/comfyd /usr/local/bin/comfyd
ENV COMFYD_DEVICE=cuda \
    LD_LIBRARY_PATH=/usr/local/lib/cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
