//! Scalars: durations, percentages, addresses, names, numbers. Each says what is wrong and what was likely meant.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::raw::Number;
use super::suggest;
use crate::model::{ClusterName, DURATION_MAX, HostPort, is_host, is_label};

/// Least and most of [`bit_rate`].
const BIT_RATE_MIN: u64 = 100_000;
const BIT_RATE_MAX: u64 = 100_000_000_000;

/// What is wrong with a scalar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// A number within `range`.
pub(super) fn number<N: TryFrom<i128>>(range: RangeInclusive<i128>) -> impl Fn(&Number) -> Result<N, Wrong> {
    move |number| {
        let bounds = match *range.end() {
            end if end == i128::from(u64::MAX) => format!("of at least {}", range.start()),
            end => format!("from {} to {end}", range.start()),
        };
        match number {
            Number::Whole(n) => match N::try_from(*n) {
                Ok(fits) if range.contains(n) => Ok(fits),
                _ => {
                    Err(Wrong::new(format!("{n} is out of range"), format!("write a whole number {bounds}")))
                }
            },
            Number::Other(text) => {
                let unquoted = text.parse().ok().filter(|n| range.contains(n));
                let hint = match unquoted {
                    Some(n) => format!("write {n} without quotes"),
                    None => format!("write a whole number {bounds}"),
                };
                Err(Wrong::new(format!("`{text}` is no whole number"), hint))
            }
        }
    }
}

/// One of the words of `known`; those of `later` are understood, but not available yet.
pub(super) fn word<'w, T: Copy>(
    known: &'w [(&'static str, T)],
    later: &'w [&'static str],
) -> impl Fn(&str) -> Result<T, Wrong> + 'w {
    move |text| {
        if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        if later.contains(&text) {
            let hint = format!("available now: {}", suggest::list(&words));
            return Err(Wrong::new(format!("`{text}` is not available yet"), hint));
        }
        Err(Wrong::new(format!("`{text}` is not known"), suggest::hint(text, &words, "write one of")))
    }
}

/// A duration: a whole number and one of ms, s, m, h; more than nothing, at most a day.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    const UNITS: &str = "a duration is a whole number and one of ms, s, m, h, such as `500ms` or `2s`";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let Ok(count) = number.parse::<u64>() else {
        return Err(Wrong::new(format!("`{text}` is no duration"), UNITS));
    };
    let duration = match unit {
        "ms" => Some(Duration::from_millis(count)),
        "s" => Some(Duration::from_secs(count)),
        "m" => count.checked_mul(60).map(Duration::from_secs),
        "h" => count.checked_mul(3600).map(Duration::from_secs),
        _ => {
            let hint = meant(count, unit, text).map_or_else(|| UNITS.to_owned(), |m| format!("write `{m}`"));
            let wrong = if unit.is_empty() { "has no unit" } else { "is no duration" };
            return Err(Wrong::new(format!("`{text}` {wrong}"), hint));
        }
    };
    match duration {
        Some(d) if !d.is_zero() && d <= DURATION_MAX => Ok(d),
        _ => Err(Wrong::new(format!("`{text}` is out of range"), "write a duration from 1ms to 24h")),
    }
}

