//! `%START_TIME%` as Envoy prints it: UTC with milliseconds. Pure arithmetic; it must not know a clock.

/// Milliseconds of one day.
const DAY_MS: i64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z, the last instant with a four-digit year (RFC 3339).
const LAST_MS: i64 = 253_402_300_799_999;

/// Appends `2026-11-20T15:00:00.123Z` for milliseconds since the Unix epoch. Times outside the years 1970 to 9999
/// print as the nearest of the two ends.
pub fn write_utc_milliseconds(out: &mut Vec<u8>, unix_ms: i64) {
    let unix_ms = unix_ms.clamp(0, LAST_MS);
    let (year, month, day) = civil_from_days(unix_ms / DAY_MS);
    let in_day = unix_ms % DAY_MS;
    let mut line = *b"0000-00-00T00:00:00.000Z";
    put(&mut line[0..4], year);
    put(&mut line[5..7], month);
    put(&mut line[8..10], day);
    put(&mut line[11..13], in_day / 3_600_000);
    put(&mut line[14..16], in_day / 60_000 % 60);
    put(&mut line[17..19], in_day / 1000 % 60);
    put(&mut line[20..23], in_day % 1000);
    out.extend_from_slice(&line);
}

fn put(digits: &mut [u8], mut value: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The Gregorian date of a day number since 1970-01-01, for days from 0 on. Years are counted from March, so that the
/// leap day is a year's last: then the month follows from the day of year by one linear formula (153 days in five months).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_TO_EPOCH: i64 = 719_468; // from 0000-03-01 to 1970-01-01
    const CYCLE: i64 = 146_097; // days of 400 years
    let days = days + DAYS_TO_EPOCH;
    let cycle = days / CYCLE;
    let in_cycle = days % CYCLE;
    let year_in_cycle = (in_cycle - in_cycle / 1460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
    let in_year = in_cycle - (365 * year_in_cycle + year_in_cycle / 4 - year_in_cycle / 100);
    let march_month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = cycle * 400 + year_in_cycle + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(unix_ms: i64) -> String {
        let mut out = Vec::new();
        write_utc_milliseconds(&mut out, unix_ms);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_instants() {
        assert_eq!(print(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(print(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(print(1_795_186_800_123), "2026-11-20T15:00:00.123Z");
        assert_eq!(print(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(print(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(print(LAST_MS), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn what_has_no_four_digit_year_is_clamped() {
        assert_eq!(print(-1), "1970-01-01T00:00:00.000Z");
        assert_eq!(print(i64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn days_follow_each_other_without_gap() {
        // Every day to the year 2500 against a calendar that counts.
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for number in 0..193_000 {
            assert_eq!(civil_from_days(number), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
