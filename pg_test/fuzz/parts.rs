//! The parts of the extension that need no server, compiled without pgrx.

#![allow(dead_code)]

/// The only error they raise.
pub mod error {
    #[derive(Debug, PartialEq)]
    pub enum Error {
        InvalidChangeset { problem: String },
    }
    pub type Result<T> = std::result::Result<T, Error>;
}

#[path = "../../src/change.rs"]
pub mod change;
#[path = "../../src/diff.rs"]
pub mod diff;
#[path = "../../src/hash.rs"]
pub mod hash;
#[path = "../../src/image.rs"]
pub mod image;
#[path = "../../src/order.rs"]
pub mod order;

use image::{parse_image, value, Image};

/// The image written and read again is the same, and so is every value by its name.
pub fn check_image(image: &Image) {
    let text = image::object(image);
    let back = parse_image(&text).expect("what was written can be read");
    assert_eq!(image, &back);
    for (name, _) in image {
        let first = image.iter().find(|(n, _)| n == name).map(|(_, raw)| *raw);
        assert_eq!(value(&back, name), first);
    }
    for (_, raw) in image {
        check_value(raw);
    }
}

/// A raw value's text says what JSON says.
pub fn check_value(raw: &str) {
    let parsed: serde_json::Value = match serde_json::from_str(raw) {
        Ok(parsed) => parsed,
        // Nested too deep for a value, or a number out of all bounds: kept as text all the same.
        Err(_) => return,
    };
    let text = image::scalar_text(raw);
    match &parsed {
        serde_json::Value::String(content) => {
            assert_eq!(text, Ok(Some(content.clone())));
            if let Some(plain) = image::plain_string(raw) {
                assert_eq!(plain, content);
            }
        }
        serde_json::Value::Null => assert_eq!(text, Ok(None)),
        _ => {
            assert_eq!(text, Ok(Some(raw.to_owned())));
            assert_eq!(image::plain_string(raw), None);
        }
    }
    if let serde_json::Value::Number(_) = parsed {
        let plain = image::plain_number(raw);
        assert_eq!(image::plain_number(plain), plain);
        let (Ok(a), Ok(b)) = (raw.parse::<f64>(), plain.parse::<f64>()) else { panic!("{raw} became {plain}") };
        assert!(a == b, "{raw} became {plain}");
    }
}
