"""Two builds of the relay take turns, each with a database of its own, and what a message costs them is compared. Run by
turns: turns.py FOLDER ONE OTHER [PAIRS [MESSAGES]]"""

import json, os, pathlib, shlex, socket, statistics, subprocess, sys, time

USERS, SENDERS, CLIENTS, SIZE = 100_000, 1000, 16, 4096
# Messages in one turn.
TURN = 2000
FOLDER = pathlib.Path(sys.argv[1])
PSQL = [os.environ["PGBIN"] + "/psql", "-qAtX", "-v", "ON_ERROR_STOP=1"]


def psql(database, *commands):
    arguments = [argument for command in commands for argument in ("-c", command)]
    return subprocess.run([*PSQL, "-d", database, *arguments], check=True, capture_output=True, text=True).stdout


def processor_time(pid):
    """Seconds, to the nanosecond: of all threads."""
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


class Side:
    def __init__(self, name, program, port):
        *settings, self.program = shlex.split(program)
        self.name, self.port, self.process = name, port, None
        self.environment = {**os.environ, **dict(setting.split("=", 1) for setting in settings)}
        self.seed()

    def url(self, user, database):
        return f"postgres://{user}@localhost/{database}?host={os.environ['PGHOST']}"

    def seed(self):
        """The harness's organizations and users, in a database that is copied for each pair."""
        seeded = f"{self.name}_seeded"
        psql("postgres", f"create database {seeded}")
        environment = {**self.environment, "DATABASE_URL": self.url("outgate", seeded)}
        subprocess.run([self.program, "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
        copies = []
        for what in ("orgs", "users"):
            routes = [FOLDER / "smtpbench", "routes", "--what", what, "--users", str(USERS)]
            rows = FOLDER / what
            rows.write_bytes(subprocess.run(routes, check=True, capture_output=True).stdout)
            copies += ["-c", f"\\copy bench_{what[:-1]} from '{rows}'"]
        tables = [
            "create table bench_org (id int, domain text, gw_host text, gw_port int)",
            "create table bench_user (address text, org_id int, gw_host text, gw_port int)",
        ]
        psql(seeded, *tables)
        subprocess.run([*PSQL, "-d", seeded, *copies, "-f", "benches/relay_seed.sql"], check=True)

    def start(self):
        psql("postgres", f"drop database if exists {self.name} with (force)")
        psql("postgres", f"create database {self.name} template {self.name}_seeded", "checkpoint")
        environment = {
            "MALLOC_ARENA_MAX": "2",
            **self.environment,
            "OUTGATE_ALLOWED_GATEWAY_NETWORKS": "127.0.0.0/8",
            "OUTGATE_DEFAULT_ROUTE": "mx",
            "OUTGATE_HOSTNAME": "relay.example",
            "OUTGATE_SMTP_LISTEN": f"127.0.0.1:{self.port}",
            "OUTGATE_SPOOL_DIR": str(FOLDER),
            "DATABASE_URL": self.url("outgate", self.name),
            "OUTGATE_RELAY_DATABASE_URL": self.url("outgate_relay", self.name),
        }
        with open(FOLDER / f"{self.name}.log", "w") as log:
            self.process = subprocess.Popen([self.program, "relay"], env=environment, stdout=log, stderr=log)

    def wait(self):
        """Until it greets: before it has its facts it turns clients away."""
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                    if connection.recv(100).startswith(b"220"):
                        return
            except OSError:
                pass
            time.sleep(0.1)
        sys.exit(f"{self.name} does not take mail: {FOLDER}/{self.name}.log")

    def send(self, messages):
        """Each of them is looked for at the gateway that its sender has."""
        command = [FOLDER / "smtpbench", "run", "--target", f"127.0.0.1:{self.port}", "--n", str(messages)]
        command += ["--conc", str(CLIENTS), "--reuse", "0", "--size", str(SIZE), "--max-secs", "60"]
        command += ["--users", str(USERS), "--senders", str(SENDERS), "--tag", str(time.time_ns() // 1000 % 10**12)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        wrong = {key: result[key] for key in ("lost", "dup", "wrong_gw", "rejected", "errors") if result[key]}
        if wrong or result["delivered"] != messages:
            sys.exit(f"{self.name}: {result}")

    def cost(self):
        """Of the relay, and of the processes of PostgreSQL that it is connected to."""
        backends = psql("postgres", f"select pid from pg_stat_activity where datname = '{self.name}'").split()
        return processor_time(self.process.pid), sum(map(processor_time, backends))

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None


def pair(sides, number, messages):
    """Microseconds for each message, of the relay and of PostgreSQL, for both."""
    for side in sides:
        side.start()
    for side in sides:
        side.wait()
        side.send(TURN // 2)
    # What the warming up has left to write.
    time.sleep(1)
    before = [side.cost() for side in sides]
    turns = max(1, messages // TURN)
    for turn in range(turns):
        for side in sides if (turn + number) % 2 == 0 else sides[::-1]:
            side.send(TURN)
    time.sleep(1)
    after = [side.cost() for side in sides]
    for side in sides:
        side.stop()
    each = 1e6 / (turns * TURN)
    return [[(end - begin) * each for begin, end in zip(*of_side)] for of_side in zip(before, after)]


def main():
    pairs, messages = (int(argument) for argument in (sys.argv[4:] + ["10", "30000"][len(sys.argv[4:]) :]))
    sides, ratios, all_costs = [], [], []
    try:
        for name, program, port in zip(("one", "other"), sys.argv[2:4], (2525, 2526)):
            sides.append(Side(name, program, port))
        for number in range(pairs):
            costs = pair(sides, number, messages)
            ratios.append(sum(costs[0]) / sum(costs[1]))
            all_costs.append(costs)
            words = ", ".join(f"{side.name} {relay:.1f} + {store:.1f} µs" for side, (relay, store) in zip(sides, costs))
            print(f"{words}: {ratios[-1]:.3f}", flush=True)
    finally:
        for side in sides:
            side.stop()
    print(f"median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


main()
