# The same with everything committed to the queue first.
OUTGATE_HANDOVER=off
export OUTGATE_HANDOVER
. "$OUTGATE_ROOT/benches/relay.sh"
