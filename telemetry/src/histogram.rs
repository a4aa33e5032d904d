//! Istio's histogram buckets (Envoy's default) and where a value falls. It must not know what is measured.

/// Buckets of one histogram, the last one without bound.
pub const BUCKETS: usize = 20;

/// Upper bounds as they are exposed, `+Inf` last.
pub const BOUNDS: [&str; BUCKETS] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000",
    "60000", "300000", "600000", "1800000", "3600000", "+Inf",
];

/// The finite bounds in thousandths, so that half a millisecond is an integer.
const BOUNDS_MILLI: [u64; BUCKETS - 1] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// The finite bounds as numbers.
pub fn bounds() -> impl Iterator<Item = f64> {
    BOUNDS_MILLI.iter().map(|&bound| bound as f64 / 1000.0)
}

/// The bucket of a duration whose bounds are milliseconds; bounds belong to the bucket below them (Prometheus `le`).
#[must_use]
pub fn bucket_of_micros(micros: u64) -> usize {
    BOUNDS_MILLI.partition_point(|&bound| bound < micros)
}

/// The bucket of a count of bytes.
#[must_use]
pub fn bucket_of_bytes(bytes: u64) -> usize {
    bucket_of_micros(bytes.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_belongs_to_the_bucket_below() {
        for (bucket, &bound) in BOUNDS_MILLI.iter().enumerate() {
            assert_eq!(bucket_of_micros(bound), bucket);
            assert_eq!(bucket_of_micros(bound - 1), bucket);
            assert_eq!(bucket_of_micros(bound + 1), bucket + 1);
        }
        assert_eq!(bucket_of_micros(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_of_micros(0), 0);
    }

    #[test]
    fn bytes_use_the_same_bounds() {
        assert_eq!([0, 1, 2, 5, 6].map(bucket_of_bytes), [0, 1, 2, 2, 3]);
        assert_eq!(bucket_of_bytes(3_600_000), BUCKETS - 2);
        assert_eq!(bucket_of_bytes(3_600_001), BUCKETS - 1);
        assert_eq!(bucket_of_bytes(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn exposed_bounds_are_the_compared_ones() {
        let shown: Vec<f64> = BOUNDS[..BUCKETS - 1].iter().map(|bound| bound.parse().unwrap()).collect();
        assert_eq!(shown, bounds().collect::<Vec<_>>());
        assert_eq!(BOUNDS[BUCKETS - 1], "+Inf");
    }
}
