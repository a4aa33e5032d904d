#!/usr/bin/env bash
# Makes this machine the router of its clients, with sluice as the only way through: their TCP connections are delivered to
# sluice's transparent door (capture = "tproxy"), with both addresses kept; nothing is forwarded. docs/capture.md tells more.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
readonly TABLE=sluice_tproxy
# Our routes and rules carry this number as their origin (rtnetlink's protocol), so that `down` finds them and no others.
readonly ORIGIN=115

usage() {
    cat <<'TEXT'
usage: tproxy.sh up|down|status|print [--setting VALUE]...

  up      captures: rules and routes, then one transaction of nft; again replaces what it did before
  down    removes it all
  status  says whether it is up (exit code 0; 1: down; 2: in part), with counters
  print   prints what `up` would do, and changes nothing

setting               environment           default
--clients IF,...      CAPTURE_CLIENTS       required: the interfaces on the side of the clients
--port PORT           CAPTURE_PORT          15001: of the transparent door, which listens on [::] or on 0.0.0.0 and [::]
--input ITEM,...      CAPTURE_INPUT         none: what clients may reach on this machine besides the door: tcp/3128, udp/53, icmp (echo)
--manage ITEM,...     CAPTURE_MANAGE        tcp/22: the same for the other interfaces
--resolvers IP,...    CAPTURE_RESOLVERS     none: DNS servers that clients ask through this router, on port 53
--exclude CIDR,...    CAPTURE_EXCLUDE       none: destinations that clients reach through this router uncaptured
--mark MARK           CAPTURE_MARK          0x736c: of captured packets
--table NUMBER        CAPTURE_TABLE         7361: the routing table that delivers them
--priority NUMBER     CAPTURE_PRIORITY      7361: of the routing rule that leads to it

--resolvers and --exclude forward, which needs net.ipv4.ip_forward and net.ipv6.conf.all.forwarding; nothing else does.
TEXT
}

clients=${CAPTURE_CLIENTS-}
port=${CAPTURE_PORT-15001}
input=${CAPTURE_INPUT-}
manage=${CAPTURE_MANAGE-tcp/22}
resolvers=${CAPTURE_RESOLVERS-}
exclude=${CAPTURE_EXCLUDE-}
mark=${CAPTURE_MARK-0x736c}
table=${CAPTURE_TABLE-7361}
priority=${CAPTURE_PRIORITY-7361}

read_arguments "clients port input manage resolvers exclude mark table priority" "$@"

check_settings() {
    local interface
    [[ -n $(items "$clients") ]] || fail 64 "no interface: name those on the side of the clients with --clients"
    while read -r interface; do
        [[ $interface =~ ^[A-Za-z0-9_.@:-]{1,15}$ && $interface != lo ]] || fail 64 "--clients: \"$interface\" cannot be an interface of clients"
    done < <(items "$clients")
    need_number --port "$port" 1 65535
    need_number --mark "$mark" 1 4294967295
    need_number --table "$table" 1 4294967295
    ((table < 253 || table > 255)) || fail 64 "--table: $table belongs to the system"
    need_number --priority "$priority" 1 32765
    need_ports --input "$input"
    need_ports --manage "$manage"
    need_addresses --resolvers "$resolvers"
    need_addresses --exclude "$exclude"
}

check_interfaces() {
    local interface
    while read -r interface; do
        ip link show dev "$interface" >/dev/null 2>&1 || fail 69 "--clients: there is no interface \"$interface\" here"
    done < <(items "$clients")
}

# Rules that accept the named ports.
open_ports() { # LIST
    local item
    while read -r item; do
        if [[ $item == icmp ]]; then
            printf '\t\ticmp type echo-request accept\n\t\ticmpv6 type echo-request accept\n'
        else
            printf '\t\t%s dport %s accept\n' "${item%/*}" "${item#*/}"
        fi
    done < <(items "$1")
}

