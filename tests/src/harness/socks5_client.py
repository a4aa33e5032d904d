"""PySocks as programs use it. Prints, as a JSON list, what became of each destination.

Arguments: the door's address and port, and, to show credentials, a user and a password. Standard input: one destination
per line, as `HOST PORT`: the door is asked for a name as it stands, for an address by its bytes. `url URL` fetches a URL
by urllib, whose every socket is one of PySocks.
"""

import json
import socket
import sys
import urllib.request

import socks

DOOR, PORT, *CREDENTIALS = sys.argv[1:]
PROXY = (socks.SOCKS5, DOOR, int(PORT), True, *CREDENTIALS)
PAYLOAD = b"hello from python\n" * 10_000


def echoed(host, port):
    """Sends and gets everything back, then ends its own half."""
    client = socks.socksocket()
    client.settimeout(30)
    client.set_proxy(*PROXY)
    with client:
        client.connect((host, port))
        client.sendall(PAYLOAD)
        client.shutdown(socket.SHUT_WR)
        back = b"".join(iter(lambda: client.recv(65536), b""))
        return "echo" if back == PAYLOAD else f"{len(back)} other bytes"


def fetched(url):
    socks.set_default_proxy(*PROXY)
    plain, socket.socket = socket.socket, socks.socksocket
    # The name is the gateway's to resolve.
    look_up = socket.getaddrinfo
    socket.getaddrinfo = lambda host, port, *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
    try:
        return urllib.request.urlopen(url, timeout=30).read().decode()
    finally:
        socket.socket, socket.getaddrinfo = plain, look_up


def result(first, second):
    try:
        return fetched(second) if first == "url" else echoed(first, int(second))
    except socks.ProxyError as error:
        return f"{type(error.socket_err or error).__name__}: {error.socket_err or error}"
    except OSError as error:
        return f"{type(error).__name__}: {error}"


print(json.dumps([result(*line.split()) for line in sys.stdin]))
