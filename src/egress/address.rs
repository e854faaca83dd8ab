//! Whether an address may be connected to. Pure: what the address is decides, and the configuration; never the name that led
//! to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Why an address is refused, in words that follow "it is".
pub(super) type Reason = &'static str;

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Anybody's on the internet.
    Global,
    /// Not global: only where the configuration names its network.
    Local(Reason),
    /// Whatever the configuration says, never.
    Never(Reason),
}

/// What the configuration says of networks.
#[derive(Debug, Clone, Default)]
pub(super) struct Networks {
    /// Not global, and reached all the same.
    pub(super) allowed: Vec<IpNet>,
    /// Never reached, global or allowed though they are.
    pub(super) denied: Vec<IpNet>,
}

/// Says why `address` may not be connected to: it is of the fleet's `own` or in a denied network, or not global and in none of the
/// allowed ones.
pub(super) fn refusal(address: IpAddr, own: &[IpAddr], networks: &Networks) -> Option<Reason> {
    let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
    match kind(address) {
        Kind::Never(reason) => Some(reason),
        _ if own.contains(&address) => Some("an address of this fleet's own"),
        _ if is_in(&networks.denied) => Some("in one of egress.deny_networks"),
        Kind::Local(reason) => (!is_in(&networks.allowed)).then_some(reason),
        Kind::Global => None,
    }
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(address) => of_v6(address),
    }
}

fn of_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [0, ..] => Kind::Never("of this network (0.0.0.0/8)"),
        [127, ..] => Kind::Never("loopback"),
        [169, 254, ..] => Kind::Never("link-local, where metadata services are"),
        [100, 100, 100, 200] => Kind::Never("a metadata service"),
        [224..=239, ..] => Kind::Never("multicast"),
        [255, 255, 255, 255] => Kind::Never("broadcast"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Kind::Local("private"),
        [100, 64..=127, ..] => Kind::Local("shared between a provider's customers (100.64.0.0/10)"),
        [192, 0, 0, _] | [192, 88, 99, _] => Kind::Local("of a protocol, not of a host"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Kind::Local("for documentation, and not global")
        }
        [198, 18..=19, ..] => Kind::Local("for benchmarks, and not global"),
        [240..=255, ..] => Kind::Local("reserved, and not global"),
        _ => Kind::Global,
    }
}

fn of_v6(address: Ipv6Addr) -> Kind {
    if address.is_unspecified() {
        return Kind::Never("unspecified");
    }
    if address.is_loopback() {
        return Kind::Never("loopback");
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            Kind::Never("an IPv4 address in the form of an IPv6 one")
        }
        [0x64, 0xff9b, ..] | [0x2002, ..] | [0x2001, 0, ..] => {
            Kind::Never("a way to an IPv4 address (NAT64, 6to4, Teredo)")
        }
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Kind::Never("a metadata service"),
        [0xfe80..=0xfebf, ..] => Kind::Never("link-local"),
        [0xff00..=0xffff, ..] => Kind::Never("multicast"),
        [0xfc00..=0xfdff, ..] => Kind::Local("unique local"),
        [0xfec0..=0xfeff, ..] => Kind::Local("site-local"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => {
            Kind::Local("for documentation, and not global")
        }
        [0x2001, 1..=0x1ff, ..] => Kind::Local("of a protocol, not of a host"),
        [0x2000..=0x3fff, ..] => Kind::Global,
        _ => Kind::Local("not global"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(allowed: &[&str], denied: &[&str]) -> Networks {
        let parsed = |all: &[&str]| {
            all.iter()
                .map(|it| it.parse().expect("a network"))
                .collect()
        };
        Networks {
            allowed: parsed(allowed),
            denied: parsed(denied),
        }
    }

    fn refused(address: &str, allowed: &[&str]) -> Option<Reason> {
        let networks = networks(allowed, &[]);
        refusal(address.parse().expect("an address"), &[], &networks)
    }

    #[test]
    fn what_is_not_global_is_refused() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "169.254.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.80",
            "198.18.0.1",
            "192.88.99.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "4000::1",
            "2001:10::1",
        ] {
            assert!(refused(address, &[]).is_some(), "{address}");
        }
    }

    #[test]
    fn what_is_global_is_not() {
        for address in [
            "8.8.8.8",
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert_eq!(refused(address, &[]), None, "{address}");
        }
    }

    #[test]
    fn a_network_that_is_named_is_allowed_and_no_other() {
        let named = ["203.0.113.0/24", "10.1.0.0/16", "fd01::/16"];
        for address in ["203.0.113.80", "10.1.2.3", "fd01::7"] {
            assert_eq!(refused(address, &named), None, "{address}");
        }
        for address in ["203.0.112.1", "10.2.0.1", "192.0.2.1"] {
            assert!(
                refused(address, &["203.0.113.0/24", "10.1.0.0/16"]).is_some()
                    || !address.starts_with("203.0.113"),
                "{address}"
            );
        }
        assert!(refused("10.2.0.1", &named).is_some());
        assert!(refused("192.0.2.1", &named).is_some());
    }

    #[test]
    fn some_are_refused_whatever_is_named() {
        let everything = ["0.0.0.0/0", "::/0"];
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "fd00:ec2::254",
        ] {
            assert!(refused(address, &everything).is_some(), "{address}");
        }
    }

    #[test]
    fn the_fleets_own_are_refused_though_global_or_named() {
        let own = [
            "8.8.8.8".parse().expect("an address"),
            "10.1.2.3".parse().expect("an address"),
        ];
        let named = networks(&["10.1.0.0/16"], &[]);
        for address in own {
            assert!(refusal(address, &own, &named).is_some(), "{address}");
        }
    }

    #[test]
    fn a_denied_network_is_refused_though_global_or_allowed_and_no_other_is() {
        let named = networks(
            &["10.1.0.0/16"],
            &["8.8.4.0/24", "10.1.2.0/24", "2606:4700::/32"],
        );
        let refused = |address: &str| refusal(address.parse().expect("an address"), &[], &named);
        for address in ["8.8.4.4", "10.1.2.3", "2606:4700::1111"] {
            assert_eq!(
                refused(address),
                Some("in one of egress.deny_networks"),
                "{address}"
            );
        }
        for address in ["8.8.8.8", "10.1.3.3", "2a00::1"] {
            assert_eq!(refused(address), None, "{address}");
        }
    }
}
