//! The log writer on tokio-uring.
