//! Counters, histograms, series and their encoders.