/// Bits per second: a whole number and one of kbit, Mbit, Gbit; at least what a request needs to get through.
pub(super) fn bit_rate(text: &str) -> Result<u64, Wrong> {
    const HINT: &str = "a rate is a whole number and one of kbit, Mbit, Gbit (per second), such as `250Mbit`";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.strip_suffix("/s").unwrap_or(unit) {
        "kbit" => 1000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        _ => return Err(Wrong::new(format!("`{text}` is no rate"), HINT)),
    };
    let rate = number.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    match rate {
        Some(rate) if (BIT_RATE_MIN..=BIT_RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(Wrong::new(format!("`{text}` is out of range"), "write a rate from 100kbit to 100Gbit")),
    }
}

/// The duration that someone who wrote another unit, or none, had in mind.
fn meant(count: u64, unit: &str, text: &str) -> Option<String> {
    // `1.5s` is exact in milliseconds.
    let seconds = text.strip_suffix('s').and_then(|t| t.parse::<f64>().ok());
    if let Some(seconds) = seconds.filter(|_| unit.starts_with('.')) {
        return Some(format!("{}ms", (seconds * 1000.0).round()));
    }
    let unit = match unit.trim().to_lowercase().as_str() {
        "ms" | "msec" | "msecs" | "millis" | "milliseconds" | "millisecond" => "ms",
        "" | "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "d" | "day" | "days" if count == 1 => return Some("24h".into()),
        _ => return None,
    };
    Some(format!("{count}{unit}"))
}

/// A percentage from `0%` to `100%`, whole.
pub(super) fn percent(text: &str) -> Result<u8, Wrong> {
    let Some(digits) = text.strip_suffix('%') else {
        let hint = match (text.parse::<u8>(), text.parse::<f64>()) {
            (Ok(n), _) if n <= 100 => format!("write `{n}%`"),
            (_, Ok(share)) if (0.0..=1.0).contains(&share) => format!("write `{}%`", (share * 100.0).round()),
            _ => "write a percentage from `0%` to `100%`".into(),
        };
        return Err(Wrong::new(format!("`{text}` is no percentage"), hint));
    };
    let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse() {
        Ok(n) if whole && n <= 100 => Ok(n),
        _ if whole => {
            Err(Wrong::new(format!("`{text}` is out of range"), "write a percentage from `0%` to `100%`"))
        }
        _ => Err(Wrong::new(format!("`{text}` is no whole percentage"), "such as `20%`")),
    }
}

/// An RFC 1123 label.
pub(super) fn label(text: &str) -> Result<String, Wrong> {
    if is_label(text) {
        return Ok(text.into());
    }
    let rule = "write 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends (RFC 1123)";
    let lower = text.to_lowercase().replace(['_', '.', ' '], "-");
    let hint = if is_label(&lower) { format!("such as `{lower}`: {rule}") } else { rule.into() };
    Err(Wrong::new(format!("`{text}` is no name"), hint))
}

/// A cluster's name: a label that is no tier's word.
pub(super) fn cluster(text: &str) -> Result<ClusterName, Wrong> {
    if matches!(text, "local" | "same-region" | "any") {
        let hint = "choose another name: `local`, `same-region` and `any` are the words of `placement.tiers`";
        return Err(Wrong::new(format!("no cluster can be named `{text}`"), hint));
    }
    label(text)?;
    ClusterName::new(text).map_err(|e| Wrong { message: e.to_string(), hint: None })
}

/// A region's or zone's name.
pub(super) fn zone(text: &str) -> Result<String, Wrong> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if matches!(text.len(), 1..=63) && text.bytes().all(fits) {
        return Ok(text.into());
    }
    Err(Wrong::new(
        format!("`{text}` is no name of a region or zone"),
        "write 1 to 63 letters, digits, `-`, `_`, `.`",
    ))
}

/// A SPIFFE trust domain (SPIFFE-ID, section 2.1: lower-case letters, digits, `.`, `-`, `_`, at most 255 bytes).
pub(super) fn trust_domain(text: &str) -> Result<String, Wrong> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if matches!(text.len(), 1..=255) && text.bytes().all(fits) {
        return Ok(text.into());
    }
    let bare = text.trim_start_matches("spiffe://").split('/').next().unwrap_or_default().to_lowercase();
    let hint = if !bare.is_empty() && bare != text && bare.bytes().all(fits) {
        format!("write `{bare}`")
    } else {
        "write 1 to 255 of a-z, 0-9, `.`, `-`, `_`, such as `acme.example`".into()
    };
    Err(Wrong::new(format!("`{text}` is no trust domain"), hint))
}

/// A DNS name, for the mesh's own domain.
pub(super) fn domain(text: &str) -> Result<String, Wrong> {
    if text.len() <= 190 && text.split('.').all(is_label) {
        return Ok(text.into());
    }
    Err(Wrong::new(
        format!("`{text}` is no domain"),
        "write lower-case labels joined by dots, such as `mesh`",
    ))
}

