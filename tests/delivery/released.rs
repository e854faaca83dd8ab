//! The fail points are in the programs that tests start, and in no other.

use crate::site::root;

/// The features that a build turns on, as cargo resolves them.
fn features(edges: &str) -> String {
    let tree = std::process::Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["tree", "--locked", "--offline", "--package", "envicutor"])
        .args(["--edges", edges, "--prefix", "none"])
        .output()
        .expect("cargo runs");
    let error = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "cargo tree failed: {error}");
    String::from_utf8_lossy(&tree.stdout).into_owned()
}

#[test]
fn only_a_build_for_tests_has_fail_points() {
    const FEATURE: &str = "envicutor feature \"fail-points\"";
    assert!(
        features("features").contains(FEATURE),
        "else nothing is tested"
    );
    let released = features("features,no-dev");
    assert!(!released.contains(FEATURE), "{released}");
    assert!(released.contains("envicutor "), "{released}");
    let tested = std::fs::read(env!("CARGO_BIN_EXE_envicutor-worker")).expect("it is there");
    let name = b"ENVICUTOR_FAIL_POINT";
    assert!(tested.windows(name.len()).any(|it| it == name));
}
