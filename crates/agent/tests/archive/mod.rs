//! Makes archives, byte by byte, as no honest tool would.

#![allow(dead_code)] // Each test program uses a part of it.

use std::io::Write;

/// When everything was modified.
const MODIFIED: u64 = 1_000_000_000;

/// An entry of a tar.
#[derive(Clone)]
pub struct Member<'a> {
    name: Vec<u8>,
    target: Vec<u8>,
    data: &'a [u8],
    kind: u8,
    mode: u32,
    owner: u32,
    size: Option<u64>,
}

impl<'a> Member<'a> {
    pub fn raw(name: &[u8], data: &'a [u8]) -> Self {
        Self {
            name: name.to_vec(),
            target: Vec::new(),
            data,
            kind: b'0',
            mode: 0o644,
            owner: 1234,
            size: None,
        }
    }

    pub fn file(name: &str, data: &'a [u8]) -> Self {
        Self::raw(name.as_bytes(), data)
    }

    pub fn directory(name: &str) -> Self {
        Self::file(name, b"").kind(b'5').mode(0o755)
    }

    pub fn symbolic(name: &str, target: &str) -> Self {
        let mut link = Self::file(name, b"").kind(b'2').mode(0o777);
        link.target = target.as_bytes().to_vec();
        link
    }

    pub fn hard(name: &str, target: &str) -> Self {
        Self {
            kind: b'1',
            ..Self::symbolic(name, target)
        }
    }

    pub fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, owner: u32) -> Self {
        Self { owner, ..self }
    }

    /// Says to be as large as this.
    pub fn size(self, size: u64) -> Self {
        let size = Some(size);
        Self { size, ..self }
    }

    fn write(&self, tar: &mut Vec<u8>) {
        if self.name.len() > 100 {
            let long = Member::raw(b"././@LongLink", &self.name).kind(b'L');
            long.write(tar);
        }
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.owner).as_bytes());
        put(116, format!("{:07o}", self.owner).as_bytes());
        let size = self.size.unwrap_or(self.data.len() as u64);
        if size < 1 << 33 {
            put(124, format!("{size:011o}").as_bytes());
        } else {
            put(124, &[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
        }
        put(136, format!("{MODIFIED:011o}").as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.target[..self.target.len().min(100)]);
        put(257, b"ustar  ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(self.data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
}

/// A tar of `members`, closed or not.
pub fn tar(members: &[Member<'_>], is_closed: bool) -> Vec<u8> {
    let mut tar = Vec::new();
    for member in members {
        member.write(&mut tar);
    }
    if is_closed {
        tar.extend_from_slice(&[0; 1024]);
    }
    tar
}

/// A whole tar of `members`.
pub fn tar_of(members: &[Member<'_>]) -> Vec<u8> {
    tar(members, true)
}

/// Through gzip.
pub fn gz(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).expect("packed");
    encoder.finish().expect("packed")
}

/// Through zstd.
pub fn zst(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

/// An entry of a zip.
#[derive(Clone)]
pub struct Zipped<'a> {
    name: Vec<u8>,
    data: &'a [u8],
    mode: u32,
    is_stored: bool,
}

impl<'a> Zipped<'a> {
    pub fn raw(name: &[u8], data: &'a [u8]) -> Self {
        Self {
            name: name.to_vec(),
            data,
            mode: 0o100_644,
            is_stored: false,
        }
    }

    pub fn file(name: &str, data: &'a [u8]) -> Self {
        Self::raw(name.as_bytes(), data)
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn stored(self) -> Self {
        let is_stored = true;
        Self { is_stored, ..self }
    }

    fn packed(&self) -> (u16, Vec<u8>) {
        if self.is_stored {
            return (0, self.data.to_vec());
        }
        let best = flate2::Compression::best();
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), best);
        encoder.write_all(self.data).expect("packed");
        (8, encoder.finish().expect("packed"))
    }

    /// What local header and central directory both say.
    fn common(&self, method: u16, packed: usize) -> Vec<u8> {
        let mut crc = flate2::Crc::new();
        crc.update(self.data);
        let size = |size: usize| u32::try_from(size).expect("small").to_le_bytes();
        let mut bytes = Vec::new();
        bytes.extend([20, 0, 0, 0]);
        bytes.extend(method.to_le_bytes());
        bytes.extend([0, 0, 0x21, 0x28]);
        bytes.extend(crc.sum().to_le_bytes());
        bytes.extend(size(packed));
        bytes.extend(size(self.data.len()));
        bytes.extend(u16::try_from(self.name.len()).expect("short").to_le_bytes());
        bytes.extend([0, 0]);
        bytes
    }

    fn local(&self) -> Vec<u8> {
        let (method, packed) = self.packed();
        let head = self.common(method, packed.len());
        [&b"PK\x03\x04"[..], &head, &self.name, &packed].concat()
    }

    fn central(&self, offset: usize) -> Vec<u8> {
        let (method, packed) = self.packed();
        let offset = u32::try_from(offset).expect("small");
        let mut bytes = b"PK\x01\x02\x14\x03".to_vec();
        bytes.extend(self.common(method, packed.len()));
        bytes.extend([0; 6]);
        bytes.extend((self.mode << 16).to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(&self.name);
        bytes
    }
}

/// A zip of `members`.
pub fn zip(members: &[Zipped<'_>]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        directory.extend(member.central(bytes.len()));
        bytes.extend(member.local());
    }
    close(bytes, &directory, members.len())
}

/// A zip whose entries all have the very same bytes.
pub fn overlapping(names: &[String], data: &[u8]) -> Vec<u8> {
    let bytes = Zipped::file(&names[0], data).local();
    // Headers of the same length, so that each leads to the data.
    let directory: Vec<u8> = names
        .iter()
        .flat_map(|name| Zipped::file(name, data).central(0))
        .collect();
    close(bytes, &directory, names.len())
}

fn close(mut bytes: Vec<u8>, directory: &[u8], count: usize) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).expect("small").to_le_bytes();
    let start = bytes.len();
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    let count = u16::try_from(count).expect("few").to_le_bytes();
    bytes.extend([count, count].concat());
    bytes.extend(number(directory.len()));
    bytes.extend(number(start));
    bytes.extend([0, 0]);
    bytes
}
