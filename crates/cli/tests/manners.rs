//! What the program says: help and mistakes, as snapshots (`TRYCMD=overwrite cargo test -p linger-cli` renews them).

#[test]
fn help_and_mistakes() {
    // Progress and colours are for terminals; a width would come from one.
    trycmd::TestCases::new().env("COLUMNS", "100").case("tests/cmd/*.trycmd");
}
