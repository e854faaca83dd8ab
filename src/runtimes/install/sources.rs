//! The hosts in the apt sources of an image, from the archive of its `/etc/apt`. The image is somebody's: nothing of it is
//! unpacked, and what cannot be read is left out.

use std::{collections::BTreeSet, io::Read as _};

use crate::egress;

/// The most that is read of one file, in bytes.
const FILE_BYTES: u64 = 256 << 10;

/// The hosts in `sources.list`, and in the `*.list` and `*.sources` of `sources.list.d`.
pub(super) fn hosts(archive: &[u8]) -> Vec<String> {
    let mut hosts = BTreeSet::new();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().into_iter().flatten().flatten() {
        let is_source = entry.path().is_ok_and(|path| {
            let list = path.file_name().is_some_and(|name| name == "sources.list");
            let parts = path
                .parent()
                .is_some_and(|it| it.ends_with("sources.list.d"));
            let kind = path
                .extension()
                .is_some_and(|it| it == "list" || it == "sources");
            list || (parts && kind)
        });
        if !is_source || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut text = Vec::new();
        if entry.take(FILE_BYTES).read_to_end(&mut text).is_ok() {
            hosts.extend(egress::apt_hosts(&String::from_utf8_lossy(&text)));
        }
    }
    hosts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_sources_are_read() {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, host) in [
            ("apt/sources.list", "a"),
            ("apt/sources.list.d/b.list", "b"),
            ("apt/sources.list.d/c.sources", "c"),
            ("apt/sources.list.d/d.list.save", "d"),
            ("apt/preferences", "e"),
        ] {
            let text = format!("deb http://{host}.example.org/debian x main\n");
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            let appended = archive.append_data(&mut header, path, text.as_bytes());
            appended.expect("written");
        }
        let archive = archive.into_inner().expect("whole");
        assert_eq!(
            hosts(&archive),
            ["a.example.org", "b.example.org", "c.example.org"]
        );
    }
}
