//! Numbers and addresses as text without the formatting machinery, which takes a thousand instructions for an IPv4
//! address: of these every message needs a dozen, for replies, its trace field and its lines in the log.

use std::{
    fmt::{self, Write},
    net::{IpAddr, SocketAddr},
    ops::Deref,
};

/// The longest address with its port and brackets has 47 bytes, its scope id ten more and a percent sign.
const MOST: usize = 64;

/// No number of 64 bits has more.
pub(super) const MOST_DIGITS: usize = 20;

/// From `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let (mut pairs, mut number) = ([[0; 2]; 100], 0);
    while number < 100 {
        pairs[number] = [b'0' + number as u8 / 10, b'0' + number as u8 % 10];
        number += 1;
    }
    pairs
};

/// A number in decimal, at the end of the room for it.
pub(super) fn digits(number: u64, room: &mut [u8; MOST_DIGITS]) -> &[u8] {
    let (mut first, mut rest) = (room.len(), number);
    // Two at a time: what takes longest is to divide.
    let mut put = |pair: u64| {
        first -= 2;
        room[first..first + 2].copy_from_slice(&PAIRS[pair as usize]);
        first
    };
    while rest >= 100 {
        put(rest % 100);
        rest /= 100;
    }
    let first = put(rest);
    &room[if rest < 10 { first + 1 } else { first }..]
}

/// A few bytes of text, on the stack.
#[derive(Clone, Copy)]
pub struct ShortText {
    bytes: [u8; MOST],
    length: usize,
}

impl Default for ShortText {
    fn default() -> Self {
        Self { bytes: [0; MOST], length: 0 }
    }
}

impl ShortText {
    /// In decimal.
    pub fn of_number(number: u16) -> Self {
        let mut text = Self::default();
        text.number(number);
        text
    }

    /// As in `192.0.2.7` and `2001:db8::7`.
    pub fn of_ip(ip: IpAddr) -> Self {
        let mut text = Self::default();
        text.ip(ip);
        text
    }

    /// As in `192.0.2.7:25` and `[2001:db8::7]:25`.
    pub fn of_socket(address: SocketAddr) -> Self {
        let mut text = Self::default();
        match address {
            SocketAddr::V4(address) => {
                text.ip(IpAddr::V4(*address.ip()));
                text.byte(b':');
                text.number(address.port());
            }
            // A scope id belongs inside of the brackets.
            SocketAddr::V6(address) => text.formatted(address),
        }
        text
    }

    /// In decimal.
    pub fn number(&mut self, number: u16) {
        self.push(digits(number.into(), &mut [0; MOST_DIGITS]));
    }

    /// One ASCII character.
    pub fn byte(&mut self, byte: u8) {
        debug_assert!(byte.is_ascii());
        self.push(&[byte]);
    }

    fn ip(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                for (place, octet) in ip.octets().into_iter().enumerate() {
                    if place > 0 {
                        self.byte(b'.');
                    }
                    self.number(octet.into());
                }
            }
            IpAddr::V6(ip) => self.formatted(ip),
        }
    }

    fn formatted(&mut self, value: impl fmt::Display) {
        // What these are has room.
        let written = write!(self, "{value}");
        debug_assert!(written.is_ok());
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
            room.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }
}

impl Write for ShortText {
    /// Refuses what there is no room for.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.length + text.len() > MOST {
            return Err(fmt::Error);
        }
        self.push(text.as_bytes());
        Ok(())
    }
}

impl Deref for ShortText {
    type Target = str;

    fn deref(&self) -> &str {
        // Only whole texts and ASCII are put in.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self)
    }
}

impl fmt::Debug for ShortText {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(to)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn numbers_read_as_the_standard_library_writes_them() {
        let powers = (0..MOST_DIGITS as u32).map(|power| 10_u64.pow(power));
        let around = powers.flat_map(|power| [power - 1, power, power + 1, (power - 1) / 3 * 2]);
        for number in around.chain([u64::MAX]) {
            assert_eq!(digits(number, &mut [0; MOST_DIGITS]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn addresses_read_as_the_standard_library_writes_them() {
        let ips = ["0.0.0.0", "192.0.2.7", "10.100.255.1", "::", "::ffff:255.255.255.255", "2001:db8::7"];
        let longest = "1234:5678:9abc:def1:2345:6789:abcd:ef12";
        for ip in ips.into_iter().chain([longest]) {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(&*ShortText::of_ip(ip), ip.to_string());
            for port in [0, 9, 10, 25, 2525, 65_535] {
                let address = SocketAddr::new(ip, port);
                assert_eq!(&*ShortText::of_socket(address), address.to_string());
            }
        }
        let scoped = SocketAddrV6::new(longest.parse().unwrap(), 65_535, 0, u32::MAX).into();
        assert_eq!(&*ShortText::of_socket(scoped), format!("{scoped}"));
    }
}
