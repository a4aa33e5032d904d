# sluice in a container: built in one stage, run as nobody in the other.
#
#   docker build -t sluice .
#   docker run --rm --read-only -p 3128:3128 -v "$PWD/conf:/etc/sluice:ro" sluice
#
# It wants sluice.toml in that folder, readable by user 65532, and writes nothing: no /tmp, no HOME, no certificates. Mount the
# folder, not the file: a file that is replaced by a rename stays the old one inside. A door must be bound to 0.0.0.0 to be
# reached from outside the container. Docker's default seccomp profile denies io_uring: sluice then runs on epoll and says so;
# `--security-opt seccomp=PROFILE` with the io_uring_* calls allowed brings it back.
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
