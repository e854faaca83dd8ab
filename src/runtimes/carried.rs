//! The definitions that come with the program: their text alone. An image is made only of what is asked for, so that carrying
//! many costs a few hundred kilobytes of the program and nothing else.

/// Names the files of `runtimes/` by their stems.
macro_rules! carried {
    ($($stem:literal)*) => {
        &[$((
            concat!("runtimes/", $stem, ".toml"),
            include_str!(concat!("../../runtimes/", $stem, ".toml")),
        )),*]
    };
}

/// File and text of each; a test holds the list against the directory.
pub(super) const CARRIED: &[(&str, &str)] = carried![
    "ada" "algol68" "assembly" "awk" "bash" "basic" "bc" "brainfuck" "c" "c11" "clojure" "cobol"
    "coffeescript" "common-lisp" "cpp-boost" "cpp" "cpp11" "crystal" "csharp" "d" "dc" "elixir"
    "emacs-lisp" "erlang" "fish" "forth" "fortran" "go" "groovy" "haskell" "haxe" "icon" "java"
    "javascript" "jq" "kotlin" "lua" "lua51" "lua53" "luajit" "m4" "modula-2" "nickle" "nim"
    "objective-c" "ocaml" "octave" "pascal" "perl" "php" "picolisp" "pike" "postscript" "prolog"
    "pypy" "python-science" "python" "r" "racket" "raku" "rexx" "ruby" "rust" "scala" "scheme"
    "sed" "slang" "sql" "standard-ml" "tcl" "typescript" "vala" "verilog"
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{super::definition::Definition, CARRIED};
    use crate::submission::{
        catalogue::Catalogue, encoding::Encoding, limits::Limits, result::Verdict,
    };

    fn definitions() -> Vec<Definition> {
        CARRIED
            .iter()
            .map(|(file, text)| Definition::parse(file, text).expect("valid"))
            .collect()
    }

    #[test]
    fn every_definition_of_the_directory_is_carried() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/runtimes");
        let there: BTreeSet<String> = std::fs::read_dir(directory)
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name())
            .map(|name| format!("runtimes/{}", name.to_string_lossy()))
            .collect();
        let carried: Vec<String> = CARRIED.iter().map(|(file, _)| (*file).to_owned()).collect();
        assert_eq!(there.into_iter().collect::<Vec<_>>(), carried);
    }

    #[test]
    fn versions_are_unique_and_each_name_has_one_default() {
        let mut versions = BTreeSet::new();
        let mut defaults: BTreeMap<String, usize> = BTreeMap::new();
        for definition in definitions() {
            assert!(versions.insert(definition.reference().to_string()));
            *defaults
                .entry(definition.runtime.name.to_string())
                .or_default() += usize::from(definition.runtime.default);
        }
        assert!(defaults.values().all(|count| *count == 1), "{defaults:?}");
    }

    /// Each has its four self-tests; where a language cannot fail in one of the ways, its file says so in a comment.
    #[test]
    fn every_definition_says_hello_echoes_and_fails_as_it_should() {
        for definition in definitions() {
            let reference = definition.reference();
            let of = |name: &str| definition.tests.iter().find(|test| test.name == name);
            for name in ["hello", "echo"] {
                let test = of(name).unwrap_or_else(|| panic!("{reference}: no test {name}"));
                assert!(test.expected.is_some() && test.verdict == Verdict::Ok);
            }
            assert!(!of("echo").expect("seen").stdin.is_empty(), "{reference}");
            assert!(definition.empty.is_some(), "{reference}: no empty program");
            let compile = of("compile error").map(|test| test.verdict);
            let compiles = definition.runtime.compile.is_some();
            let wanted = compiles.then_some(Verdict::CompileError);
            assert_eq!(compile, wanted, "{reference}: compile error");
            match of("runtime error").map(|test| test.verdict) {
                Some(Verdict::RuntimeError | Verdict::Signaled) => {}
                None => assert!(
                    definition.text.contains("\n# No runtime error: "),
                    "{reference}: neither a runtime error nor why there is none"
                ),
                other => panic!("{reference}: runtime error: {other:?}"),
            }
        }
    }

    #[test]
    fn every_default_is_within_the_default_ceilings_and_fits_the_root() {
        let ceilings = crate::config::Config::default().ceilings.0.limits;
        let fields = |limits: &Limits| -> Vec<u64> {
            let value = serde_json::to_value(limits).expect("encodes");
            let fields = value.as_object().expect("an object");
            fields
                .values()
                .filter_map(serde_json::Value::as_u64)
                .collect()
        };
        for definition in definitions() {
            let runtime = &definition.runtime;
            for stage in runtime.compile.iter().chain([&runtime.run]) {
                for (asked, most) in fields(&stage.limits).iter().zip(fields(&ceilings)) {
                    assert!(
                        *asked <= most,
                        "{}: {:?}",
                        runtime.reference(),
                        stage.limits
                    );
                }
            }
            // The root file system is read-only, and /root is nobody's.
            assert!(runtime.env.values().all(|value| !value.contains("/root")));
        }
    }

    #[test]
    fn the_catalogue_is_far_below_what_a_message_may_hold() {
        let runtimes = definitions().into_iter().map(|it| it.runtime).collect();
        let catalogue = Catalogue { runtimes };
        let body = Encoding::Json.encode(&catalogue).expect("encodes");
        // `max_payload` is 1 MiB; start costs and installed runtimes come on top.
        assert!(body.len() < 256 << 10, "{} bytes", body.len());
    }
}
