//! Every bound of this crate, in one place; what they bound is known elsewhere.

/// Largest configuration file that is read, in bytes: a hundred thousand services, each with all that it may have.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Largest `hosts_file` that is read, in bytes.
pub const HOSTS_FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Largest password file that is read, in bytes.
pub const PASSWORD_FILE_BYTES_MAX: u64 = 4096;
/// Longest user name of proxy credentials, in bytes.
pub const USER_BYTES_MAX: usize = 255;
/// Errors that one load reports before it says "and more".
pub const PROBLEMS_MAX: usize = 200;
/// Warnings that one load reports before it says "and more".
pub const WARNINGS_MAX: usize = 200;
/// Longest key or value text that a message quotes, in characters.
pub const QUOTE_CHARS_MAX: usize = 80;
/// Longest `[deny] contact` text, in bytes: it goes into every denial.
pub const CONTACT_BYTES_MAX: usize = 256;
/// Largest file of Istio resources that is read, in bytes.
pub const ENTRY_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Files of Istio resources that one configuration reads.
pub const ENTRY_FILES_MAX: usize = 10_000;
/// Levels of nesting of a YAML file.
pub const YAML_DEPTH_MAX: usize = 64;
/// Values and keys of a YAML file, what its aliases repeat included.
pub const YAML_NODES_MAX: usize = 8_000_000;
/// Kubernetes `List`s within one another.
pub const LISTS_DEPTH_MAX: usize = 8;
/// Further lines that a warning about several places of one file names.
pub const LINES_NAMED_MAX: usize = 8;
