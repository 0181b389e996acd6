# The program alone, without PostgreSQL: compose.yaml shows how its parts stand together.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# Queries are checked against .sqlx: building needs no database.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    SQLX_OFFLINE=true cargo build --profile dist --locked \
    && cp target/dist/outgate /usr/local/bin/outgate

FROM debian:bookworm-slim
# In passwd, since other programs look a user up by its number.
RUN useradd --system --user-group --no-create-home --home-dir /var/lib/outgate --shell /usr/sbin/nologin outgate \
    && install -d -o outgate -g outgate -m 0700 /var/lib/outgate
COPY --from=build /usr/local/bin/outgate /usr/local/bin/outgate
USER outgate
WORKDIR /var/lib/outgate
# With an arena of the allocator for each thread, what large messages leave behind in one is not used by another.
ENV MALLOC_ARENA_MAX=2 \
    OUTGATE_DATA_DIR=/var/lib/outgate \
    OUTGATE_HTTP_LISTEN=0.0.0.0:8080 \
    OUTGATE_SMTP_LISTEN=0.0.0.0:2525
EXPOSE 8080 2525
# Of the pages; compose.yaml has the relay's. The image has a shell and no HTTP client.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r status <&3 && [[ $status == *' 200 '* ]]"]
ENTRYPOINT ["outgate"]
CMD ["--help"]
