//! The bounds of the control plane. Numbers that an operator may set come from the configuration instead.

/// Aliases (CNAME) followed for one name.
pub const CNAME_CHAIN_MAX: usize = 8;
/// Times one question is sent before it counts as timed out.
pub const DNS_ATTEMPTS: usize = 3;
/// How long the other family is waited for once one has addresses (RFC 8305 §3), in milliseconds.
pub const RESOLUTION_DELAY_MS: u64 = 50;
/// How long an answer with one family missing is fresh at most, in milliseconds.
pub const PARTIAL_TTL_MAX_MS: u64 = 10_000;
/// How long a failure of the servers is believed before they are asked again, in milliseconds.
pub const DNS_FAILURE_TTL_MS: u64 = 1_000;
/// Names being asked for at the same time, where there are descriptors for so many.
pub const LOOKUPS_MAX: usize = 256;
/// Names waiting for a free place among those.
pub const LOOKUPS_WAITING_MAX: usize = 4096;
/// How often resolv.conf is looked at while it is what names the servers, in milliseconds.
pub const RESOLV_CONF_CHECK_MS: u64 = 5_000;
/// What is read of resolv.conf, in bytes.
pub const RESOLV_CONF_BYTES_MAX: u64 = 64 * 1024;

/// Quiet after the last change of a watched file before it is read, in milliseconds.
pub const RELOAD_QUIET_MS: u64 = 300;
/// The longest a stream of changes may put a reload off, in milliseconds.
pub const RELOAD_QUIET_TOTAL_MS: u64 = 5_000;
/// How often the paths of watched folders and links are looked up again, in milliseconds.
pub const PLACES_CHECK_MS: u64 = 1_000;

/// Connections that an admin listener serves at the same time; more are closed at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// A request head on the admin API, in bytes.
pub const ADMIN_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request on the admin API.
pub const ADMIN_HEADERS_MAX: usize = 64;
/// A request head on the admin API, from its first wait to its last byte, in milliseconds.
pub const ADMIN_HEAD_TIMEOUT_MS: u64 = 5_000;
/// One admin connection from accept to close, in milliseconds.
pub const ADMIN_CONNECTION_LIFE_MS: u64 = 60_000;
/// Connections shown of all that are listed.
pub const CONNECTIONS_LIST_MAX: usize = 10_000;
/// How long the workers have to list their connections, in milliseconds.
pub const CONNECTIONS_LIST_TIMEOUT_MS: u64 = 1_000;

/// Pending connections of a door's listener.
pub const DOOR_BACKLOG: i32 = 4096;

/// How long the records thread sleeps when no record waits, in milliseconds; lines are visible within a second.
pub const RECORDS_IDLE_MS: u64 = 50;
/// How long it sleeps while records arrive: long enough for a batch, short enough for no queue to fill, in milliseconds.
pub const RECORDS_BUSY_MS: u64 = 5;
/// Records taken from one queue at a time.
pub const RECORDS_BATCH_MAX: usize = 1024;
/// Bytes of formatted lines handed over at once.
pub const RECORDS_BATCH_BYTES_MAX: usize = 256 * 1024;
/// Bytes of lines that wait for a slow log writer; more lines are dropped and counted.
pub const LOG_BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Jobs waiting for one of the heavy threads.
pub const HEAVY_JOBS_MAX: usize = 64;
/// The heavy threads' nice value.
pub const HEAVY_NICE: i32 = 10;

/// How long workers have to report that they run, and at the end that they stopped, in milliseconds.
pub const WORKER_GRACE_MS: u64 = 5_000;
/// Signals waiting to be acted upon.
pub const ORDERS_MAX: usize = 16;
/// Notices of all workers waiting for the control task.
pub const NOTICES_MAX: usize = 256;
/// DNS questions of all workers waiting for the DNS service.
pub const DNS_INPUTS_MAX: usize = 1024;
/// Problems of one refused configuration that are logged.
pub const PROBLEMS_LOGGED_MAX: usize = 50;
/// How often an address that is still closing is tried again …
pub const DOOR_CLOSING_WAITS: usize = 20;
/// … and after how long, in milliseconds.
pub const DOOR_CLOSING_WAIT_MS: u64 = 50;
/// How often the wall clock is compared with the next expiry at least (it may be set), in milliseconds.
pub const EXPIRY_CHECK_MS: u64 = 30_000;
/// How long the last access-log lines have to be written at the end, in milliseconds.
pub const RECORDS_FINISH_MS: u64 = 2_000;
/// The same when a second signal asks for the end at once, in milliseconds.
pub const RECORDS_FINISH_AT_ONCE_MS: u64 = 200;

/// Descriptors that the process needs whatever goes on: standard streams, runtimes and their wake-ups, signals, the file
/// watcher, the admin and metrics listeners, the access log and its ring. 19 are open with all of that.
pub const DESCRIPTORS_OF_OUR_OWN: u64 = 24;
/// Descriptors of a worker's engine: its ring or epoll instance, wake-ups.
pub const DESCRIPTORS_PER_WORKER: u64 = 4;
/// Descriptors of one worker's listener: itself, and the connections that the io_uring engine accepts ahead.
pub const DESCRIPTORS_PER_LISTENER: u64 = 9;
/// Doors that reloads may add, if a sixteenth of the limit is enough for them; with a large limit there is room for more.
pub const DOORS_ADDED_RESERVE: u64 = 4;
/// Sockets of one name that is being asked for: two families, two servers side by side, each asked once more.
pub const DESCRIPTORS_PER_LOOKUP: u64 = 8;
/// Pipes for splice(2) that any engine keeps per worker at most.
pub const PIPES_PER_WORKER_MAX: usize = 128;
/// Descriptors held back for control that the admin API leaves to a reload.
pub const RELOAD_DESCRIPTORS: usize = 4;
