# The programs, for docker-compose.yml: `docker build -t envicutor .`
ARG RUST_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bins \
    && mkdir /out \
    && cp target/release/envicutor target/release/envicutor-worker target/release/envicutor-installer /out/

# From here on scripts/compose-images takes it as it is, with a `build` of its own.
FROM ${BASE_IMAGE}
COPY --from=build /out/ /usr/local/bin/
ENV ENVICUTOR__DATA_DIR=/var/lib/envicutor
CMD ["envicutor-worker"]
