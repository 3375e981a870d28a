//! The text forms of common types, exactly as the server's output functions have them under fixed settings (see
//! [`crate::pg::fixed`]), without a call and a copy. What is rare is left to them. No PostgreSQL in here.

/// Appends an integer.
pub fn push_integer(out: &mut String, number: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push('-');
    }
    push_ascii(out, &digits[at..]);
}

fn push_ascii(out: &mut String, text: &[u8]) {
    out.push_str(std::str::from_utf8(text).unwrap_or_default());
}

/// Two digits of a number below 100.
fn two(number: i64) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

/// The digits of a number below 10,000.
fn four(number: u16) -> [u8; 4] {
    [number / 1000 % 10, number / 100 % 10, number / 10 % 10, number % 10].map(|digit| b'0' + digit as u8)
}

/// Appends a numeric as the server stores it, without its length; false, and nothing appended, if it is none that has
/// digits.
pub fn push_numeric(out: &mut String, stored: &[u8]) -> bool {
    let word = |at: usize| stored.get(2 * at..2 * at + 2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let Some(header) = word(0) else { return false };
    let (negative, scale, weight, first) = match (header & 0xC000, word(1)) {
        // Sign, scale and weight in 1, 6 and 7 bits.
        (0x8000, _) => {
            let weight = i32::from(header & 0x3F) - i32::from(header & 0x40);
            (header & 0x2000 != 0, usize::from(header >> 7 & 0x3F), weight, 1)
        }
        (sign @ (0 | 0x4000), Some(weight)) => (sign != 0, usize::from(header & 0x3FFF), i32::from(weight as i16), 2),
        _ => return false,
    };
    // Four decimal digits each; those that are not stored are zero.
    let digits = |at: i32| usize::try_from(at).ok().and_then(|at| word(first + at)).unwrap_or(0);
    if negative {
        out.push('-');
    }
    push_integer(out, if weight < 0 { 0 } else { digits(0).into() });
    (1..=weight).for_each(|at| push_ascii(out, &four(digits(at))));
    if scale > 0 {
        out.push('.');
        let end = out.len() + scale;
        let mut at = weight + 1;
        while out.len() < end {
            push_ascii(out, &four(digits(at)));
            at += 1;
        }
        out.truncate(end);
    }
    true
}

/// Appends a timestamp in microseconds since 2000-01-01, with the zone UTC if it has one; false, and nothing appended,
/// unless its year has four digits.
pub fn push_timestamp(out: &mut String, micros: i64, zone: bool) -> bool {
    const DAY: i64 = 86_400_000_000;
    let Some((year, month, day)) = date(micros.div_euclid(DAY)) else { return false };
    let micros = micros.rem_euclid(DAY);
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = *b"0000-00-00 00:00:00";
    text[..4].copy_from_slice(&four(year as u16));
    for (at, number) in [(5, month), (8, day), (11, seconds / 3600), (14, seconds / 60 % 60), (17, seconds % 60)] {
        text[at..at + 2].copy_from_slice(&two(number));
    }
    push_ascii(out, &text);
    if fraction > 0 {
        out.push('.');
        push_ascii(out, &two(fraction / 10_000));
        push_ascii(out, &four((fraction % 10_000) as u16));
        out.truncate(out.trim_end_matches('0').len());
    }
    if zone {
        out.push_str("+00");
    }
    true
}

/// Year, month and day of a day since 2000-01-01 (Gregorian), if the year is from 1 to 9999.
fn date(day: i64) -> Option<(i64, i64, i64)> {
    // Days since 0000-03-01: with the leap day at its end a year is easily divided.
    let day = day.checked_add(730_425)?;
    let era = day.div_euclid(146_097);
    let day = day.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = (
        400 * era + year + i64::from(month >= 10),
        if month < 10 { month + 3 } else { month - 9 },
        day - (153 * month + 2) / 5 + 1,
    );
    (1..=9999).contains(&date.0).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(words: &[u16]) -> String {
        let stored: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut out = String::new();
        assert!(push_numeric(&mut out, &stored));
        out
    }

    #[test]
    fn numerics() {
        let short = |scale: u16, weight: i16| 0x8000 | scale << 7 | weight as u16 & 0x7F;
        assert_eq!(numeric(&[short(0, 0)]), "0");
        assert_eq!(numeric(&[short(2, 0)]), "0.00");
        assert_eq!(numeric(&[short(2, 0), 12, 3400]), "12.34");
        assert_eq!(numeric(&[0x2000 | short(2, 0), 12, 3400]), "-12.34");
        assert_eq!(numeric(&[short(0, 1), 1]), "10000");
        assert_eq!(numeric(&[short(1, 1), 1, 2, 5000]), "10002.5");
        assert_eq!(numeric(&[short(4, -1), 7]), "0.0007");
        assert_eq!(numeric(&[short(4, -1), 1234]), "0.1234");
        assert_eq!(numeric(&[short(9, -2), 7]), "0.000000070");
        assert_eq!(numeric(&[0x4000 | 3, 0, 1, 5000]), "-1.500");
        assert_eq!(numeric(&[70, -17i16 as u16, 3]).len(), 72);
        assert!(!push_numeric(&mut String::new(), &0xC000u16.to_ne_bytes()));
        assert!(!push_numeric(&mut String::new(), &[]));
    }

    #[test]
    fn timestamps() {
        let text = |micros, zone| {
            let mut out = String::new();
            push_timestamp(&mut out, micros, zone).then_some(out)
        };
        assert_eq!(text(0, true).as_deref(), Some("2000-01-01 00:00:00+00"));
        assert_eq!(text(-1, false).as_deref(), Some("1999-12-31 23:59:59.999999"));
        assert_eq!(text(820_540_800_100_000, true).as_deref(), Some("2026-01-01 00:00:00.1+00"));
        assert_eq!(text(5_097_600_000_000, false).as_deref(), Some("2000-02-29 00:00:00"));
        assert_eq!(text(i64::MAX, true), None);
        assert_eq!(text(i64::MIN, true), None);
        const DAY: i64 = 86_400_000_000;
        assert_eq!(text(-730_119 * DAY, false).as_deref(), Some("0001-01-01 00:00:00"));
        assert_eq!(text(-730_119 * DAY - 1, false), None);
        assert_eq!(text(2_921_940 * DAY - 1, false).as_deref(), Some("9999-12-31 23:59:59.999999"));
        assert_eq!(text(2_921_940 * DAY, false), None);
    }

    #[test]
    fn integers() {
        for number in [0, 7, -1, 10, 1_234_567, i64::MAX, i64::MIN] {
            let mut out = String::new();
            push_integer(&mut out, number);
            assert_eq!(out, number.to_string());
        }
    }
}
