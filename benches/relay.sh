# Outgate as the relay harness drives it: sourced by the harness, through benches/relay.
# Given by the harness: WORK PORT PGHOST PGPORT PGUSER PGDATABASE PSQL. By benches/relay: OUTGATE_ROOT, OUTGATE_BIN.
store() { printf 'postgres://%s@%s:%s/outgate' "$1" "$PGHOST" "$PGPORT"; }

seed() {
    "$PSQL" -q -d postgres -c 'drop database if exists outgate with (force)' -c 'create database outgate'
    DATABASE_URL=$(store "$PGUSER") "$OUTGATE_BIN" migrate
    for table in bench_org bench_user; do "$PSQL" -q -c "\\copy $table to '$WORK/$table'"; done
    "$PSQL" -q -d outgate -v ON_ERROR_STOP=1 \
        -c 'create table bench_org (id int, domain text, gw_host text, gw_port int)' \
        -c 'create table bench_user (address text, org_id int, gw_host text, gw_port int)' \
        -c "\\copy bench_org from '$WORK/bench_org'" -c "\\copy bench_user from '$WORK/bench_user'" \
        -f "$OUTGATE_ROOT/benches/relay_seed.sql"
}

start() {
    # The harness's gateways are on loopback, where the operator has to allow them.
    export OUTGATE_ALLOWED_GATEWAY_NETWORKS=127.0.0.0/8 OUTGATE_DEFAULT_ROUTE=mx OUTGATE_HOSTNAME=relay.example
    export OUTGATE_SMTP_LISTEN=127.0.0.1:$PORT
    # As the image has it.
    export MALLOC_ARENA_MAX=2
    DATABASE_URL=$(store "$PGUSER") OUTGATE_RELAY_DATABASE_URL=$(store outgate_relay) exec "$OUTGATE_BIN" relay
}
