"""Replaces the relays of one version by those of the next while mail comes in, and counts what arrives. Run by upgrade:
upgrade.py FORMER NEXT SECONDS FOLDER"""

import os, random, signal, socket, socketserver, subprocess, sys, threading, time

FORMER, NEXT, SECONDS, FOLDER = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
GATEWAY, PORTS = 2540, (2541, 2542)
CLIENTS = 4
ENVIRONMENT = {**os.environ, "OUTGATE_ALLOWED_GATEWAY_NETWORKS": "127.0.0.0/8", "OUTGATE_DEFAULT_ROUTE": "mx",
               "OUTGATE_GATEWAY_RETRY_FIRST": "1s", "OUTGATE_GATEWAY_RETRY_LONGEST": "2s", "OUTGATE_RETRY_FIRST": "1s",
               "OUTGATE_RETRY_LONGEST": "2s", "RUST_LOG": "warn"}

arrived, arrived_lock, away = {}, threading.Lock(), threading.Event()
promised, promised_lock, over = [], threading.Lock(), threading.Event()


class Gateway(socketserver.StreamRequestHandler):
    def handle(self):
        if away.is_set():
            return
        self.say(b"220 gateway.example ESMTP")
        while line := self.rfile.readline():
            match line.split(b" ")[0].strip().upper():
                case b"EHLO" | b"HELO":
                    self.say(b"250 gateway.example")
                case b"MAIL" if random.random() < 0.02:
                    self.say(b"451 4.3.0 not this one now")
                case b"DATA":
                    self.say(b"354 go on")
                    self.take()
                case b"QUIT":
                    return self.say(b"221 2.0.0 bye")
                case _:
                    self.say(b"250 2.0.0 ok")

    def take(self):
        number = None
        while (line := self.rfile.readline()) != b".\r\n":
            if not line:
                return
            if line.startswith(b"X-Number: "):
                number = int(line.split()[1])
        with arrived_lock:
            arrived[number] = arrived.get(number, 0) + 1
        self.say(b"250 2.0.0 taken")

    def say(self, line):
        try:
            self.wfile.write(line + b"\r\n")
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 200


def client(port, numbers):
    """Sends one message after the other, and comes back when it is sent away."""
    connection = None
    for number in numbers:
        if over.is_set():
            return
        try:
            connection = connection or connect(port)
            body = b"Subject: counted\r\nX-Number: %d\r\n\r\n%s.\r\n" % (number, b"A line of mail.\r\n" * 50)
            for command, code in ((b"MAIL FROM:<ann@acme.example>\r\n", b"250"),
                                  (b"RCPT TO:<bob@elsewhere.example>\r\n", b"250"), (b"DATA\r\n", b"354"), (body, b"250")):
                connection.write(command)
                connection.flush()
                expect(connection, code)
            with promised_lock:
                promised.append(number)
        except (OSError, ValueError):
            connection = None
            time.sleep(0.05)


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30).makefile("rwb")
    expect(connection, b"220")
    connection.write(b"EHLO client.example\r\n")
    connection.flush()
    expect(connection, b"250")
    return connection


def expect(connection, code):
    while True:
        line = connection.readline()
        if not line.startswith(code):
            raise ValueError(line)
        if line[3:4] == b" ":
            return


def outgate(binary, *arguments):
    subprocess.run([binary, *arguments], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def relay(binary, place):
    environment = {**ENVIRONMENT, "OUTGATE_SMTP_LISTEN": f"127.0.0.1:{PORTS[place]}",
                   "OUTGATE_HOSTNAME": f"relay{place}.example"}
    log = open(f"{FOLDER}/relay{place}.log", "ab")
    return subprocess.Popen([binary, "relay"], env=environment, stdout=log, stderr=log)


def replace(relays, place, binary, what):
    relays[place].send_signal(signal.SIGTERM)
    code = relays[place].wait(timeout=120)
    relays[place] = relay(binary, place)
    with promised_lock:
        print(f"{what:45} (the one before ended with {code}; {len(promised):6} promised so far)", flush=True)


def waiting():
    query = [os.environ["PSQL"], "-XAt", os.environ["DATABASE_URL"], "-c", "select count(*) from queued_message"]
    return int(subprocess.run(query, check=True, capture_output=True, text=True).stdout)


def main():
    threading.Thread(target=Server(("127.0.0.1", GATEWAY), Gateway).serve_forever, daemon=True).start()
    outgate(FORMER, "migrate")
    outgate(FORMER, "organization", "create", "acme", "--name", "Acme", "--domain", "acme.example")
    with open(f"{FOLDER}/accounts.csv", "w") as accounts:
        accounts.write("user_id,name\nann@acme.example,Ann\n")
    outgate(FORMER, "accounts", "import", "acme", f"{FOLDER}/accounts.csv")
    outgate(FORMER, "gateway", "set", "acme", f"127.0.0.1:{GATEWAY}")
    outgate(FORMER, "limit", "set", "acme", "--each", "--window", "hour", "--external", "--unlimited")
    relays = [relay(FORMER, 0), relay(FORMER, 1)]
    clients = [threading.Thread(target=client, args=(PORTS[n % 2], range(n, 10**9, 2 * CLIENTS)))
               for n in range(2 * CLIENTS)]
    for one in clients:
        one.start()
    step = SECONDS / 8
    time.sleep(step)
    outgate(NEXT, "migrate")
    print("the store is the next version's", flush=True)
    time.sleep(step)
    for what, place, binary in (("the first relay is the next version's", 0, NEXT),
                                ("it is the former version's again", 0, FORMER),
                                ("it is the next version's again", 0, NEXT),
                                ("the second one is, too", 1, NEXT),
                                ("it is the former version's once more", 1, FORMER)):
        # What waits then is for whichever relay comes first.
        away.set()
        time.sleep(step / 2)
        replace(relays, place, binary, what)
        time.sleep(step / 4)
        away.clear()
        time.sleep(step / 2)
    over.set()
    for one in clients:
        one.join()
    deadline = time.monotonic() + 120
    while (left := waiting()) and time.monotonic() < deadline:
        time.sleep(0.5)
    for one in relays:
        one.send_signal(signal.SIGTERM)
        one.wait(timeout=120)
    lost = [number for number in promised if number not in arrived]
    twice = sum(count - 1 for count in arrived.values())
    unpromised = len(set(arrived) - set(promised))
    print(f"{len(promised)} promised, {len(lost)} lost, {twice} arrived twice, {unpromised} arrived unpromised, "
          f"{left} still wait")
    for place in (0, 1):
        with open(f"{FOLDER}/relay{place}.log") as log:
            said = [line for line in log if "ERROR" in line or '"level":"error"' in line.lower()]
        print(f"relay {place} logged {len(said)} errors", *said[:3], sep="\n  ")
    sys.exit(bool(lost or left))


main()
