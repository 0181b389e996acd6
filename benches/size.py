"""Sends the same mail through two relays in turn and compares what each message costs them. Run by size:
size.py MESSAGES PAIRS ACCOUNTS:PORT:PID-FILE ACCOUNTS:PORT:PID-FILE"""

import pathlib, random, socket, statistics, sys, threading, time

CLIENTS = 16
BODY = b"Subject: measured\r\n\r\n" + b"A line of mail as lines of mail are.\r\n" * 100 + b".\r\n"


class Relay:
    def __init__(self, accounts, port, pid_file):
        self.accounts, self.port = int(accounts), int(port)
        self.pid = pathlib.Path(pid_file).read_text().strip()

    def connect(self):
        """A session that has been greeted."""
        connection = socket.create_connection(("127.0.0.1", self.port)).makefile("rwb")
        expect(connection, b"220")
        ask(connection, b"EHLO client.example\r\n", b"250")
        return connection

    def wait(self):
        """Until it has its facts: before, it refuses what it cannot route."""
        while True:
            try:
                session = self.connect()
                self.send(session, 1, random.Random(1))
                return
            except (OSError, ValueError):
                time.sleep(0.5)

    def send(self, session, messages, numbers):
        for _ in range(messages):
            sender = b"user%d@big.example" % numbers.randrange(self.accounts)
            ask(session, b"MAIL FROM:<%s>\r\n" % sender, b"250")
            ask(session, b"RCPT TO:<somebody@elsewhere.example>\r\n", b"250")
            ask(session, b"DATA\r\n", b"354")
            ask(session, BODY, b"250")

    def cpu(self):
        """Seconds, to the nanosecond: of all threads."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def cost(self, messages, seed):
        """Microseconds of processor time for each message."""
        sessions = [self.connect() for _ in range(CLIENTS)]
        before = self.cpu()
        threads = [
            threading.Thread(target=self.send, args=(session, messages // CLIENTS, random.Random(seed * CLIENTS + n)))
            for n, session in enumerate(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (self.cpu() - before) / (messages // CLIENTS * CLIENTS) * 1e6


def ask(connection, command, code):
    connection.write(command)
    connection.flush()
    expect(connection, code)


def expect(connection, code):
    while True:
        line = connection.readline()
        if not line.startswith(code):
            raise ValueError(line)
        if line[3:4] == b" ":
            return


messages, pairs = int(sys.argv[1]), int(sys.argv[2])
few, many = (Relay(*argument.split(":")) for argument in sys.argv[3:])
for relay in (few, many):
    relay.wait()
    relay.cost(messages, 0)
ratios = []
for pair in range(1, pairs + 1):
    turns = [few, many] if pair % 2 else [many, few]
    costs = {relay.accounts: relay.cost(messages, pair) for relay in turns}
    ratios.append(costs[many.accounts] / costs[few.accounts])
    print(*(f"{costs[relay.accounts]:.1f} us with {relay.accounts}" for relay in (few, many)), f"ratio {ratios[-1]:.3f}")
print(f"median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
