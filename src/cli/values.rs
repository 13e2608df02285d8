//! What stands behind a flag: sizes, times, addresses, names, keys.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use bytesize::ByteSize;
use etcd_log::KeyPath;

/// How long the name of a host may be (RFC 1035, section 2.3.4).
const HOST_BYTES: usize = 253;

pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>();
    size.map(|size| size.as_u64()).map_err(|_| "expected a size like 64MiB".to_owned())
}

pub(super) fn parse_segment_size(text: &str) -> Result<u32, String> {
    let size = u32::try_from(parse_size(text)?).ok();
    let fits = |size: &u32| (1 << 10..=256 << 20).contains(size);
    size.filter(fits).ok_or_else(|| "expected a size from 1KiB to 256MiB".to_owned())
}

pub(super) fn parse_election(text: &str) -> Result<(Duration, Duration), String> {
    let times = text.split_once('-').and_then(|(least, most)| {
        let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
        Some((millis(least)?, millis(most)?))
    });
    let fits = |(least, most): &(Duration, Duration)| least < most && most.as_secs() < 3600;
    times.filter(fits).ok_or_else(|| "expected two times like 600-1200".to_owned())
}

pub(super) fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "expected an IP address".to_owned())
}

pub(super) fn parse_host_and_port(text: &str) -> Result<String, String> {
    let expected = || "expected a host and a port, like 127.0.0.1:7001".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    if host.is_empty() || !port.parse().is_ok_and(|port: u16| port > 0) {
        return Err(expected());
    }
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = address.map_or_else(|| is_name(host), |host| host.parse::<Ipv6Addr>().is_ok());
    is_host
        .then(|| text.to_owned())
        .ok_or_else(|| format!("{host:?} is no name or address of a host"))
}

pub(super) fn parse_host(text: &str) -> Result<String, String> {
    let name = (!text.is_empty() && is_name(text)).then(|| text.to_owned());
    name.ok_or_else(|| "expected the name of a host, without a port".to_owned())
}

/// A name or an address of a host; one of IPv6 has no brackets.
pub(super) fn parse_own_host(text: &str) -> Result<String, String> {
    let is_host = text.parse::<IpAddr>().is_ok() || (!text.is_empty() && is_name(text));
    is_host
        .then(|| text.to_owned())
        .ok_or_else(|| "expected a name or address of a host".to_owned())
}

/// Whether a host can be called so. An address of IPv4 is such a name, too.
fn is_name(host: &str) -> bool {
    let is_part_of_name = |byte| matches!(byte, b'.' | b'-' | b'_') || byte.is_ascii_alphanumeric();
    host.len() <= HOST_BYTES && host.bytes().all(is_part_of_name)
}

pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let name = etcd_projections::machine_key(text).map(|_| text.to_owned());
    name.ok_or_else(|| "expected one part of a key".to_owned())
}

pub(super) fn parse_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| *limit > 0);
    limit.ok_or_else(|| "expected a whole number, 1 or more".to_owned())
}

pub(super) fn parse_key(text: &str) -> Result<KeyPath, String> {
    KeyPath::clean(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_or_none() {
        for (text, size) in [("64MiB", 64 << 20), ("1000", 1000), ("2kB", 2000), ("0", 0)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "much", "-1", "12XB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["1000", "1GiB"] {
            assert!(parse_segment_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_such_that_others_can_use() {
        for text in ["127.0.0.1:7001", "[::1]:7001", "node1.example:80"] {
            assert_eq!(parse_host_and_port(text).as_deref(), Ok(text));
        }
        for text in ["127.0.0.1", ":7001", "http://node1:7001", "node1:0", "node1:99999", ""] {
            assert!(parse_host_and_port(text).is_err(), "{text}");
        }
        let long = format!("{}:1", "n".repeat(254));
        for text in ["a&b:1", "a b:1", "a?b:1", "a@b:1", "a%b:1", "a/b:1", "::1:1", "[::1:1", &long]
        {
            let refused = parse_host_and_port(text).expect_err(text);
            assert!(refused.ends_with("is no name or address of a host"), "{refused}");
        }
        for text in ["10.0.0.1", "0.0.0.0", "::"] {
            assert!(parse_address(text).is_ok(), "{text}");
        }
        for text in ["node1", "", "10.0.0.1:7001"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
        assert_eq!(parse_host("Node1.example").as_deref(), Ok("Node1.example"));
        for text in ["", "node1:4001", "a/b", "*"] {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }
}
