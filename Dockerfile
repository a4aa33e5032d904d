# sluice in a container: built in one stage, run as nobody in the other.
#
#   docker build -t sluice .
#   docker run --rm -p 3128:3128 -v "$PWD/sluice.toml:/etc/sluice/sluice.toml:ro" sluice
#
# A door must be bound to 0.0.0.0 to be reached from outside the container. Docker's default seccomp profile denies io_uring:
# sluice then runs on epoll and says so; `--security-opt seccomp=PROFILE` with the io_uring_* calls allowed brings it back.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package sluice-gateway --bin sluice

FROM docker.io/library/debian:12-slim
COPY --from=build /src/target/release/sluice /usr/local/bin/sluice
COPY --from=build /src/LICENSE /usr/share/doc/sluice/LICENSE
USER 65532:65532
EXPOSE 3128
ENTRYPOINT ["/usr/local/bin/sluice"]
CMD ["run"]
