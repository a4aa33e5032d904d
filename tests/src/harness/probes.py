"""Tries every way around the gateway from where an application stands, and prints what became of each as JSON.

Arguments: the origin's IPv4 and IPv6 address, and the interface towards the gateway. Root: raw sockets are part of it.
"""

import errno
import json
import os
import socket
import struct
import sys
import time

V4, V6, INTERFACE = sys.argv[1:4]
FAMILIES = {"4": (socket.AF_INET, V4), "6": (socket.AF_INET6, V6)}
RESULTS = {}


def note(name, work):
    """Runs `work`; an error's name or what it returned, and the milliseconds that it took."""
    before = time.monotonic()
    try:
        found = work() or "sent"
    except socket.timeout:
        found = "timeout"
    except OSError as error:
        found = errno.errorcode.get(error.errno, str(error))
    RESULTS[name] = [found, (time.monotonic() - before) * 1000]


def tcp(family, address, port):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect((address, port))
        client.sendall(b"application payload\r\n\r\n")
        return "data" if client.recv(100) else "closed"


def udp(family, address, port):
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((address, port))
        client.send(b"\xc3" + bytes(1199) if port == 443 else b"\x00\x01\x01\x00\x00\x01" + bytes(6) + b"\x04leak\x04test\x00\x00\x01\x00\x01")
        client.recv(100)
        return "data"


def raw(family, address, protocol, payload, options=()):
    with socket.socket(family, socket.SOCK_RAW, protocol) as client:
        for level, option, value in options:
            client.setsockopt(level, option, value)
        client.sendto(payload, address if isinstance(address, tuple) else (address, 0))


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((V4, 9))
        return client.getsockname()[0]


def header(protocol, length, source, fragment=0):
    """An IPv4 header; `fragment` holds the flags and the offset."""
    fields = [0x45, 0, 20 + length, 0x5151, fragment, 64, protocol, 0]
    addresses = socket.inet_aton(source) + socket.inet_aton(V4)
    fields[7] = checksum(struct.pack("!BBHHHBBH", *fields) + addresses)
    return struct.pack("!BBHHHBBH", *fields) + addresses


def segment(port, flags):
    return struct.pack("!HHIIBBHHH", 40000 + port, port, 1, 1, 0x50, flags, 1024, 0, 0) + b"payload"


def ip_packet(packet):
    raw(socket.AF_INET, V4, socket.IPPROTO_RAW, packet)


def frame(kind, packet):
    """A packet that goes past the application's own netfilter, straight to the gateway's interface."""
    with open("/proc/net/arp") as table:
        gateway = [line.split()[3] for line in table if line.split()[-1] == INTERFACE]
    mac = bytes.fromhex(gateway[0].replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as client:
        client.sendto(packet, (INTERFACE, kind, 0, 0, mac))


def v6_header(protocol, payload, source="fd71::2"):
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, V6)
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload


def both_families():
    for version, (family, address) in FAMILIES.items():
        for attempt in range(3):
            note(f"udp{version} 443 #{attempt}", lambda: udp(family, address, 443))
        note(f"udp{version} 53", lambda: udp(family, address, 53))
        for port in (22, 53, 443, 8443):
            note(f"tcp{version} {port}", lambda: tcp(family, address, port))
        protocols = [("sctp", 132), ("gre", 47), ("esp", 50), ("udplite", 136), ("unassigned", 253)]
        for name, protocol in protocols + [("ipip", 4 if version == "4" else 41)]:
            note(f"{name}{version}", lambda: raw(family, address, protocol, bytes(32)))
        note(f"raw syn{version}", lambda: raw(family, address, socket.IPPROTO_TCP, segment(80, 2)))
        note(f"raw ack{version}", lambda: raw(family, address, socket.IPPROTO_TCP, segment(81, 16)))
    if hasattr(socket, "IPPROTO_SCTP"):
        note("kernel sctp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).connect((V4, 80)))


def control_messages():
    echo = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"payload of a ping"
    note("ping4", lambda: raw(socket.AF_INET, V4, 1, echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]))
    # The kernel fills in the checksums of ICMPv6.
    note("ping6", lambda: raw(socket.AF_INET6, V6, 58, struct.pack("!BBHHH", 128, 0, 0, 7, 1) + b"payload"))
    solicitation = struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, V6)
    note("solicitation beyond the link", lambda: raw(socket.AF_INET6, V6, 58, solicitation))
    # An error about a packet of a connection that there was: to the tracking of connections it is related.
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect((V4, 443))
        except OSError:
            client.close()
            return
        port = client.getsockname()[1]
    own = socket.inet_aton(own_address())
    inner = header(6, 20, V4)[:12] + socket.inet_aton(V4) + own + struct.pack("!HHI", 443, port, 1)
    error = struct.pack("!BBHI", 3, 3, 0, 0) + inner + b"payload"
    error = error[:2] + struct.pack("!H", checksum(error)) + error[4:]
    note("related error", lambda: raw(socket.AF_INET, V4, 1, error))


def odd_packets():
    datagram = struct.pack("!HHHH", 40000, 443, 24, 0) + bytes(16)
    source = own_address()
    for name, fragment in (("first", 0x2000), ("last", 0x0002), ("atomic", 0)):
        note(f"fragment {name} udp", lambda: ip_packet(header(17, 24, source, fragment) + datagram))
        note(f"fragment {name} tcp", lambda: ip_packet(header(6, 27, source, fragment) + segment(82, 2)))
    note("lone fragment", lambda: ip_packet(header(17, 24, source, 0x2010) + datagram))
    note("forged source", lambda: ip_packet(header(6, 27, "10.99.0.9", 0) + segment(83, 2)))
    note("forged source udp", lambda: ip_packet(header(17, 24, "10.99.0.9", 0) + datagram))
    fragment = struct.pack("!BBHI", 17, 0, 1, 0x5151) + datagram
    note("fragment6", lambda: raw(socket.AF_INET6, V6, 44, fragment))
    multicast = [(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 16)]
    note("multicast", lambda: raw(socket.AF_INET, "239.1.2.3", 253, b"payload", multicast))
    multicast6 = [(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 16)]
    group = ("ff0e::1", 0, 0, socket.if_nametoindex(INTERFACE))
    note("multicast6", lambda: raw(socket.AF_INET6, group, 253, b"payload", multicast6))


def frames():
    source, datagram = own_address(), struct.pack("!HHHH", 40000, 443, 24, 0) + bytes(16)
    for name, protocol, payload in (("tcp", 6, segment(84, 2)), ("udp", 17, datagram), ("sctp", 132, bytes(32))):
        note(f"frame {name}", lambda: frame(0x0800, header(protocol, len(payload), source) + payload))
        note(f"frame6 {name}", lambda: frame(0x86DD, v6_header(protocol, payload)))
    padding = struct.pack("!BBBBI", 17, 0, 1, 4, 0)
    note("frame6 hop-by-hop", lambda: frame(0x86DD, v6_header(0, padding + datagram)))
    note("frame6 lone fragment", lambda: frame(0x86DD, v6_header(44, struct.pack("!BBHI", 17, 0, 17, 9) + datagram)))
    note("frame6 forged source", lambda: frame(0x86DD, v6_header(17, datagram, "fd99::9")))


both_families()
control_messages()
odd_packets()
if os.environ.get("FRAMES"):
    frames()
print(json.dumps(RESULTS))
