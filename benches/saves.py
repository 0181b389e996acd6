"""Saves a second: each changes one user's gateway, with audit entry, revision and notification.

    OUTGATE_BENCH_HARNESS=… python3 benches/saves.py CONFIG.json [SECONDS]

Every account's gateway alternates between two addresses, since saving what is set already is no change.
"""
import json
import os
import sys

sys.path.insert(0, os.environ["OUTGATE_BENCH_HARNESS"])
import bench  # the harness's own module

config = bench.expand(json.load(open(sys.argv[1])))
seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 6
save = config["save"]
rounds = ([], [])
for session in range(config["sessions"]):
    client, _ = bench.login(config)
    page = save["form_page"].replace("{n}", str(config["id0"] + session))
    status, _, form = client.req("GET", page)
    assert status == 200, (status, page)
    headers = {"Cookie": client.cookie(), "Content-Type": "application/x-www-form-urlencoded"}
    for requests, address in zip(rounds, ("archive.bench.example", "screen.bench.example")):
        _, body = bench.form_body(form.decode(), save["pick"], {save["pick"]: address})
        requests.append(("POST", client.prefix + page, headers, body))
requests = rounds[0] + rounds[1]
for connections in (1, 16, 64):
    bench.wrk(config["base"], requests, connections, 1)
    result = bench.wrk(config["base"], requests, connections, seconds)
    print(f"saves c={connections:<3} {result['rps']:8.1f}/s  p50 {result['p50']:7.2f} ms  p99 {result['p99']:7.2f} ms  "
          f"refused {result['bad']}, broken {result['sock']}")
