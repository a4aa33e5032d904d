//! One thread's I/O behind one trait.
