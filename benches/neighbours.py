"""Sends messages of one organization one by one beside what others do, and says how long their client waited. Run by
neighbours: neighbours.py MESSAGES ROUNDS PORT OTHER-PORT"""

import contextlib, socket, socketserver, subprocess, sys, threading, time

# Between two measured messages, in seconds: a load that leaves the machine mostly idle.
PAUSE = 0.004
# A gateway that takes so long for each message, in seconds.
SLOW = 0.02
BURST = 3000
BODY = b"Subject: measured\r\n\r\n" + b"A line of mail as lines of mail are.\r\n" * 100 + b".\r\n"


class Client:
    def __init__(self, port, sender):
        self.connection = socket.create_connection(("127.0.0.1", port)).makefile("rwb")
        self.sender = sender
        self.expect(b"220")
        self.ask(b"EHLO client.example\r\n", b"250")

    def ask(self, command, code):
        self.connection.write(command)
        self.connection.flush()
        self.expect(code)

    def expect(self, code):
        while True:
            line = self.connection.readline()
            if not line.startswith(code):
                raise ValueError(line)
            if line[3:4] == b" ":
                return

    def send(self, body=BODY):
        """Returns how long it took from MAIL to the answer to the dot, in seconds."""
        begun = time.perf_counter()
        self.ask(b"MAIL FROM:<%s>\r\n" % self.sender, b"250")
        self.ask(b"RCPT TO:<somebody@elsewhere.example>\r\n", b"250")
        self.ask(b"DATA\r\n", b"354")
        self.ask(body, b"250")
        return time.perf_counter() - begun


class Slow(socketserver.StreamRequestHandler):
    """A gateway that takes its time, and notes when messages of bea have come."""

    arrived, taken, is_away = [], 0, False

    def handle(self):
        if Slow.is_away:
            return self.say(b"421 4.3.2 later")
        self.say(b"220 slow.example ESMTP")
        sender = b""
        while line := self.rfile.readline():
            match line.split(b" ")[0].strip().upper():
                case b"EHLO" | b"HELO":
                    self.say(b"250 slow.example")
                case b"MAIL" if Slow.is_away:
                    return self.say(b"421 4.3.2 later")
                case b"MAIL":
                    sender = line
                    self.say(b"250 2.1.0 ok")
                case b"DATA":
                    self.say(b"354 go on")
                    while self.rfile.readline() != b".\r\n":
                        pass
                    time.sleep(SLOW)
                    Slow.taken += 1
                    if b"bea@" in sender:
                        Slow.arrived.append((time.perf_counter(), Slow.taken))
                    self.say(b"250 2.0.0 taken")
                case b"QUIT":
                    return self.say(b"221 2.0.0 bye")
                case _:
                    self.say(b"250 2.0.0 ok")

    def say(self, line):
        self.wfile.write(line + b"\r\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 200


class Hangs(socketserver.BaseRequestHandler):
    """A gateway that never says anything."""

    def handle(self):
        while self.request.recv(1000):
            pass


def serve(port, handler):
    threading.Thread(target=Server(("127.0.0.1", port), handler).serve_forever, daemon=True).start()


@contextlib.contextmanager
def source(port, sender, sessions, *more):
    """Clients that go on sending as fast as they are answered."""
    command = ["smtp-source", "-d", "-s", str(sessions), "-m", "100000000", "-l", "4096", "-M", "client.example",
               *more, "-f", sender, "-t", "somebody@elsewhere.example", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(1)
    yield
    if process.poll() is not None:
        print("  (the other clients have given up:", process.stderr.read().decode().strip()[:200], ")")
    process.kill()
    process.wait()


def measure(what):
    client = Client(PORT, b"bea@measured.example")
    waits = []
    for _ in range(MESSAGES):
        waits.append(client.send() * 1000)
        time.sleep(PAUSE)
    waits.sort()
    at = lambda part: waits[int(len(waits) * part)]
    print(f"{what:62} p50 {at(0.5):6.2f} ms  p99 {at(0.99):6.2f} ms  longest {waits[-1]:6.2f} ms", flush=True)


def burst(port):
    """100 clients of a colleague whose mail goes to the same slow gateway, and one message in their midst."""
    with source(port, "ann@slow.example", 100):
        time.sleep(2)
        client = Client(port, b"bea@slow.example")
        waits = []
        for _ in range(20):
            Slow.arrived.clear()
            begun = time.perf_counter()
            client.send()
            while not Slow.arrived:
                time.sleep(0.001)
            waits.append((Slow.arrived[0][0] - begun) * 1000)
    waits.sort()
    print(f"beside 100 clients of a colleague, a gateway that takes 20 ms: arrives after {waits[10]:.0f} ms (median), "
          f"{waits[-1]:.0f} ms (longest of 20)", flush=True)


def behind(port):
    """The gateway was away, a colleague's mail waits, and one message came after all of it."""
    Slow.is_away = True
    clients = [Client(port, b"ann@slow.example") for _ in range(20)]
    senders = [threading.Thread(target=lambda one=one: [one.send() for _ in range(BURST // 20)]) for one in clients]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    Client(port, b"bea@slow.example").send()
    Slow.arrived.clear()
    Slow.taken, Slow.is_away = 0, False
    begun = time.perf_counter()
    while Slow.taken <= BURST and time.perf_counter() - begun < 600:
        time.sleep(0.1)
    place = Slow.arrived[0][1] if Slow.arrived else None
    print(f"behind {BURST} that wait of a colleague, when the gateway is back: arrives as number {place} of {Slow.taken}",
          flush=True)


MESSAGES, ROUNDS, PORT, OTHER = (int(argument) for argument in sys.argv[1:5])
serve(2530, Hangs)
serve(2531, Slow)
for port in (PORT, OTHER):
    while True:
        try:
            for organization in (b"measured", b"noisy", b"slow"):
                Client(port, b"bea@" + organization + b".example").send()
            break
        except (OSError, ValueError):
            time.sleep(0.5)
for round in range(ROUNDS):
    measure("alone")
    with source(PORT, "ann@hanging.example", 500):
        measure("beside 500 clients of an organization whose gateway hangs")
    time.sleep(22)
    for what, sessions, more in [("500 clients, 1,000 messages a second", 500, ["-R", "1"]), ("32 clients as fast as they can", 32, [])]:
        for where, port in [("the other relay", OTHER), ("this relay", PORT)]:
            with source(port, "ann@noisy.example", sessions, *more):
                measure(f"{where}: {what}, another organization")
    with source(PORT, "ann@measured.example", 32):
        measure("this relay: 32 clients as fast as they can, a colleague")
    burst(PORT)
    behind(PORT)
