//! `docs/schema/` holds the JSON Schema of every message as the types have it. `ENVICUTOR_BLESS=1 cargo test --test schema`
//! writes it anew.

use std::{fs, path::Path};

use envicutor::submission::schema::documents;

#[test]
fn the_schemas_in_the_documentation_are_those_of_the_types() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema");
    let bless = std::env::var_os("ENVICUTOR_BLESS").is_some();
    for (name, schema) in documents() {
        let file = directory.join(name).with_extension("json");
        let text = serde_json::to_string_pretty(&schema).expect("encodes") + "\n";
        if bless {
            fs::create_dir_all(&directory).expect("the directory can be made");
            fs::write(&file, &text).expect("the file can be written");
        }
        let kept = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            kept == text,
            "{} is stale: ENVICUTOR_BLESS=1 cargo test --test schema writes it anew",
            file.display()
        );
    }
}
