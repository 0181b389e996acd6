"""What a flood of sign-ins does to everybody else, and to the memory of the process.

    OUTGATE_BENCH_HARNESS=… python3 benches/flood.py CONFIG.json PID-FILE [SIGN-INS]

First the table alone at a steady load, then the same while sign-ins come as fast as they are answered.
"""
import concurrent.futures
import json
import multiprocessing
import os
import statistics
import sys
import time

sys.path.insert(0, os.environ["OUTGATE_BENCH_HARNESS"])
import bench  # the harness's own module

config = bench.expand(json.load(open(sys.argv[1])))
pid = int(open(sys.argv[2]).read().split()[0])
sign_ins = int(sys.argv[3]) if len(sys.argv) > 3 else 800
PAUSE = 0.02  # seconds between two requests: a load that leaves the machine mostly idle


def resident():
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


def steady(until):
    client, _ = bench.login(config)
    times = []
    while not until():
        begun = time.perf_counter()
        status, _, _ = client.req("GET", config["pages"]["table"]["path"])
        assert status == 200, status
        times.append((time.perf_counter() - begun) * 1000)
        time.sleep(PAUSE)
    return sorted(times)


def report(what, times):
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    print(f"{what:22} {len(times):5} pages  p50 {statistics.median(times):6.2f} ms  p99 {p99:6.2f} ms")


ends = time.time() + 10
before = resident()
report("the table alone", steady(lambda: time.time() > ends))

# In a process of its own: threads of one would also wait for each other.
over = multiprocessing.Event()
shown, shows = multiprocessing.Pipe(duplex=False)
watcher = multiprocessing.Process(target=lambda: shows.send(steady(over.is_set)))
watcher.start()
begun = time.perf_counter()


def sign_in(_):
    try:
        bench.login(config)
        return True
    except SystemExit:  # turned away: too many at once
        return False


with concurrent.futures.ThreadPoolExecutor(16) as pool:
    let_in = sum(pool.map(sign_in, range(sign_ins)))
took = time.perf_counter() - begun
over.set()
report("during a flood", shown.recv())
watcher.join()
print(f"{let_in} of {sign_ins} sign-ins in {took:.1f} s, {let_in / took:.1f}/s; resident memory {before} -> {resident()} MiB")
