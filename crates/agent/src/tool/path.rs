//! What a name in an archive may be. No look at the file system.

use std::ffi::CString;

use envicutor_protocol::{Faith, Unpack};

/// The most bytes of a component, the kernel's and the contract's.
const COMPONENT_BYTES: usize = 255;

/// The rules of an archive.
#[derive(Clone, Copy)]
pub struct Rules {
    faith: Faith,
    strip: usize,
    max_bytes: u64,
    max_depth: u64,
}

impl Rules {
    /// Those of `order`.
    pub fn new(order: &Unpack) -> Self {
        Self {
            faith: order.faith,
            strip: usize::try_from(order.strip_components).unwrap_or(usize::MAX),
            max_bytes: order.max_path_bytes,
            max_depth: order.max_depth,
        }
    }

    /// The components of `name` that are left when its beginning is taken off; else what is wrong with it. `.` is none of them.
    pub fn components(&self, name: &[u8]) -> Result<Vec<CString>, String> {
        if name.is_empty() {
            return Err("has no name".to_owned());
        }
        if name.starts_with(b"/") {
            return Err("has an absolute path, expected a relative one".to_owned());
        }
        if self.faith == Faith::Plain && std::str::from_utf8(name).is_err() {
            return Err("has a name that is no UTF-8".to_owned());
        }
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let mut components = Vec::new();
        let mut bytes = 0;
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"." => continue,
                b".." => return Err("leads out of where it is unpacked, by `..`".to_owned()),
                b"" => return Err("has an empty component in its path".to_owned()),
                _ if component.len() > COMPONENT_BYTES => {
                    return Err(format!(
                        "has a component of more than {COMPONENT_BYTES} bytes"
                    ));
                }
                _ => {}
            }
            bytes += component.len() as u64 + 1;
            let component = CString::new(component).map_err(|_| "has a NUL in its path")?;
            components.push(component);
        }
        if bytes > self.max_bytes + 1 {
            return Err(format!("has a path of more than {} bytes", self.max_bytes));
        }
        if components.len() as u64 > self.max_depth {
            let most = self.max_depth;
            return Err(format!("is more than {most} directories deep"));
        }
        let strip = self.strip.min(components.len());
        Ok(components.split_off(strip))
    }

    /// Whether a symbolic link `depth` directories below the top may have `target`; else what is wrong with it.
    ///
    /// Only at its beginning may a target go up: from there on it goes down from a place that is known, and every link on its
    /// way stays in the tree by the same rule.
    pub fn check_target(&self, target: &[u8], depth: usize) -> Result<CString, String> {
        const TARGET_BYTES: usize = 4095;
        let owned = CString::new(target).map_err(|_| "is a link to a name with a NUL")?;
        if target.is_empty() || target.len() > TARGET_BYTES {
            return Err("is a link to no name that a link can have".to_owned());
        }
        if self.faith == Faith::Packed {
            return Ok(owned);
        }
        if std::str::from_utf8(target).is_err() {
            return Err("is a link to a name that is no UTF-8".to_owned());
        }
        if target.starts_with(b"/") {
            return Err("is a symbolic link to an absolute path".to_owned());
        }
        let mut components = target
            .split(|byte| *byte == b'/')
            .filter(|it| !matches!(*it, b"" | b"."))
            .skip_while({
                let mut depth = depth;
                move |it| {
                    let goes_up = *it == b".." && depth > 0;
                    depth = depth.saturating_sub(1);
                    goes_up
                }
            });
        if components.any(|it| it == b"..") {
            return Err(
                "is a symbolic link out of where it is unpacked, or with `..` after a name"
                    .to_owned(),
            );
        }
        Ok(owned)
    }
}

/// A name, to be shown.
pub fn shown(name: &[u8]) -> String {
    const SHOWN_BYTES: usize = 256;
    String::from_utf8_lossy(&name[..name.len().min(SHOWN_BYTES)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(faith: Faith, strip: usize) -> Rules {
        Rules {
            faith,
            strip,
            max_bytes: 20,
            max_depth: 3,
        }
    }

    fn names(rules: Rules, name: &[u8]) -> Option<String> {
        let components = rules.components(name).ok()?;
        let names: Vec<_> = components.iter().map(|it| it.to_string_lossy()).collect();
        Some(names.join("|"))
    }

    #[test]
    fn a_name_stays_below_its_start_or_is_none() {
        let plain = rules(Faith::Plain, 0);
        for (name, expected) in [
            (&b"a/b c/..d"[..], Some("a|b c|..d")),
            (b"./a/./b/", Some("a|b")),
            (b"./", Some("")),
            (b"/a", None),
            (b"..", None),
            (b"a/..", None),
            (b"a/../../b", None),
            (b"a//b", None),
            (b"", None),
            (b"/", None),
            (b"a\0b", None),
            (b"\xff", None),
            (b"a/b/c/d", None),
            (b"123456789/123456789", Some("123456789|123456789")),
            (b"123456789/1234567890ab", None),
        ] {
            let found = names(plain, name);
            assert_eq!(found.as_deref(), expected, "{}", name.escape_ascii());
        }
        assert!(plain.components(&[b'a'; 256]).is_err());
        assert!(rules(Faith::Packed, 0).components(b"\xff").is_ok());
    }

    #[test]
    fn the_beginning_is_taken_off_after_it_was_checked() {
        let strip = rules(Faith::Plain, 1);
        assert_eq!(names(strip, b"top/a/b").as_deref(), Some("a|b"));
        assert_eq!(names(strip, b"./top").as_deref(), Some(""));
        assert_eq!(names(strip, b"../a"), None);
    }

    #[test]
    fn a_link_stays_in_the_tree() {
        let plain = rules(Faith::Plain, 0);
        for (target, depth, is_fine) in [
            (&b"a"[..], 0, true),
            (b"a/b", 0, true),
            (b"../a", 1, true),
            (b"./../../a", 2, true),
            (b"..", 1, true),
            (b"..", 0, false),
            (b"../a", 0, false),
            (b"../../a", 1, false),
            (b"../a/../b", 2, false),
            (b"a/..", 3, false),
            (b"/etc/passwd", 3, false),
            (b"", 1, false),
            (b"\xff", 1, false),
        ] {
            let found = plain.check_target(target, depth).is_ok();
            assert_eq!(found, is_fine, "{} at {depth}", target.escape_ascii());
        }
        let packed = rules(Faith::Packed, 0);
        assert!(packed.check_target(b"/etc/passwd", 0).is_ok());
        assert!(packed.check_target(b"", 0).is_err());
    }
}
