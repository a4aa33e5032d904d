//! Everything slow: reload, DNS, admin, log writing.
