//! Any text as the content of a JSON string, a number, and the parts of a qualified name.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rowclaim_fuzz::image;

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fuzz_target!(|texts: (&str, &str)| {
    let (a, b) = texts;
    let mut json = String::new();
    image::push_json_string(&mut json, a);
    assert_eq!(serde_json::from_str::<String>(&json).ok().as_deref(), Some(a));
    assert_eq!(image::scalar_text(&json), Ok(Some(a.to_owned())));
    if let Some(plain) = image::plain_string(&json) {
        assert_eq!(plain, a);
    }

    let split = image::split_name(&format!("{}.{}", quoted(a), quoted(b)));
    let expected = (!a.is_empty() && !b.is_empty()).then(|| (a.to_owned(), b.to_owned()));
    assert_eq!(split, expected);
    let _ = image::split_name(a);

    let _ = image::scalar_text(a);
    let plain = image::plain_number(a);
    assert!(plain == "0" || a.starts_with(plain));
});
