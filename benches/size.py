"""Sends the same mail through two relays in turn and compares what each message costs them. Run by size:
size.py MESSAGES PAIRS SENDERS ACCOUNTS:PORT:PID-FILE ACCOUNTS:PORT:PID-FILE, with 0 SENDERS for all accounts"""

import pathlib, random, socket, statistics, sys, threading, time

CLIENTS = 16
# Turns of each relay in a pair.
TURNS = 20
BODY = b"Subject: measured\r\n\r\n" + b"A line of mail as lines of mail are.\r\n" * 100 + b".\r\n"


class Relay:
    def __init__(self, accounts, port, pid_file):
        self.accounts, self.port = int(accounts), int(port)
        self.pid = pathlib.Path(pid_file).read_text().strip()
        self.sessions = []
        self.numbers = random.Random(1)

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
                self.send(session, 1, self.numbers)
                return
            except (OSError, ValueError):
                time.sleep(0.5)

    def send(self, session, messages, numbers):
        for _ in range(messages):
            # Spread over all accounts, so that what is looked up for them is far apart.
            senders = SENDERS or self.accounts
            sender = b"user%d@big.example" % (numbers.randrange(senders) * (self.accounts // senders))
            ask(session, b"MAIL FROM:<%s>\r\n" % sender, b"250")
            ask(session, b"RCPT TO:<somebody@elsewhere.example>\r\n", b"250")
            ask(session, b"DATA\r\n", b"354")
            ask(session, BODY, b"250")

    def cpu(self):
        """Seconds, to the nanosecond: of all threads."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def cost(self, messages):
        """Microseconds of processor time for each message."""
        self.sessions = self.sessions or [self.connect() for _ in range(CLIENTS)]
        before = self.cpu()
        threads = [
            threading.Thread(target=self.send, args=(session, messages // CLIENTS, self.numbers))
            for session in self.sessions
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


messages, pairs, SENDERS = (int(argument) for argument in sys.argv[1:4])
few, many = (Relay(*argument.split(":")) for argument in sys.argv[4:])
for relay in (few, many):
    relay.wait()
    relay.cost(messages)
ratios = []
for pair in range(pairs):
    # In many short turns, so that both meet the machine in the same moods.
    costs = {few: 0.0, many: 0.0}
    for turn in range(TURNS):
        for relay in (few, many) if turn % 2 else (many, few):
            costs[relay] += relay.cost(messages // TURNS) / TURNS
    ratios.append(costs[many] / costs[few])
    print(*(f"{cost:.1f} us with {relay.accounts}" for relay, cost in costs.items()), f"ratio {ratios[-1]:.3f}", flush=True)
print(f"median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