/// A DNS name or an address, without a port.
pub(super) fn host(text: &str) -> Result<String, Wrong> {
    if is_host(text) {
        return Ok(text.into());
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let hint = match bare.filter(|b| b.parse::<Ipv6Addr>().is_ok()) {
        Some(bare) => format!("write `\"{bare}\"`, without brackets"),
        None if host_port(text).is_ok() => "write the host alone; ports have a field of their own".into(),
        None => "write a DNS name or an IP address".into(),
    };
    Err(Wrong::new(format!("`{text}` is no host"), hint))
}

/// A DNS name as it stands in the field Host: in lower case, without a port; no address.
pub(super) fn dns_name(text: &str) -> Result<String, Wrong> {
    let lower = text.to_ascii_lowercase();
    let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if is_host(text) && !address && !text.ends_with('.') {
        return Ok(lower);
    }
    let hint = if address {
        "leave it out: addresses are always allowed".to_owned()
    } else if let Some(name) = lower.strip_suffix('.').filter(|name| is_host(name)) {
        format!("write `{name}`, without the last dot")
    } else if let Ok(HostPort { host, .. }) = host_port(&lower) {
        format!("write `{host}`: any port is allowed")
    } else {
        "write a DNS name, such as `gw.west.example`".to_owned()
    };
    Err(Wrong::new(format!("`{text}` is no host name"), hint))
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn host_port(text: &str) -> Result<HostPort, Wrong> {
    let wrong = |hint: String| Wrong::new(format!("`{text}` is no `host:port`"), hint);
    let example = || "such as `gw.east.example:7443`".to_owned();
    if let Some((_, rest)) = text.split_once("://") {
        return Err(wrong(format!("write `{}`, without a scheme", rest.trim_end_matches('/'))));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(wrong(format!("write `\"[{text}]:PORT\"`, the address in brackets")));
    }
    let Some((name, digits)) = text.rsplit_once(':') else {
        return Err(wrong(if is_host(text) { format!("write `{text}:PORT`") } else { example() }));
    };
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let host = match bare {
        Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
        None if is_host(name) && !name.contains(':') => name,
        _ => return Err(wrong(example())),
    };
    match digits.parse::<u16>() {
        Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(HostPort { host: host.into(), port })
        }
        _ => Err(wrong(format!("`{digits}` is no port: write one from 1 to 65535"))),
    }
}

/// `address:port` to listen on; port 0 lets the system choose.
pub(super) fn socket(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "PORT"));
        let hint = match host {
            "localhost" => format!("write `127.0.0.1:{port}`"),
            "" | "*" => format!("write `0.0.0.0:{port}`"),
            _ if text.bytes().all(|b| b.is_ascii_digit()) => format!("write `127.0.0.1:{text}`"),
            _ => "write an IP address and a port, such as `127.0.0.1:7480` or `\"[::1]:7480\"`".into(),
        };
        Wrong::new(format!("`{text}` is no address to listen on"), hint)
    })
}

/// Whether `text` is a token of HTTP (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    matches!(text.len(), 1..=256) && text.bytes().all(fits)
}

/// The name of a header field, in lower case.
pub(super) fn header(text: &str) -> Result<String, Wrong> {
    if is_token(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Wrong::new(
        format!("`{text}` is no name of a header field"),
        "such as `x-user` (RFC 9110, section 5.6.2)",
    ))
}

/// The name of a query parameter, as it stands in the URL.
pub(super) fn query(text: &str) -> Result<String, Wrong> {
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'&' | b'=' | b'#');
    if matches!(text.len(), 1..=256) && text.bytes().all(fits) {
        return Ok(text.into());
    }
    let hint = "write it as it stands in the URL, percent-encoded, without `&`, `=`, `#`";
    Err(Wrong::new(format!("`{text}` is no name of a query parameter"), hint))
}

/// A method of HTTP, or of Thrift, where that of a service among several has its service before it (`Store:get`).
pub(super) fn method(text: &str) -> Result<String, Wrong> {
    if text.split(':').all(is_token) {
        return Ok(text.into());
    }
    Err(Wrong::new(format!("`{text}` is no method"), "such as `POST`, or `getUser` of Thrift"))
}

/// The method of HTTP that differs from a `method` by upper and lower case alone.
pub(super) fn nearly_http(method: &str) -> Option<String> {
    let upper = method.to_ascii_uppercase();
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    (upper != method && known.contains(&&*upper)).then_some(upper)
}

