//! The epoll engine, on tokio's current-thread runtime.
