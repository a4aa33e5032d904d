//! Every bound of this crate, in one place; what they bound is known elsewhere.

/// Largest configuration file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
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