rules() {
    counters captured unserved udp_refused spoofed dropped dns excluded forward_dropped input_dropped
    printf '\tset clients {\n\t\ttype ifname\n\t\telements = { %s }\n\t}\n' "$(items "$clients" | sed 's/.*/"&"/' | paste --serial --delimiters ,)"
    address_sets resolvers "$resolvers"
    address_sets excluded "$exclude"
    cat <<NFT
	chain capture {
		type filter hook prerouting priority mangle; policy accept;
		iifname @clients fib daddr type != { local, broadcast, multicast, anycast } goto from_clients
		# Answers to connections that sluice makes in the name of a client (upstream_source = "client").
		iifname != { "lo" } fib daddr type != local meta l4proto { tcp, icmp, icmpv6 } socket transparent 1 meta mark set $mark accept
	}
	# To somebody beyond this machine. All is decided here, before any routing: it holds whether forwarding is on or off.
	chain from_clients {
		# A client's address is its identity: no source that is not behind the interface that it came from.
		fib saddr . iif oif missing counter name spoofed drop
		ip daddr @excluded4 accept
		ip6 daddr @excluded6 accept
		ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53 accept
		ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53 accept
		ip daddr @resolvers4 icmp type { destination-unreachable, time-exceeded, parameter-problem } ct state related accept
		ip6 daddr @resolvers6 icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } ct state related accept
		# Connections that sluice holds, and ICMP errors about them.
		meta l4proto { tcp, icmp, icmpv6 } socket transparent 1 meta mark set $mark accept
		meta nfproto ipv4 meta l4proto tcp tproxy ip to :$port meta mark set $mark counter name captured accept
		meta nfproto ipv6 meta l4proto tcp tproxy ip6 to :$port meta mark set $mark counter name captured accept
		# Nobody listens: sluice is down. Nothing passes, and nobody waits.
		meta l4proto tcp counter name unserved reject with tcp reset
		# QUIC falls back to TCP at once.
		meta l4proto udp counter name udp_refused reject with icmpx type port-unreachable
		counter name dropped drop
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		iifname @clients ip daddr @excluded4 counter name excluded accept
		iifname @clients ip6 daddr @excluded6 counter name excluded accept
		iifname @clients ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53 counter name dns accept
		iifname @clients ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53 counter name dns accept
		# Answers to these, and errors about them. A connection that was forwarded before \`up\` is none of them.
		oifname @clients ip saddr @excluded4 ct state established accept
		oifname @clients ip6 saddr @excluded6 ct state established accept
		oifname @clients ip saddr @resolvers4 meta l4proto { tcp, udp } th sport 53 ct state established accept
		oifname @clients ip6 saddr @resolvers6 meta l4proto { tcp, udp } th sport 53 ct state established accept
		oifname @clients meta l4proto { icmp, icmpv6 } ct state related accept
		iifname @clients ip daddr @resolvers4 meta l4proto icmp ct state related accept
		iifname @clients ip6 daddr @resolvers6 meta l4proto icmpv6 ct state related accept
		counter name forward_dropped
	}
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		meta mark $mark meta l4proto { tcp, icmp, icmpv6 } accept
		ct state established,related accept
		# Neighbour discovery and multicast listeners; routers are believed on the uplink only.
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } accept
		meta l4proto igmp accept
		iifname @clients icmpv6 type nd-router-solicit accept
		iifname != @clients icmpv6 type nd-router-advert accept
		iifname @clients goto input_clients
		ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept
		udp sport 67 udp dport 68 accept
$(open_ports "$manage")
		counter name input_dropped
	}
	chain input_clients {
		# The door itself refuses, counts and logs a connection that nobody captured.
		tcp dport $port accept
$(open_ports "$input")
		counter name input_dropped drop
	}
NFT
}

# What ip prints is read below, so it must print numbers: the system may have names for ours (/etc/iproute2).
ip() { command ip -N "$@"; }

# The families that may have routing of ours, and those whose packets can be delivered here. IPv6 may be switched off; what
# comes all the same is dropped then, as the rules of nft do with whatever is not delivered.
families() { [[ -e /proc/sys/net/ipv6 ]] && echo 4 6 || echo 4; }
served_families() { [[ $(cat /proc/sys/net/ipv6/conf/lo/disable_ipv6 2>/dev/null) == 0 ]] && echo 4 6 || echo 4; }

# Our routing: `FAMILY rule PRIORITY MARK TABLE` and `FAMILY route TABLE`, as it is, and as the settings of now want it.
our_routing() {
    local family
    for family in $(families); do
        ip "-$family" rule show |
            sed -n "s/^\([0-9]*\):.*fwmark \(0x[0-9a-f]*\) lookup \([0-9]*\) proto $ORIGIN\b.*/$family rule \1 \2 \3/p"
        ip "-$family" route show table all type local proto "$ORIGIN" |
            sed -n "s/.*\btable \([0-9]*\).*/$family route \1/p"
    done
}

