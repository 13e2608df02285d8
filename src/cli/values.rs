//! What stands behind a flag: sizes, times, addresses, names, keys.

use std::net::IpAddr;
use std::time::Duration;

use bytesize::ByteSize;
use etcd_log::KeyPath;

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
    let address: IpAddr = text.parse().map_err(|_| "expected an IP address".to_owned())?;
    if address.is_unspecified() {
        return Err("nobody could reach the machine there: give one of its addresses".to_owned());
    }
    Ok(address)
}

pub(super) fn parse_host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    let fits = |(host, port): (&str, &str)| {
        !host.is_empty() && !host.contains('/') && port.parse().is_ok_and(|port: u16| port > 0)
    };
    if parts.is_some_and(fits) {
        return Ok(text.to_owned());
    }
    Err("expected a host and a port, like 127.0.0.1:7001".to_owned())
}

pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let name = etcd_projections::machine_key(text).map(|_| text.to_owned());
    name.ok_or_else(|| "expected one part of a key".to_owned())
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
        assert!(parse_address("10.0.0.1").is_ok());
        for text in ["0.0.0.0", "::", "node1", ""] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
