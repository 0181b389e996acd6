"""How long one client waits for its answers, alone and beside others' noise. Run by neighbours:
neighbours.py ROUNDS PORT PORT-OF-ANOTHER-RELAY PROGRAM"""

import socket, statistics, subprocess, sys, tempfile, threading, time

MESSAGES = 1000
# Between two messages of the client that is measured: alone it leaves the machine idle.
PAUSE = 0.004
FLOODING = 32
HANGING = 500
BODY = b"Subject: measured\r\n\r\nHello.\r\n.\r\n"


def ask(connection, command, code):
    connection.sendall(command)
    said = b""
    while not said.endswith(b"\n") or said.split(b"\r\n")[-2][3:4] == b"-":
        received = connection.recv(4096)
        if not received:
            raise ValueError("closed")
        said += received
    if not said.startswith(code):
        raise ValueError(said)


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ask(connection, b"", b"220")
    ask(connection, b"EHLO client.example\r\n", b"250")
    return connection


def send(connection, sender):
    ask(connection, b"MAIL FROM:<%s>\r\n" % sender, b"250")
    ask(connection, b"RCPT TO:<somebody@elsewhere.example>\r\n", b"250")
    ask(connection, b"DATA\r\n", b"354")
    ask(connection, BODY, b"250")


def ready(port, sender):
    """Waits until a relay has its facts."""
    while True:
        try:
            return send(connect(port), sender)
        except (OSError, ValueError):
            time.sleep(0.3)


def measure(round, what, port):
    connection, waits = connect(port), []
    for _ in range(MESSAGES):
        begun = time.perf_counter()
        send(connection, b"ann@quiet.example")
        waits.append((time.perf_counter() - begun) * 1000)
        time.sleep(PAUSE)
    waits.sort()
    print(f"{round}  {what:32} p50 {waits[MESSAGES // 2]:6.2f} ms  p99 {waits[MESSAGES * 99 // 100]:6.2f} ms", flush=True)
    return waits[MESSAGES * 99 // 100]


class Flood:
    """As many messages as 32 clients of the other organization can send."""

    def __init__(self, port):
        self.source = subprocess.Popen(
            ["smtp-source", "-c", "-d", "-s", str(FLOODING), "-l", "300", "-m", "100000000",
             "-f", "flood@noisy.example", "-t", "somebody@elsewhere.example", f"127.0.0.1:{port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)

    def end(self):
        assert self.source.poll() is None, "the flood has ended by itself"
        self.source.kill()
        self.source.wait()
        time.sleep(1)


class Tarpit:
    """A gateway that takes connections and says nothing, and clients that send to it."""

    def __init__(self, port, program, number):
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=1000)
        address = "127.0.0.1:%d" % self.listening.getsockname()[1]
        sender = f"hangs{number}@noisy.example"
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as accounts:
            accounts.write(f"user_id,name,outbound_gateway\n{sender},Hangs,{address}\n")
            accounts.flush()
            subprocess.run([program, "accounts", "import", "noisy", accounts.name], check=True, stdout=subprocess.DEVNULL)
        time.sleep(1)
        self.clients = [connect(port) for _ in range(HANGING)]
        for client in self.clients:
            threading.Thread(target=self.hang, args=(client, sender.encode()), daemon=True).start()
        time.sleep(1)

    @staticmethod
    def hang(client, sender):
        try:
            while True:
                send(client, sender)
        except (OSError, ValueError):
            pass

    def end(self):
        for client in self.clients:
            client.close()
        self.listening.close()
        time.sleep(4)


rounds, port, other, program = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for relay in (port, other):
    ready(relay, b"ann@quiet.example")
figures = {}


def note(round, what):
    figures.setdefault(what, []).append(measure(round, what, port))


for round in range(1, rounds + 1):
    note(round, "alone")
    tarpit = Tarpit(port, program, round)
    note(round, "beside a tarpit")
    tarpit.end()
    flood = Flood(other)
    note(round, "beside a flood at another relay")
    flood.end()
    flood = Flood(port)
    note(round, "beside a flood at this relay")
    flood.end()
for what, waits in figures.items():
    print(f"{what:32} p99 {statistics.median(waits):6.2f} ms ({min(waits):.2f} to {max(waits):.2f})")
