# shellcheck shell=bash
# What redirect.sh and tproxy.sh share: words for errors, arguments, checked settings, and the table's coming and going.
# It is sourced, not run. Each script has set TABLE, and defines `rules`, which prints the table's contents.

# The codes of sysexits(3): 64 usage, 69 something that is needed is not there, 77 no permission.
fail() {
    printf '%s: %s\n' "${0##*/}" "$2" >&2
    exit "$1"
}

# Reads the arguments of a script: sets `action`, and for `--some-setting VALUE` the variable some_setting. An action may
# stand anywhere, and once; SETTING... are the settings that the script has. `usage` is the script's own.
read_arguments() { # "SETTING..." ARGUMENT...
    local settings=" $1 " name
    shift
    action=
    while (($# > 0)); do
        name=${1#--}
        case $1 in
            up | down | status | print)
                [[ -z $action ]] || fail 64 "\"$action\" and \"$1\": one at a time"
                action=$1
                ;;
            -h | --help) usage && exit 0 ;;
            --*)
                [[ $name =~ ^[a-z-]+$ && $settings == *" $name "* ]] || fail 64 "unknown argument \"$1\"; see --help"
                (($# > 1)) || fail 64 "$1 needs a value"
                printf -v "${name//-/_}" %s "$2"
                shift
                ;;
            *) fail 64 "unknown argument \"$1\"; see --help" ;;
        esac
        shift
    done
    [[ -n $action ]] || { usage >&2 && exit 64; }
}

# The items of a list, separated by commas or white space, one per line.
items() { tr -s ',[:space:]' '\n' <<<"$1" | sed '/^$/d'; }

# The items of a list in one line, as a set of nft has them.
joined() { items "$1" | paste --serial --delimiters , | sed 's/,/, /g'; }

# Checks that a setting is a number in a range. nft would look up a name where it expects an address or a port: no
# setting reaches it unchecked.
need_number() { # SETTING VALUE MIN MAX
    local value=$2
    if ! [[ $value =~ ^(0x[0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,9})$ ]] || ((value < $3 || value > $4)); then
        fail 64 "$1: \"$2\" is no number from $3 to $4"
    fi
}

readonly OCTET='(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'
readonly QUAD="$OCTET(\\.$OCTET){3}"
readonly WORDS='[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4})*'

# Whether a text is an IP address (RFC 4291, section 2.2) or a range: what is neither nft takes for a name.
is_address() { # TEXT
    local address=${1%%/*} words
    if [[ $1 != *:* ]]; then
        [[ $1 =~ ^$QUAD(/(3[0-2]|[12]?[0-9]))?$ ]]
        return
    fi
    [[ $1 == "$address" || ${1#*/} =~ ^(12[0-8]|1[01][0-9]|[1-9]?[0-9])$ ]] || return
    # The last two words may be written as in version 4.
    if [[ $address =~ ^(.*:)$QUAD$ ]]; then address=${BASH_REMATCH[1]}0:0; fi
    read -ra words <<<"${address//:/ }"
    if [[ $address == *::* ]]; then
        [[ $address =~ ^($WORDS)?::($WORDS)?$ ]] && ((${#words[@]} < 8))
    else
        [[ $address =~ ^$WORDS$ ]] && ((${#words[@]} == 8))
    fi
}

need_addresses() { # SETTING LIST
    local item
    while read -r item; do
        is_address "$item" || fail 64 "$1: \"$item\" is neither an IP address nor a range such as 10.0.0.0/8"
    done < <(items "$2")
}

# Checks a list of `tcp/PORT`, `udp/PORT` and `icmp`.
need_ports() { # SETTING LIST
    local item
    while read -r item; do
        [[ $item == icmp || $item =~ ^(tcp|udp)/[0-9]{1,5}$ ]] || fail 64 "$1: \"$item\" is not of the form tcp/22, udp/53 or icmp"
        [[ $item == icmp ]] || need_number "$1" "${item#*/}" 1 65535
    done < <(items "$2")
}

# The name servers of resolv.conf, without the zone of a link-local one.
system_resolvers() { awk '$1 == "nameserver" { sub(/%.*/, "", $2); print $2 }' /etc/resolv.conf 2>/dev/null || true; }

# Two named sets, NAME4 and NAME6, with the addresses of a list.
address_sets() { # NAME LIST
    local family type colon elements
    for family in 4 6; do
        type="ipv${family}_addr"
        if ((family == 6)); then colon=-e; else colon=-ve; fi
        elements=$(items "$2" | { grep "$colon" : || true; } | paste --serial --delimiters , | sed 's/,/, /g')
        printf '\tset %s%s {\n\t\ttype %s\n\t\tflags interval\n\t\tauto-merge\n' "$1" "$family" "$type"
        [[ -z $elements ]] || printf '\t\telements = { %s }\n' "$elements"
        printf '\t}\n'
    done
}

counters() {
    local name
    for name in "$@"; do printf '\tcounter %s { }\n' "$name"; done
}

need_program() { type -P "$1" >/dev/null || fail 69 "$1 is not installed: apt-get install $2"; }

need_root() {
    need_program nft nftables
    local errors
    errors=$(nft list tables 2>&1 >/dev/null) ||
        fail 77 "nftables cannot be changed here: run it as root (CAP_NET_ADMIN in this network namespace): ${errors%%$'\n'*}"
}

# One transaction: whatever an earlier `up` has left is replaced, or nothing changes at all.
transaction() {
    printf 'table inet %s {\n}\ndelete table inet %s\ntable inet %s {\n' "$TABLE" "$TABLE" "$TABLE"
    rules
    printf '}\n'
}

table_is_up() { nft list table inet "$TABLE" >/dev/null 2>&1; }

# Loads the table, or says why it is refused and leaves everything as it was.
load_table() { transaction | nft -f - || refused_rules; }

refused_rules() { fail 69 "the kernel refuses the rules (its messages are above): nothing has been changed"; }

remove_table() { ! table_is_up || nft delete table inet "$TABLE" || fail 70 "the table inet $TABLE cannot be removed"; }

print_counters() {
    nft list counters table inet "$TABLE" | awk '
        $1 == "counter" { name = $2 }
        $1 == "packets" { printf "  %-15s %s packets, %s bytes\n", name, $2, $4 }'
}