wanted_routing() {
    local family
    for family in $(served_families); do
        printf '%s route %d\n' "$family" "$table"
        printf '%s rule %d 0x%x %d\n' "$family" "$priority" "$mark" "$table"
    done
}

# Whoever else uses the routing table or the priority keeps it.
check_routing() {
    local family foreign
    for family in $(families); do
        foreign=$(ip "-$family" route show table "$table" 2>/dev/null | grep -v "proto $ORIGIN\b" || true)
        [[ -z $foreign ]] || fail 69 "--table: the routing table $table has routes of others: ${foreign%%$'\n'*}"
        foreign=$(ip "-$family" rule show priority "$priority" 2>/dev/null | grep -v "proto $ORIGIN\b" || true)
        [[ -z $foreign ]] || fail 69 "--priority: $priority has a routing rule of others: $foreign"
    done
}

# The lines of one list of routing that another has not.
without() { grep -vxF -f <(printf '%s\n' "$2") <<<"$1" | sed '/^$/d' || true; } # LIST LIST

add_routing() {
    local family kind at marked to
    while read -r family kind at marked to; do
        if [[ $kind == rule ]]; then
            ip "-$family" rule add fwmark "$marked" lookup "$to" priority "$at" protocol "$ORIGIN" || return
        else
            ip "-$family" route add local default dev lo table "$at" proto "$ORIGIN" || return
        fi
    done < <(without "$(wanted_routing)" "$(our_routing)")
}

# Removes our routing, with whatever settings it was made, but for what is listed.
remove_routing() { # [LIST]
    local family kind at marked to
    while read -r family kind at marked to; do
        if [[ $kind == rule ]]; then
            ip "-$family" rule del priority "$at" protocol "$ORIGIN" fwmark "$marked" lookup "$to"
        else
            ip "-$family" route flush table "$at" proto "$ORIGIN"
        fi
    done < <(without "$(our_routing)" "${1-}")
}

up() {
    local before
    check_interfaces
    check_routing
    # Refused rules change nothing at all.
    transaction | nft -c -f - || refused_rules
    before=$(our_routing)
    if ! add_routing; then
        remove_routing "$before"
        fail 69 "the routing rules cannot be made (the message of ip is above): nothing has been changed"
    fi
    if ! transaction | nft -f -; then
        remove_routing "$before"
        refused_rules
    fi
    remove_routing "$(wanted_routing)"
    if [[ $(served_families) != "$(families)" ]]; then
        echo "${0##*/}: IPv6 is switched off (net.ipv6.conf.lo.disable_ipv6): it is not captured, only dropped" >&2
    fi
    if [[ $(cat /proc/sys/net/ipv4/conf/all/src_valid_mark 2>/dev/null) == 1 ]]; then
        echo "${0##*/}: warning: net.ipv4.conf.all.src_valid_mark is 1: captured packets are taken for forged ones; set it to 0" >&2
    fi
}

# Up: the table, and for each family that is served a rule and a route, of whatever settings.
status() {
    local family routing missing=no
    routing=$(our_routing)
    for family in $(served_families); do
        grep -q "^$family rule" <<<"$routing" && grep -q "^$family route" <<<"$routing" || missing=yes
    done
    if table_is_up && [[ $missing == no ]]; then
        echo "$TABLE: up"
        print_counters
    elif table_is_up || [[ -n $routing ]]; then
        echo "$TABLE: in part; \`up\` mends it, \`down\` removes it"
        exit 2
    else
        echo "$TABLE: down"
        exit 1
    fi
}

case $action in
    print)
        check_settings
        for family in $(served_families); do
            echo "# ip -$family route add local default dev lo table $table proto $ORIGIN"
            echo "# ip -$family rule add fwmark $mark lookup $table priority $priority protocol $ORIGIN"
        done
        transaction
        ;;
    up)
        check_settings
        need_root
        need_program ip iproute2
        up
        ;;
    down)
        need_root
        need_program ip iproute2
        remove_table
        remove_routing
        ;;
    status)
        need_root
        need_program ip iproute2
        status
        ;;
esac
