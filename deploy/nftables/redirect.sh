#!/usr/bin/env bash
# Captures the outbound traffic of a host, a container or a pod, in whose network namespace sluice runs as well: TCP is
# redirected to sluice's transparent door (capture = "redirect"), and there is no other way out. docs/capture.md tells more.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
readonly TABLE=sluice_redirect

usage() {
    cat <<'TEXT'
usage: redirect.sh up|down|status|print [--setting VALUE]...

  up      captures: one transaction; again replaces what it did before
  down    removes it all
  status  says whether it is up (exit code 0, else 1), with counters
  print   prints what `up` would load, and changes nothing

setting               environment              default
--port PORT           CAPTURE_PORT             15001: of the transparent door, which listens on [::] or on both loopbacks
--own-users USER,...  CAPTURE_OWN_USERS        sluice: whom sluice runs as; names or numbers, never root
--own-mark MARK       CAPTURE_OWN_MARK         none: packets with this mark are sluice's own too
--own-cgroup PATH     CAPTURE_OWN_CGROUP       none: sockets in this cgroup (version 2) are sluice's own too
--users USER,...      CAPTURE_USERS            everybody: who is captured
--resolvers IP,...    CAPTURE_RESOLVERS        those of /etc/resolv.conf: who may be asked for names, on port 53
--exclude CIDR,...    CAPTURE_EXCLUDE          none: destinations that are left alone, whatever the protocol
TEXT
}

port=${CAPTURE_PORT-15001}
own_users=${CAPTURE_OWN_USERS-sluice}
own_mark=${CAPTURE_OWN_MARK-}
own_cgroup=${CAPTURE_OWN_CGROUP-}
users=${CAPTURE_USERS-}
resolvers=${CAPTURE_RESOLVERS-$(system_resolvers)}
exclude=${CAPTURE_EXCLUDE-}

read_arguments "port own-users own-mark own-cgroup users resolvers exclude" "$@"

# The numbers of a list of users.
user_ids() { # SETTING LIST
    local user id
    while read -r user; do
        if [[ $user =~ ^(0|[1-9][0-9]{0,9})$ ]]; then
            id=$user
        else
            id=$(id -u -- "$user" 2>/dev/null) ||
                fail 64 "$1: there is no user \"$user\": useradd --system --no-create-home $user, or give a number"
        fi
        ((id < 4294967295)) || fail 64 "$1: \"$user\" is no user id"
        printf '%s\n' "$id"
    done < <(items "$2")
}

check_settings() {
    need_number --port "$port" 1 65535
    need_addresses --resolvers "$resolvers"
    need_addresses --exclude "$exclude"
    own_ids=$(user_ids --own-users "$own_users") || exit
    captured_ids=$(user_ids --users "$users") || exit
    [[ -z $own_mark ]] || need_number --own-mark "$own_mark" 1 4294967295
    [[ $own_cgroup =~ ^[A-Za-z0-9_.@:/-]*$ ]] || fail 64 "--own-cgroup: \"$own_cgroup\" is no path of a cgroup"
    ! grep -qx 0 <<<"$own_ids" ||
        fail 64 "--own-users: root would leave every service of the system uncaptured; give sluice a user of its own"
    [[ -n $own_ids$own_mark$own_cgroup ]] ||
        fail 64 "nothing tells which traffic is sluice's own: it would be captured again; see --own-users"
}

# Rules that accept what sluice itself sends; COUNTER is ` counter name own` or nothing.
own() { # COUNTER
    local path level
    [[ -z $own_ids ]] || printf '\t\tmeta skuid { %s }%s accept\n' "$(joined "$own_ids")" "$1"
    [[ -z $own_mark ]] || printf '\t\tmeta mark %s%s accept\n' "$own_mark" "$1"
    if [[ -n $own_cgroup ]]; then
        path=${own_cgroup#/} path=${path%/}
        level=$(tr '/' '\n' <<<"$path" | wc -l)
        printf '\t\tsocket cgroupv2 level %s "%s"%s accept\n' "$level" "$path" "$1"
    fi
}

# Where only some users are captured: everybody else is left alone.
others() { [[ -z $captured_ids ]] || printf '\t\tmeta skuid != { %s } accept\n' "$(joined "$captured_ids")"; }

rules() {
    counters own redirected dns excluded udp_refused tcp_refused dropped
    address_sets resolvers "$resolvers"
    address_sets excluded "$exclude"
    cat <<NFT
	# Before the translations of others (dstnat, -100), such as a cluster's service addresses: what the application asked for
	# is kept.
	chain capture {
		type nat hook output priority -110; policy accept;
		oifname "lo" accept
$(own '')
$(others)
		ip daddr @excluded4 accept
		ip6 daddr @excluded6 accept
		ip daddr @resolvers4 tcp dport 53 accept
		ip6 daddr @resolvers6 tcp dport 53 accept
		meta l4proto tcp counter name redirected redirect to :$port
	}
	chain guard {
		type filter hook output priority filter; policy accept;
		oifname "lo" accept
$(own ' counter name own')
		# Answers to those who connected to us.
		ct direction reply accept
$(others)
		# A forged source: an answer to it, or an error that quotes it, would leave by another way than it came.
		meta skuid 0-4294967294 fib saddr type != local counter name dropped drop
		# Redirected just now; the interface that nft sees is still that of the original destination.
		ct status dnat ip daddr 127.0.0.0/8 tcp dport $port accept
		ct status dnat ip6 daddr ::1 tcp dport $port accept
		ip daddr @excluded4 counter name excluded accept
		ip6 daddr @excluded6 counter name excluded accept
		ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53 counter name dns accept
		ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53 counter name dns accept
		meta skuid 0-4294967294 goto refuse
		# From here on no process is behind the packet: the kernel's own neighbour discovery, errors, ends of connections.
		ct state established,related accept
		meta l4proto igmp accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept
		goto refuse
	}
	# Refused at once where the application can be told: QUIC then falls back to TCP, and connections from before \`up\` are
	# made anew, through sluice.
	chain refuse {
		meta l4proto udp counter name udp_refused reject with icmpx type port-unreachable
		meta l4proto tcp counter name tcp_refused reject with tcp reset
		counter name dropped drop
	}
	# What is addressed to the loopback never leaves, not even from a socket that is bound to another interface.
	chain strays {
		type filter hook postrouting priority filter; policy accept;
		oifname != "lo" ip daddr 127.0.0.0/8 counter name dropped drop
		oifname != "lo" ip6 daddr ::1 counter name dropped drop
	}
NFT
}

case $action in
    print)
        check_settings
        transaction
        ;;
    up)
        check_settings
        need_root
        load_table
        ;;
    down)
        need_root
        remove_table
        ;;
    status)
        need_root
        table_is_up || { echo "$TABLE: down" && exit 1; }
        echo "$TABLE: up"
        print_counters
        ;;
esac
