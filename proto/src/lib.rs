//! Bytes in, facts out: strict and bounded parsers of the protocols sluice reads.
