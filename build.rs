//! See `src/pg/caught.rs`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for function in ["CopyErrorData", "errstart"] {
        println!("cargo:rustc-cdylib-link-arg=-Wl,--wrap={function}");
    }
}