/// An endpoint's id.
pub(super) fn endpoint_id(text: &str) -> Result<String, Wrong> {
    if matches!(text.len(), 1..=253) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.into());
    }
    Err(Wrong::new(
        format!("`{text}` is no endpoint id"),
        "write 1 to 253 visible ASCII characters, without spaces",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_to_the_edge_and_no_further() {
        assert_eq!(bit_rate("250Mbit"), Ok(250_000_000));
        assert_eq!((bit_rate("100kbit"), bit_rate("100Gbit/s")), (Ok(100_000), Ok(100_000_000_000)));
        for text in ["99kbit", "101Gbit", "0Mbit", "18446744073709551615Gbit", "Mbit"] {
            assert!(bit_rate(text).is_err_and(|w| w.message.ends_with("is out of range")), "{text}");
        }
        for text in ["250", "250mbit", "250 Mbit", "-1Mbit", "1.5Gbit", "250MB", ""] {
            assert!(bit_rate(text).is_err_and(|w| w.message.ends_with("is no rate")), "{text}");
        }
    }

    #[test]
    fn durations_are_read_to_the_edge_and_no_further() {
        let read = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(read("1ms"), Ok(1));
        assert_eq!(read("86400000ms"), Ok(86_400_000));
        assert_eq!(read("1440m"), Ok(86_400_000));
        assert_eq!(read("24h"), Ok(86_400_000));
        for text in ["0ms", "86400001ms", "25h", "18446744073709551615h", "18446744073709551615s"] {
            assert!(read(text).is_err_and(|w| w.message.ends_with("is out of range")), "{text}");
        }
    }

    #[test]
    fn a_wrong_unit_is_answered_with_the_right_one() {
        let meant = |text: &str| duration(text).err().and_then(|w| w.hint);
        for (text, right) in [
            ("2 sec", "write `2s`"),
            ("2S", "write `2s`"),
            ("10", "write `10s`"),
            ("0.25s", "write `250ms`"),
            ("5 minutes", "write `5m`"),
            ("300 millis", "write `300ms`"),
            ("1d", "write `24h`"),
        ] {
            assert_eq!(meant(text).as_deref(), Some(right), "{text}");
        }
        for text in ["", "s", "-1s", "5us", "1m30s", "99999999999999999999s", "\u{661}s", "1.s.s"] {
            assert!(meant(text).is_some_and(|hint| hint.starts_with("a duration is")), "{text}");
        }
    }

    #[test]
    fn percentages_are_whole_and_from_0_to_100() {
        assert_eq!((percent("0%"), percent("100%")), (Ok(0), Ok(100)));
        for text in ["101%", "-1%", "+1%", "%", "1.5%", "20", "", "99999%", "NaN"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_know_both_ends_of_their_range() {
        let read = number::<u16>(1..=65_535);
        assert_eq!((read(&Number::Whole(1)), read(&Number::Whole(65_535))), (Ok(1), Ok(65_535)));
        for n in [0, 65_536, -1, i128::MAX, i128::MIN] {
            assert!(read(&Number::Whole(n)).is_err(), "{n}");
        }
        assert!(number::<u8>(0..=1_000)(&Number::Whole(300)).is_err(), "a range wider than its type");
    }

    #[test]
    fn addresses_have_hosts_and_ports() {
        let read = |text| host_port(text).map(|a| (a.host, a.port));
        assert_eq!(read("gw.east.example:7443"), Ok(("gw.east.example".into(), 7443)));
        assert_eq!(read("[::1]:65535"), Ok(("::1".into(), 65_535)));
        assert_eq!(read("my_host.:1"), Ok(("my_host.".into(), 1)));
        for text in [
            "",
            ":1",
            "a:",
            "a:+1",
            "a:0",
            "a:65536",
            "::1:7443x",
            "[::1]",
            "[a]:1",
            "a b:1",
            "-a:1",
            "a..b:1",
            "256.0.0.1:1",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(host(&format!("{}a", "a.".repeat(126))).is_ok(), "253 bytes");
        assert!(host(&format!("{}aa", "a.".repeat(126))).is_err(), "254 bytes");
    }

    #[test]
    fn host_names_are_names_alone() {
        assert_eq!(dns_name("GW.west.example"), Ok("gw.west.example".into()));
        assert_eq!(dns_name("ringway"), Ok("ringway".into()));
        for (text, hint) in [
            ("127.0.0.1", "leave it out"),
            ("[::1]", "leave it out"),
            ("gw.west.example.", "write `gw.west.example`"),
            ("gw.west.example:7490", "write `gw.west.example`"),
            ("*.west.example", "write a DNS name"),
            ("a b", "write a DNS name"),
            ("", "write a DNS name"),
        ] {
            let wrong = dns_name(text).err().and_then(|wrong| wrong.hint).unwrap_or_default();
            assert!(wrong.starts_with(hint), "{text}: {wrong}");
        }
    }

    #[test]
    fn names_end_where_their_limits_say() {
        assert!(trust_domain(&"a".repeat(255)).is_ok() && trust_domain(&"a".repeat(256)).is_err());
        assert!(zone(&"a".repeat(63)).is_ok() && zone(&"a".repeat(64)).is_err());
        assert!(label(&"a".repeat(63)).is_ok() && label(&"a".repeat(64)).is_err());
        assert!(header(&"a".repeat(256)).is_ok() && header(&"a".repeat(257)).is_err());
        assert_eq!(header("X-User"), Ok("x-user".into()));
        assert!(["", "a:b", "x user", "\u{e9}"].iter().all(|text| header(text).is_err()));
        assert!(["", "a=b", "a&b", "a#", "\u{e9}"].iter().all(|text| query(text).is_err()));
        assert!(["mesh", "mesh.acme.example"].iter().all(|text| domain(text).is_ok()));
        assert!(["", ".", "Mesh", "mesh."].iter().all(|text| domain(text).is_err()));
    }
}
