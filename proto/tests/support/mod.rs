//! Builds ClientHellos for tests, well-formed or wrong on purpose. Knows nothing of the parser under test.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) const GREASE: u16 = 0x0a0a;

/// A ClientHello under construction; `record` and `records` give its wire form.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) extensions: Vec<(u16, Vec<u8>)>,
    pub(crate) legacy_version: u16,
}

impl Default for Hello {
    fn default() -> Self {
        Self { extensions: Vec::new(), legacy_version: 0x0303 }
    }
}

impl Hello {
    pub(crate) fn to(name: &[u8]) -> Self {
        Self::default().extension(0, server_names(&[name]))
    }

    /// What a browser sends: GREASE at both ends, ALPN, versions, a post-quantum key share, ECH.
    pub(crate) fn browser(name: &[u8]) -> Self {
        Self::default()
            .extension(GREASE, Vec::new())
            .extension(0, server_names(&[name]))
            .extension(23, Vec::new())
            .extension(10, vec![0, 6, 0x0a, 0x0a, 0x11, 0xec, 0, 0x1d])
            .extension(16, alpn(&[b"\x0a\x0a", b"h2", b"http/1.1"]))
            .extension(51, vec![0x5a; 1_263])
            .extension(43, vec![6, 0x0a, 0x0a, 3, 4, 3, 3])
            .extension(0xfe0d, vec![0; 218])
            .extension(0x1a1a, vec![0])
    }

    pub(crate) fn extension(mut self, kind: u16, data: Vec<u8>) -> Self {
        self.extensions.push((kind, data));
        self
    }

    pub(crate) fn message(&self) -> Vec<u8> {
        let mut body = self.legacy_version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(32);
        body.extend([9; 32]);
        body.extend([0, 4, 0x0a, 0x0a, 0x13, 0x01]);
        body.extend([1, 0]);
        let mut extensions = Vec::new();
        for (kind, data) in &self.extensions {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(with_length(data));
        }
        body.extend(with_length(&extensions));
        let mut message = vec![1];
        message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        message.extend(body);
        message
    }

    /// In one record; longer ones do not fit and go into as many as needed.
    pub(crate) fn record(&self) -> Vec<u8> {
        self.records(1 << 14)
    }

    pub(crate) fn records(&self, payload_bytes: usize) -> Vec<u8> {
        self.message().chunks(payload_bytes).flat_map(|part| record(22, part)).collect()
    }
}

pub(crate) fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = vec![kind, 3, 1];
    record.extend(with_length(payload));
    record
}

pub(crate) fn server_names(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| [vec![0], with_length(name)].concat()).collect();
    with_length(&list)
}

pub(crate) fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols
        .iter()
        .flat_map(|name| [vec![u8::try_from(name.len()).unwrap()], name.to_vec()].concat())
        .collect();
    with_length(&list)
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes(), bytes].concat()
}
